"""Kafka by TLS, with a certificate of our own, and with SCRAM and ACLs, against a real broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local.certificate import Authority
from holdfast import tls
from holdfast.bus.kafka import KafkaBus
from holdfast.clock import SystemClock
from holdfast.errors import Retry, Stop
from holdfast.observe.metrics import Metrics
from holdfast.settings import Kafka
from tests.trust.secure_kafka import PASSWORD, PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.trust.secure_kafka import Broker

pytestmark = pytest.mark.kafka


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., KafkaBus]]:
    """Make buses, closed at the end."""
    buses: list[KafkaBus] = []

    def make(port: int, **more: Any) -> KafkaBus:
        settings = Kafka(
            servers=f"127.0.0.1:{port}",
            prefix=PREFIX,
            group=PREFIX,
            partitions=2,
            replication=1,
            deadline=5.0,
            **more,
        )
        buses.append(KafkaBus(settings, Metrics(), SystemClock()))
        return buses[-1]

    yield make
    for bus in buses:
        await bus.close()


async def works(bus: KafkaBus) -> None:
    """Go through everything that services do with a bus."""
    async with asyncio.timeout(30):
        await bus.start()
        assert await bus.healthy()
        before = (await bus.ends("inbound"))[1][1]
        producer = await bus.producer(deadline=5.0)
        await producer.produce("inbound", 1, b"k", b"v")
        await producer.close()
        reader = await bus.reader("inbound", f"{PREFIX}-dispatch")
        reader.assign({1: before})
        records = await reader.fetch(10, 5.0)
        assert [record.value for record in records[1]] == [b"v"]
        await reader.commit({1: before + 1})
        await reader.close()

        async def nothing(partitions: object) -> None:
            del partitions

        member = await bus.join_group("inbound", PREFIX, on_assigned=nothing, on_revoked=nothing)
        while not member.assigned():
            await member.fetch(1, 0.1)
        await member.close()


async def test_tls(broker: Broker, made: Callable[..., KafkaBus], tmp_path: Path) -> None:
    """Brokers are believed by their authority, and nobody else is."""
    await works(made(broker.tls, security_protocol="SSL", tls_authority=broker.authority_file))
    other = Authority(tmp_path)
    with pytest.raises(Retry, match="certificate verify failed"):
        await made(broker.tls, security_protocol="SSL", tls_authority=str(other.file)).start()
    with pytest.raises(Retry, match="certificate verify failed"):  # the system's authorities
        await made(broker.tls, security_protocol="SSL").start()


async def test_a_certificate_of_our_own(
    broker: Broker, made: Callable[..., KafkaBus], tmp_path: Path
) -> None:
    """Where brokers ask for a certificate, ours is shown; another authority's is not taken."""
    more = {"security_protocol": "SSL", "tls_authority": broker.authority_file}
    ours = broker.authority.issue("certified", hosts=("localhost",))
    await works(made(broker.mutual, **more, tls_certificate=str(ours)))
    with pytest.raises(Retry):
        await made(broker.mutual, **more).start()
    with pytest.raises(Retry):
        await made(broker.mutual, **more, tls_certificate=str(Authority(tmp_path).issue("certified"))).start()


async def test_scram(broker: Broker, made: Callable[..., KafkaBus], caplog: pytest.LogCaptureFixture) -> None:
    """A user with the ACLs of docs/security.md can do all; with a wrong password nothing, and it is told why.

    No password is in a message or a log.
    """
    caplog.set_level("DEBUG")
    more = {"security_protocol": "SASL_SSL", "tls_authority": broker.authority_file, "user": "holdfast"}
    await works(made(broker.sasl, **more, password=PASSWORD))
    with pytest.raises(Retry, match=r"(?i)authentication") as refusal:
        await made(broker.sasl, **more, password="wrong-password").start()
    assert "wrong-password" not in str(refusal.value) + caplog.text
    assert PASSWORD not in str(refusal.value) + caplog.text


async def test_files_are_read_again(broker: Broker, made: Callable[..., KafkaBus], tmp_path: Path) -> None:
    """A new authority is believed by the clients that there are, without a restart."""
    file = Authority(tmp_path).file
    bus = made(broker.tls, security_protocol="SSL", tls_authority=str(file))
    with pytest.raises(Retry):
        await bus.start()
    file.write_bytes(broker.authority.file.read_bytes())
    tls.look(Metrics())
    await works(bus)


async def test_files_that_are_missing(made: Callable[..., KafkaBus], tmp_path: Path) -> None:
    """inv 11: a file that cannot be read is refused by its setting's name."""
    with pytest.raises(Stop, match=r"kafka\.tls_authority: cannot read .*none\.pem"):
        await made(1, security_protocol="SSL", tls_authority=str(tmp_path / "none.pem")).start()
