"""Errors as RFC 9457 problem documents, all of them; and the middleware that makes them, and counts calls."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from holdfast.errors import Reject, Retry, Stop

from .schemas import Problem

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics

_log = logging.getLogger(__name__)

TITLES: Final = {
    400: "The call is wrong",
    401: "Who calls is not known",
    403: "This is not allowed",
    404: "There is no such thing",
    405: "This method does not exist here",
    408: "The call took too long to arrive",
    409: "This cannot be done to that",
    411: "A length is required",
    413: "The call is too large",
    415: "This media type is not understood",
    417: "This expectation cannot be met",
    431: "The call is too large",
    500: "The server failed",
    501: "This is not configured",
    503: "The outcome is unknown; do the same again",
}

CODES: Final = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    431: "too_large",
    500: "internal",
    501: "not_configured",
    503: "unavailable",
}

_STATUS: Final = {"unauthorized": 401, "forbidden": 403, "not_found": 404, "conflict": 409, "too_large": 413}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    retry_after: float | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Return a problem document as a response. `retry_after` is in seconds."""
    headers = dict(headers or {})
    if retry_after is not None:
        headers["Retry-After"] = str(max(math.ceil(retry_after), 1))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="holdfast"'
    body = Problem(
        type=f"urn:holdfast:problem:{code}",
        title=TITLES.get(status, "The call failed"),
        status=status,
        detail=detail,
        code=code,
        retry=retry_after is not None,
    )
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/problem+json",
        headers=headers,
    )


def from_error(error: Exception) -> web.Response:
    """Return the problem that an exception is."""
    if isinstance(error, Reject):
        return problem(_STATUS.get(error.code, 400), error.code, str(error))
    if isinstance(error, Retry):
        return problem(503, "unavailable", str(error), retry_after=error.after or 1.0)
    if isinstance(error, Stop):
        return problem(501, "not_configured", str(error))
    if isinstance(error, web.HTTPException):
        keep = {name: value for name, value in error.headers.items() if name in ("Allow", "Location")}
        code = CODES.get(error.status, "bad_request")
        return problem(error.status, code, _detail(error), headers=keep)
    _log.error("a call of the API failed", exc_info=error)
    return problem(500, "internal", "the server failed; its log says more")


def _detail(error: web.HTTPException) -> str:
    if error.status == 404:
        return "no call has this path; /openapi.json lists those that exist"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"this path answers {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason


def middleware(clock: Clock, metrics: Metrics, most: int) -> Middleware:
    """Return the outermost middleware: every error leaves as a problem, every call is counted.

    Of calls, `most` are on at the same time; what is above is refused before its body is read.
    """
    on = 0

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal on
        started = clock.monotonic()
        on += 1
        try:
            if on > most:
                metrics.logic_api_refused.inc()
                raise Retry("too many calls are on", after=1.0)  # noqa: TRY301 - told as any other
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            response = error if error.status < 400 else from_error(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a problem document
            response = from_error(error)
        finally:
            on -= 1
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        metrics.logic_api_requests.labels(route, str(response.status)).inc()
        metrics.logic_api_seconds.observe(clock.monotonic() - started)
        return response

    return guard
