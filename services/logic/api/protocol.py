"""aiohttp's connection, but that what its parser refuses is answered with a problem document as well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from .problems import CODES, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.web import BaseRequest, Server, StreamResponse

    from holdfast.observe.metrics import Metrics


class Connection(RequestHandler):
    """One connection of the API's port."""

    __slots__ = ("_metrics",)

    def __init__(self, server: Server, metrics: Metrics) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), access_log=None)  # type: ignore[arg-type]
        self._metrics = metrics

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what is no HTTP, or too much of it. The connection ends, since its place in it is lost."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            status, detail = 431, "the request line or a header is too long"
        else:
            detail = (
                f"this is no HTTP request: {(message or '').strip().splitlines()[0] if message else status}"
            )
        self._metrics.logic_api_requests.labels("other", str(status)).inc()  # it never gets to a route
        response = problem(status, CODES.get(status, "bad_request"), detail)
        response.force_close()
        return response


def connections(server: Server, metrics: Metrics) -> Callable[[], Connection]:
    """Return what makes the protocol of each connection of a server."""
    return lambda: Connection(server, metrics)
