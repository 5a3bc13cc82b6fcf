"""An embedded cluster on real sockets, with the demo's handlers and page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.settings import Settings
from services.embedded.cluster import Embedded, ready_settings
from services.embedded.demo import app
from services.embedded.routes import add_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Running:
    """The cluster and where it listens."""

    def __init__(self, cluster: Embedded) -> None:
        self.cluster = cluster
        self.api = f"http://127.0.0.1:{cluster.logic[0].details()['api']}"
        self.endpoints = cluster.nodes()[0].endpoints

    def localized(self, text: str) -> str:
        """Return an example of the documentation with the default ports replaced by this cluster's."""
        text = text.replace("http://127.0.0.1:8080", self.api)
        return text.replace("ws://127.0.0.1:8000/ws", self.endpoints["websocket"])


def development_settings() -> Settings:
    return ready_settings(
        Settings(),
        secret="only for tests, at least 32 bytes long",
        process={"host": "127.0.0.1", "drain_seconds": 2.0},
        access={"websocket_port": 0, "tcp_port": 0},
        api={"port": 0, "keys": ("dev",)},
        kafka={"partitions": 4, "replication": 1},
    )


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    settings = development_settings()
    cluster = Embedded(settings, app=app, routes=lambda web: add_routes(web, settings))
    await cluster.start()
    yield Running(cluster)
    await cluster.stop()
