"""The port for operators: `/metrics`, `/healthz` (this process is alive), `/readyz` (it can serve)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.observe.metrics import Metrics


class HealthServer:
    """Serves metrics and health of one process.

    `problems` returns what keeps the process from serving, in words; it is asked at each `/readyz`. What all
    processes share (Redis or Kafka being away) must not be among them, or every pod would leave at once.
    """

    def __init__(self, host: str, port: int, metrics: Metrics, problems: Callable[[], Sequence[str]]) -> None:
        self._host = host
        self._wanted = port
        self._metrics = metrics
        self._problems = problems
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_alive)
        app.router.add_get("/readyz", self._serve_ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._wanted).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _serve_alive(self, _: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _serve_ready(self, _: web.Request) -> web.Response:
        problems = list(self._problems())
        return web.json_response(
            {"ready": not problems, "problems": problems}, status=503 if problems else 200
        )
