"""Tokens: our own HS256 check against PyJWT as the oracle, keys of all kinds, and every refusal."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.auth import Verifier, issue
from holdfast.auth.verify import CACHED
from holdfast.errors import Reject, Stop
from holdfast.settings import Auth

SECRET = "x" * 40
NOW = 1_700_000_000
GOOD = {"sub": "bob", "exp": NOW + 60}
AUTH = Auth(secrets=(SECRET,), leeway=0)


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def accepts(token: str, auth: Auth = AUTH) -> bool:
    try:
        Verifier(auth).verify(token, NOW * 1000)
    except Reject as reject:
        refused = reject
    else:
        return True
    assert refused.code == "unauthorized"
    assert str(refused)
    return False


def decode(token: str, **options: Any) -> dict[str, Any]:
    """Decode by PyJWT, which asks the clock itself, at our time."""
    at = mock.Mock(wraps=datetime)
    at.now.return_value = datetime.fromtimestamp(NOW, UTC)
    with mock.patch("jwt.api_jwt.datetime", at):
        claims: dict[str, Any] = jwt.decode(
            token, SECRET, algorithms=["HS256"], options={"require": ["sub", "exp"]}, **options
        )
    return claims


def oracle(token: str, **options: Any) -> bool:
    try:
        decode(token, **options)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return False
    return True


times = st.one_of(st.integers(NOW - 3, NOW + 3), st.floats(NOW - 3, NOW + 3), st.sampled_from(["1", None]))
claims = st.fixed_dictionaries(
    {},
    optional={
        "sub": st.sampled_from(["bob", "", 7, None]),
        "exp": st.one_of(st.just(NOW + 60), times),
        "nbf": times,
        "iat": times,
        "aud": st.sampled_from(["a", "b", ["b", "a"], [], 3]),
        "iss": st.sampled_from(["i", "j", 3]),
        "jti": st.sampled_from(["t", 3]),
    },
)
headers = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "none", "HS512", "hs256", 5, None])},
    optional={
        "typ": st.just("JWT"),
        "kid": st.sampled_from(["k", 3]),
        "crit": st.just(["b64"]),
        "b64": st.just(False),
    },
)


@given(claims, headers, st.sampled_from([SECRET, SECRET, "y" * 40]))
def test_whatever_is_accepted_the_oracle_accepts(
    payload: dict[str, Any], header: dict[str, Any], secret: str
) -> None:
    """Nothing that PyJWT refuses is accepted; what a sane issuer signs is accepted by both."""
    import hashlib
    import hmac

    signed = f"{part(header)}.{part(payload)}"
    token = f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"
    with_names = Auth(secrets=(SECRET,), leeway=0, audience="a", issuer="i")
    for auth, options in ((AUTH, {"options": {}}), (with_names, {"audience": "a", "issuer": "i"})):
        expected = oracle(token, **{key: value for key, value in options.items() if key != "options"})
        if "aud" in payload and auth is AUTH:
            continue  # PyJWT wants an audience named where a token has one; without a setting it is free here
        if accepts(token, auth):
            assert expected


@given(st.sampled_from([GOOD | {"iat": NOW, "device": "web", "channels": ["room:*"]}, GOOD]), st.booleans())
def test_sane_tokens_are_accepted_by_both(payload: dict[str, Any], kid: bool) -> None:
    """What PyJWT signs, with or without a kid, is accepted."""
    token = jwt.encode(payload, SECRET, headers={"kid": "k"} if kid else None)
    assert accepts(token)
    assert oracle(token)


@given(st.binary(max_size=8), st.integers(0, 200))
@example(b"=", 121)
@example(b"B", 120)
def test_a_changed_token_is_refused(noise: bytes, place: int) -> None:
    """Any other bytes in a token make it wrong."""
    token = jwt.encode(GOOD, SECRET)
    changed = token[:place] + noise.decode("latin-1") + token[place + len(noise) :]
    assert accepts(changed) == (changed == token)


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c", "a.b.c.d", "ü.ü.ü", f"{part({})}.{part({})}.", f"{part([])}.{part(GOOD)}.x"],
)
def test_what_is_no_token(token: str) -> None:
    """Text that is no signed JWT is refused as unauthorized."""
    assert not accepts(token)


def test_subject_must_name_a_user() -> None:
    """An empty, NUL-holding or overlong `sub` is refused."""
    for sub in ("", "a\0b", "u" * 191):
        assert not accepts(jwt.encode(GOOD | {"sub": sub}, SECRET))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, str]]:
    """Return algorithm -> (private key, path of the public one)."""
    folder = tmp_path_factory.mktemp("keys")
    made: dict[str, tuple[Any, str]] = {}
    for algorithm, private in (
        ("RS256", rsa.generate_private_key(65537, 2048)),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ):
        path = Path(folder) / f"{algorithm}.pem"
        path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        made[algorithm] = (private, str(path))
    return made


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys(keys: dict[str, tuple[Any, str]], algorithm: str) -> None:
    """Each kind of key verifies its own algorithm, beside the others and a secret."""
    auth = Auth(secrets=(SECRET,), key_files=tuple(path for _, path in keys.values()), leeway=0)
    verifier = Verifier(auth)
    token = jwt.encode(GOOD, keys[algorithm][0], algorithm=algorithm, headers={"kid": algorithm})
    assert verifier.verify(token, NOW * 1000).sub == "bob"
    assert verifier.verify(token, NOW * 1000).sub == "bob"
    with pytest.raises(Reject, match="expired"):
        verifier.verify(token, (NOW + 61) * 1000)  # a remembered signature is no remembered time
    assert verifier.verify(jwt.encode(GOOD, SECRET), NOW * 1000).sub == "bob"
    assert not accepts(token)


def test_a_public_key_is_no_secret(keys: dict[str, tuple[Any, str]]) -> None:
    """A token signed by HMAC with the public key's text is refused, whatever it says."""
    import hashlib
    import hmac

    path = keys["RS256"][1]
    public = Path(path).read_bytes()
    for alg in ("HS256", "RS256", "none"):
        signed = f"{part({'alg': alg})}.{part(GOOD)}"
        token = f"{signed}.{part(hmac.digest(public, signed.encode(), hashlib.sha256))}"
        assert not accepts(token, Auth(key_files=(path,)))


