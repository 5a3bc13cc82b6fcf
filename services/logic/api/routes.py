"""Every call of the HTTP API in one table: what is served, and what the OpenAPI document says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from . import channels, nodes, users
from . import schemas as s
from .publish import publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .context import Api, Call


@dataclass(frozen=True, slots=True)
class Route:
    """One call. `body` and `answer` may be several types: one of them; `raw`: the call reads its body itself.

    `empty`: a call without a body is one with all of the body's defaults. `auth`: an API key or a client's
    token. `errors`: the statuses it may answer with, beyond those that every call may.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    call: Callable[[Api, Call], Awaitable[Any]]
    answer: tuple[type, ...]
    body: tuple[type, ...] = ()
    query: type | None = None
    raw: bool = False
    empty: bool = False
    auth: Literal["key", "token"] = "key"
    tag: str = ""
    errors: tuple[int, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence: the docstring of what is called."""
        return (self.call.__doc__ or "").strip().split("\n")[0].rstrip(".")

    @property
    def operation(self) -> str:
        """The operation's name."""
        return self.call.__name__


ROUTES: Final = (
    Route("POST", "/v1/tokens", users.token, (s.TokenAnswer,), (s.TokenCall,), tag="tokens", errors=(501,)),
    Route("POST", "/v1/tokens/revoke", users.revoke, (s.Nothing,), (s.RevokeCall,), tag="tokens"),
    Route("GET", "/v1/access", users.access, (s.AccessAnswer,), auth="token", tag="connecting"),
    Route(
        "POST",
        "/v1/publish",
        publish,
        (s.Published, s.PublishedMany),
        (s.Publish, s.PublishMany),
        raw=True,
        tag="messages",
    ),
    Route(
        "GET",
        "/v1/channels/{channel}/messages",
        channels.history,
        (s.History,),
        query=s.HistoryQuery,
        tag="messages",
    ),
    Route("GET", "/v1/users/{user}/presence", users.presence, (s.Presence,), tag="users"),
    Route("POST", "/v1/presence", users.presence_many, (s.PresenceMany,), (s.PresenceCall,), tag="users"),
    Route(
        "POST",
        "/v1/users/{user}/disconnect",
        users.disconnect,
        (s.Disconnected,),
        (s.DisconnectCall,),
        empty=True,
        tag="users",
    ),
    Route("GET", "/v1/groups/{group}/members", channels.members, (s.Members,), tag="groups"),
    Route("GET", "/v1/groups/{group}/members/{user}", channels.member, (s.Members,), tag="groups"),
    Route("PUT", "/v1/groups/{group}/members/{user}", channels.join, (s.Members,), tag="groups"),
    Route("DELETE", "/v1/groups/{group}/members/{user}", channels.leave, (s.Members,), tag="groups"),
    Route("GET", "/v1/nodes", nodes.nodes, (s.Nodes,), tag="nodes"),
    Route("POST", "/v1/nodes/{node}/drain", nodes.drain, (s.Nodes,), tag="nodes", errors=(404, 409)),
)
