"""The service as a process starts it."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import msgspec
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


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"\x16\x03\x01 this is TLS\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/9\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 20_000 + b"\r\n\r\n", 431, "too_large"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "too_large"),
    ],
)
async def test_what_is_no_http_is_a_problem_too(raw, status, code):
    """inv 11: what the parser refuses is answered in the same form and counted, and the connection ends."""
    used = parts(MemoryRegistry(), on_port())
    service = build(used, "logic-1", 0)
    await service.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.details()["api"])
    writer.write(raw)
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == str(status).encode()
    assert b"application/problem+json" in head
    problem = msgspec.json.decode(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert used.metrics.logic_api_requests.labels("other", str(status))._value.get() == 1
    assert problem["detail"]
    writer.close()
    await service.stop()


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
        ("app_good:nobody", "has no 'nobody'; its App is app_good:handlers"),
        ("json:dumps", "it has no App at all"),
        ("app_missing.deep:app", "start in the folder of app_missing.py"),
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
