"""A checker for the part of JSON Schema that the API's document uses; it refuses what it does not know."""

from __future__ import annotations

from typing import Any

KNOWN = {
    "$ref",
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "exclusiveMinimum",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minLength",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
}
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def errors(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str = "$") -> list[str]:
    """Return in what a value is not as the schema says; members that the schema does not name are wrong."""
    unknown = set(schema) - KNOWN
    assert not unknown, f"the checker does not know {unknown}"
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return errors(value, document["components"]["schemas"][name], document, at)
    if "anyOf" in schema:
        tried = [errors(value, option, document, at) for option in schema["anyOf"]]
        return [] if any(not found for found in tried) else [f"{at}: none of {len(tried)}: {tried}"]
    found = []
    kind = schema.get("type")
    if kind is not None:
        if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
            return [f"{at}: {value!r} is no {kind}"]
        if kind in ("integer", "number") and value < schema.get("minimum", value):
            found.append(f"{at}: {value} is too small")
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        found += [f"{at}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        found += [f"{at}.{name}: not in the schema" for name in value if name not in known]
        for name, member in value.items():
            if name in known:
                found += errors(member, known[name], document, f"{at}.{name}")
    elif isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        for name, member in value.items():
            found += errors(member, schema["additionalProperties"], document, f"{at}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += errors(item, schema["items"], document, f"{at}[{index}]")
    return found
