"""Keys replaced without downtime: at every step, though processes differ by one, every valid token holds."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from holdfast.auth import Verifier, issue
from holdfast.errors import Reject
from holdfast.settings import Auth
from tests.auth.issuer import Issuer

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000_000
OLD, NEW = "o" * 32, "n" * 32

STEPS = ((OLD,), (OLD, NEW), (NEW, OLD), (NEW,))
"""As docs/security.md says: the new one is known everywhere before anybody signs with it."""


def test_secrets_are_replaced_one_by_one() -> None:
    """At each step any process takes what any other issues, though half of them are a step ahead."""
    for before, after in itertools.pairwise(STEPS[:3]):
        for signs, checks in itertools.product((before, after), repeat=2):
            token, _ = issue(Auth(secrets=signs), "bob", NOW)
            assert Verifier(Auth(secrets=checks)).verify(token, NOW).sub == "bob"
    last, _ = issue(
        Auth(secrets=STEPS[2]), "bob", NOW
    )  # what is signed from the third step on outlives the fourth
    assert Verifier(Auth(secrets=STEPS[3])).verify(last, NOW).sub == "bob"
    with pytest.raises(Reject):
        Verifier(Auth(secrets=STEPS[3])).verify(issue(Auth(secrets=STEPS[0]), "bob", NOW)[0], NOW)


def test_a_step_left_out_refuses_people() -> None:
    """Why there are three: signing with what others do not know yet is noticed."""
    token, _ = issue(Auth(secrets=(NEW, OLD)), "bob", NOW)
    with pytest.raises(Reject):
        Verifier(Auth(secrets=(OLD,))).verify(token, NOW)


def test_files_of_keys_are_replaced_one_by_one(tmp_path: Path) -> None:
    """Public keys hold beside each other, whatever their files are called and tokens call them."""
    issuer = Issuer()
    paths = []
    for name, kind in (("old", "ES256"), ("new", "ES256"), ("other", "RS256")):
        issuer.add(name, kind)
        key: Any = issuer.keys[name][1].public_key()
        paths.append(tmp_path / f"{name}-2024.pem")
        paths[-1].write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    verifier = Verifier(Auth(key_files=tuple(map(str, paths))))
    for name in issuer.keys:
        for kid in (None, "", "something else"):
            assert verifier.verify(issuer.token(name, "bob", NOW / 1000, kid=kid), NOW).sub == "bob"
    without = Verifier(Auth(key_files=(str(paths[1]), str(paths[2]))))
    with pytest.raises(Reject):
        without.verify(issuer.token("old", "bob", NOW / 1000), NOW)
