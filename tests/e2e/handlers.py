"""Handlers of the end-to-end tests."""

import asyncio

from holdfast import App, Context, Message, Refuse, Session

app = App()


@app.on("echo.to")
async def echo_to(ctx: Context, message: Message) -> None:
    """Publish what came in to the channel that the message itself names."""
    ctx.publish(message.data["channel"], "echoed", message.data["body"])


@app.on("refuse.me")
async def refuse(ctx: Context, message: Message) -> None:
    """Refuse everything."""
    raise Refuse("rejected", "this handler refuses everything")


@app.on("fail.me")
async def fail(ctx: Context, message: Message) -> None:
    """Fail each time."""
    raise ValueError("this handler fails")


@app.on_request("add")
async def add(ctx: Context, request: Message) -> int:
    """Answer with the sum."""
    return sum(request.data)


@app.on_connect
async def began(ctx: Context, session: Session) -> None:
    """Write into the user's own room that a session began, for users who want to know."""
    if session.user.startswith("watched"):
        ctx.publish(f"room:{session.user}", "connect", [session.id, session.reason])


@app.on_disconnect
async def ended(ctx: Context, session: Session) -> None:
    """The same of its end."""
    if session.user.startswith("watched"):
        ctx.publish(f"room:{session.user}", "disconnect", [session.id, session.reason])


@app.on("slow")
async def slow(ctx: Context, message: Message) -> None:
    """Take its time, 50 a second of one sender, and pass on."""
    await asyncio.sleep(0.02)
    ctx.forward()


@app.on("slower")
async def slower(ctx: Context, message: Message) -> None:
    """Take its time, 10 a second of one sender."""
    await asyncio.sleep(0.1)
