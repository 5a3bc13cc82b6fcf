"""For client authors: an asyncio client."""

from holdfast.client.client import Client
from holdfast.client.errors import Closed, Disconnected, OutcomeUnknown
from holdfast.client.events import Trouble
from holdfast.errors import Reject, Retry
from holdfast.protocol.frames import Connected, Drain, Message, Position, Reset, Subscribed, Unsubscribed

__all__ = [
    "Client",
    "Closed",
    "Connected",
    "Disconnected",
    "Drain",
    "Message",
    "OutcomeUnknown",
    "Position",
    "Reject",
    "Reset",
    "Retry",
    "Subscribed",
    "Trouble",
    "Unsubscribed",
]
