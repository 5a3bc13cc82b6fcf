"""Where the services are: beside the library in a checkout, within it in an installed wheel."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def load_services(module: str) -> Any:
    """Import `services.MODULE`, of the wheel if this is one; used by the console script and the test kit."""
    inside = importlib.util.find_spec("holdfast.services")
    package = "holdfast.services" if inside is not None else "services"
    return importlib.import_module(f"{package}.{module}")
