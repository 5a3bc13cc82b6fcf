"""A cluster under some load, and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.prometheus import start_prometheus
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.process import Running


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One process of each service, on real servers."""
    cluster = LocalCluster(
        tmp_path_factory.mktemp("watched"), access=1, logic=1, dispatch=1, app="services.embedded.demo:app"
    )
    with available():
        cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def prometheus(watched: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Scrapes it every half second."""
    nodes = json.loads((watched.dir / "cluster.json").read_text())["nodes"]
    running = start_prometheus(tmp_path_factory.mktemp("prometheus"), nodes, every="500ms")
    yield running
    running.stop()
