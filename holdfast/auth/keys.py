"""Public keys that tokens are checked with, of PEM files and of a JWKS: the kind decides the algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast.errors import Stop

MAX_KEYS: Final = 32
"""Keys of one JWKS that are taken, at most: a token without `kid` is held against each of its algorithm."""

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")

_MIN_RSA: Final = 2048


class Key:
    """A public key: `name` is what a token's `kid` may call it."""

    __slots__ = ("algorithm", "name", "value")

    def __init__(self, name: str, algorithm: str, value: Any) -> None:
        self.name = name
        self.algorithm = algorithm
        self.value = value


def from_file(path: str) -> Key:
    """Return the key of a PEM file, named like the file. Raises Stop, naming the setting."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        value = load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise Stop(f"auth.key_files: cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise Stop(f"auth.key_files: {path} is not a public key in PEM") from None
    algorithm = _algorithm(value)
    if not algorithm:
        raise Stop(f"auth.key_files: {path} must be an RSA key of 2048 bits, a P-256 or an Ed25519 key")
    return Key(Path(path).stem, algorithm, value)


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    kid: str = ""
    use: str = "sig"
    alg: str = ""
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


_decode: Final = msgspec.json.Decoder(_Jwks).decode
_decode_key: Final = msgspec.json.Decoder(_Jwk).decode


def from_jwks(text: bytes) -> tuple[Key, ...]:
    """Return the keys of a JWKS that can check tokens here; others are passed over. Raises ValueError.

    A symmetric key is never one: what a public address tells is no secret.
    """
    try:
        entries = _decode(text).keys
    except msgspec.DecodeError as error:
        raise ValueError(f"it is no JWKS: {error}") from None
    found: list[Key] = []
    for entry in entries:
        key = _from_jwk(bytes(entry))
        if key is not None and len(found) < MAX_KEYS:
            found.append(key)
    if not found:
        raise ValueError("it has no RSA key of 2048 bits, no P-256 and no Ed25519 key for signatures")
    return tuple(found)


def _from_jwk(text: bytes) -> Key | None:
    from jwt import PyJWK, PyJWTError  # noqa: PLC0415 - a cluster of secrets alone never loads it

    try:
        jwk = _decode_key(text)
        if jwk.use != "sig" or jwk.kty not in ("RSA", "EC", "OKP"):
            return None
        public = {name: value for name, value in msgspec.to_builtins(jwk).items() if value}
        public.pop("alg", None)
        value = PyJWK.from_dict(public).key
    except (msgspec.DecodeError, PyJWTError, ValueError):
        return None
    algorithm = _algorithm(value)
    return Key(jwk.kid, algorithm, value) if algorithm and jwk.alg in ("", algorithm) else None


def _algorithm(value: Any) -> str:
    """Return the one algorithm that a key is used with, "" where there is none."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if isinstance(value, rsa.RSAPublicKey) and value.key_size >= _MIN_RSA:
        return "RS256"
    if isinstance(value, ec.EllipticCurvePublicKey) and isinstance(value.curve, ec.SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(value, ed25519.Ed25519PublicKey) else ""
