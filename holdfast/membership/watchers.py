"""What the directories have in common: who wants to know, what is known, and how nodes are listed."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final, get_args

from holdfast.membership.port import Node, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from holdfast.observe.metrics import Metrics

ROLES: Final[tuple[Role, ...]] = get_args(Role)

_log = logging.getLogger(__name__)


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
        """Make all calls; one that fails keeps no other from being made."""
        for call in tuple(self._calls.values()):
            try:
                call()
            except Exception:  # noqa: BLE001 - whoever watches badly does not blind the others
                _log.exception("a watcher of the membership failed")


class Known:
    """The membership as last known, by incarnation."""

    def __init__(self, metrics: Metrics) -> None:
        self.watchers = Watchers()
        self._metrics = metrics
        self._nodes: dict[str, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    @contextlib.contextmanager
    def timed(self, call: str) -> Iterator[None]:
        """Count one call to the store: its time (but of a `watch`, which waits), or its failure."""
        began = time.perf_counter()
        failed = self._metrics.directory_call_failed.labels(call)  # it is there before the first one
        try:
            yield
        except Exception:
            failed.inc()
            raise
        if call != "watch":
            self._metrics.directory_call_seconds.labels(call).observe(time.perf_counter() - began)

    def set(self, nodes: Mapping[str, Node]) -> None:
        """Take a new membership; tell who watches if it is another."""
        if nodes == self._nodes:
            return
        self._nodes = dict(nodes)
        self._metrics.directory_changes.inc()
        for role in ROLES:
            self._metrics.directory_nodes.labels(role).set(len(self.of_role(role)))
        self.watchers.call()

    def set_role(self, role: Role, nodes: Mapping[str, Node]) -> None:
        """Take a new membership of one role."""
        others = {name: node for name, node in self._nodes.items() if node.role != role}
        self.set({**others, **nodes})

    def of_role(self, role: Role) -> Sequence[Node]:
        """Return the nodes of a role, sorted."""
        return of_role(self._nodes.values(), role)


def of_role(nodes: Iterable[Node], role: Role) -> Sequence[Node]:
    """Return the nodes of a role, sorted by name (then incarnation)."""
    return sorted(
        (node for node in nodes if node.role == role), key=lambda node: (node.name, node.incarnation)
    )
