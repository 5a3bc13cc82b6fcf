"""Prints the OpenAPI document: `python -m services.logic.api > docs/openapi.json`."""

from .openapi import text

print(text(), end="")  # noqa: T201
