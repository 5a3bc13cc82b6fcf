"""What dispatch pushes: items for local connections, and the chain of each partition.

A push says which offset it follows. Where that is above what this node knows of, something was missed: the
shard is asked what changed since, and local channels among it read the log. A partition of which nothing was
heard for 3 s is asked the same once a second: delivery degrades to polling, it does not stop (inv 4).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.errors import Retry
from holdfast.failures import Failures
from holdfast.log.port import NEW, Rebuilding
from holdfast.nodelink.frames import BREAK, ChangeItem, MessageItem, ReplyItem

from . import journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import Watermark
    from holdfast.nodelink.frames import Push

    from .node import AccessNode

QUIET_SECONDS: Final = 3.0
ACK_SECONDS: Final = 0.01
"""Seconds after which a refusal is looked at again whose send was not acked yet."""

PAGE: Final = 1000
"""Channels in one answer to "what changed", at most."""

_log = logging.getLogger(__name__)


class _Answer(msgspec.Struct):
    """What of a reply's frame must be known here."""

    t: str
    id: int | str | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


READS_KEPT: Final = 5
"""Seconds: how far back, at least, the positions of reads are held against a break."""


class Chain:
    """One partition: everything up to offset `upto` of `generation` was heard, or is being asked for.

    `read` and `read_before` are the lowest offsets at which the store stood in the reads of the last seconds.
    Who subscribed by a read of a store that had just lost writes was told nothing of them when they were
    applied first: what was heard says nothing for him, so a break asks from that offset on.
    """

    __slots__ = ("asking", "generation", "heard_at", "read", "read_before", "since", "ticks", "upto")

    def __init__(self) -> None:
        self.generation = ""
        self.upto: int | None = None
        self.since: int | None = None
        self.heard_at = 0.0
        self.asking = False
        self.read: int | None = None
        self.read_before: int | None = None
        self.ticks = 0

    def ask_since(self, offset: int) -> None:
        """Ask from this offset on, or from an earlier one that is to be asked for anyway."""
        self.since = offset if self.since is None else min(self.since, offset)

    def broken(self) -> None:
        """Ask from what was heard on, or from the lowest recent read on."""
        for offset in (NEW if self.upto is None else self.upto, self.read, self.read_before):
            if offset is not None:
                self.ask_since(offset)
        self.read = self.read_before = None

    def tick(self) -> None:
        """Let a second pass; ticks, not the clock: a process that stood still has not forgotten anything."""
        self.ticks += 1
        if self.ticks % READS_KEPT == 0:
            self.read, self.read_before = None, self.read


