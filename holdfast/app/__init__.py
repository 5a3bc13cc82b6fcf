"""For handler authors: the App, the context that a handler works with, and what it receives."""

from holdfast.app.app import App
from holdfast.app.context import Context, Output, Reader
from holdfast.app.incoming import Message, Request, Session
from holdfast.app.refuse import Refuse

__all__ = ["App", "Context", "Message", "Output", "Reader", "Refuse", "Request", "Session"]
