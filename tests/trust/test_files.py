"""The files of certificates: read again when they change, and refused by name where they cannot be used."""

from __future__ import annotations

import gc
import os
import ssl
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local.certificate import Authority
from holdfast import tls
from holdfast.errors import Stop
from holdfast.observe.metrics import Metrics
from holdfast.settings import Access
from tests.trust.talk import shown, value

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_certificate_is_shown_once_its_file_is_there(tmp_path: Path) -> None:
    """A reload takes what changed, and nothing else: an unchanged file is not read."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    file = first.issue("shown")
    trust = tls.server("access", tls.Files(str(file)))
    assert shown(trust, first) == "shown"
    assert trust.look() is None
    second.issue("other", path=file)
    assert trust.look() is True
    assert shown(trust, second) == "other"
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(trust, first)


def test_a_certificate_without_its_key_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a change is no change: it is said once, tried again, and taken when the rest is there."""
    authority = Authority(tmp_path)
    certificate, key = split(authority.issue("one"), tmp_path)
    metrics = Metrics()
    trust = tls.server("access", tls.Files(str(certificate), str(key)))
    certificate.write_bytes(authority.issue("two").read_bytes())
    for _ in range(3):
        tls.look(metrics)
        assert shown(trust, authority) == "one"
    assert [record.message for record in caplog.records if "in use stays" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1
    assert value(metrics, "tls_reloads", part="access", outcome="failed") == 3
    key.write_bytes(certificate.read_bytes())
    tls.look(metrics)
    assert shown(trust, authority) == "two"
    assert value(metrics, "tls_reloads", part="access", outcome="loaded") == 1


def test_a_certificate_of_another_kind_replaces_the_old_one(tmp_path: Path) -> None:
    """An RSA key after an elliptic one: nobody is shown the old certificate, whichever he would like."""
    authority = Authority(tmp_path)
    file = authority.issue("curve")
    trust = tls.server("access", tls.Files(str(file)))
    key = rsa.generate_private_key(65537, 2048)
    authority.issue("rsa", path=file, key=key)
    assert trust.look() is True
    for algorithms in ("ECDHE+aECDSA", "ECDHE+aRSA"):
        if algorithms == "ECDHE+aRSA":
            assert shown(trust, authority, ciphers=algorithms) == "rsa"
        else:
            with pytest.raises(ssl.SSLError):
                shown(trust, authority, ciphers=algorithms)


def test_the_end_of_a_certificate_is_told_before_it_comes(tmp_path: Path) -> None:
    """`tls_expires_seconds` is when the certificate in use ends, and follows a reload."""
    authority = Authority(tmp_path)
    file = authority.issue("short", days=2)
    trust = tls.server("short", tls.Files(str(file)))
    metrics = Metrics()
    tls.look(metrics)
    assert value(metrics, "tls_expires_seconds", part="short") == pytest.approx(
        time.time() + 2 * 86_400, abs=60
    )
    authority.issue("long", days=30, path=file)
    tls.look(metrics)
    assert value(metrics, "tls_expires_seconds", part="short") == pytest.approx(
        time.time() + 30 * 86_400, abs=60
    )
    assert trust.expires > time.time()


def test_what_is_not_used_any_more_is_not_watched(tmp_path: Path) -> None:
    """A side of TLS that is gone is not looked at."""
    trust = tls.server("gone", tls.Files(str(Authority(tmp_path).issue())))
    metrics = Metrics()
    assert trust.part == "gone"
    del trust
    gc.collect()
    tls.look(metrics, force=True)
    assert value(metrics, "tls_reloads", part="gone", outcome="loaded") == 0


@pytest.mark.parametrize("broken", ["missing", "empty", "no key", "encrypted", "another key", "unreadable"])
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path, broken: str) -> None:
    """inv 11: the setting and the file are named; what is in the file is not."""
    authority = Authority(tmp_path)
    certificate, key = split(authority.issue(), tmp_path)
    match broken:
        case "missing":
            certificate.unlink()
        case "empty":
            certificate.write_bytes(b"")
        case "no key":
            key.write_bytes(certificate.read_bytes())
        case "encrypted":
            key.write_bytes(encrypted(key.read_bytes()))
        case "another key":
            key.write_bytes(split(authority.issue("other"), tmp_path)[1].read_bytes())
        case "unreadable":
            key.unlink()
            key.mkdir()
    settings = Access(tls_certificate=str(certificate), tls_key=str(key))
    with pytest.raises(Stop, match=r"access\.tls_(certificate|key)") as refusal:
        tls.access_server(settings)
    assert str(tmp_path) in str(refusal.value)
    assert "PRIVATE" not in str(refusal.value)


def test_an_authority_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    """inv 11: a file without a certificate to believe."""
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(Stop, match=r"redis\.tls_authority: .*none\.pem"):
        tls.client("redis", tls.Files(authority=str(tmp_path / "none.pem")))


def test_a_file_changed_within_a_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    """A replaced file counts as changed even with the same size and time: it is another file."""
    authority = Authority(tmp_path)
    file = authority.issue("one")
    old = file.stat()
    trust = tls.server("access", tls.Files(str(file)))
    authority.issue("two", path=file)
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert trust.look() is True
    assert shown(trust, authority) == "two"


def split(pem: Path, folder: Path) -> tuple[Path, Path]:
    """Return the certificate and the key of a file as files of their own."""
    content = pem.read_bytes()
    certificate = x509.load_pem_x509_certificate(content)
    key = serialization.load_pem_private_key(content, None)
    files = folder / f"{pem.stem}.crt", folder / f"{pem.stem}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
