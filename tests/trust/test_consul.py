"""Consul with ACLs and TLS, against a real one that denies strangers everything."""

from __future__ import annotations

import http.client
import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from deploy.local.certificate import Authority
from deploy.local.servers import Running, Unavailable, free_port, start_consul
from holdfast.clock import SystemClock
from holdfast.errors import Retry
from holdfast.membership.consul import ConsulDirectory
from holdfast.membership.port import Node
from holdfast.observe.metrics import Metrics
from holdfast.settings import Consul, Membership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.consul

ROOT = str(uuid.uuid4())
POLICY = """
service_prefix "holdfast-" { policy = "write" }
node_prefix "" { policy = "read" }
"""


class Agent(NamedTuple):
    """A Consul: plain HTTP, HTTPS for who has a certificate, and a token with the documented policy."""

    running: Running
    authority: Authority
    https: int
    token: str


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("consul")
    authority, https = Authority(folder), free_port()
    pem = str(authority.issue("agent"))
    settings = {
        "ports": {"https": https},
        "acl": {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": ROOT}},
        "tls": {
            "defaults": {"ca_file": str(authority.file), "cert_file": pem, "key_file": pem},
            "https": {"verify_incoming": True},
        },
    }
    try:
        running = start_consul(folder, 0, settings, token=ROOT)
    except Unavailable as error:
        pytest.skip(str(error))
    if not running.ours:
        pytest.skip("HF_LOCAL_CONSUL names a server that is not ours to set up")
    with running:
        put(running.address, "/v1/acl/policy", {"Name": "holdfast", "Rules": POLICY})
        made = put(running.address, "/v1/acl/token", {"Policies": [{"Name": "holdfast"}]})
        yield Agent(running, authority, https, made["SecretID"])


def put(address: str, path: str, body: Any) -> Any:
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("PUT", path, json.dumps(body), {"X-Consul-Token": ROOT})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == 200, text
    return json.loads(text)


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., ConsulDirectory]]:
    """Make directories, closed at the end."""
    directories: list[ConsulDirectory] = []

    def make(address: str, **more: Any) -> ConsulDirectory:
        settings = Consul(address=address, **more)
        directories.append(ConsulDirectory(settings, Membership(ttl=1.0), Metrics(), SystemClock()))
        return directories[-1]

    yield make
    for directory in directories:
        await directory.close()


async def sees_itself(directory: ConsulDirectory) -> bool:
    await directory.start()
    await directory.join(Node("a", f"a-{uuid.uuid4().hex}", "access", "127.0.0.1:1"))
    clock = SystemClock()
    end = clock.monotonic() + 3
    while clock.monotonic() < end:
        if [node.name for node in directory.nodes("access")] == ["a"]:
            return True
        await clock.sleep(0.02)
    return False


async def test_token(
    agent: Agent,
    made: Callable[..., ConsulDirectory],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A token with the policy of docs/security.md is enough, and it is the settings' one that counts."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", ROOT)
    stranger = made(agent.running.address)
    assert not await sees_itself(stranger)
    assert "Permission denied" in caplog.text
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "somebody-else")
    assert await sees_itself(made(agent.running.address, token=agent.token))
    assert agent.token not in caplog.text
    with pytest.raises(Retry) as refusal:
        await made(agent.running.address, token="guessed").start()
    assert "guessed" not in str(refusal.value)


async def test_tls(agent: Agent, made: Callable[..., ConsulDirectory], tmp_path: Path) -> None:
    """By HTTPS: the agent is believed by its authority, and we by ours."""
    address = f"localhost:{agent.https}"
    ours = str(agent.authority.issue("holdfast"))
    files = {"tls": True, "tls_authority": str(agent.authority.file), "tls_certificate": ours}
    directory = made(address, token=agent.token, **files)
    assert await sees_itself(directory)
    assert await directory.healthy()
    with pytest.raises(Retry, match="certificate verify failed"):
        await made(address, token=agent.token, tls=True, tls_authority=str(Authority(tmp_path).file)).start()
    with pytest.raises(Retry):
        await made(address, token=agent.token, tls=True, tls_authority=str(agent.authority.file)).start()
