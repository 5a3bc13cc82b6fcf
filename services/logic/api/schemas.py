"""Bodies and answers of the HTTP API, from which its OpenAPI schemas are made."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

Name = Annotated[str, Meta(min_length=1, max_length=200)]
User = Annotated[str, Meta(min_length=1, max_length=190)]
Text = Annotated[str, Meta(max_length=200)]
Millis = Annotated[int, Meta(ge=0, le=2**53)]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457 problem document. `code` names the problem for programs; `retry`: the same may work later."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry: bool = False


class Nothing(msgspec.Struct, frozen=True):
    """An empty object."""


# tokens


class TokenCall(msgspec.Struct, frozen=True):
    """Whose token. `channels`: patterns of channels allowed beyond the policies; `ttl` in seconds.

    `revocable`: give it a `jti`, by which this one token can be revoked; a user's can be in any case.
    """

    user: User
    device: Text | None = None
    channels: Annotated[list[Name], Meta(max_length=100)] | None = None
    ttl: Annotated[float, Meta(gt=0, le=10 * 366 * 86_400)] | None = None
    revocable: bool = False


class TokenAnswer(msgspec.Struct, frozen=True):
    """The token, when it expires (Unix ms), and its `jti`, if it has one."""

    token: str
    expires_at: int
    jti: str | UnsetType = UNSET


class RevokeCall(msgspec.Struct, frozen=True):
    """Either a `user`, whose tokens issued before `before` (Unix ms; now, if not given) end, or a `jti`."""

    user: User | None = None
    before: Millis | None = None
    jti: User | None = None


# where to connect


class Endpoint(msgspec.Struct, frozen=True):
    """One address to connect to. Choose among them by `weight`."""

    protocol: str
    url: str
    weight: int
    region: str


class Reconnect(msgspec.Struct, frozen=True):
    """Full jitter: wait a random time between 0 and min(cap, base * 2^attempt) seconds."""

    base: float
    cap: float


class AccessAnswer(msgspec.Struct, frozen=True):
    """Where to connect; `heartbeat` is in seconds."""

    endpoints: list[Endpoint]
    heartbeat: float
    reconnect: Reconnect


# publish


class Publish(msgspec.Struct, frozen=True):
    """A message. `id` makes it idempotent within its channel; `from` is shown as the sender."""

    channel: Name
    type: Name
    # A factory, because a schema cannot show a Raw as a default.
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    id: Name | None = None
    sender: Name | None = msgspec.field(name="from", default=None)


class PublishMany(msgspec.Struct, frozen=True):
    """Several messages, made durable together."""

    messages: list[Publish]


class Published(msgspec.Struct, frozen=True):
    """The message's id."""

    id: str


class ItemError(msgspec.Struct, frozen=True):
    """Why one message of several was not published; with `retry`, whether it was is unknown."""

    code: str
    message: str
    retry: bool


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one message: its `id`, or an `error`."""

    id: str | UnsetType = UNSET
    error: ItemError | UnsetType = UNSET


class PublishedMany(msgspec.Struct, frozen=True):
    """What became of each message, in order."""

    results: list[Result]


# history


class HistoryQuery(msgspec.Struct, frozen=True):
    """Exclusive bounds (`seq`); without any, the newest `limit`."""

    after: Annotated[int, Meta(ge=0, le=2**53, description="only what has a higher seq")] | None = None
    before: Annotated[int, Meta(ge=0, le=2**53, description="only what has a lower seq")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many, at most")] = 100


class HistoryMessage(msgspec.Struct, frozen=True):
    """A message as its channel keeps it; `ts` is Unix ms, `cause` the accepted send it came from."""

    channel: str
    seq: int
    epoch: str
    id: str
    type: str
    ts: int
    data: Any
    sender: str | None = msgspec.field(name="from")
    cause: str | UnsetType = UNSET


class History(msgspec.Struct, frozen=True):
    """Messages, oldest first."""

    channel: str
    epoch: str
    messages: list[HistoryMessage]


# users


class SessionView(msgspec.Struct, frozen=True):
    """An online session; `since` is Unix ms."""

    session: str
    node: str
    device: str
    since: int


class Presence(msgspec.Struct, frozen=True):
    """A user's online sessions."""

    user: str
    sessions: list[SessionView]


class PresenceCall(msgspec.Struct, frozen=True):
    """Whose presence."""

    users: Annotated[list[User], Meta(max_length=1000)]


class PresenceMany(msgspec.Struct, frozen=True):
    """Each user's presence, in the order asked."""

    users: list[Presence]


class DisconnectCall(msgspec.Struct, frozen=True):
    """Which sessions to end: all, or those of one device class. `reason` is shown to the client."""

    device: Text | None = None
    reason: Text | None = None


class Disconnected(msgspec.Struct, frozen=True):
    """How many sessions are ended."""

    sessions: int


# groups and nodes


class Members(msgspec.Struct, frozen=True):
    """The users in a group, sorted."""

    members: list[str]


class NodeView(msgspec.Struct, frozen=True):
    """A process of the cluster. `alive` (access): its beat in the store moves."""

    node: str
    incarnation: str
    role: str
    address: str
    endpoints: dict[str, str]
    metrics: str
    region: str
    weight: int
    draining: bool
    alive: bool


class Nodes(msgspec.Struct, frozen=True):
    """Processes of the cluster."""

    nodes: list[NodeView]
