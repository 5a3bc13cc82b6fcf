"""The log port: channels as logs, and everything that must change in one atomic step with them.

Adapters: `holdfast.log.memory`, `holdfast.log.redis`. Contract: `tests/contracts/test_log.py`.

Everything of a partition lives in one shard (one Redis Cluster slot); `shard` is the partition's number.
Every call is atomic within its shard. Every call raises Retry when the store is away or the outcome unknown.

Ordering rule of `apply` (design, "One partition, one shard, one order"): read and decide everything first,
then write; the watermark last.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from holdfast.errors import Retry
from holdfast.log.views import Membership as Membership  # noqa: PLC0414, TC001 - part of this port
from holdfast.log.views import Query as Query  # noqa: PLC0414, TC001 - part of this port
from holdfast.log.views import View as View  # noqa: PLC0414, TC001 - part of this port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.records import StateRecord

FORMAT: Final = 1
"""The shard's format version. It fixes what a replay depends on: the two numbers below and the layouts."""

WINDOW_MS: Final = 300_000
"""W: deduplication maps rotate when record time crosses a multiple of this. Told to clients in seconds."""

MAX_BATCH: Final = 200
"""Most records of one `apply`, so that a call stays below a few ms (measured: 5-6 ms at 500)."""

NEW: Final = -1
"""The offset of a watermark before any record."""

FENCED: Final = -2
"""What an update of a dead incarnation gets instead of a number: it never returns."""

REPLACED: Final = "another device of this user has taken its place"
"""The reason of a kick (`disconnected`) of a session whose seat was taken."""

TOMBSTONE_SECONDS: Final = 86_400
"""How long a tombstone is kept. A node that heard nothing of a shard for half of it begins anew."""


class Rebuilding(Retry):
    """The shard is being rebuilt: what it holds now is not what it held. Ask again later."""


class Watermark(msgspec.Struct, frozen=True, gc=False):
    """The last outbound record that the shard has taken in: offset, time (Unix ms), CRC-32 of its value."""

    offset: int = NEW
    ts: int = 0
    checksum: int = 0


