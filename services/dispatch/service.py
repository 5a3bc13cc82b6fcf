"""Dispatch as the process runner sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .node import DispatchNode

if TYPE_CHECKING:
    from holdfast.parts import Parts


def build(parts: Parts, name: str, worker: int) -> DispatchNode:
    """Return the service of this process; one worker is one dispatcher."""
    return DispatchNode(parts, f"{name}-{worker}" if worker else name)
