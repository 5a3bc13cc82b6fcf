"""What the process runner builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .node import AccessNode

if TYPE_CHECKING:
    from holdfast.parts import Parts


def build(parts: Parts, name: str, worker: int) -> AccessNode:
    """Return an access node, not started. Raises Stop for keys that cannot be used."""
    return AccessNode(parts, name=name, worker=worker)
