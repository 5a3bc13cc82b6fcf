"""Check a client's JWT. HS256 is checked here (3 µs against PyJWT's 30), the rest by PyJWT.

The kind of a key decides its algorithm, so no header can talk a public key into being a secret. Whatever this
accepts PyJWT accepts too; the tests hold one against the other.
"""

from __future__ import annotations

import binascii
import collections
import hashlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.errors import Reject, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class _Key:
    """A public key: `name` is what a token's `kid` may call it."""

    __slots__ = ("algorithm", "name", "value")

    def __init__(self, name: str, algorithm: str, value: Any) -> None:
        self.name = name
        self.algorithm = algorithm
        self.value = value


class Verifier:
    """Checks tokens against all keys of the settings."""

    def __init__(self, settings: Auth) -> None:
        """Load the keys. Raises Stop, naming the setting, for a key that cannot be used."""
        self._settings = settings
        for secret in settings.secrets:
            if len(secret.encode()) < MIN_SECRET:
                raise Stop(f"auth.secrets: a secret must have at least {MIN_SECRET} bytes")
            if "-----BEGIN" in secret:
                raise Stop("auth.secrets holds a PEM key; name its file in auth.key_files")
        self._secrets = tuple(secret.encode() for secret in settings.secrets)
        self._keys = tuple(_load(path) for path in settings.key_files)
        self._headers: dict[bytes, _Header] = {}
        self._checked: collections.OrderedDict[bytes, Claims] = collections.OrderedDict()

    @property
    def has_keys(self) -> bool:
        """Whether any token can be valid."""
        return bool(self._secrets or self._keys)

    def verify(self, token: str, now_ms: int) -> Claims:
        """Return the claims of a valid token. Raises Reject(`unauthorized`) with what is wrong."""
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
            given = _from_base64url(signature)
            for secret in self._secrets:
                if hmac.compare_digest(hmac.digest(secret, signed, "sha256"), given):
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
        raise Reject("unauthorized", "no key accepts the token's signature")

    def _candidates(self, header: _Header) -> Iterator[_Key]:
        """Yield the keys of this algorithm, the one that `kid` names first."""
        usable = [key for key in self._keys if key.algorithm == header.alg]
        return iter(sorted(usable, key=lambda key: key.name != header.kid))

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


def _load(path: str) -> _Key:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        value = load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise Stop(f"auth.key_files: cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise Stop(f"auth.key_files: {path} is not a public key in PEM") from None
    if isinstance(value, rsa.RSAPublicKey) and value.key_size >= 2048:
        algorithm = "RS256"
    elif isinstance(value, ec.EllipticCurvePublicKey) and isinstance(value.curve, ec.SECP256R1):
        algorithm = "ES256"
    elif isinstance(value, ed25519.Ed25519PublicKey):
        algorithm = "EdDSA"
    else:
        raise Stop(f"auth.key_files: {path} must be an RSA key of 2048 bits, a P-256 or an Ed25519 key")
    return _Key(Path(path).stem, algorithm, value)
