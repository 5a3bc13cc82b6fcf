"""The HTTP control layer: the table of routes, served with aiohttp."""

from .context import Api
from .server import create_api

__all__ = ["Api", "create_api"]
