"""`holdfast tail CHANNEL`: the newest messages of a channel, and with `--follow` those that come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.channel import parse, partition_of
from holdfast.commands.ports import run
from holdfast.commands.show import as_json, note, plain, say, tint, when
from holdfast.errors import Reject, Retry
from holdfast.log.port import Query, Rebuilding
from holdfast.records import entry_members

if TYPE_CHECKING:
    import argparse

    from holdfast.log.port import View
    from holdfast.parts import Parts

EVERY = 0.5
"""Seconds between two reads while following."""

PAGE = 100


def add(commands: Any, common: argparse.ArgumentParser, number: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "tail",
        parents=[common],
        help="the newest messages of a channel",
        description="Show the newest messages of a channel, as the log in Redis keeps them: time, seq, id, "
        "sender, type and content, one message a line; with --json one object a line.",
    )
    parser.add_argument("channel", metavar="CHANNEL", help="its whole name, as room:lobby")
    parser.add_argument("-n", "--lines", type=number, default=10, metavar="N", help="how many (10)")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with those that come, until Ctrl-C"
    )
    parser.set_defaults(run=lambda options: run(options, show, "log"))


async def show(ports: Parts, options: argparse.Namespace) -> int:
    """Show the newest messages, then maybe those that come."""
    kind, _ = parse(options.channel)
    if kind not in ports.settings.policies():
        known = ", ".join(sorted(ports.settings.policies()))
        raise Reject("bad_channel", f"there is no kind of channel named {kind!r}; the settings have {known}")
    tail = _Tail(ports, options)
    await tail.newest(options.lines)
    while options.follow:
        await ports.clock.sleep(EVERY)
        await tail.more()
    return 0


class _Tail:
    def __init__(self, ports: Parts, options: argparse.Namespace) -> None:
        self._log = ports.log
        self._channel: str = options.channel
        self._shard = partition_of(self._channel, ports.log.partitions)
        self._json: bool = options.json
        self._follow: bool = options.follow
        self._epoch = ""
        self._at = 0
        self._away = False

    async def newest(self, count: int) -> None:
        """Show the newest `count` messages."""
        entries: list[tuple[int, bytes]] = []
        before = None
        view = None
        while len(entries) < count:
            page = min(count - len(entries), PAGE)
            view = await self._read(Query(self._channel, 0, before, page, newest=True))
            entries = [*view.entries, *entries]
            if len(view.entries) < page:
                break
            before = entries[0][0]
        assert view is not None
        self._epoch, self._at = view.epoch, view.head
        for seq, entry in entries:
            self._say(seq, entry)
        if not view.epoch:
            self._note("nothing was ever written to it")
        elif not entries:
            self._note(f"it is at seq {view.head}, and keeps none of its messages any more")

    async def more(self) -> None:
        """Show what has come since. A store that is away or being rebuilt is told once, and waited for."""
        try:
            view = await self._read(Query(self._channel, self._at, limit=PAGE, epoch=self._epoch))
            if view.epoch != self._epoch:
                if self._epoch and view.epoch:
                    self._note("the channel has begun anew, with another epoch: clients got a reset")
                self._epoch, self._at = view.epoch, 0
                view = await self._read(Query(self._channel, 0, limit=PAGE))
        except Retry as error:
            if not self._away:
                self._note(f"waiting: {error}")
            self._away = True
            return
        if self._away:
            self._note("going on")
        self._away = False
        for seq, entry in view.entries:
            if seq > self._at + 1:
                self._note(f"seq {self._at + 1} to {seq - 1} came and went between two reads")
            self._say(seq, entry)
            self._at = seq

    async def _read(self, query: Query) -> View:
        try:
            return (await self._log.read(self._shard, [query]))[0]
        except Rebuilding:
            if (await self._log.state(self._shard)).generation:
                raise Retry(f"partition {self._shard} is being rebuilt from Kafka") from None
            raise Retry(
                f"Redis has nothing of partition {self._shard}: no dispatcher has begun with it, or redis.url"
                " or redis.prefix is not that of the services"
            ) from None

    def _say(self, seq: int, entry: bytes) -> None:
        members = entry_members(entry)
        if self._json:
            line = {"channel": self._channel, "seq": seq, "epoch": self._epoch, **members}
            say(as_json(line, indent=-1))
        else:
            data = msgspec.json.encode(members.get("data")).decode()
            sender = members.get("from") or "-"
            about = f"{when(members['ts'])}  {seq}  {members['id']}  {sender}  {members['type']}"
            say(f"{tint(plain(about), 'dim')}  {plain(data)}")
        if self._follow:
            sys.stdout.flush()

    def _note(self, text: str) -> None:
        note(f"{self._channel}: {text}")
