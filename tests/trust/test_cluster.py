"""The whole cluster with TLS and credentials on every link: real processes, real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from deploy.local.certificate import Authority
from deploy.local.servers import free_port
from deploy.local.service import ServiceProcess, settings_file
from holdfast.client import Client, Closed
from tests.trust.secure_kafka import PASSWORD as KAFKA_PASSWORD
from tests.trust.secure_kafka import PREFIX
from tests.trust.secure_redis import ENCODED, Site
from tests.trust.secure_redis import PASSWORD as REDIS_PASSWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.trust.secure_consul import Agent
    from tests.trust.secure_kafka import Broker

pytestmark = [pytest.mark.cluster, pytest.mark.kafka, pytest.mark.redis, pytest.mark.consul]

_SERVERS = ("Kafka", "Redis", "Consul")

SECONDS = 5.0
"""Within which every node sees a revocation."""


class Cluster:
    """Two access nodes, logic and dispatch."""

    def __init__(self, folder: Path, broker: Broker, agent: Agent, redis_port: int, site: Site) -> None:
        self.folder = folder
        self.clients = Authority(folder, "clients")
        self.shown = self.clients.issue("first")
        (folder / "nodelink").mkdir()
        links = Authority(folder / "nodelink")
        self.secrets = {
            "auth": secrets.token_urlsafe(32),
            "nodelink": secrets.token_urlsafe(24),
            "api": secrets.token_urlsafe(24),
            "kafka": KAFKA_PASSWORD,
            "redis": REDIS_PASSWORD,
            "consul": agent.token,
        }
        values: dict[str, Any] = {
            "process.host": "127.0.0.1",
            "process.drain_seconds": 5.0,
            "process.log_level": "debug",
            "kafka.servers": f"127.0.0.1:{broker.sasl}",
            "kafka.security_protocol": "SASL_SSL",
            "kafka.user": "holdfast",
            "kafka.password": KAFKA_PASSWORD,
            "kafka.tls_authority": broker.authority_file,
            "kafka.partitions": 2,
            "kafka.replication": 1,
            "kafka.prefix": f"{PREFIX}.cluster",
            "kafka.group": f"{PREFIX}-cluster",
            "redis.url": f"rediss://holdfast:{ENCODED}@localhost:{redis_port}/0",
            "redis.tls_authority": site.authority_file,
            "redis.tls_certificate": str(site.own),
            "consul.service": "holdfast-cluster",
            "consul.address": f"localhost:{agent.https}",
            "consul.token": agent.token,
            "consul.tls": True,
            "consul.tls_authority": str(agent.authority.file),
            "consul.tls_certificate": str(agent.authority.issue("holdfast")),
            "auth.secrets": [self.secrets["auth"]],
            "api.keys": [self.secrets["api"]],
            "access.tls_certificate": str(self.shown),
            "api.tls_certificate": str(self.clients.issue("api")),
            "process.tls_certificate": str(self.clients.issue("metrics")),
            "process.tls_authority": str(self.clients.file),
            "nodelink.secret": self.secrets["nodelink"],
            "nodelink.tls_authority": str(links.file),
        }
        (folder / "holdfast.toml").write_text(settings_file(values))
        self.nodes = {
            name: ServiceProcess(
                name.partition("-")[0],
                name,
                folder,
                {"HOLDFAST_NODELINK_TLS_CERTIFICATE": str(links.issue(name, hosts=(name,), use=use))},
                guarded=True,
            )
            for name, use in (
                ("access-0", "server"),
                ("access-1", "server"),
                ("logic-0", ""),
                ("dispatch-0", "client"),
            )
        }

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop(20.0)

    def port(self, node: str, name: str) -> int:
        return int(json.loads(self.nodes[node].ready_file.read_text())[name])

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.clients.file))

    async def shows(self, node: str) -> str:
        """Return the name in the certificate that a new connection sees."""
        context, port = self.context(), self.port(node, "tcp")
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        name = str(writer.get_extra_info("ssl_object").getpeercert()["subject"][0][0][1])
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        return name


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, broker: Broker, agent: Agent) -> Iterator[Cluster]:
    site = Site(tmp_path_factory.mktemp("redis"))
    port = free_port()
    site.start(port, mutual=True)
    made = Cluster(tmp_path_factory.mktemp("cluster"), broker, agent, port, site)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        site.servers.stop()


class People:
    """Clients and API calls of one test."""

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http
        self.clients: list[Client] = []
        self.tokens: list[str] = []

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        url = f"https://127.0.0.1:{self.cluster.port('logic-0', 'api')}{path}"
        key = {"Authorization": f"Bearer {self.cluster.secrets['api']}"}
        context = self.cluster.context()
        async with self.http.request(method, url, json=body, headers=key, ssl=context) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            return json.loads(text) if text else None

    async def token(self, user: str, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = await self.api("POST", "/v1/tokens", {"user": user, **more})
        self.tokens.append(made["token"])
        return made

    async def join(self, token: str, node: str, carrier: str = "tcp") -> Client:
        port = self.cluster.port(node, carrier)
        url = f"tcps://localhost:{port}" if carrier == "tcp" else f"wss://localhost:{port}/ws"
        client = Client(url, token=token, ssl=self.cluster.context(), backoff=(0.05, 0.5))
        self.clients.append(client)
        await client.connect(10)
        return client


@pytest.fixture
async def people(cluster: Cluster) -> AsyncIterator[People]:
    async with aiohttp.ClientSession() as http:
        made = People(cluster, http)
        yield made
        for client in made.clients:
            await client.close()


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def ended(client: Client) -> str:
    """Wait for the end that the server put to a client; return why."""
    try:
        async for _ in client.messages():
            pass
    except Closed as closed:
        return str(closed)
    return "closed"


async def test_messages_by_every_link(people: People) -> None:
    """From one node's WebSocket to the other's TCP and back, with TLS on all links between."""
    alice = await people.join((await people.token("alice"))["token"], "access-0", "websocket")
    bob = await people.join((await people.token("bob"))["token"], "access-1")
    for number in range(20):
        await alice.send("user:bob", "n", number)
    got = [await asyncio.wait_for(anext(bob.messages()), 10) for _ in range(20)]
    assert [message.data for message in got] == list(range(20))
    await bob.send("user:alice", "n", "back")
    assert (await asyncio.wait_for(anext(alice.messages()), 10)).data == "back"
    nodes = await people.api("GET", "/v1/nodes")
    assert {url.partition("://")[0] for node in nodes["nodes"] for url in node["endpoints"].values()} == {
        "wss",
        "tcps",
    }


@pytest.mark.parametrize("what", ["user", "token"])
async def test_a_revocation_is_seen_by_every_node_within_seconds(people: People, what: str) -> None:
    """Sessions on all nodes end, new ones are refused everywhere, and others are left alone."""
    user = f"mallory-{what}"
    made = await people.token(user, revocable=True)
    other = await people.token(f"{user}-other")
    nodes = ("access-0", "access-1")
    sessions = [await people.join(made["token"], node) for node in nodes]
    bystanders = [await people.join(other["token"], node) for node in nodes]
    ending = [asyncio.ensure_future(ended(client)) for client in sessions]
    began = time.monotonic()
    await people.api("POST", "/v1/tokens/revoke", {"user": user} if what == "user" else {"jti": made["jti"]})
    reasons = await asyncio.wait_for(asyncio.gather(*ending), SECONDS)
    assert all("revoked" in reason for reason in reasons)
    for node in nodes:
        with pytest.raises(Closed, match="revoked"):
            await people.join(made["token"], node)
    assert time.monotonic() - began < 2 * SECONDS
    assert all(client.session is not None for client in bystanders)
    if what == "token":
        await people.join((await people.token(user))["token"], "access-0")  # another token of the user holds


@pytest.mark.parametrize("how", ["by itself", "SIGHUP"])
async def test_a_certificate_changes_while_clients_stay(people: People, how: str) -> None:
    """A process looks at its files every second, or when it is told; who is connected goes on."""
    cluster = people.cluster
    alice = await people.join((await people.token("alice"))["token"], "access-0", "websocket")
    bob = await people.join((await people.token("bob"))["token"], "access-1")
    sessions = [client.session for client in (alice, bob)]
    cluster.clients.issue(f"changed {how}", path=cluster.shown)
    if how == "SIGHUP":
        for node in ("access-0", "access-1"):
            os.kill(cluster.nodes[node].pid or 0, signal.SIGHUP)
    async with asyncio.timeout(15):
        while {await cluster.shows(node) for node in ("access-0", "access-1")} != {f"changed {how}"}:
            await asyncio.sleep(0.05)
    await alice.send("user:bob", "n", how)
    assert (await asyncio.wait_for(anext(bob.messages()), 10)).data == how
    assert sessions == [client.session for client in (alice, bob)]


async def test_a_dispatcher_without_a_certificate_is_refused(cluster: Cluster) -> None:
    """What reaches the nodelink port without one is closed, and shows in the metrics."""
    _, writer = await asyncio.open_connection("127.0.0.1", cluster.port("access-0", "nodelink"))
    writer.write(b"\0\0\0\1x" * 10)
    writer.close()
    url = f"https://{cluster.nodes['access-0'].address}/metrics"
    async with aiohttp.ClientSession() as http, asyncio.timeout(5):
        while True:
            async with http.get(url, ssl=cluster.context()) as answer:
                text = await answer.text()
            if re.search(r'access_nodelink_refused_total\{reason="tls"\} [1-9]', text):
                break
            await asyncio.sleep(0.05)
    assert re.search(r'tls_expires_seconds\{part="nodelink"\} \d', text)


def holdfast(cluster: Cluster, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does, with the settings of the services."""
    command = [sys.executable, "-m", "holdfast.cli", *arguments]
    more = {"HOLDFAST_CONFIG": str(cluster.folder / "holdfast.toml"), **environment}
    return subprocess.run(
        command, env=os.environ | more, capture_output=True, text=True, timeout=60, check=False
    )


