"""What the embedded cluster serves beside the API: the demo page, and tokens for whoever asks."""

from __future__ import annotations

import re
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from holdfast.auth.issue import issue

if TYPE_CHECKING:
    from holdfast.settings import Settings

_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PAGES: Final = {
    "/": "index.html",
    "/style.css": "style.css",
    "/client.js": "client.js",
    "/app.js": "app.js",
}
_name = re.compile(r"[A-Za-z0-9_-]{1,32}").fullmatch


def add_routes(app: web.Application, settings: Settings) -> None:
    """Add the page and `POST /demo/token`. For development only: it asks nobody who they are."""
    folder = files(__package__ or "") / "page"

    def page(file: str) -> web.Response:
        text = (folder / file).read_text(encoding="utf-8")
        headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": "default-src 'self'; img-src data:; connect-src *",
        }
        return web.Response(text=text, content_type=_TYPES[file.rpartition(".")[2]], headers=headers)

    async def serve(request: web.Request) -> web.Response:
        return page(_PAGES[request.path])

    async def token(request: web.Request) -> web.Response:
        # A page of another site cannot send this type without being allowed to.
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="send application/json")
        try:
            user = (await request.json())["user"]
        except (ValueError, KeyError, TypeError):
            user = None
        if not isinstance(user, str) or not _name(user):
            problem = {"title": "bad request", "detail": "a name has 1 to 32 letters, digits, - or _"}
            return web.json_response(problem, status=400, content_type="application/problem+json")
        made, expires = issue(settings.auth, user, time.time_ns() // 1_000_000)
        return web.json_response({"token": made, "expires_at": expires})

    for path in _PAGES:
        app.router.add_get(path, serve)
    app.router.add_post("/demo/token", token)
