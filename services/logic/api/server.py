"""Serves the table of routes: who calls, what the call says, what it is answered."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from holdfast.errors import Reject

from .context import Api, Call
from .openapi import document
from .problems import middleware
from .routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from .routes import Route

_encode: Final = msgspec.json.Encoder().encode


def create_api(api: Api, extra: Callable[[web.Application], None] | None = None) -> web.Application:
    """Return the application. `extra` may add routes of its own, as the embedded cluster's demo page."""
    app = web.Application(
        middlewares=[middleware(api.clock, api.metrics, api.settings.api.calls)],
        client_max_size=api.settings.api.body,
    )
    keys = tuple(key.encode() for key in api.settings.api.keys)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(api, route, keys))
    described = _encode(document())

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    app.router.add_get("/openapi.json", openapi)
    if extra is not None:
        extra(app)
    return app


def _handler(api: Api, route: Route, keys: tuple[bytes, ...]) -> Callable[[web.Request], Any]:
    decode: Callable[[bytes], Any] | None = (
        msgspec.json.Decoder(route.body[0]).decode if route.body and not route.raw else None
    )

    async def handle(request: web.Request) -> web.Response:
        bearer = _bearer(request)
        claims = None
        if route.auth == "token":
            token = bearer or request.query.get("token", "")
            claims = api.verify(token, api.clock.now_ms())
        else:
            _check_key(bearer, keys)
        query = _query(route, request)
        body: Any = None
        if route.body:
            raw = await request.read()
            if route.empty and not raw.strip():
                raw = b"{}"
            try:
                body = raw if decode is None else decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Reject("bad_request", f"the body is wrong: {error}") from None
        try:
            trace = request.headers.get("traceparent", "")
            answer = await route.call(api, Call(request.match_info, query, body, claims, trace))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Reject("bad_request", f"the body is wrong: {error}") from None
        if not isinstance(answer, bytes):
            answer = _encode(answer)
        return web.Response(body=answer, content_type="application/json")

    return handle


def _bearer(request: web.Request) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _check_key(given: str, keys: tuple[bytes, ...]) -> None:
    """Raise Reject (`unauthorized`) unless one key is the given one. All are compared, in constant time."""
    right = [hmac.compare_digest(given.encode(), key) for key in keys]
    if not any(right):
        raise Reject("unauthorized", "this call needs an API key: `Authorization: Bearer KEY`")


def _query(route: Route, request: web.Request) -> Any:
    given: dict[str, str] = {}
    if route.query is not None:
        for name, value in request.query.items():
            if name in given:
                raise Reject("bad_request", f"{name} is given twice")
            given[name] = value
        try:
            return msgspec.convert(given, route.query, strict=False)
        except msgspec.ValidationError as error:
            raise Reject("bad_request", f"the query is wrong: {error}") from None
    return None