async def test_the_doctor_looks_at_servers_that_ask_who_one_is(cluster: Cluster) -> None:
    """It sees by TLS and with our credentials what it sees without; what it may not see, it says."""
    link = {"HOLDFAST_NODELINK_TLS_CERTIFICATE": str(cluster.folder / "nodelink" / "dispatch-0.pem")}
    done = await asyncio.to_thread(holdfast, cluster, "doctor", "--json", **link)
    assert done.returncode in (0, 1, 75), done.stderr
    findings = json.loads(done.stdout)["findings"]
    told = {(one["area"], one["subject"]): one["level"] for one in findings}
    assert not [one for one in findings if one["level"] in ("wrong", "unknown")]
    for topic in ("inbound", "outbound", "state", "dead"):
        assert told["Kafka", f"{PREFIX}.cluster.{topic}"] == "good"
    assert told["Consul", "servers"] == "advice", "one server"
    assert told["shards", "0-1"] == "good"
    assert {name for area, name in told if area == "processes"} == set(cluster.nodes)
    assert "its certificate of api ends in 7 days" in {one["found"] for one in findings}, "asked by https"
    assert any("our user may not run TIME" in one["found"] for one in findings)
    shown = done.stdout + done.stderr
    assert not [name for name, secret in cluster.secrets.items() if secret in shown]


