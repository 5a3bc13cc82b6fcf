"""The service as a process starts it."""

from __future__ import annotations

import sys

import aiohttp
import pytest

from holdfast.app import App
from holdfast.bus.memory import MemoryBroker, MemoryBus
from holdfast.clock import SystemClock
from holdfast.errors import Stop
from holdfast.log.memory import MemoryLog, MemoryStore
from holdfast.membership.memory import MemoryDirectory, MemoryRegistry
from holdfast.network import TcpNetwork
from holdfast.parts import Parts
from holdfast.settings import Api, Kafka, Logic, Process, Settings
from services.logic.service import build, load_app


def parts(registry: MemoryRegistry, settings: Settings) -> Parts:
    clock = SystemClock()
    return Parts(
        settings=settings,
        clock=clock,
        network=TcpNetwork(),
        bus=MemoryBus(MemoryBroker(4, clock)),
        log=MemoryLog(MemoryStore(4), settings.policies(), clock),
        directory=MemoryDirectory(registry),
    )


def on_port(port: int = 0) -> Settings:
    return Settings(
        kafka=Kafka(partitions=4), process=Process(host="127.0.0.1"), api=Api(port=port, keys=("k",))
    )


async def test_it_serves_and_ends():
    """It joins the directory, answers on the port that it tells, and leaves both behind."""
    registry = MemoryRegistry()
    service = build(parts(registry, on_port()), "logic-1", 0)
    assert service.problems() == ["not started"]
    await service.start()
    assert service.problems() == []
    url = f"http://127.0.0.1:{service.details()['api']}/v1/nodes"
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as http,
        http.get(url) as response,
    ):
        assert response.status == 200
        assert [node["node"] for node in (await response.json())["nodes"]] == ["logic-1"]
    await service.stop()
    assert registry.nodes == {}
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(url)


async def test_a_port_that_is_taken_is_refused_by_name():
    """inv 11: the refusal names the setting."""
    first = build(parts(MemoryRegistry(), on_port()), "logic-1", 0)
    await first.start()
    second = build(parts(MemoryRegistry(), on_port(first.details()["api"])), "logic-2", 0)
    with pytest.raises(Stop, match=r"api\.port"):
        await second.start()
    await second.stop()
    await first.stop()


@pytest.fixture
def modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "app_good.py").write_text("from holdfast import App\nhandlers = App()\nother = 5\n")
    (tmp_path / "app_broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "app_fails.py").write_text("raise RuntimeError('on import')\n")
    yield
    for name in ("app_good", "app_broken", "app_fails"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("app_good", "must be module:name"),
        (":app", "must be module:name"),
        ("app_missing:app", "no module 'app_missing'"),
        ("app_missing.deep:app", "no module 'app_missing'"),
        ("app_broken:app", "nothing_of_this_name"),
        ("app_fails:app", "RuntimeError: on import"),
        ("app_good:nobody", "has no 'nobody'"),
        ("app_good:other", "holds a int, not an App"),
    ],
)
@pytest.mark.usefixtures("modules")
def test_an_app_that_cannot_be_loaded_is_refused_by_name(path, says):
    """inv 11: the refusal names the setting and what is wrong with it."""
    with pytest.raises(Stop, match=r"logic\.app") as raised:
        build(parts(MemoryRegistry(), Settings(logic=Logic(app=path))), "logic-1", 0)
    assert says in str(raised.value)


@pytest.mark.usefixtures("modules")
def test_an_app_is_loaded_by_its_name():
    """`module:name` names an App; nothing names one without handlers."""
    assert isinstance(load_app("app_good:handlers"), App)
    assert load_app("").sends == {}
