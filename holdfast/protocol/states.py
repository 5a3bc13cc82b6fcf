"""A connection's states, what can happen to it, and the one transition table (`docs/connection.md`)."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from holdfast.protocol import frames


class State(enum.IntEnum):
    """Where a connection stands."""

    NEW = 0
    CONNECTING = 1
    OPEN = 2
    DRAINING = 3
    CLOSED = 4


class Event(enum.IntEnum):
    """What can happen to it: first the client's frames, then what its host notices."""

    CONNECT = 0
    SUBSCRIBE = 1
    UNSUBSCRIBE = 2
    SEND = 3
    REQUEST = 4
    CURSOR = 5
    REFRESH = 6
    PING = 7
    PONG = 8
    REJECTED = 9
    BROKEN = 10
    ACCEPTED = 11
    TIMEOUT = 12
    QUIET = 13
    SILENT = 14
    EXPIRED = 15
    ENDED = 16
    DRAIN = 17
    LOST = 18


MEANING: Final = {
    Event.REJECTED: "a frame of the client cannot be understood, but those after it can",
    Event.BROKEN: "what the client sent is no frame at all",
    Event.ACCEPTED: "the host has recorded the session",
    Event.TIMEOUT: "the time for connecting is over",
    Event.QUIET: "nothing was heard for one heartbeat",
    Event.SILENT: "nothing was heard for two heartbeats",
    Event.EXPIRED: "the token's time is over",
    Event.ENDED: "the host ends it, with a code (refused, superseded, kicked, slow, fenced)",
    Event.DRAIN: "the node is leaving",
    Event.LOST: "the socket is gone",
}


class Step(NamedTuple):
    """What an event does in a state: the name of an action, and the state after it."""

    action: str
    to: State


_NEW, _CONNECTING, _OPEN, _DRAINING, _CLOSED = State
_CLIENT_FRAMES: Final = tuple(event for event in Event if event <= Event.REJECTED)


def _serving(state: State) -> dict[Event, Step]:
    """Return the rows that OPEN and DRAINING share."""
    return {
        Event.CONNECT: Step("refuse_second_connect", state),
        Event.SUBSCRIBE: Step("subscribe", state),
        Event.UNSUBSCRIBE: Step("unsubscribe", state),
        Event.SEND: Step("send", state),
        Event.REQUEST: Step("request", state),
        Event.CURSOR: Step("cursor", state),
        Event.REFRESH: Step("refresh", state),
        Event.PING: Step("pong", state),
        Event.PONG: Step("nothing", state),
        Event.REJECTED: Step("reject", state),
        Event.BROKEN: Step("end", _CLOSED),
        Event.ACCEPTED: Step("nothing", state),
        Event.TIMEOUT: Step("nothing", state),
        Event.QUIET: Step("ping", state),
        Event.SILENT: Step("end_silent", _CLOSED),
        Event.EXPIRED: Step("end_expired", _CLOSED),
        Event.ENDED: Step("end", _CLOSED),
        Event.LOST: Step("lose", _CLOSED),
    }


TABLE: Final[dict[State, dict[Event, Step]]] = {
    _NEW: {event: Step("end_connect_first", _CLOSED) for event in _CLIENT_FRAMES}
    | {
        Event.CONNECT: Step("connect", _CONNECTING),
        Event.BROKEN: Step("end", _CLOSED),
        Event.ACCEPTED: Step("nothing", _NEW),
        Event.TIMEOUT: Step("end_late", _CLOSED),
        Event.QUIET: Step("nothing", _NEW),
        Event.SILENT: Step("nothing", _NEW),
        Event.EXPIRED: Step("nothing", _NEW),
        Event.ENDED: Step("end", _CLOSED),
        Event.DRAIN: Step("end_draining", _CLOSED),
        Event.LOST: Step("lose", _CLOSED),
    },
    _CONNECTING: {event: Step("hold", _CONNECTING) for event in _CLIENT_FRAMES}
    | {
        Event.REJECTED: Step("reject", _CONNECTING),
        Event.PING: Step("pong", _CONNECTING),
        Event.PONG: Step("nothing", _CONNECTING),
        Event.BROKEN: Step("end", _CLOSED),
        Event.ACCEPTED: Step("open", _OPEN),
        Event.TIMEOUT: Step("end_overloaded", _CLOSED),
        Event.QUIET: Step("nothing", _CONNECTING),
        Event.SILENT: Step("nothing", _CONNECTING),
        Event.EXPIRED: Step("end_expired", _CLOSED),
        Event.ENDED: Step("end", _CLOSED),
        Event.DRAIN: Step("end_draining", _CLOSED),
        Event.LOST: Step("lose", _CLOSED),
    },
    _OPEN: _serving(_OPEN) | {Event.DRAIN: Step("drain", _DRAINING)},
    _DRAINING: _serving(_DRAINING) | {Event.DRAIN: Step("nothing", _DRAINING)},
    _CLOSED: {event: Step("nothing", _CLOSED) for event in Event},
}

EVENT_OF: Final[dict[type, Event]] = {
    frames.Connect: Event.CONNECT,
    frames.Subscribe: Event.SUBSCRIBE,
    frames.Unsubscribe: Event.UNSUBSCRIBE,
    frames.Send: Event.SEND,
    frames.Request: Event.REQUEST,
    frames.Cursor: Event.CURSOR,
    frames.Refresh: Event.REFRESH,
    frames.Ping: Event.PING,
    frames.Pong: Event.PONG,
}


def markdown() -> str:
    """Return the transition table as the documentation shows it."""
    states = [state for state in State if state is not State.CLOSED]
    lines = [
        "# The connection's states",
        "",
        "Generated from `holdfast/protocol/states.py`. Each cell: the action, and the state",
        "after it where that changes. In CLOSED every event does nothing.",
        "",
        "| Event | " + " | ".join(state.name for state in states) + " |",
        "|---|" + "---|" * len(states),
    ]
    for event in Event:
        cells = []
        for state in states:
            step = TABLE[state][event]
            text = "" if step.action == "nothing" else step.action.replace("_", " ")
            cells.append(text if step.to is state else f"{text} → {step.to.name}")
        name = event.name.lower() if event > Event.PONG else f"`{event.name.lower()}`"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Events that are not frames:", ""]
    lines += [f"- **{event.name.lower()}**: {text}" for event, text in MEANING.items()]
    return "\n".join(lines) + "\n"
