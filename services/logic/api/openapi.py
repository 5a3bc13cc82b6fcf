"""The OpenAPI 3.1 document, made from the table of routes and the types of bodies and answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast import __version__

from .problems import TITLES
from .routes import ROUTES
from .schemas import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .routes import Route

_PREFIX: Final = "#/components/schemas/"

_PARAMETERS: Final = {
    "channel": "name of a channel, as `group:7`",
    "user": "name of a user, as in a token's `sub`",
    "group": "id of a group, without `group:`",
    "node": "name or incarnation of a node",
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    types = {kind for route in ROUTES for kind in (*route.body, *route.answer)} | {Problem}
    schemas = _schemas(sorted(types, key=lambda kind: kind.__name__))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast control layer",
            "version": __version__,
            "description": "Times are Unix ms. Errors are RFC 9457 problem documents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "an API key (`api.keys`)"},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _schemas(types: Sequence[type]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(types, ref_template=_PREFIX + "{name}")
    return dict(sorted(components.items()))


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{route.auth: []}],
        "parameters": [*_in_path(route), *_in_query(route)],
        "responses": {
            "200": {
                "description": "done",
                "content": {"application/json": {"schema": _one_of(route.answer)}},
            },
            **{str(status): _problem(status) for status in statuses(route)},
        },
    }
    if route.body:
        operation["requestBody"] = {
            "required": not route.empty,
            "content": {"application/json": {"schema": _one_of(route.body)}},
        }
    return operation


def statuses(route: Route) -> Sequence[int]:
    """Return the statuses of the problems that a route may answer with."""
    common = {400, 401, 500, 503}
    if route.body:
        common.add(413)
    return sorted(common | set(route.errors))


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": TITLES[status],
        "content": {"application/problem+json": {"schema": {"$ref": _PREFIX + "Problem"}}},
    }
    if status == 503:
        answer["headers"] = {
            "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
        }
    return answer


def _one_of(types: tuple[type, ...]) -> dict[str, Any]:
    references = [{"$ref": _PREFIX + kind.__name__} for kind in types]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _in_path(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _in_query(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=_PREFIX + "{name}")
    properties = components[route.query.__name__]["properties"]
    parameters = []
    for name, schema in properties.items():
        # An absent parameter is what `null` means to the struct.
        plain = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
        kept = {key: value for key, value in plain.items() if key not in ("description", "default")}
        if schema.get("default") is not None:
            kept["default"] = schema["default"]
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": plain.get("description", schema.get("description", "")),
                "schema": kept,
            }
        )
    return parameters


def text() -> str:
    """Return the document as `docs/openapi.json` holds it."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"
