"""Holdfast: long connections at scale, and messages that are never lost, doubled or reordered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.app import App, Context, Message, Refuse, Request, Session
    from holdfast.errors import Retry

__version__ = "0.1.0"

__all__ = ["App", "Context", "Message", "Refuse", "Request", "Retry", "Session", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what handler authors use when it is first asked for: importing the package stays cheap."""
    if name == "Retry":
        from holdfast.errors import Retry  # noqa: PLC0415

        return Retry
    if name in __all__:
        import holdfast.app  # noqa: PLC0415

        return getattr(holdfast.app, name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