class Op(enum.IntEnum):
    """What a record asks of the shard."""

    PASS = 0  # nothing but the watermark moves (replies, poison)
    APPEND = 1  # body: the log entry
    JOIN = 2  # source: the user
    LEAVE = 3  # source: the user
    GROUP = 4  # source: the group's channel; score: version; epoch, seq; content: 1 joined, 0 left
    CURSOR = 5  # source: user NUL device; score: seq; epoch
    REVOKE = 6  # score: `before`, Unix ms
    ROUTE = 7  # nothing changes but the channel's route is wanted (reserved)


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One outbound record as the shard takes it in. Field use by op: see `Op`.

    For APPEND, `source` and `score` are `records.Message.source` and `.score`; `content` is CRC-32 of what
    the sender wrote, to tell a repetition from another message under the same number.
    """

    offset: int
    ts: int
    op: Op
    channel: str
    source: str = ""
    score: int = 0
    content: int = 0
    body: bytes = b""
    epoch: str = ""
    seq: int = 0


class Batch(msgspec.Struct, frozen=True):
    """One fetched batch. `carried` is the watermark the dispatcher last saw; `last` the new one.

    `saved`: all state changes up to this offset are in the state topic (-1: nothing new to say).
    An empty batch (`records` empty, `last` == `carried`) still checks and moves the token. A shard of another
    `generation` ("": not compared) is BEHIND, whatever its watermark.
    """

    owner: str
    carried: Watermark
    last: Watermark
    records: Sequence[LogRecord] = ()
    saved: int = NEW
    now_ms: int = 0
    generation: str = ""


class Outcome(enum.IntEnum):
    """What became of one record."""

    DONE = 0
    SKIPPED = 1  # at or below the watermark, or its source was applied before
    REUSED = 2  # its number was used for another content: dead-letter it, count it


class Placed(msgspec.Struct, frozen=True, gc=False):
    """One record's result.

    APPEND, DONE: `seq`, `epoch` of the entry. JOIN, LEAVE: `version` (the deciding offset), `epoch`, and
    `seq`, the head at that moment: a member sees what comes after it. JOIN, LEAVE, CURSOR, GROUP and REVOKE
    that were skipped return what the shard holds, so that state records can be written again after a crash.
    `nodes`: the incarnations in the channel's route, read in the same step (empty unless DONE, and for PASS).
    """

    outcome: Outcome
    seq: int = 0
    epoch: str = ""
    nodes: tuple[str, ...] = ()
    version: int = 0


class Status(enum.IntEnum):
    """What became of a whole batch."""

    APPLIED = 0
    FENCED = 1  # another owner's token: nothing was changed
    BEHIND = 2  # the shard's watermark is below the carried one: Redis lost writes, nothing was changed
    REFUSED = 3  # deciding failed at `failed`: nothing was changed
    DAMAGED = 4  # an earlier batch was applied in part: nothing was changed, the shard must be rebuilt


class Applied(msgspec.Struct, frozen=True):
    """The answer to `apply`. `found` is the watermark the shard had before; `placed` follows the records."""

    status: Status
    found: Watermark
    placed: Sequence[Placed] = ()
    reason: str = ""


class ShardState(msgspec.Struct, frozen=True):
    """What a shard says of itself. `moved` counts the owner's applies; "" is no owner.

    `generation` is "" where the shard is empty (never used, or lost). `until`: rebuilding up to this offset,
    NEW when that is reached. `damaged`: a batch was applied in part.
    """

    owner: str
    moved: int
    watermark: Watermark
    saved: int
    generation: str
    until: int
    partitions: int
    damaged: bool = False

    @property
    def rebuilding(self) -> bool:
        """Whether what the shard holds is not yet what it held."""
        return self.damaged or not self.generation or self.until != NEW


class SessionInfo(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One session as presence shows it. `since` is Unix ms; `node` an incarnation; `jti` of its token.

    `seat`: of a user's sessions with the same one, the newest stays and the others are kicked; "" has none.
    """

    session: str
    node: str
    device: str
    since: int
    client: str = ""
    jti: str = ""
    seat: str = ""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One line of a node's update to a shard. Channels are named in full; `user` without kind.

    `op`: "+r" and "-r" a route (channel), "+s" a session (user, info), "-s" a session (user, session).
    """

    op: str
    name: str
    info: SessionInfo | None = None
    session: str = ""


class NodeUpdate(msgspec.Struct, frozen=True):
    """A node's numbered micro-batch for one shard.

    `number` k applies only onto k-1; at k or above it is done already; below, the shard forgot. With
    `whole`, the update replaces everything that the shard holds of this incarnation and sets the number.
    """

    incarnation: str
    number: int
    changes: Sequence[Change]
    whole: bool = False


class Kick(msgspec.Struct, frozen=True, gc=False):
    """A session that its node must end, and the code (of `holdfast.protocol.codes`) to end it with."""

    user: str
    session: str
    code: str
    reason: str = ""


class BeatAnswer(msgspec.Struct, frozen=True):
    """What a beat brings back. `number`: the last update the shard knows of this incarnation (0: none).

    `asks`: what operators asked of this node (`ask`); each returns with every beat to that shard.
    `fenced`: this incarnation has a tombstone. `loads`: what every incarnation told as its `load`.
    """

    number: int
    watermark: Watermark
    generation: str
    kicks: Sequence[Kick] = ()
    asks: Sequence[str] = ()
    rebuilding: bool = False
    fenced: bool = False
    loads: Mapping[str, int] = {}


class Swept(msgspec.Struct, frozen=True):
    """A page of what a dead incarnation left. `sessions` are (user, info); `over`: nothing is left now.

    The `connect` of sessions that began before `told` (Unix ms) is in the queue.
    """

    sessions: Sequence[tuple[str, SessionInfo]] = ()
    told: int = 0
    over: bool = False


class Log(Protocol):
    """Channels, routes, sessions and what decides them."""

    partitions: int

    async def start(self) -> None:
        """Connect and load scripts. Raises Stop where the store's settings break a promise."""

    async def close(self) -> None:
        """Release the connections."""

    async def healthy(self) -> bool:
        """Tell whether the store answers now; never raises, takes at most a second."""

    # dispatch

    async def state(self, shard: int) -> ShardState:
        """Return what the shard says of itself."""

    async def claim(self, shard: int, owner: str, *, expected: ShardState, generation: str) -> ShardState:
        """Take the token if owner and `moved` are still as in `expected`; return the state after that.

        The claim succeeded if the returned `owner` is the one given. An empty shard gets `generation`; with
        "" it stays empty, and rebuilding, until `begin`.
        """

    async def load(self, shard: int, owner: str, facts: Sequence[StateRecord]) -> bool:
        """Take in records of the state topic, in its order; False: the token is another owner's.

        None replaces a fact of a higher version, where both are of one generation: versions are offsets, and
        those of another generation mean nothing here. At most MAX_BATCH facts. A fact `dead` buries the
        incarnation that is its `field`: it can beat and update no more.
        """

    async def begin(
        self, shard: int, owner: str, *, generation: str, until: int, wipe: bool = False
    ) -> ShardState:
        """Begin a tenure: set the generation, and rebuild up to offset `until` (NEW: there is no need).

        With `wipe`, the shard forgets its logs, watermark and damage first; facts, routes and sessions stay.
        Nothing changes where the returned `owner` is another.
        """

    async def release(self, shard: int, owner: str) -> None:
        """Give the token up, if it is still this owner's."""

    async def apply(self, shard: int, batch: Batch) -> Applied:
        """Take in one batch; see the module's text and `Batch`."""

    async def sweep(
        self, shard: int, owner: str, incarnation: str, done: Sequence[tuple[str, str]], limit: int
    ) -> Swept | None:
        """Remove what a buried incarnation left: the sessions `done` (user, session), and some routes.

        Return the next sessions, for their `disconnect` to be made durable; looks at `limit` things at most.
        When nothing is left, the shard forgets the incarnation but for its tombstone. None: the token is
        another owner's, or there is no tombstone.
        """

    async def tombstones(self, shard: int) -> dict[str, int]:
        """Return the dead incarnations, and when each was found to be dead (Unix ms)."""

    # access

    async def update(self, shard: int, update: NodeUpdate) -> int:
        """Apply a node's micro-batch; return the number the shard has now (below `number`: it forgot).

        FENCED: this incarnation is dead, nothing was changed. Adding a session with a `client` or a `seat`
        that another session of the user has gives that one a kick (`superseded`, `disconnected`); of two
        where a `whole` update writes one, the kick is for the one that began earlier.
        """

    async def beat(self, shard: int, incarnation: str, *, told: int = 0, load: int = -1) -> BeatAnswer:
        """Give a sign of life; learn what this node must know.

        A kick returns until its session is removed. `told`: the `connect` of every session that began before
        (Unix ms) is in the queue. `load`: how many connections this node has; with it, `loads` is answered.
        """

    async def read(self, shard: int, queries: Sequence[Query]) -> Sequence[View]:
        """Read channels, all at one moment. Raises Rebuilding."""

    async def changed(
        self, shard: int, since: int, limit: int
    ) -> tuple[Watermark, Sequence[tuple[str, int]]]:
        """Return the watermark, and (channel, its last offset) of those written after offset `since`.

        At most `limit`, lowest offsets first: a full answer means that there may be more. Raises Rebuilding.
        """

    # logic

    async def beats(self, shard: int) -> dict[str, int]:
        """Return each incarnation's count of beats."""

    async def loads(self, shard: int) -> dict[str, int]:
        """Return how many connections each incarnation told with its beats to this shard (it tells 0)."""

    async def sessions(self, shard: int, users: Sequence[str]) -> Sequence[Sequence[SessionInfo]]:
        """Return the recorded sessions of each user, whether or not their nodes still live."""

    async def kick(self, shard: int, user: str, sessions: Sequence[str], code: str, reason: str) -> int:
        """Mark sessions to be ended by their nodes; return how many of them were there."""

    async def ask(self, shard: int, incarnation: str, what: str) -> None:
        """Ask something of a node (`drain`): its beats to this shard bring it back. Asked twice, it is one.

        The API asks on shard 0. An ask lives as long as what the shard keeps of the incarnation.
        """

    async def members(self, shard: int, group: str) -> Sequence[Membership]:
        """Return the members of a group, by its channel's name. Raises Rebuilding."""
