"""The links between all processes, in our hands: everything goes through here, and can be cut.

A process listens on 127.0.0.1; all others look for it at `VIA` on the same port, where `Links` listens and
passes bytes on. The kernel is asked who opened a connection, so that the link of one process to another can
be cut and all others left alone. No rights are needed.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

from chaos.owner import owner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

VIA: Final = "127.0.0.2"
"""Where everybody is found. All of 127.0.0.0/8 is loopback on Linux."""

Mode = Literal["reset", "silent", "one way"]
"""`reset`: connections end, new ones too. `silent`: bytes wait, both ways. `one way`: answers still come."""

SEGMENT: Final = 1200
_HIGH: Final = 256 * 1024


class Cut(NamedTuple):
    """Links from one of `sources` to one of `targets` (names of processes) do not carry."""

    sources: Collection[str]
    targets: Collection[str]
    mode: Mode = "silent"


class _End(asyncio.Protocol):
    """One end of a link. What it reads goes to the other end, as fast as that one takes it."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.link: _Link | None = None
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.early: list[bytes] = []
        self.held = False
        self.full = False
        self.over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self.room or _HIGH)
        if self.room:
            end = transport.get_extra_info("socket")
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                end.setsockopt(socket.SOL_SOCKET, option, self.room)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.early.append(data)
            self.adjust()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.full = True
            self.other.adjust()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.full = False
            self.other.adjust()

    def adjust(self) -> None:
        """Read, unless the link is held or the other end is full."""
        if self.transport is None or self.over:
            return
        if self.held or self.full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        if self.link is not None:
            self.link.end(hard=exc is not None)


class _Link:
    """A connection: `near` is the end of who opened it."""

    def __init__(self, links: Links, source: str, target: str, near: _End, far: _End) -> None:
        self.links, self.source, self.target = links, source, target
        self.near, self.far = near, far
        near.link = far.link = self
        near.other, far.other = far, near
        for one in (near, far):
            for data in one.early:
                one.data_received(data)
            one.early.clear()
        links.open_links.add(self)

    def apply(self, cut: Cut | None) -> None:
        if cut is not None and cut.mode == "reset":
            self.end(hard=True)
            return
        self.near.held = cut is not None
        self.far.held = cut is not None and cut.mode == "silent"
        self.near.adjust()
        self.far.adjust()

    def end(self, *, hard: bool) -> None:
        self.links.open_links.discard(self)
        for one in (self.near, self.far):
            if one.transport is not None and not one.over:
                one.transport.abort() if hard else one.transport.close()


class Links:
    """All links. `names` tells which process ids have which name; an unknown one is `?`."""

    def __init__(self, names: Callable[[], Mapping[int, str]]) -> None:
        self.open_links: set[_Link] = set()
        self.cuts: list[Cut] = []
        self._names = names
        self._servers: list[asyncio.Server] = []
        self._joining: set[asyncio.Task[None]] = set()

    async def stand_before(self, name: str, port: int) -> None:
        """Take the connections to process `name`, which listens on 127.0.0.1:port."""
        await self._listen([(name, port)], port)

    async def balance(self, targets: Sequence[tuple[str, int]], *, room: int = 0) -> int:
        """Listen as a balancer: each connection goes to the next target that accepts it. Returns the port.

        `room`: bytes kept of a connection that is not read; 0: as many as the kernel likes.
        """
        return await self._listen(targets, 0, room)

    def cut(self, cut: Cut) -> None:
        """Cut links, those that are there and those to come."""
        self.cuts.append(cut)
        self._apply()

    def heal(self, cut: Cut, *, late: bool = True) -> None:
        """Undo a cut; bytes that waited arrive `late`, or their connections end."""
        self.cuts.remove(cut)
        if not late:
            for link in [link for link in self.open_links if _concerns(cut, link.source, link.target)]:
                link.end(hard=True)
        self._apply()

    async def close(self) -> None:
        """Cut everything for good."""
        for server in self._servers:
            server.close()
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        for link in list(self.open_links):
            link.end(hard=True)
        await asyncio.sleep(0)  # the transports end

    def _apply(self) -> None:
        for link in list(self.open_links):
            link.apply(self._cut_of(link.source, link.target))

    def _cut_of(self, source: str, target: str) -> Cut | None:
        return next((cut for cut in self.cuts if _concerns(cut, source, target)), None)

    async def _listen(self, targets: Sequence[tuple[str, int]], port: int, room: int = 0) -> int:
        turns = itertools.cycle(range(len(targets)))

        def accepted() -> asyncio.Protocol:
            return _Accepted(self, targets, next(turns), room)

        server = await asyncio.get_running_loop().create_server(accepted, VIA, port, backlog=1024)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def join(self, near: _End, targets: Sequence[tuple[str, int]], turn: int) -> None:
        """Connect what was accepted to the first target, from `turn` on, that takes it."""
        task = asyncio.ensure_future(self._join(near, targets, turn))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, near: _End, targets: Sequence[tuple[str, int]], turn: int) -> None:
        transport = near.transport
        assert transport is not None
        peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        source = owner(peer, here, self._names()) if peer and here else "?"
        loop = asyncio.get_running_loop()
        for step in range(len(targets)):
            name, port = targets[(turn + step) % len(targets)]
            cut = self._cut_of(source, name)
            if near.over or (cut is not None and cut.mode == "reset"):
                continue
            far = _End(near.room)
            try:
                end = await connected("127.0.0.1", port, near.room)
            except OSError:
                continue
            await loop.create_connection(lambda far=far: far, sock=end)  # type: ignore[misc]
            link = _Link(self, source, name, near, far)
            if near.over or far.over:
                link.end(hard=True)
            else:
                link.apply(self._cut_of(source, name))
            return
        transport.abort()


class _Accepted(_End):
    """A near end: where it leads is found out first, and what comes before that waits."""

    def __init__(self, links: Links, targets: Sequence[tuple[str, int]], turn: int, room: int) -> None:
        super().__init__(room)
        self._links, self._targets, self._turn = links, targets, turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.held = True
        self.adjust()
        self._links.join(self, self._targets, self._turn)


async def connected(host: str, port: int, room: int) -> socket.socket:
    """Return a connected socket that keeps `room` bytes that are not read (0: as many as the kernel likes).

    Its segments are small then, too: the other side's kernel keeps a number of segments, and one of loopback
    has 64 KiB. Raises OSError.
    """
    end = socket.socket()
    try:
        end.setblocking(False)
        if room:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        await asyncio.get_running_loop().sock_connect(end, (host, port))
    except BaseException:
        end.close()
        raise
    return end


def _concerns(cut: Cut, source: str, target: str) -> bool:
    return source in cut.sources and target in cut.targets
