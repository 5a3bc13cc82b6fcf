"""Check a client's JWT. HS256 is checked here (3 µs against PyJWT's 30), the rest by PyJWT.

Several secrets and keys hold at once, so that they can be replaced one by one: those of the settings, and
those of a JWKS, where one is named.

The kind of a key decides its algorithm, so no header can talk a public key into being a secret. Whatever this
accepts PyJWT accepts too; the tests hold one against the other.
"""

from __future__ import annotations

import binascii
import collections
import hashlib
import hmac
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.auth.issue import base64url
from holdfast.auth.keys import ALGORITHMS, Key, from_file
from holdfast.errors import Reject, Retry, Stop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.auth.jwks import Jwks
    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Auth

MIN_SECRET: Final = 32
"""Bytes of an HS256 secret, at least (RFC 7518 section 3.2)."""

CACHED: Final = 4096
"""Checked signatures by public key that are remembered, at most; the oldest is forgotten."""

MAX_USER: Final = 190
"""Bytes of `sub`, at most, so that `user:SUB` is a channel's name."""

_HEADERS: Final = 64


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What a valid token says. Times are Unix seconds; `iat` 0: not said; `channels` are patterns."""

    sub: str
    exp: float
    iat: float = 0
    nbf: float = 0
    jti: str = ""
    device: str = ""
    iss: str = ""
    aud: str | tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class _Header(msgspec.Struct, frozen=True, gc=False):
    alg: str
    kid: str = ""
    typ: str = ""
    crit: msgspec.Raw = msgspec.Raw(b"")
    b64: bool = True


_decode_header: Final = msgspec.json.Decoder(_Header).decode
_decode_claims: Final = msgspec.json.Decoder(Claims).decode
_URLSAFE: Final = bytes.maketrans(b"-_+/", b"+/!!")


def _from_base64url(text: bytes) -> bytes:
    return binascii.a2b_base64(text.translate(_URLSAFE) + b"=" * (-len(text) % 4), strict_mode=True)


class Verifier:
    """Checks tokens against all keys of the settings, and of a JWKS that `start` begins to fetch."""

    def __init__(self, settings: Auth, jwks: Jwks | None = None) -> None:
        """Load the keys. Raises Stop, naming the setting, for a key that cannot be used."""
        self._settings = settings
        for secret in settings.secrets:
            if len(secret.encode()) < MIN_SECRET:
                raise Stop(f"auth.secrets: a secret must have at least {MIN_SECRET} bytes")
            if "-----BEGIN" in secret:
                raise Stop("auth.secrets holds a PEM key; name its file in auth.key_files")
        self._secrets = tuple(secret.encode() for secret in settings.secrets)
        self._keys = tuple(from_file(path) for path in settings.key_files)
        self._jwks = jwks
        self._headers: dict[bytes, _Header] = {}
        self._checked: collections.OrderedDict[bytes, Claims] = collections.OrderedDict()
        if jwks is not None:
            jwks.on_change = self._checked.clear  # what a key that is gone has signed is good no more

    def start(self) -> None:
        """Begin to fetch keys, where an address of some is named."""
        if self._jwks is not None:
            self._jwks.start()

    async def stop(self) -> None:
        """Fetch no more."""
        if self._jwks is not None:
            await self._jwks.stop()

    @property
    def problem(self) -> str:
        """Why no token can be valid, in words; empty when one can."""
        if self._secrets or self._keys or (self._jwks is not None and self._jwks.keys):
            return ""
        if self._jwks is not None:
            return "waiting for the keys of auth.jwks_url"
        return "auth.secrets, auth.key_files and auth.jwks_url are empty: no client could connect"

    def verify(self, token: str, now_ms: int) -> Claims:
        """Return the claims of a valid token.

        Raises Reject(`unauthorized`) with what is wrong, Retry where its key is being looked up.
        """
        try:
            raw = token.encode("ascii")
            head, payload, signature = raw.split(b".")
            header = self._headers.get(head) or self._header(head)
        except (ValueError, msgspec.DecodeError):
            raise Reject("unauthorized", "the token is not a signed JWT") from None
        if header.alg == "HS256":
            claims = self._by_secret(raw, payload, signature)
        else:
            claims = self._by_key(token, header)
        self._check(claims, now_ms / 1000)
        return claims

    def _header(self, head: bytes) -> _Header:
        header = _decode_header(_from_base64url(head))
        if header.crit or not header.b64:
            raise Reject("unauthorized", "the token asks for an extension that is not supported")
        if len(self._headers) >= _HEADERS:
            self._headers.clear()
        self._headers[head] = header
        return header

    def _by_secret(self, raw: bytes, payload: bytes, signature: bytes) -> Claims:
        signed = raw[: len(raw) - len(signature) - 1]
        try:
            for secret in self._secrets:
                # As text, so that there is one way to write it: bits that decoding drops are compared too.
                right = base64url(hmac.digest(secret, signed, "sha256"))
                if hmac.compare_digest(right, signature):
                    return _decode_claims(_from_base64url(payload))
        except (ValueError, msgspec.DecodeError) as error:
            raise Reject("unauthorized", f"the token cannot be read: {error}") from None
        raise Reject("unauthorized", "no key accepts the token's signature")

    def _by_key(self, token: str, header: _Header) -> Claims:
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._checked.get(digest)
        if claims is not None:
            return claims
        import jwt  # noqa: PLC0415 - a cluster of secrets alone never loads it

        for key in self._candidates(header):
            try:
                payload = jwt.api_jws.decode(token, key.value, algorithms=[key.algorithm])
                claims = _decode_claims(payload)
            except jwt.InvalidTokenError:
                continue
            except msgspec.DecodeError as error:
                raise Reject("unauthorized", f"the token cannot be read: {error}") from None
            self._checked[digest] = claims
            if len(self._checked) > CACHED:
                self._checked.popitem(last=False)
            return claims
        if self._may_come(header):
            raise Retry("the key of this token is being looked up; come back", after=1.0)
        raise Reject("unauthorized", "no key accepts the token's signature")

    def _candidates(self, header: _Header) -> Iterable[Key]:
        """Return the keys of this algorithm: the one that `kid` names, else all that need not be named.

        A file's name says little of what an issuer calls the key; what a JWKS calls it is its name.
        """
        fetched = self._jwks.keys if self._jwks is not None else ()
        usable = [key for key in (*self._keys, *fetched) if key.algorithm == header.alg]
        named = [key for key in usable if header.kid and key.name == header.kid]
        return named or (key for key in usable if not header.kid or key not in fetched)

    def _may_come(self, header: _Header) -> bool:
        jwks = self._jwks
        if jwks is None or header.alg not in ALGORITHMS:
            return False
        if not header.kid:
            return jwks.fetched is None
        return not any(key.name == header.kid for key in jwks.keys) and jwks.may_come(header.kid)

    def _check(self, claims: Claims, now: float) -> None:
        settings = self._settings
        leeway = settings.leeway
        if not claims.sub or "\0" in claims.sub or len(claims.sub.encode()) > MAX_USER:
            raise Reject("unauthorized", "`sub` must name a user")
        if int(claims.exp) <= now - leeway:  # whole seconds, as the oracle counts
            raise Reject("unauthorized", "the token has expired")
        if claims.nbf > now + leeway or claims.iat > now + leeway:
            raise Reject("unauthorized", "the token is not valid yet")
        if settings.issuer and claims.iss != settings.issuer:
            raise Reject("unauthorized", "the token has another issuer")
        if settings.audience:
            audience = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
            if settings.audience not in audience:
                raise Reject("unauthorized", "the token is for another audience")


def make(settings: Auth, clock: Clock, metrics: Metrics) -> Verifier:
    """Return the verifier of a process. Raises Stop, naming the setting, for a key that cannot be used."""
    if not settings.jwks_url:
        return Verifier(settings)
    from holdfast.auth.jwks import Jwks  # noqa: PLC0415 - only where there is one

    return Verifier(settings, Jwks(settings, clock, metrics))
