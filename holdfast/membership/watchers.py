"""What the directories have in common: who wants to know, and how nodes are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.membership.port import Node, Role


class Watchers:
    """Calls to make at a change, in the order they were added."""

    def __init__(self) -> None:
        self._calls: dict[object, Callable[[], object]] = {}

    def add(self, call: Callable[[], object]) -> Callable[[], None]:
        """Add a call; return what takes it out again."""
        key = object()
        self._calls[key] = call

        def remove() -> None:
            self._calls.pop(key, None)

        return remove

    def call(self) -> None:
        """Make all calls."""
        for call in tuple(self._calls.values()):
            call()


def of_role(nodes: Iterable[Node], role: Role) -> Sequence[Node]:
    """Return the nodes of a role, sorted by name (then incarnation)."""
    return sorted(
        (node for node in nodes if node.role == role), key=lambda node: (node.name, node.incarnation)
    )
