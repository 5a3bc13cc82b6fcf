"""Where a client's tokens come from, and when the next one is due."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]

REFRESH_SHARE: Final = 0.8
"""Share of a token's remaining life after which the next one is fetched."""


class _Claims(msgspec.Struct):
    exp: float | None = None


async def fetch(token: Token) -> str:
    """Return the token, or what the callable gives (sync or async)."""
    if isinstance(token, str):
        return token
    result = token()
    return await result if inspect.isawaitable(result) else result


def expiry(token: str) -> float | None:
    """Return the Unix time (s) at which a JWT ends; None where it does not say. Nothing is verified."""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims
        ).exp
    except (IndexError, ValueError, msgspec.MsgspecError):
        return None
