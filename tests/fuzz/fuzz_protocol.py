"""Throws random and mutated bytes at every codec and wire format.

    python -m tests.fuzz.fuzz_protocol --seconds 60 --seed 1

What must hold for any bytes: no exception but the declared ones, no memory above the bound, and the same
result however the bytes are cut. A failure prints the round and the bytes that caused it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.errors import Reject
from holdfast.protocol.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from holdfast.protocol.length import LengthClient, LengthServer
from holdfast.protocol.proxy import MAX_HEADER, ProxyHeader, header
from holdfast.protocol.websocket import WebSocketClient, WebSocketServer
from holdfast.protocol.websocket_frames import apply_mask
from holdfast.protocol.websocket_handshake import MAX_HEAD
from holdfast.protocol.wire import JSON, MSGPACK, FrameError, Wire, to_msgpack
from tests.protocol.pair import BOTH, feed, fragments, opened, raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LIMIT = 4096
"""max_message of every codec under test."""
SLACK = 200
"""Bytes that a codec may keep above its limit: a header and a control frame."""

_SEND = (
    b'{"t":"send","id":3,"n":17,"to":"user:bob","type":"a","data":{"text":"\xe2\x82\xac","k":[1,2.5,null]}}'
)
_FRAMES = (
    _SEND,
    b'{"t":"connect","token":"a.b.c","client":"c","resume":{"room:a":{"epoch":"e","seq":4}}}',
    b'{"t":"subscribe","id":"s","channel":"room:a","since":{"epoch":"e","seq":0}}',
    b'{"t":"ping"}',
    b'{"t":"dance","id":1}',
)
_REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: holdfast.v1.json\r\n\r\n"
)
_RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_MASKED = (
    raw(0x81, _SEND) + raw(0x81, "€𝄞".encode() * 30),
    b"".join(fragments(_SEND, (7, 40))) + raw(0x89, b"ping"),
    raw(0x01, b"a") + raw(0x8A) + raw(0x80, b"b" * 300) + raw(0x88, b"\x03\xe8bye"),
    raw(0x82, to_msgpack(_SEND)),
)
_UNMASKED = tuple(
    raw(first, body, masked=False) for first, body in ((0x81, _SEND), (0x89, b"p"), (0x88, b"\x0f\xa0"))
)


class Outcome(NamedTuple):
    """What bytes led to; equal for every way to cut them."""

    messages: object
    written: bytes
    ended: object


class Target(NamedTuple):
    """Something that takes bytes: seeds to mutate, and how to run chunks through it."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[Iterable[bytes]], Outcome]


class FuzzError(Exception):
    """A property does not hold; says for which target, round and bytes."""


def _codec(make: Callable[[], Any]) -> Callable[[Iterable[bytes]], Outcome]:
    def run(chunks: Iterable[bytes]) -> Outcome:
        codec = make()
        codec.take()
        messages: list[bytes] = []
        written = b""
        for chunk in chunks:
            found, answers = feed(codec, [chunk])
            messages += found
            written += answers
            assert _kept(codec) <= max(LIMIT, MAX_HEAD) + SLACK, f"keeps {_kept(codec)} bytes"
            assert all(len(message) <= LIMIT for message in found), "message above the limit"
        if codec.ended is not None:
            assert _kept(codec) == 0, "keeps bytes after the end"
        if isinstance(codec, WebSocketClient):
            written = unmasked(written)
        return Outcome(messages, written, codec.ended)

    return run


def unmasked(written: bytes) -> bytes:
    """Return a client's control frames without their masks, which are random."""
    found = b""
    while written:
        end = 6 + (written[1] & 127)
        found += raw(written[0], apply_mask(written[6:end], written[2:6]), masked=False)
        written = written[end:]
    return found


def _kept(codec: Any) -> int:
    """Return the bytes that a codec holds."""
    partial = getattr(codec, "_partial", None)
    return len(codec._buffer) + (len(partial.data) + len(partial.tail) if partial else 0)


def _proxy(chunks: Iterable[bytes]) -> Outcome:
    reader = ProxyHeader()
    rest = b""
    try:
        for chunk in chunks:
            rest += chunk if reader.done else reader.receive(chunk) or b""
            assert len(reader._buffer) <= MAX_HEADER, "keeps more than a header"
    except Reject as error:
        return Outcome((error.code, str(error)), b"", None)
    return Outcome((reader.done, reader.source, reader.destination), rest, None)


