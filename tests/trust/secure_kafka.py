"""A Kafka with a listener for each way of showing who one is, and a user with the documented ACLs."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, NamedTuple

from aiokafka.conn import create_conn
from aiokafka.protocol.admin import CreateAclsRequest

from deploy.local.certificate import Authority
from deploy.local.kafka import administer
from deploy.local.servers import Running, free_port, start_kafka

if TYPE_CHECKING:
    from pathlib import Path

_TOPIC, _GROUP, _PREFIXED, _ALLOW = 2, 3, 4, 3
_READ, _WRITE, _CREATE, _DESCRIBE, _CONFIGS = 3, 4, 5, 8, 10

PASSWORD = secrets.token_urlsafe(16)
PREFIX = "sec"


class Broker(NamedTuple):
    """A Kafka with one listener for each way of showing who one is."""

    running: Running
    authority: Authority
    tls: int
    mutual: int
    sasl: int

    @property
    def authority_file(self) -> str:
        return str(self.authority.file)


def start(folder: Path) -> Broker:
    """Start it. Raises Unavailable."""
    authority = Authority(folder)
    plain, controller, *ports = (free_port() for _ in range(5))
    names = dict(zip(("TLS", "MUTUAL", "SASL"), ports, strict=True))
    listeners = {"PLAINTEXT": plain} | names
    addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
    settings = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{addresses},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": addresses,
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,SASL:SASL_SSL"
        ),
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.issue("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:CN=certified",
    }
    running = start_kafka(folder / "data", plain, settings)
    if running.ours:
        _let_in(running.address)
    return Broker(running, authority, *ports)


def _let_in(address: str) -> None:
    """Make the user, and give him what docs/security.md says that a service needs."""
    administer(
        *("kafka.admin.ConfigCommand", "--bootstrap-server", address, "--alter"),
        *("--entity-type", "users", "--entity-name", "holdfast"),
        *("--add-config", f"SCRAM-SHA-512=[iterations=4096,password={PASSWORD}]"),
    )
    asyncio.run(_allow(address))


async def _allow(address: str) -> None:
    host, _, port = address.rpartition(":")
    connection = await create_conn(host, int(port))
    wanted = [
        (_TOPIC, f"{PREFIX}.", operation) for operation in (_READ, _WRITE, _CREATE, _DESCRIBE, _CONFIGS)
    ]
    wanted += [(_GROUP, PREFIX, operation) for operation in (_READ, _DESCRIBE)]
    for kind, name, operation in wanted:
        asked = CreateAclsRequest(kind, name, _PREFIXED, "User:holdfast", "*", operation, _ALLOW)
        answer = await connection.send(asked)
        assert [code for code, _ in answer.creation_responses] == [0]
    connection.close()
