"""The handlers of the demo page: a lobby, conversations of two, and who is there."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import msgspec

from holdfast.app import App, Context, Message, Refuse, Request, Session

LOBBY: Final = "room:lobby"
_NAMES: Final = 200
"""Names remembered for the list of people, at most; the one not seen for longest is forgotten."""

app = App()
_people: OrderedDict[str, None] = OrderedDict()


class Text(msgspec.Struct, frozen=True):
    """What the page sends as `chat.text`."""

    text: str


@app.on("chat.text")
async def text(ctx: Context, message: Message[Text]) -> None:
    """Pass a text on; one for a person also goes into the writer's own inbox, for his other devices."""
    words = message.data.text.strip()
    if not words:
        raise Refuse("there is nothing in it")
    if not await ctx.may_send():
        raise Refuse("forbidden", f"you may not send to {message.to}")
    ctx.forward({"text": words, "to": message.to})
    mine = f"user:{ctx.user}"
    if message.to.startswith("user:") and message.to != mine:
        ctx.publish(mine, message.type, {"text": words, "to": message.to})


@app.on_request("chat.history")
async def history(ctx: Context, request: Request[Any]) -> dict[str, Any]:
    """Return what the lobby and the asker's inbox hold, for a page that has just been opened."""
    del request
    lobby = await ctx.history(LOBBY, limit=50)
    return {"messages": [*lobby, *await ctx.history(f"user:{ctx.user}", limit=50)]}


@app.on_request("chat.people")
async def people(ctx: Context, request: Request[Any]) -> dict[str, Any]:
    """Return who is online."""
    del request
    return {"people": [name for name in list(_people) if await ctx.presence(name)]}


@app.on_connect
async def came(ctx: Context, session: Session) -> None:
    """Tell the lobby that somebody is there."""
    _people[session.user] = None
    _people.move_to_end(session.user)
    if len(_people) > _NAMES:
        _people.popitem(last=False)
    ctx.publish(LOBBY, "chat.presence", {"user": session.user, "online": True}, sender=None)


@app.on_disconnect
async def left(ctx: Context, session: Session) -> None:
    """Tell the lobby that somebody left, unless another session of theirs is there."""
    sessions = await ctx.presence(session.user)
    online = any(one.session != session.id for one in sessions)
    ctx.publish(LOBBY, "chat.presence", {"user": session.user, "online": online}, sender=None)
