"""Handlers of a small chat. Run them with `holdfast dev examples.chat:app`, and open the demo page twice."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.app import App, Context, Message, Refuse, Request, Session

app = App()


class Text(msgspec.Struct):
    """What a client sends as `chat.text`; anything else is refused before the handler runs."""

    text: str


@app.on("chat.text")
async def text(ctx: Context, message: Message[Text]) -> None:
    """Pass a text on to the channel it was sent to, in place of what the client wrote."""
    words = message.data.text.strip()
    if not words:
        raise Refuse("empty", "there is nothing in it")
    if not await ctx.may_send():
        raise Refuse("forbidden", f"you may not send to {message.to}")
    ctx.forward({"text": words, "to": message.to})
    if words == "/help":
        ctx.publish(f"user:{ctx.user}", "chat.text", {"text": "just write!"}, sender="helper")


@app.on_request("chat.online")
async def online(ctx: Context, request: Request[Any]) -> dict[str, bool]:
    """Tell which of the named users are online; the reply goes to the connection that asked, only."""
    return {name: bool(await ctx.presence(name)) for name in request.data["users"][:100]}


@app.on_connect
async def welcome(ctx: Context, session: Session) -> None:
    """Greet every session that begins."""
    ctx.publish(f"user:{session.user}", "chat.welcome", {"device": session.device}, sender=None)
