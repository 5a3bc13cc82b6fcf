"""Keys of a JWKS: fetched, rotated, kept over an outage of the issuer, and asked for at a bounded rate."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.auth import Verifier
from holdfast.auth.jwks import MAX_ASKED, Jwks
from holdfast.auth.keys import MAX_KEYS, from_jwks
from holdfast.clock import ManualClock
from holdfast.errors import Reject, Retry
from holdfast.observe.metrics import Metrics
from holdfast.settings import Auth
from tests.auth.issuer import KINDS, Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AUTH = Auth(jwks_url="http://localhost/jwks", audience="chat", jwks_refresh=300.0, jwks_pause=10.0)


class World:
    """An issuer, and a process that fetches its keys."""

    def __init__(self, auth: Auth = AUTH) -> None:
        self.clock = ManualClock()
        self.issuer = Issuer()
        self.metrics = Metrics()
        self.away = False
        self.answer: bytes | None = None
        self.fetches: list[float] = []
        self.jwks = Jwks(auth, self.clock, self.metrics, fetch=self.fetch)
        self.verifier = Verifier(auth, self.jwks)

    async def fetch(self) -> bytes:
        self.fetches.append(self.clock.monotonic())
        if self.away:
            raise OSError("away")
        return self.issuer.jwks() if self.answer is None else self.answer

    def token(self, name: str, **more: Any) -> str:
        return self.issuer.token(name, "bob", self.clock.now_ms() / 1000, **more)

    def verify(self, token: str) -> str:
        """Return what came of it: the user, `later`, or `no`."""
        try:
            return self.verifier.verify(token, self.clock.now_ms()).sub
        except Retry as retry:
            return "later" if retry.after else "at once"
        except Reject as reject:
            return "no" if reject.code == "unauthorized" else reject.code

    def counted(self, outcome: str) -> float:
        name = "holdfast_auth_jwks_fetches_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@contextlib.asynccontextmanager
async def world(*keys: str, away: bool = False) -> AsyncIterator[World]:
    made = World()
    for key in keys:
        made.issuer.add(key)
    made.away = away
    made.verifier.start()
    await made.clock.settle()
    yield made
    await made.verifier.stop()


async def test_keys_of_all_kinds() -> None:
    """Tokens by each kind of key of the JWKS are accepted, and no others."""
    async with world() as w:
        for kind in KINDS:
            w.issuer.add(kind, kind)
        await w.clock.advance(300)
        for kind in KINDS:
            assert w.verify(w.token(kind)) == "bob"
            assert w.verify(w.token(kind, kid="")) == "bob"
        w.issuer.add("stranger", publish=False)
        assert w.verify(w.token("stranger", kid="ES256")) == "no"
        assert w.verify(w.token("stranger", kid="")) == "no"
        assert w.verify(w.token("ES256", aud="another")) == "no"


async def test_a_rotation_refuses_nobody() -> None:
    """A token by a key that is too new to be known is told to come back, and is accepted when it does."""
    async with world("old") as w:
        assert w.verify(w.token("old")) == "bob"
        await w.clock.advance(60)
        w.issuer.add("new")
        new = w.token("new")
        assert w.verify(new) == "later"
        await w.clock.advance(0.1)
        assert w.verify(new) == "bob"
        assert w.verify(w.token("old")) == "bob"
        assert len(w.fetches) == 2


async def test_a_key_that_is_published_after_its_first_token() -> None:
    """An issuer that signs too early has its tokens refused, but not for longer than the pause."""
    async with world("old") as w:
        w.issuer.add("early", publish=False)
        await w.clock.advance(60)
        assert w.verify(w.token("early")) == "later"
        await w.clock.advance(0.1)
        assert w.verify(w.token("early")) == "no"
        w.issuer.published.append("early")
        await w.clock.advance(11)
        assert w.verify(w.token("early")) == "later"
        await w.clock.advance(0.1)
        assert w.verify(w.token("early")) == "bob"


async def test_a_key_that_is_taken_out_is_good_no_more() -> None:
    """After the next fetch its tokens are refused, those that were checked before too."""
    async with world("old", "new") as w:
        token = w.token("old")
        assert w.verify(token) == "bob"
        w.issuer.published.remove("old")
        await w.clock.advance(300)
        assert w.verify(token) == "later"  # it may have come back
        await w.clock.advance(10)
        assert w.verify(token) == "no"
        assert w.verify(w.token("new")) == "bob"


async def test_an_outage_of_the_issuer() -> None:
    """inv 9: known keys stay in use for as long as it lasts; who comes with an unknown one comes back."""
    async with world("old") as w:
        w.away = True
        w.issuer.add("new")
        for _ in range(20):
            await w.clock.advance(300)
            assert w.verify(w.token("old")) == "bob"
            assert w.verify(w.token("new")) == "later"
        assert w.counted("failed") >= 20
        w.away = False
        await w.clock.advance(11)
        assert w.verify(w.token("new")) == "bob"


async def test_an_issuer_that_is_away_at_the_start() -> None:
    """Until the first keys are there nobody is refused for good, and the process says what it waits for."""
    async with world("k", away=True) as w:
        assert w.verifier.problem == "waiting for the keys of auth.jwks_url"
        assert w.verify(w.token("k")) == "later"
        assert w.verify(w.token("k", kid="")) == "later"
        await w.clock.advance(3)
        assert len(w.fetches) >= 3  # sooner than the pause, at first
        w.away = False
        await w.clock.advance(10)
        assert w.verifier.problem == ""
        assert w.verify(w.token("k")) == "bob"


@pytest.mark.parametrize(
    "broken", [b"", b"<html>", b"{}", b'{"keys":[]}', b'{"keys":[{"kty":"oct","k":"AA"}]}']
)
async def test_what_is_no_jwks_changes_nothing(broken: bytes) -> None:
    """An issuer that answers nonsense, or without a usable key, is as one that is away."""
    async with world("k") as w:
        w.answer = broken
        await w.clock.advance(301)
        assert w.counted("failed") >= 1
        assert w.verify(w.token("k")) == "bob"


async def test_a_fetch_that_hangs_ends() -> None:
    """inv 7: an issuer that never answers is given up after five seconds."""
    async with world("k") as w:
        hang = asyncio.Event()

        async def forever() -> bytes:
            await hang.wait()
            return b""

        w.jwks._fetch = forever
        await w.clock.advance(300)
        await w.clock.advance(6)
        assert w.counted("failed") == 1
        assert w.verify(w.token("k")) == "bob"


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 30)), max_size=25), st.booleans())
def test_strangers_cannot_make_it_fetch_often(steps: list[tuple[int, float]], away: bool) -> None:
    """inv 7: whatever names tokens make up, there is one fetch in a pause, and what is kept is bounded."""

    async def run() -> None:
        async with world("k") as w:
            w.issuer.add("stranger", publish=False)
            token = w.token("stranger", kid="KID")
            await w.clock.advance(20)
            began = len(w.fetches)
            w.away = away
            for count, wait in steps:
                for number in range(min(count, 40)):
                    w.jwks.may_come(f"{count}-{number}")
                assert w.verify(token) in ("later", "no")
                await w.clock.advance(wait)
            assert w.verify(w.token("k")) == "bob"
            assert len(w.jwks._asked) <= MAX_ASKED
            apart = [b - a for a, b in zip(w.fetches[began:], w.fetches[began + 1 :], strict=False)]
            if not away:
                assert all(gap >= 10 - 1e-6 for gap in apart)
            else:  # the first tries after a success come sooner: 0.5, 1, 2, 4, 8 s
                assert sum(gap < 10 - 1e-6 for gap in apart) <= 5

    asyncio.run(run())


async def test_strangers_hide_no_rotation() -> None:
    """A client with a new key is never refused for good because strangers have used up the fetches."""
    async with world("old") as w:
        await w.clock.advance(60)
        w.jwks.may_come("made-up")
        await w.clock.advance(0.1)
        w.issuer.add("new")  # just after the fetch
        assert w.verify(w.token("new")) == "later"
        await w.clock.advance(5)
        assert w.verify(w.token("new")) == "later"
        await w.clock.advance(6)
        assert w.verify(w.token("new")) == "bob"


def test_what_a_jwks_may_hold() -> None:
    """Keys of other kinds and uses are passed over, secrets are never taken, and no more than 32."""
    issuer = Issuer()
    issuer.add("good", "EdDSA")
    good = issuer.jwk("good")
    issuer.add("rsa", "RS256")
    others: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "s", "alg": "HS256"},
        {**good, "use": "enc", "kid": "enc"},
        {**issuer.jwk("rsa"), "alg": "HS256", "kid": "confused"},
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "p521"},
        {"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "ed448"},
        {"kty": 7},
        "text",
        None,
    ]
    keys = from_jwks(json.dumps({"keys": [*others, good], "more": 1}).encode())
    assert [(key.name, key.algorithm) for key in keys] == [("good", "EdDSA")]
    many = from_jwks(json.dumps({"keys": [{**good, "kid": str(number)} for number in range(100)]}).encode())
    assert len(many) == MAX_KEYS
