"""What each kind of channel allows and keeps. Kinds are data: operators add theirs in `[channels.KIND]`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Who = Literal["anyone", "members", "owner", "nobody"]
"""`members`: of the group that the channel is; `owner`: the user whose inbox it is."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind's policy."""

    subscribe: Annotated[Who, Meta(description="who may subscribe by asking")] = "anyone"
    send: Annotated[Who, Meta(description="who may send to it from a client, without a handler")] = "anyone"
    keep_count: Annotated[int, Meta(ge=1, le=100_000, description="messages kept, at most")] = 1000
    keep_seconds: Annotated[int, Meta(ge=1, description="age in seconds up to which messages are kept")] = (
        7 * 86_400
    )
    rate: Annotated[
        int,
        Meta(ge=0, description="messages a second that clients may send to one channel; 0: no limit"),
    ] = 0


DEFAULT_POLICIES: dict[str, Policy] = {
    "user": Policy(subscribe="owner", send="anyone"),
    "group": Policy(subscribe="members", send="members"),
    "room": Policy(subscribe="anyone", send="anyone", keep_count=500, keep_seconds=3600),
}
