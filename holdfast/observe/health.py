"""The port for operators: `/metrics`, `/healthz` (this process is alive), `/readyz` (it can serve)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from holdfast.network import TcpNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.network import Server
    from holdfast.observe.metrics import Metrics
    from holdfast.tls import Trust


class HealthServer:
    """Serves metrics and health of one process.

    `problems` returns what keeps the process from serving, in words; it is asked at each `/readyz`. What all
    processes share (Redis or Kafka being away) must not be among them, or every pod would leave at once.
    With `trust`, it speaks TLS.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Metrics,
        problems: Callable[[], Sequence[str]],
        trust: Trust | None = None,
    ) -> None:
        self._host = host
        self._wanted = port
        self._metrics = metrics
        self._problems = problems
        self._trust = trust
        self._runner: web.AppRunner | None = None
        self._server: Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_alive)
        app.router.add_get("/readyz", self._serve_ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        serve = self._runner.server
        assert serve is not None
        secure = self._trust.context if self._trust is not None else None
        self._server = await TcpNetwork().listen(serve, self._host, self._wanted, ssl=secure)
        self.port = self._server.port

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
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
