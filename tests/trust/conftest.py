"""Servers that ask who one is, started once for all tests here."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from deploy.local.servers import Running, Unavailable
from tests.trust import secure_consul, secure_kafka
from tests.trust.secure_redis import Site
from tests.unavailable import without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T", secure_kafka.Broker, secure_consul.Agent)


def _serve(start: Callable[[Path], T], folder: Path) -> Iterator[T]:
    try:
        made = start(folder)
    except Unavailable as error:
        without(str(error))
    running: Running = made.running
    if not running.ours:
        without(f"the {running.name} given by setting is not ours to set up")
    with running:
        yield made


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[secure_kafka.Broker]:
    yield from _serve(secure_kafka.start, tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[secure_consul.Agent]:
    yield from _serve(secure_consul.start, tmp_path_factory.mktemp("consul"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.servers.stop()
