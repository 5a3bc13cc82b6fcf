"""Membership from a file: a JSON list of nodes, for clusters whose shape somebody else decides.

The file is read again when it changes. A file that cannot be read any more leaves the last known membership.
`join` and `leave` change nothing but this process's own view: the file says who is there.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.clock import Clock, SystemClock
from holdfast.errors import Stop
from holdfast.failures import forever
from holdfast.membership.port import Node
from holdfast.membership.watchers import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.membership.port import Role
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Membership

LOOK_SECONDS: Final = 1.0

_decode = msgspec.json.Decoder(list[Node]).decode
_log = logging.getLogger(__name__)


class StaticDirectory:
    """See `holdfast.membership.port.Directory`."""

    def __init__(self, settings: Membership, metrics: Metrics, clock: Clock | None = None) -> None:
        self._path = Path(settings.static)
        self._clock: Clock = clock or SystemClock()
        self._metrics = metrics
        self._known = Known(metrics)
        self._content = b""
        self._readable = True
        self._joined: Node | None = None
        self._listed: dict[str, Node] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the file. Raises Stop when it cannot be read or is not a list of nodes."""
        try:
            self._read()
        except (OSError, msgspec.DecodeError) as error:
            raise Stop(
                f"membership.static: {self._path} must be a readable JSON list of nodes: {error}"
            ) from error
        self._task = asyncio.get_running_loop().create_task(
            forever("membership", self._follow, self._clock, self._metrics)
        )

    async def close(self) -> None:
        """See `Directory`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def join(self, node: Node) -> None:
        """See `Directory`."""
        self._joined = node
        self._publish()

    async def leave(self) -> None:
        """See `Directory`."""
        self._joined = None
        self._publish()

    def nodes(self, role: Role) -> Sequence[Node]:
        """See `Directory`."""
        return self._known.of_role(role)

    def watch(self, call: Callable[[], object]) -> Callable[[], None]:
        """See `Directory`."""
        return self._known.watchers.add(call)

    async def healthy(self) -> bool:
        """See `Directory`."""
        return self._readable

    async def _follow(self) -> None:
        await self._clock.sleep(LOOK_SECONDS)
        try:
            self._read()
        except (OSError, msgspec.DecodeError) as error:
            if self._readable:
                _log.error("membership.static: %s; going on with what was known", error)
            self._readable = False

    def _read(self) -> None:
        content = self._path.read_bytes()
        if content != self._content:
            # Several may have no incarnation: the file cannot know one that is new at every start.
            self._listed = {node.incarnation or f"{node.role} {node.name}": node for node in _decode(content)}
            self._content = content
            self._publish()
        self._readable = True

    def _publish(self) -> None:
        nodes = dict(self._listed)
        if self._joined is not None:
            # The name is what the file lists.
            own = self._joined
            nodes = {
                key: node for key, node in nodes.items() if (node.role, node.name) != (own.role, own.name)
            }
            nodes[own.incarnation] = own
        self._known.set(nodes)
