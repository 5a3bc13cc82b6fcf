"""The key with which an API server signs the tokens of service accounts, and knows them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local.certificate import write_secret

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path) -> Path:
    """Write a new key into a folder, and return the file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    file = folder / "accounts.pem"
    write_secret(file, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return file


def options(file: Path) -> list[str]:
    """Return what tells an API server of it."""
    return [
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={file}",
        f"--service-account-signing-key-file={file}",
    ]
