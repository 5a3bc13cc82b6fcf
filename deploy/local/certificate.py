"""Certificates for what speaks TLS on loopback: an authority and what it issues, or one signed by itself."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_USES: Final = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}

LOOPBACK: Final = ("localhost", "127.0.0.1")


class Authority:
    """An authority of its own; its certificate is in `file`. What it issues is for loopback unless told."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.file = directory / f"{name}.pem"
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = _builder(self._name, self._name, self._key, dt.timedelta(days=7))
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        # By these, of two authorities with one name the right one is found while they take turns.
        named = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named)
        own = own.add_extension(named, critical=False)
        self._revoked: list[int] = []
        self.file.write_bytes(_pem(own.sign(self._key, hashes.SHA256())))

    def issue(
        self,
        name: str = "localhost",
        *,
        hosts: tuple[str, ...] = LOOPBACK,
        days: float = 7,
        use: str = "",
        path: Path | None = None,
        key: Key | None = None,
    ) -> Path:
        """Write a certificate with the common name `name` and its key into one PEM file; return its path.

        `use` limits it to a side: `server` or `client`.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        made = _builder(_name(name), self._name, key, dt.timedelta(days=days))
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_hosts(hosts), critical=False)
        made = made.add_extension(self._identifier, critical=False)
        if use:
            made = made.add_extension(x509.ExtendedKeyUsage([_USES[use]]), critical=False)
        path = path or self.directory / f"{name}.pem"
        write_secret(path, _pem(made.sign(self._key, hashes.SHA256())) + _pem_of_key(key))
        return path

    def revoke(self, *files: Path, days: float = 7) -> Path:
        """Take certificates back, beside those of earlier calls; return the file of the list (CRL)."""
        self._revoked += [x509.load_pem_x509_certificate(file.read_bytes()).serial_number for file in files]
        now = dt.datetime.now(dt.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        made = made.last_update(now - dt.timedelta(days=30)).next_update(now + dt.timedelta(days=days))
        made = made.add_extension(self._identifier, critical=False)
        for serial in self._revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            made = made.add_revoked_certificate(one.build())
        path = self.directory / f"{self.file.stem}-revoked.pem"
        text = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        write_secret(path, text)
        return path


def make_certificate(path: Path) -> Path:
    """Write a certificate for localhost and 127.0.0.1, and its key, into one PEM file; return its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("localhost")
    made = _builder(name, name, key, dt.timedelta(days=7))
    made = made.add_extension(_hosts(LOOPBACK), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    write_secret(path, _pem(made.sign(key, hashes.SHA256())) + _pem_of_key(key))
    return path


def write_secret(path: Path, content: bytes) -> None:
    """Write a file for its owner only, whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, lasts: dt.timedelta) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lasts) - dt.timedelta(hours=1))
        .not_valid_after(now + lasts)
    )


def _hosts(hosts: tuple[str, ...]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_host(host) for host in hosts])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
