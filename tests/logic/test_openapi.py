"""The OpenAPI document says what is served."""

from __future__ import annotations

import re
from pathlib import Path

from services.logic.api import create_api
from services.logic.api.openapi import document, text

DOCS = Path(__file__).parents[2] / "docs"


async def test_it_is_served_without_a_key(api):
    """Whoever wants to call must be able to read how."""
    async with api.http.get("/openapi.json") as response:
        assert response.status == 200
        assert await response.json() == document()


async def test_every_route_is_in_it_and_nothing_else(api):
    """The table, the router and the document agree."""
    described = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    served = {
        (route.method, route.resource.canonical)
        for route in create_api(api.api).router.routes()
        if route.resource is not None
    } - {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}
    assert described == served


def test_it_is_whole():
    """Every reference is there, every schema is used, every parameter of a path is declared."""
    whole = document()
    named = set(re.findall(r"#/components/schemas/(\w+)", str(whole)))
    assert named == set(whole["components"]["schemas"])
    ids = []
    for path, item in whole["paths"].items():
        for operation in item.values():
            ids.append(operation["operationId"])
            assert operation["summary"]
            declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            (scheme,) = operation["security"]
            assert set(scheme) <= set(whole["components"]["securitySchemes"])
    assert len(ids) == len(set(ids))


def test_the_page_is_up_to_date():
    """docs/openapi.json is what `python -m services.logic.api` writes."""
    assert (DOCS / "openapi.json").read_text(encoding="utf-8") == text()


async def test_more_routes_can_be_added(api):
    """The embedded cluster serves its demo page on the same port."""
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    async def page(_):
        return web.Response(text="the demo")

    def extra(app):
        app.router.add_get("/", page)

    async with TestClient(TestServer(create_api(api.api, extra))) as client:
        response = await client.get("/")
        assert await response.text() == "the demo"
