"""YAML as far as our own files go: written plainly here, read by PyYAML from the cache.

The library is no dependency of the project: what runs needs no YAML.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from deploy.local import cache

if TYPE_CHECKING:
    from pathlib import Path

_VERSION: Final = "6.0.3"
_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def load(text: str) -> list[Any]:
    """Return the documents of a YAML text. Raises Unavailable where PyYAML cannot be had."""
    folder = str(cache.keep(f"pyyaml-{_VERSION}-{sys.version_info[0]}.{sys.version_info[1]}", _fetch))
    if folder not in sys.path:
        sys.path.append(folder)
    module: Any = importlib.import_module("yaml")
    return [document for document in module.safe_load_all(text) if document is not None]


def _fetch(folder: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    cache.run("pyyaml", [*install, "--target", str(folder), f"PyYAML=={_VERSION}"])


def dump(value: Any, indent: int = 0) -> str:
    """Return a value of dicts, lists, texts, numbers and truths as YAML, in the order it has."""
    pad = " " * indent
    if isinstance(value, dict):
        return "".join(f"{pad}{_scalar(key)}:{_nested(item, indent)}" for key, item in value.items())
    return "".join(f"{pad}- {dump(item, indent + 2).lstrip(' ') or '{}'}" for item in value)


def _nested(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + dump(value, indent + 2)
    if isinstance(value, str) and "\n" in value:
        lines = value.rstrip("\n").split("\n")
        return " |\n" + "".join(" " * (indent + 2) * bool(line) + line + "\n" for line in lines)
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
