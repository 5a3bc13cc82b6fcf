"""What all tests share: real servers, started once per run and only when a test asks for them.

A test that needs a server says so with the marker of its name and takes the fixture. Where the server cannot
be had, the test is skipped by name and the end of the run says so; with CI=true it fails. One server serves
the whole run: a test keeps to names that begin with `unique_prefix`, and one that stops or freezes a server
starts its own with `deploy.local.servers`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from deploy.local.servers import Running, Unavailable, start_consul, start_kafka, start_redis
from tests.unavailable import without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# An example's time says how busy the machine is, and CI is to search too: what it finds can be replayed by
# the blob that it prints.
settings.register_profile("holdfast", deadline=None, print_blob=True, derandomize=False)
settings.load_profile("holdfast")

_missing: dict[str, str] = {}


def _serve(
    name: str, start: Callable[[Path], Running], factory: pytest.TempPathFactory
) -> Iterator[Running | None]:
    try:
        running = start(factory.mktemp(name))
    except Unavailable as error:
        _missing[name] = error.why
        yield None
        return
    yield running
    if running.ours:
        running.stop()


def _need(running: Running | None, name: str) -> Running:
    if running is None:
        without(f"{name} is not available: {_missing[name]}")
    return running


@pytest.fixture(scope="session")
def _kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running | None]:
    yield from _serve("kafka", start_kafka, tmp_path_factory)


@pytest.fixture(scope="session")
def _redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running | None]:
    yield from _serve("redis", start_redis, tmp_path_factory)


@pytest.fixture(scope="session")
def _consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running | None]:
    yield from _serve("consul", start_consul, tmp_path_factory)


@pytest.fixture(scope="session")
def kafka_server(_kafka: Running | None) -> Running:
    """A real Kafka, shared by the whole run: `.address` is host:port."""
    return _need(_kafka, "kafka")


@pytest.fixture(scope="session")
def redis_server(_redis: Running | None) -> Running:
    """A real Redis, shared by the whole run: `.address` is host:port."""
    return _need(_redis, "redis")


@pytest.fixture(scope="session")
def consul_server(_consul: Running | None) -> Running:
    """A real Consul, shared by the whole run: `.address` is host:port."""
    return _need(_consul, "consul")


@pytest.fixture
def unique_prefix() -> str:
    """A start of names (topics, keys, services) that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end which servers were missing, so that a green run does not hide it."""
    for name, why in _missing.items():
        terminalreporter.write_sep("!", f"tests that need {name} did not run", red=True)
        terminalreporter.write_line(f"{name} is not available: {why}")
