"""The handlers of the cluster under chaos: one that fans out, one that is slow now and then."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from holdfast.app import App, Context, Message

app = App()


@app.on("fan")
async def fan(ctx: Context, message: Message[Any]) -> None:
    """Pass it on, and give the sender a receipt in the own inbox."""
    ctx.forward()
    ctx.publish(f"user:{ctx.user}", "receipt", message.data)


@app.on("slow")
async def slow(ctx: Context, message: Message[Any]) -> None:
    """Take a while, as a handler that asks a database does."""
    del message
    await asyncio.sleep(random.choice((0.0, 0.01, 0.2)))  # noqa: S311 - not a secret
    ctx.forward()
