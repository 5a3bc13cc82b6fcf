"""Real HAProxy and Nginx, with the configurations that are shipped, before two access nodes."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
import warnings
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.balancer.people import PER_ADDRESS

if TYPE_CHECKING:
    from deploy.local.balancer import Balancer
    from holdfast.client import Client
    from tests.balancer.people import People

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]


async def test_both_carriers_come_through_tls_to_both_nodes(people: People) -> None:
    """WebSocket and TCP clients talk through TLS; the nodes get the same number of them."""
    clients = [await people.join(f"u{number}") for number in range(4)]
    clients += [await people.join(f"t{number}", people.balancer.tcp) for number in range(4)]
    assert sorted(people.spread(clients[:4]).values()) == [2, 2]
    assert sorted(people.spread(clients[4:]).values()) == [2, 2]
    await clients[0].send(f"user:t0-{people.mark}", "text", "hello")
    async for message in clients[4].messages():
        assert message.data == "hello"
        break


async def test_the_world_reaches_one_call_of_the_api(people: People) -> None:
    """`/v1/access` is answered to a client's token where clients connect, and nothing else is."""
    token = await people.token(f"ann-{people.mark}")
    url = people.balancer.access
    status, body = await people.call(url, Authorization=f"Bearer {token}")
    assert (status, len(body["endpoints"]) > 0) == (200, True)
    for path in ("/v1/nodes", "/v1/access/", "/openapi.json", "/"):
        status, _ = await people.call(url.replace("/v1/access", path))
        assert status == 404, path
    status, body = await people.call(f"{people.balancer.api}/v1/nodes")
    assert status == 200
    assert {node["node"] for node in body["nodes"]} == set(people.cluster.nodes)


def _handshake(balancer: Balancer, source: str, version: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(balancer.running.log.parent / "tls.pem"))
    if version is not None:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
    address = ("127.0.0.1", urlsplit(balancer.tcp).port or 0)
    plain = socket.create_connection(address, timeout=5, source_address=(source, 0))
    return context.wrap_socket(plain, server_hostname="localhost")


def test_old_tls_is_refused(balancer: Balancer) -> None:
    """TLS 1.2 and 1.3 are spoken, 1.1 is not."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        _handshake(balancer, "127.0.0.1", version).close()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        _handshake(balancer, "127.0.0.1", ssl.TLSVersion.TLSv1_1)


def test_the_client_s_address_arrives(balancer: Balancer) -> None:
    """The nodes' limit per address counts clients by their own addresses, not by the balancer's."""
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(_handshake(balancer, "127.0.0.9")) for _ in range(2 * PER_ADDRESS + 4)]
        other = stack.enter_context(_handshake(balancer, "127.0.0.10"))
        # Who is one too many is cut.
        refused: set[ssl.SSLSocket] = set()
        end = time.monotonic() + 5
        while len(refused) < 4 and time.monotonic() < end:
            readable = select.select(set(crowd) - refused, (), (), 0.2)[0]
            refused.update(connection for connection in readable if _is_cut(connection))
        assert len(refused) == 4
        assert not any(_is_cut(connection) for connection in (*(set(crowd) - refused), other))


def _is_cut(connection: ssl.SSLSocket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(4096)
    except ssl.SSLWantReadError:  # no more than TLS's own records
        return False
    except OSError:
        return True


async def test_a_drained_node_drops_nothing_and_its_successor_takes_its_share(people: People) -> None:
    """inv 10: SIGTERM under traffic loses no message; started again, the node gets clients at once."""
    node = people.cluster.nodes["access-0"]
    talk = await people.talk(8)
    assert people.spread(talk.receivers)["access-0"] >= 3
    await talk.goes_on()
    await asyncio.to_thread(node.stop)
    # New clients never see the node that has left.
    late = [await people.join(f"late{number}") for number in range(3)]
    await people.until(lambda: people.spread(talk.receivers)["access-1"] == 8)
    assert people.spread(late) == {"access-1": 3}
    await talk.goes_on()
    await asyncio.to_thread(people.cluster.restart, "access-0")
    fresh: list[Client] = []

    async def has_its_share() -> None:
        while people.spread(fresh)["access-0"] < 4:
            fresh.append(await people.join(f"fresh{len(fresh)}"))

    await asyncio.wait_for(has_its_share(), 30)
    assert len(fresh) <= 30
    await talk.end()


async def test_a_killed_node_drops_nothing(people: People) -> None:
    """inv 4: kill -9 under traffic; the clients come back through the balancer with every message once."""
    talk = await people.talk(8)
    assert people.spread(talk.receivers)["access-1"] >= 3
    await talk.goes_on()
    await asyncio.to_thread(people.cluster.kill, "access-1")
    await people.until(lambda: people.spread(talk.receivers)["access-0"] == 8)
    late = [await people.join(f"late{number}") for number in range(3)]
    assert people.spread(late) == {"access-0": 3}
    await talk.goes_on()
    await talk.end()
    await asyncio.to_thread(people.cluster.restart, "access-1")
