"""From what a handler put out, or a message without one, to outbound records."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import msgspec

from holdfast.protocol import frames
from holdfast.protocol.codes import CODES
from holdfast.records import (
    KEYED,
    MAX_OUTPUTS,
    Member,
    Message,
    Reply,
    Request,
    Send,
    SessionEvent,
    message_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from holdfast.app import Context, Output
    from holdfast.records import Inbound, Outbound

_json = msgspec.json.Encoder().encode

_TIMED = "ABCDEFGH"
"""First characters of the ids (of 64) whose messages' way is timed: one in eight, whoever sends how much."""


def content_of(send: Send) -> int:
    """Return CRC-32 of what the client wrote; never 0, which says that there is nothing to compare."""
    return binascii.crc32(b"%b\0%b\0%b" % (send.to.encode(), send.type.encode(), send.data)) or 1


def passed(send: Send) -> Message:
    """Return a message without a handler as it goes to its channel: the first output to it."""
    body = message_body(
        id=f"{send.message}-0", sender=send.user, type=send.type, data=send.data, cause=send.message
    )
    return _message(send, send.to, body, 0, content_of(send))


def _message(send: Send, channel: str, body: bytes, index: int, content: int) -> Message:
    """Return the `index`th output of a send to a channel. A dead letter's have keys instead of numbers."""
    if send.retry:
        return Message(channel, body, f"{send.retry}#{index}", KEYED)
    return Message(
        channel,
        body,
        f"{send.user}\0{send.client}",
        send.n * MAX_OUTPUTS + index,
        content,
        (send.node, send.connection, send.frame),
        send.ts if send.message[:1] in _TIMED else 0,
    )


def released(inbound: Inbound, outputs: list[Output]) -> Iterator[Outbound]:
    """Yield the records of a handler's outputs, numbered so that a second run's are recognised."""
    send = inbound if isinstance(inbound, Send) else None
    key = "" if send else _key(inbound)
    content = content_of(send) if send else 0
    for output in outputs:
        if output.member:
            yield Member(output.channel, output.member, output.joined, output.id)
            continue
        body = message_body(
            id=output.id,
            sender=output.sender,
            type=output.type,
            data=output.data,
            cause=send.message if send else "",
        )
        if send:
            yield _message(send, output.channel, body, output.index, content)
        else:
            yield Message(output.channel, body, f"{key}#{output.index}", KEYED)


def caused(inbound: Inbound, ctx: Context, result: Any, deadline: int) -> Sequence[Outbound]:
    """Return all that a run caused: what it put out, and the answer. `deadline`: of an answer to a send."""
    outputs: list[Outbound] = list(released(inbound, ctx.outputs))
    if isinstance(inbound, Request):
        if result is not None or ctx.answer is None:
            ctx.reply(result)
        outputs.append(reply(inbound, ctx.answer or b"null", inbound.deadline))
    elif ctx.answer is not None and isinstance(inbound, Send) and inbound.node:
        outputs.append(reply(inbound, ctx.answer, deadline))
    return outputs


def reply(to: Send | Request, data: bytes, deadline: int) -> Reply:
    """Return the answer to a request (or a send), for the connection it came from."""
    frame = _json(frames.Reply(to.frame, msgspec.Raw(data)))
    return Reply(f"user:{to.user}", to.node, to.connection, deadline, frame)


def refusal(to: Send | Request, code: str, message: str, deadline: int) -> Reply:
    """Return the `error` that answers a send or request."""
    known = CODES.get(code)
    error = frames.Error(code=code, message=message, retry=known.retry if known else False, id=to.frame)
    return Reply(f"user:{to.user}", to.node, to.connection, deadline, _json(error))


def cause_of(inbound: Inbound) -> str:
    """Return the id of what is handled: the same in every run."""
    return inbound.message if isinstance(inbound, Send) else _key(inbound)


def _key(inbound: Request | SessionEvent | Send) -> str:
    if isinstance(inbound, SessionEvent):
        return inbound.id
    return inbound.message if isinstance(inbound, Send) else inbound.key
