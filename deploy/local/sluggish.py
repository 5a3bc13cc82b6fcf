"""The demo's handlers, which take their time while a file exists: `HF_LOCAL_SLOW` names it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.embedded.demo import app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.app import Context

__all__ = ["app"]

SECONDS: Final = 2.0
_FLAG: Final = Path(os.environ.get("HF_LOCAL_SLOW", "/nowhere"))


@app.middleware
async def slow(ctx: Context, incoming: Any, proceed: Callable[[Context, Any], Awaitable[Any]]) -> Any:
    """Wait, as for a service that does not answer in time."""
    if _FLAG.exists():
        await asyncio.sleep(SECONDS)
    return await proceed(ctx, incoming)
