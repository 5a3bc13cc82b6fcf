"""A cluster whose access nodes expect PROXY headers, and the two balancers before it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deploy.local.balancer import start_haproxy, start_nginx
from deploy.local.cluster import LocalCluster
from tests.balancer.people import PER_ADDRESS, People
from tests.unavailable import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from deploy.local.balancer import Balancer


@pytest.fixture(scope="session")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Kafka, Redis, Consul, two access nodes and one process of each other service."""
    settings = {"access.proxy_protocol": True, "access.per_address": PER_ADDRESS}
    running = LocalCluster(tmp_path_factory.mktemp("proxied"), logic=1, dispatch=1, settings=settings)
    with available():
        running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session", params=["haproxy", "nginx"])
def balancer(
    request: pytest.FixtureRequest, proxied: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Balancer]:
    """A balancer before both access nodes."""
    start = {"haproxy": start_haproxy, "nginx": start_nginx}[request.param]
    nodes = json.loads((proxied.dir / "cluster.json").read_text())["nodes"]
    with available():
        running = start(tmp_path_factory.mktemp(request.param), nodes)
    yield running
    running.stop()


@pytest.fixture
async def people(proxied: LocalCluster, balancer: Balancer) -> AsyncIterator[People]:
    """The clients of this test, who come through the balancer."""
    people = People(proxied, balancer)
    yield people
    await people.close()