def _wire(wire: Wire) -> Callable[[Iterable[bytes]], Outcome]:
    def run(chunks: Iterable[bytes]) -> Outcome:
        payload = b"".join(chunks)
        results: list[Any] = []
        for decode in (wire.decode, wire.decode_server):
            try:
                results += [wire.encode(frame) for frame in decode(payload)]
            except FrameError as error:
                if error.code not in ("bad_frame", "unknown_frame", "bad_request"):
                    raise
                results.append((error.code, str(error), error.id))
        return Outcome(results, b"", None)

    return run


def _client_after(data: bytes) -> Callable[[], Any]:
    def make() -> WebSocketClient:
        client = WebSocketClient(max_message=LIMIT)
        client.request("localhost")
        client._key = "dGhlIHNhbXBsZSBub25jZQ=="
        client.receive(data)
        return client

    return make


def _server() -> WebSocketServer:
    return WebSocketServer(subprotocols=BOTH, max_message=LIMIT)


TARGETS = (
    Target("handshake", (_REQUEST, _REQUEST + _MASKED[0]), _codec(_server)),
    Target("server, text", _MASKED, _codec(lambda: opened(SUBPROTOCOL_JSON, max_message=LIMIT)[1])),
    Target("server, binary", _MASKED, _codec(lambda: opened(SUBPROTOCOL_MSGPACK, max_message=LIMIT)[1])),
    Target("response", (_RESPONSE, _RESPONSE + _UNMASKED[0]), _codec(_client_after(b""))),
    Target("client", _UNMASKED, _codec(_client_after(_RESPONSE))),
    Target(
        "length, server",
        (len(_SEND).to_bytes(4, "big") + _SEND, bytes(8)),
        _codec(lambda: LengthServer(max_message=LIMIT)),
    ),
    Target("length, client", (bytes(4) + b"\0\0\0\1a",), _codec(lambda: LengthClient(max_message=LIMIT))),
    Target("proxy", (header(("192.0.2.1", 1), ("192.0.2.2", 2)), header(("::1", 1), ("::2", 2))), _proxy),
    Target("json", (*_FRAMES, b"\n".join(_FRAMES)), _wire(JSON)),
    Target("msgpack", tuple(map(to_msgpack, _FRAMES)), _wire(MSGPACK)),
)

_INTERESTING = (
    0,
    1,
    10,
    13,
    34,
    91,
    123,
    125,
    126,
    127,
    128,
    129,
    136,
    137,
    192,
    196,
    202,
    220,
    223,
    254,
    255,
)


def mutate(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Return bytes made from the seeds: joined, flipped, cut, doubled, filled, or nothing but noise."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(300))
    data = bytearray(b"".join(rng.choices(seeds, k=rng.randint(1, 3))))
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice((1, 1, 2, 8, 64)))
        match rng.randrange(7):
            case 0:
                data[place:end] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[place:end])
            case 1:
                data[place:end] = bytes(rng.choices(_INTERESTING, k=end - place))
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = rng.randbytes(rng.randrange(9))
            case 4:
                data[place:place] = data[place:end] * rng.choice((1, 2, 100))
            case 5:
                data[place:end] = rng.choice((b"[", b"{", b"\x91", b"\xff", b"a", b"\n")) * rng.choice(
                    (1, 9, 5000)
                )
            case _:
                del data[place:]
    return bytes(data)


def cut(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """Cut bytes at random places, sometimes into single ones."""
    step = rng.choice((1, 3, 30, 300)) if len(data) < 2000 else rng.choice((30, 300))
    start = 0
    while start < len(data):
        end = start + rng.randint(1, step)
        yield data[start:end]
        start = end


def check(target: Target, rng: random.Random, round_: int) -> None:
    """Make one input and check it. Raises FuzzError."""
    data = mutate(rng, target.seeds)
    try:
        whole = target.run([data])
        pieces = target.run(cut(rng, data))
        assert whole == pieces, f"{whole} in one, {pieces} in pieces"
    except Exception as error:
        raise FuzzError(f"{target.name}, round {round_}: {error!r} for {data!r}") from error


def fuzz(seed: int, *, seconds: float | None = None, rounds: int | None = None) -> int:
    """Fuzz every target until the time or the rounds are over; return the rounds. Raises FuzzError."""
    rng = random.Random(seed)
    until = None if seconds is None else time.monotonic() + seconds
    done = 0
    while (rounds is None or done < rounds) and (until is None or time.monotonic() < until):
        for target in TARGETS:
            check(target, rng, done)
        done += 1
    return done


def main() -> None:
    """Run from the command line; the exit status tells whether all held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)  # noqa: T201
    try:
        done = fuzz(seed, seconds=options.seconds)
    except FuzzError as error:
        sys.exit(f"seed {seed}: {error}")
    print(f"{done} rounds of {len(TARGETS)} targets, all held")  # noqa: T201


if __name__ == "__main__":
    main()