def test_remembered_signatures_are_bounded(keys: dict[str, tuple[Any, str]]) -> None:
    """inv 7: the oldest remembered signature goes at the bound."""
    private, path = keys["EdDSA"]
    verifier = Verifier(Auth(key_files=(path,)))
    verifier._checked.update((str(number).encode(), None) for number in range(CACHED))  # type: ignore[misc]
    verifier.verify(jwt.encode(GOOD, private, algorithm="EdDSA"), NOW * 1000)
    assert len(verifier._checked) == CACHED


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    """inv 11: a wrong key is refused at start, by the name of its setting."""
    small = tmp_path / "small.pem"
    private = rsa.generate_private_key(65537, 1024)
    small.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    secret = tmp_path / "private.pem"
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for auth in (
        Auth(secrets=("short",)),
        Auth(secrets=("-----BEGIN PUBLIC KEY-----" + "x" * 40,)),
        Auth(key_files=(str(tmp_path / "none.pem"),)),
        Auth(key_files=(str(small),)),
        Auth(key_files=(str(secret),)),
    ):
        with pytest.raises(Stop, match=r"auth\.(secrets|key_files)"):
            Verifier(auth)


def test_issue() -> None:
    """What is issued is valid here and for PyJWT, and says what was asked."""
    auth = Auth(secrets=(SECRET, "z" * 40), audience="a", issuer="i")
    token, expires = issue(auth, "bob", NOW * 1000, device="web", channels=["room:*"], ttl=5)
    claims = Verifier(auth).verify(token, NOW * 1000)
    assert expires == (NOW + 5) * 1000
    assert (claims.sub, claims.device, claims.channels, claims.exp) == ("bob", "web", ("room:*",), NOW + 5)
    assert claims.jti == ""
    token, _ = issue(auth, "bob", NOW * 1000, device="web", jti="one")
    assert Verifier(auth).verify(token, NOW * 1000).jti == "one"
    assert decode(token, audience="a", issuer="i")["sub"] == "bob"
    with pytest.raises(Reject):
        issue(auth, "", NOW)
    with pytest.raises(Reject):
        issue(auth, "bob", NOW, ttl=0)
    with pytest.raises(Stop):
        issue(Auth(), "bob", NOW)