class Links:
    """Takes pushes."""

    def __init__(self, node: AccessNode) -> None:
        self._node = node
        self._chains = [Chain() for _ in range(node.parts.log.partitions)]
        self._failures = Failures("breaks", node.clock, node.metrics)
        self._tasks: set[asyncio.Task[None]] = set()
        self._journal = journal.wanted()

    def begin(self, shard: int, generation: str, offset: int) -> None:
        """Take a shard's watermark, read when nobody here had subscribed."""
        chain = self._chains[shard]
        chain.generation, chain.upto = generation, offset
        chain.heard_at = self._node.clock.monotonic()

    def position(self, shard: int) -> tuple[str, int]:
        """Return the (generation, offset) that a shard is known to have reached."""
        chain = self._chains[shard]
        return chain.generation, NEW if chain.upto is None else chain.upto

    def was_read(self, shard: int, generation: str, offset: int) -> None:
        """Take the position at which a shard was read."""
        chain = self._chains[shard]
        if generation == chain.generation and (chain.read is None or offset < chain.read):
            chain.read = offset

    def stop(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()

    # pushes

    def push(self, link: object, push: Push) -> None:
        """Take one push."""
        del link
        node = self._node
        if not 0 <= push.partition < len(self._chains):
            node.metrics.access_nodelink_refused.labels("partition").inc()
            return
        chain = self._chains[push.partition]
        chain.heard_at = node.clock.monotonic()
        missed = (
            push.follows == BREAK
            or chain.upto is None
            or push.follows > chain.upto
            or chain.generation not in (push.generation, "")
        )
        traces = node.traces
        for item in push.items:
            span = traces.begin(item) if traces is not None else None
            self._item(item)
            if span is not None and traces is not None:
                traces.given(item, span)
        if missed:
            node.metrics.access_breaks.inc()
            self.missed(push.partition, "break")
        if push.generation != chain.generation:
            self._generation(push.partition, push.generation, push.upto)
        else:
            chain.upto = push.upto if chain.upto is None else max(chain.upto, push.upto)

    def _item(self, item: MessageItem | ReplyItem | ChangeItem) -> None:
        node = self._node
        if isinstance(item, MessageItem):
            channel = node.registry.get(item.channel)
            if channel is not None:
                node.delivery.push(channel, item.epoch, item.seq, item.entry)
                if item.sent:
                    age = node.clock.now_ms() - item.sent
                    node.metrics.access_message_seconds.observe(max(age, 0) / 1000)
        elif isinstance(item, ReplyItem):
            self._reply(item)
        else:
            self._changed(item.channel)

    def _reply(self, item: ReplyItem) -> None:
        node = self._node
        driver = node.drivers.get(item.connection)
        if driver is None or driver.session is None or item.deadline < node.clock.now_ms():
            node.metrics.access_replies_dropped.inc()
            return
        try:
            answer = _decode(item.frame)
        except msgspec.DecodeError:
            node.metrics.access_replies_dropped.inc()
            return
        if answer.t == "error" and answer.id is not None and driver.machine.unacked(answer.id):
            # The whole way round was faster than the queue's own answer: a refusal comes after its ack.
            node.clock.call_later(ACK_SECONDS, functools.partial(self._reply, item))
            return
        asked = answer.id is not None and driver.machine.answered(answer.id)
        if answer.t == "reply" and not asked:
            node.metrics.access_replies_dropped.inc()  # it was answered with `unavailable` at its deadline
            return
        driver.write(item.frame, answer.id)
        if self._journal:
            journal.replied(driver.session.id, driver.number)

    def _changed(self, name: str) -> None:
        """Look again at who a user or a token is."""
        kind, _, identity = name.partition(":")
        if kind == "user":
            self._node.groups.look(identity)
        elif kind == "token":
            channel = self._node.registry.get(name)
            if channel is not None:
                self._node.groups.look_token(channel)

    # what was missed

    def _generation(self, shard: int, generation: str, upto: int) -> None:
        """Go on in another generation: every channel of it has begun again."""
        chain = self._chains[shard]
        known, chain.generation, chain.upto = chain.generation, generation, upto
        chain.read = chain.read_before = None
        if known:
            self._all(shard)

    def answered(self, shard: int, generation: str, offset: int) -> None:
        """Take what a beat said of a shard that is not being rebuilt."""
        if generation != self._chains[shard].generation:
            self._generation(shard, generation, offset)

    def rewritten(self, shard: int) -> None:
        """Compare all heads: the shard had forgotten this node, and told it nothing meanwhile."""
        self._all(shard)
        self.missed(shard, "forgot")

    def _all(self, shard: int) -> None:
        """Read every local channel of a shard."""
        for channel in list(self._node.registry.of_shard(shard)):
            self._look(channel.name)

    def _look(self, name: str) -> None:
        channel = self._node.registry.get(name)
        if channel is not None:
            self._node.delivery.look(channel)
            self._changed(name)

    def missed(self, shard: int, why: str) -> None:
        """Ask the shard what changed since the last position that is known."""
        chain = self._chains[shard]
        chain.broken()
        if not chain.asking:
            chain.asking = True
            task = asyncio.get_running_loop().create_task(self._ask(shard, chain, why))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, shard: int, chain: Chain, why: str) -> None:
        node = self._node
        delay = 0.05
        try:
            while (since := chain.since) is not None:
                chain.since = None
                node.metrics.access_polls.labels(why).inc()
                try:
                    watermark, changed = await self._changed_since(shard, since)
                except Retry as error:
                    chain.ask_since(since)
                    _log.debug("cannot ask what changed: %s", error, extra={"shard": shard})
                    await node.clock.sleep(error.after or delay)
                    delay = min(delay * 2, 1.0)
                    continue
                except Exception:  # noqa: BLE001 - counted; what is missed must be asked for
                    chain.ask_since(since)
                    await self._failures.pause()
                    continue
                for name, _ in changed:
                    self._look(name)
                self._failures.passed()
                if len(changed) >= PAGE:
                    chain.ask_since(changed[-1][1])
                elif chain.upto is None or chain.upto < watermark.offset:
                    chain.upto = watermark.offset
        finally:
            chain.asking = False

    async def _changed_since(self, shard: int, since: int) -> tuple[Watermark, Sequence[tuple[str, int]]]:
        known = self.position(shard)
        watermark, changed = await self._node.parts.log.changed(shard, since, PAGE)
        if watermark.offset < known[1] and self._chains[shard].generation == known[0]:
            raise Rebuilding("the store has lost writes")
        return watermark, changed

    def tick(self) -> None:
        """Once a second: ask for partitions of which nothing is heard."""
        node, now = self._node, self._node.clock.monotonic()
        if node.traces is not None:
            node.traces.tick()
        # Who has drained is pushed to by nobody, and has nobody to tell.
        gone = node.draining and not node.drivers
        for shard, chain in enumerate(self._chains):
            chain.tick()
            if now - chain.heard_at > QUIET_SECONDS and not chain.asking and not gone:
                self.missed(shard, "quiet")