async def test_the_doctor_names_the_server_that_refuses(cluster: Cluster) -> None:
    """inv 11: a wrong password, token or authority is a finding of that server, and of no other, with why."""
    link = {"HOLDFAST_NODELINK_TLS_CERTIFICATE": str(cluster.folder / "nodelink" / "dispatch-0.pem")}
    wrong = (
        ("KAFKA_PASSWORD", "wrong", "Kafka", "uthentication"),
        ("KAFKA_TLS_AUTHORITY", "", "Kafka", "certificate verify failed"),
        ("REDIS_TLS_AUTHORITY", "", "Redis", "certificate verify failed"),
        ("CONSUL_TOKEN", "wrong", "Consul", "ACL not found"),
        ("CONSUL_TLS_CERTIFICATE", "", "Consul", "certificate required"),
    )
    runs = (
        asyncio.to_thread(holdfast, cluster, "doctor", "--json", **link, **{f"HOLDFAST_{setting}": value})
        for setting, value, _, _ in wrong
    )
    for (setting, _, area, why), done in zip(wrong, await asyncio.gather(*runs), strict=True):
        assert done.returncode == 1, (setting, done.stdout, done.stderr)
        findings = json.loads(done.stdout)["findings"]
        refusals = [one for one in findings if one["level"] == "wrong" and one["area"] in _SERVERS]
        assert {one["area"] for one in refusals} == {area}, (setting, findings)
        assert why in refusals[0]["found"]


async def test_no_secret_is_told(people: People) -> None:
    """Neither logs (at their most talkative), nor metrics, nor what a process says of itself has a secret."""
    made = await people.token("carol", revocable=True)
    await people.join(made["token"], "access-0")
    with pytest.raises(Closed):
        await people.join(made["token"] + "x", "access-1")
    cluster = people.cluster
    told = {}
    for name, node in cluster.nodes.items():
        told[f"log of {name}"] = node.log.read_text()
        told[f"ready file of {name}"] = node.ready_file.read_text()
        async with people.http.get(f"https://{node.address}/metrics", ssl=cluster.context()) as answer:
            told[f"metrics of {name}"] = await answer.text()
    hidden = {**cluster.secrets, "redis, encoded": ENCODED}
    hidden |= {f"token {number}": token for number, token in enumerate(people.tokens)}
    hidden |= {f"signature {n}": token.rpartition(".")[2] for n, token in enumerate(people.tokens)}
    found = [
        (where, name) for where, text in told.items() for name, secret in hidden.items() if secret in text
    ]
    assert found == []
    assert "serving" in told["log of access-0"]
