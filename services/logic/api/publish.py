"""Publish: answered when it is durable, all messages of one call put on their way at once."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.app.context import MAX_OUTPUT_BYTES
from holdfast.errors import HoldfastError, Reject, Retry
from holdfast.ids import random_id
from holdfast.records import KEYED, Message, compact_json, message_body

from .schemas import ItemError, Publish, Published, PublishedMany, Result

if TYPE_CHECKING:
    from .context import Api, Call


class PublishBody(msgspec.Struct, frozen=True):
    """Looks for `messages`; each one is read by itself, so that one wrong message does not spoil the rest."""

    messages: list[msgspec.Raw] | None = None


_decode_body: Final = msgspec.json.Decoder(PublishBody).decode
_decode_one: Final = msgspec.json.Decoder(Publish).decode


async def publish(api: Api, call: Call) -> Published | PublishedMany:
    """Publish one message, or several."""
    body: bytes = call.body
    messages = _decode_body(body).messages
    if messages is None:
        name, future = _put(api, _decode_one(body), call.trace)
        await future
        api.metrics.logic_published.labels("api").inc()
        return Published(name)
    if len(messages) > api.settings.api.publish_many:
        raise Reject("bad_request", f"at most {api.settings.api.publish_many} messages in one call")
    return await _many(api, messages, call.trace)


async def _many(api: Api, messages: list[msgspec.Raw], trace: str) -> PublishedMany:
    started: list[tuple[str, asyncio.Future[int]] | HoldfastError] = []
    for raw in messages:
        try:
            started.append(_put(api, _decode_one(raw), trace))
        except msgspec.DecodeError as error:
            started.append(Reject("bad_request", str(error)))
        except (Reject, Retry) as error:
            started.append(error)
    futures = [one[1] for one in started if isinstance(one, tuple)]
    if futures:
        await asyncio.wait(futures)
    results = [_result(one) for one in started]
    done = sum(result.id is not msgspec.UNSET for result in results)
    if done:
        api.metrics.logic_published.labels("api").inc(done)
    elif results and all(not isinstance(r.error, msgspec.UnsetType) and r.error.retry for r in results):
        waits = [one.after or 0.0 for one in started if isinstance(one, Retry)]
        raise Retry("nothing is known to be published", after=max(waits, default=0.0) or None)
    return PublishedMany(results)


def _put(api: Api, message: Publish, trace: str) -> tuple[str, asyncio.Future[int]]:
    channel = message.channel
    api.check_channel(channel)
    data = compact_json(message.data)
    if len(data) > MAX_OUTPUT_BYTES:
        raise Reject("too_large", f"data of a message may have {MAX_OUTPUT_BYTES} bytes at most")
    if message.id is None:
        name, source, score = random_id(), "", 0
    else:
        # NUL keeps the callers' keys apart from those of handlers' outputs.
        name, source, score = _named(channel, message.id), f"\0{message.id}", KEYED
    api.outbound.check(channel)
    body = message_body(id=name, sender=message.sender, type=message.type, data=data)
    record = Message(channel, body, source, score)
    span = api.tracing.begin("api publish", name, parent=trace) if api.tracing is not None else None
    if span is None:
        return name, api.produce(record)
    future = api.produce(record, span)
    future.add_done_callback(span.settled)
    return name, future


def _named(channel: str, key: str) -> str:
    """Return the message's id for an idempotency key: a repeated call gets the same one."""
    digest = hashlib.blake2b(f"{channel}\0{key}".encode(), digest_size=12, person=b"publish").digest()
    return urlsafe_b64encode(digest).decode()


def _result(one: tuple[str, asyncio.Future[int]] | HoldfastError) -> Result:
    error = one if isinstance(one, HoldfastError) else one[1].exception()
    if error is None:
        assert isinstance(one, tuple)
        return Result(id=one[0])
    if isinstance(error, Reject):
        return Result(error=ItemError(error.code, str(error), retry=False))
    return Result(error=ItemError("unavailable", str(error), retry=True))
