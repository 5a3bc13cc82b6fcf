"""Consul with ACLs and TLS, against a real one that denies strangers everything."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from deploy.local.certificate import Authority
from holdfast.clock import SystemClock
from holdfast.errors import Retry
from holdfast.membership.consul import ConsulDirectory
from holdfast.membership.port import Node
from holdfast.observe.metrics import Metrics
from holdfast.settings import Consul, Membership
from tests.trust.secure_consul import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.trust.secure_consul import Agent

pytestmark = pytest.mark.consul


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., ConsulDirectory]]:
    """Make directories, closed at the end."""
    directories: list[ConsulDirectory] = []

    def make(address: str, **more: Any) -> ConsulDirectory:
        settings = Consul(address=address, service=f"holdfast-{uuid.uuid4().hex}", **more)
        directories.append(ConsulDirectory(settings, Membership(ttl=1.0), Metrics(), SystemClock()))
        return directories[-1]

    yield make
    for directory in directories:
        await directory.close()


async def sees_itself(directory: ConsulDirectory, seconds: float = 15.0) -> bool:
    await directory.start()
    await directory.join(Node("a", f"a-{uuid.uuid4().hex}", "access", "127.0.0.1:1"))
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        if "a" in [node.name for node in directory.nodes("access")]:
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
    assert not await sees_itself(stranger, 1.5)
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
