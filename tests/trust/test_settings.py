"""Settings of TLS and secrets: what contradicts each other is refused by name, and secrets are not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.errors import Stop
from holdfast.settings import SECRETS, Settings, all_settings
from holdfast.settings_load import load

if TYPE_CHECKING:
    from pathlib import Path

SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_USER": "u", "KAFKA_PASSWORD": "geheim"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"NODELINK_TLS_CERTIFICATE": "c"}, r"nodelink\.tls_certificate and nodelink\.tls_authority"),
        ({"NODELINK_TLS_AUTHORITY": "a"}, r"nodelink\.tls_certificate and nodelink\.tls_authority"),
        ({"NODELINK_TLS_REVOKED": "r"}, r"nodelink\.tls_revoked .*nodelink\.tls_authority"),
        ({"API_TLS_KEY": "k"}, r"api\.tls_key .*api\.tls_certificate"),
        ({"PROCESS_TLS_KEY": "k"}, r"process\.tls_key .*process\.tls_certificate"),
        ({"NODELINK_TLS_KEY": "k"}, r"nodelink\.tls_key .*nodelink\.tls_certificate"),
        ({"KAFKA_TLS_AUTHORITY": "a"}, r"kafka\.tls_authority .*kafka\.security_protocol is PLAINTEXT"),
        (
            SASL | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_TLS_CERTIFICATE": "c"},
            r"kafka\.tls_cert",
        ),
        ({"KAFKA_PASSWORD": "geheim"}, r"kafka\.password .*kafka\.security_protocol is PLAINTEXT"),
        ({"KAFKA_USER": "u", "KAFKA_SECURITY_PROTOCOL": "SSL"}, r"kafka\.user .*is SSL"),
        (SASL | {"KAFKA_PASSWORD": ""}, r"kafka\.password is empty"),
        (SASL | {"KAFKA_USER": ""}, r"kafka\.user is empty"),
        (
            SASL | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "PLAIN"},
            r"kafka\.sasl_mechanism PLAIN",
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, r"kafka\.security_protocol"),
        ({"REDIS_TLS_AUTHORITY": "a"}, r"redis\.tls_authority .*redis\.url must begin with rediss"),
        ({"REDIS_SENTINEL_PASSWORD": "geheim"}, r"redis\.sentinel_password .*redis\.url has no Sentinels"),
        ({"REDIS_URL": "redis+sentinel://h/m", "REDIS_SENTINEL_USER": "u"}, r"redis\.sentinel_user"),
        ({"CONSUL_TLS_AUTHORITY": "a"}, r"consul\.tls_authority .*consul\.tls is false"),
        ({"CONSUL_TLS": "true", "CONSUL_TLS_KEY": "k"}, r"consul\.tls_key .*consul\.tls_certificate"),
        ({"NODELINK_OTHER_SECRET": "geheim"}, r"nodelink\.other_secret .*nodelink\.secret"),
        (
            {"AUTH_JWKS_URL": "http://idp.example/jwks", "AUTH_AUDIENCE": "a"},
            r"auth\.jwks_url must be https://",
        ),
        ({"AUTH_JWKS_URL": "idp.example/jwks", "AUTH_AUDIENCE": "a"}, r"auth\.jwks_url must be https://"),
        ({"AUTH_JWKS_URL": "https://[::1/jwks", "AUTH_AUDIENCE": "a"}, r"auth\.jwks_url is no address"),
        ({"AUTH_JWKS_URL": "https://u:geheim@h/", "AUTH_AUDIENCE": "a"}, r"auth\.jwks_url must not hold"),
        ({"AUTH_JWKS_URL": "https://idp.example/jwks"}, r"auth\.jwks_url needs auth\.audience"),
        ({"AUTH_TLS_AUTHORITY": "a"}, r"auth\.tls_authority .*auth\.jwks_url"),
    ],
)
def test_contradictions(values: dict[str, str], named: str) -> None:
    """inv 11: refused before anything starts; the setting is named, a secret is not shown."""
    with pytest.raises(Stop, match=named) as refusal:
        load(environ={f"HOLDFAST_{name}": text for name, text in values.items()})
    assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        SASL,
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_TLS_AUTHORITY": "a"},
        {"REDIS_URL": "rediss+sentinel://h/m", "REDIS_SENTINEL_PASSWORD": "p", "REDIS_TLS_AUTHORITY": "a"},
        {"CONSUL_TLS": "true"},
        {"AUTH_JWKS_URL": "https://idp.example/jwks", "AUTH_ISSUER": "https://idp.example"},
        {"AUTH_JWKS_URL": "http://localhost:1/jwks", "AUTH_AUDIENCE": "chat"},
        {"NODELINK_TLS_CERTIFICATE": "c", "NODELINK_TLS_AUTHORITY": "a", "NODELINK_SECRET": "s"},
    ],
)
def test_what_fits_together(values: dict[str, str]) -> None:
    """What belongs together is taken."""
    load(environ={f"HOLDFAST_{name}": text for name, text in values.items()})


def test_an_empty_api_key(tmp_path: Path) -> None:
    """inv 11: a key that whoever shows none would have is refused."""
    file = tmp_path / "holdfast.toml"
    file.write_text('[api]\nkeys = ["a", ""]\n')
    with pytest.raises(Stop, match=r"api\.keys"):
        load(str(file), {})


def test_every_secret_is_known_as_one() -> None:
    """What is named like a secret is in SECRETS, and all of SECRETS exist."""
    known = {f"{setting.section}.{setting.name}" for setting in all_settings()}
    assert known >= SECRETS
    words = ("secret", "password", "token")
    named = {name for name in known if any(word in name.partition(".")[2] for word in words)}
    assert named <= SECRETS


def test_settings_can_be_shown() -> None:
    """No secret is in what is printed of settings: in a message, a traceback, a debugger."""
    environ = {
        f"HOLDFAST_{name.upper().replace('.', '_')}": f"geheim-{'x' * 40}-{number}"
        for number, name in enumerate(sorted(SECRETS - {"redis.url"}))  # each with a number of its own
    } | {"HOLDFAST_REDIS_URL": "redis+sentinel://u:geheim@h/m", "HOLDFAST_KAFKA_USER": "somebody"}
    settings = load(environ=environ | {"HOLDFAST_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"})
    assert settings.kafka.password.startswith("geheim")
    for shown in (repr(settings), str(settings), f"{settings.auth!r}", repr(settings.redis)):
        assert "geheim" not in shown
    assert "somebody" in repr(settings)
    assert "127.0.0.1:9092" in repr(Settings())
