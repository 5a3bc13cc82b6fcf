"""Issue a token, signed with the first secret of the settings."""

from __future__ import annotations

import binascii
import hmac
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.errors import Reject, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.settings import Auth

_encode: Final = msgspec.json.Encoder().encode


def base64url(data: bytes) -> bytes:
    """Return data as base64url without padding, as a JWT has it."""
    encoded = binascii.b2a_base64(data, newline=False)
    return encoded.translate(bytes.maketrans(b"+/", b"-_")).rstrip(b"=")


_HEADER: Final = base64url(b'{"alg":"HS256","typ":"JWT"}')


def issue(
    settings: Auth,
    user: str,
    now_ms: int,
    *,
    device: str = "",
    channels: Sequence[str] = (),
    ttl: float | None = None,
    jti: str = "",
) -> tuple[str, int]:
    """Return a token for `user` and when it expires, in Unix ms. `ttl` is in seconds.

    With a `jti` this one token can be revoked by it; every session then costs a route and a read more.
    Raises Reject(`bad_request`) for a user or ttl that no token can have, Stop without a secret to sign with.
    """
    if not settings.secrets:
        raise Stop("auth.secrets is empty: tokens cannot be issued")
    if not user or "\0" in user:
        raise Reject("bad_request", "user must not be empty, and holds no NUL")
    seconds = settings.ttl if ttl is None else ttl
    if seconds <= 0:
        raise Reject("bad_request", "ttl must be above 0")
    issued = now_ms // 1000
    expires = issued + max(int(seconds), 1)
    claims: dict[str, Any] = {"sub": user, "iat": issued, "exp": expires}
    if jti:
        claims["jti"] = jti
    if settings.audience:
        claims["aud"] = settings.audience
    if settings.issuer:
        claims["iss"] = settings.issuer
    if device:
        claims["device"] = device
    if channels:
        claims["channels"] = list(channels)
    signed = _HEADER + b"." + base64url(_encode(claims))
    signature = hmac.digest(settings.secrets[0].encode(), signed, "sha256")
    return (signed + b"." + base64url(signature)).decode(), expires * 1000
