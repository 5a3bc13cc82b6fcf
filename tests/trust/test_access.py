"""TLS of clients, on real sockets: both carriers, a certificate changed under way, and what bounds count."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local.certificate import Authority
from holdfast import tls
from holdfast.auth import issue
from holdfast.client import Client
from holdfast.errors import Stop
from holdfast.observe.metrics import Metrics
from holdfast.settings import Settings
from holdfast.settings_load import load
from holdfast.tls_transport import SecureTransport
from services.access.driver import Driver
from services.embedded.cluster import Embedded, ready_settings
from tests.trust.talk import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from holdfast.protocol.frames import Message

SECRET = "only for tests, at least 32 bytes long"


class World:
    """A cluster in this process whose access node has TLS."""

    def __init__(self, folder: Path, **access: Any) -> None:
        self.authority = Authority(folder)
        self.file = self.authority.issue("first")
        self.metrics = Metrics()
        self.settings = ready_settings(
            Settings(),
            secret=SECRET,
            process={"host": "127.0.0.1", "drain_seconds": 2.0},
            access={"websocket_port": 0, "tcp_port": 0, "tls_certificate": str(self.file), **access},
            api={"port": 0},
            kafka={"partitions": 2, "replication": 1},
        )
        self.cluster = Embedded(self.settings, metrics=self.metrics)
        self.clients: list[Client] = []

    @property
    def endpoints(self) -> dict[str, str]:
        return self.cluster.nodes()[0].endpoints

    def port(self, carrier: str = "tcp") -> int:
        return self.cluster.ports[carrier]

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.file))

    async def join(self, user: str, carrier: str = "websocket") -> Client:
        token, _ = issue(self.settings.auth, user, self.cluster.clock.now_ms())
        client = Client(self.endpoints[carrier], token=token, ssl=self.context())
        self.clients.append(client)
        await client.connect(15)
        return client

    async def shown(
        self, *, minimum: ssl.TLSVersion | None = None, maximum: ssl.TLSVersion | None = None
    ) -> str:
        """Return the version and the name that a new connection sees. Raises ssl.SSLError."""
        context = self.context()
        context.minimum_version = minimum or context.minimum_version
        context.maximum_version = maximum or context.maximum_version
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port(), ssl=context)
        secure = writer.get_extra_info("ssl_object")
        subject = secure.getpeercert()["subject"][0][0][1]
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        del reader
        return f"{secure.version()} {subject}"

    def value(self, name: str, **labels: str) -> float:
        return value(self.metrics, name, **labels)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(15):
            while not condition():
                await asyncio.sleep(0.01)


async def received(client: Client) -> Message:
    return await asyncio.wait_for(anext(client.messages()), 15)


@contextlib.asynccontextmanager
async def running(folder: Path, **access: Any) -> AsyncIterator[World]:
    world = World(folder, **access)
    await world.cluster.start()
    try:
        yield world
    finally:
        for client in world.clients:
            await client.close()
        await world.cluster.stop()


async def test_both_carriers_by_tls(tmp_path: Path) -> None:
    """Messages go between wss and tcps, whose addresses the node itself tells; large ones too."""
    async with running(tmp_path) as world:
        assert [url.partition("://")[0] for _, url in sorted(world.endpoints.items())] == ["tcps", "wss"]
        alice, bob = await world.join("alice"), await world.join("bob", "tcp")
        for number in range(20):
            await alice.send("user:bob", "n", {"number": number, "text": "x" * 5000})
        for number in range(20):
            got = await received(bob)
            assert got.data == {"number": number, "text": "x" * 5000}
        await bob.send("user:alice", "n", "back")
        assert (await received(alice)).data == "back"


async def test_a_certificate_changes_and_connections_stay(tmp_path: Path) -> None:
    """Who is connected goes on; who connects from then on is shown the new certificate."""
    async with running(tmp_path) as world:
        alice, bob = await world.join("alice"), await world.join("bob", "tcp")
        sessions = [client.session and client.session.session for client in (alice, bob)]
        assert await world.shown() == "TLSv1.3 first"
        world.authority.issue("second", path=world.file)
        tls.look(world.metrics)
        assert await world.shown() == "TLSv1.3 second"
        assert world.value("tls_reloads", part="access", outcome="loaded") == 1
        await alice.send("user:bob", "n", "still there")
        assert (await received(bob)).data == "still there"
        assert sessions == [client.session and client.session.session for client in (alice, bob)]


async def test_versions(tmp_path: Path) -> None:
    """TLS 1.2 is spoken unless it is forbidden; nothing older ever is."""
    old = ssl.TLSVersion.TLSv1_2
    async with running(tmp_path) as world:
        assert await world.shown(maximum=old) == "TLSv1.2 first"
        with pytest.warns(DeprecationWarning, match="TLSv1"), pytest.raises((ssl.SSLError, ConnectionError)):
            await world.shown(minimum=ssl.TLSVersion.TLSv1, maximum=ssl.TLSVersion.TLSv1_1)
    async with running(tmp_path, tls_minimum="1.3") as world:
        assert await world.shown() == "TLSv1.3 first"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await world.shown(maximum=old)


async def test_who_never_shakes_hands_is_counted_and_closed(tmp_path: Path) -> None:
    """inv 7: connections without a handshake are within `access.connections`, and have `access.handshake`."""
    async with running(tmp_path, connections=2, handshake=0.5) as world:
        silent = [socket.create_connection(("127.0.0.1", world.port())) for _ in range(2)]
        await world.until(lambda: world.value("access_connections", carrier="tcp") == 2)
        third = await asyncio.open_connection("127.0.0.1", world.port(), ssl=world.context())
        third[1].write(b"\0\0\0\2{}")
        await asyncio.wait_for(third[0].read(), 5)  # told that there is no room, or closed
        assert world.value("access_refused", reason="connections") == 1
        third[1].close()
        await world.until(lambda: world.value("access_connections", carrier="tcp") == 0)
        assert world.value("access_refused", reason="timeout") >= 2
        for each in silent:
            each.close()


async def test_who_speaks_no_tls_is_refused_and_counted(tmp_path: Path) -> None:
    """inv 11: a client that speaks plainly to a port with TLS is closed; `access_refused` says `tls`."""
    async with running(tmp_path) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("websocket"))
        writer.write(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await world.until(lambda: world.value("access_refused", reason="tls") == 1)
        assert world.value("access_connections", carrier="websocket") == 0


async def test_what_a_connection_leaves_behind(tmp_path: Path) -> None:
    """inv 7: a TLS connection that is over is freed by its references, TLS's own included."""
    async with running(tmp_path) as world:
        await (await world.join("warm")).close()
        await world.until(lambda: world.value("access_connections", carrier="websocket") == 0)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                client = await world.join("alice")
                await client.close()
            await world.until(lambda: world.value("access_connections", carrier="websocket") == 0)
            world.clients.clear()
            left = [each for each in gc.get_objects() if isinstance(each, (Driver, SecureTransport))]
            secure = [each for each in gc.get_objects() if isinstance(each, ssl.SSLObject)]
        finally:
            gc.enable()
        # The wheel has those that are over until it comes to them; none keeps its TLS, nor one the other.
        assert len(left) <= 8
        assert [each for each in secure if each.server_side] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"TLS_KEY": "k.pem"}, r"access\.tls_key .*access\.tls_certificate"),
        ({"TLS_CERTIFICATE": "c", "PROXY_PROTOCOL": "true"}, r"access\.proxy_protocol .*access\.tls_cert"),
        ({"TLS_CERTIFICATE": "c", "ENDPOINT_TCP": "tcp://a:1"}, r"access\.endpoint_tcp .*tcps://"),
        ({"TLS_CERTIFICATE": "c", "ENDPOINT_WEBSOCKET": "ws://a"}, r"access\.endpoint_websocket .*wss://"),
        ({"TLS_MINIMUM": "1.1"}, r"access\.tls_minimum"),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, str], named: str) -> None:
    """inv 11: refused before anything starts, by name."""
    with pytest.raises(Stop, match=named):
        load(environ={f"HOLDFAST_ACCESS_{name}": text for name, text in values.items()})
