"""The two wire formats of `holdfast.v1`: messages to frames and back, in JSON and in msgpack.

Whatever the format, the `data` of a `send` or `request` is compact JSON from here on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from holdfast.errors import Reject
from holdfast.protocol.frames import (
    MAX_ID,
    SUBPROTOCOL_JSON,
    SUBPROTOCOL_MSGPACK,
    ClientFrame,
    FrameId,
    Request,
    Send,
    ServerFrame,
)
from holdfast.protocol.msgpack import TooDeepError, data_to_json, end_of_value, to_msgpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["JSON", "MAX_DEPTH", "MSGPACK", "FrameError", "Wire", "to_msgpack", "wire_of"]

MAX_DEPTH: Final = 128
"""Arrays and objects inside each other in `data`, at most."""

_CLIENT_TAGS: Final = frozenset(kind.__struct_config__.tag for kind in get_args(ClientFrame))
_SERVER_TAGS: Final = frozenset(kind.__struct_config__.tag for kind in get_args(ServerFrame))
_RAW: Final = (Send, Request)
"""The frames whose `data` is kept as it came."""

_strings: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class FrameError(Reject):
    """A frame of a client's message is wrong.

    `code` is `bad_frame` (the connection ends), `unknown_frame` or `bad_request` (it lives on). `id` is the
    frame's, where it has one that an `error` can answer. `results` is the whole message in its order, frames
    and errors, up to and with the first `bad_frame`: handle each in turn, so that the good frames before and
    after a bad one are not lost.
    """

    def __init__(self, code: str, message: str, frame_id: FrameId | None = None) -> None:
        super().__init__(code, message)
        self.id = frame_id
        self.results: list[ClientFrame | FrameError] = [self]


class _Peek(msgspec.Struct):
    """What of a wrong frame is needed to say what is wrong."""

    t: Any = None
    id: Any = None


class Wire:
    """One wire format. Stateless: one object serves all connections."""

    def __init__(self, subprotocol: str, module: Any, separator: bytes) -> None:
        self.subprotocol: Final = subprotocol
        self._separator = separator
        self._one = module.Decoder(ClientFrame).decode
        self._one_server = module.Decoder(ServerFrame).decode
        self._peek = module.Decoder(_Peek).decode
        self._encode = module.Encoder().encode

    def decode(self, payload: bytes) -> list[ClientFrame]:
        """Return the frames of a client's message.

        Raises FrameError when one of them is wrong; its `results` have them all, in order.
        """
        results = list(self.frames(payload))
        errors = [result for result in results if isinstance(result, FrameError)]
        if errors:
            errors[0].results = results
            raise errors[0]
        return [result for result in results if not isinstance(result, FrameError)]

    def frames(self, payload: bytes) -> Iterable[ClientFrame | FrameError]:
        """Return the frames of a client's message, and what is wrong with some, in order.

        Never raises, and ends with the first `bad_frame`. Where something is wrong each is looked at when it
        is asked for: between two of them others can have their turn.
        """
        try:
            frames = self._fast(payload)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            frames = []
        return frames or self._each(payload)

    def decode_server(self, payload: bytes) -> list[ServerFrame]:
        """Return the frames of a server's message; those with a `t` that is not known yet are left out.

        Raises FrameError(`bad_frame`) when a frame is malformed.
        """
        try:
            return self._fast_server(payload)
        except (ValueError, RecursionError):
            frames: list[ServerFrame] = []
        try:
            for part in self._parts(payload):
                try:
                    frames.append(self._one_server(part))
                except msgspec.ValidationError:
                    tag = self._peek(part).t
                    if not isinstance(tag, str) or tag in _SERVER_TAGS:
                        raise
        except (ValueError, RecursionError) as error:
            raise FrameError("bad_frame", f"the server's message is malformed: {error}") from None
        return frames

    def encode(self, frame: ClientFrame | ServerFrame) -> bytes:
        """Return one frame, ready to be joined or sent."""
        encoded: bytes = self._encode(frame)
        return encoded

    def encode_many(self, frames: Iterable[ClientFrame | ServerFrame]) -> bytes:
        """Return one message of several frames."""
        return self.join(map(self.encode, frames))

    def join(self, encoded: Iterable[bytes]) -> bytes:
        """Return one message of several encoded frames."""
        return self._separator.join(encoded)

    # what the formats differ in

    def _fast(self, payload: bytes) -> list[ClientFrame]:
        """Return the frames where all is well; raises ValueError or RecursionError where not."""
        raise NotImplementedError

    def _fast_server(self, payload: bytes) -> list[ServerFrame]:
        """Do the same with a server's message."""
        raise NotImplementedError

    def _parts(self, payload: bytes) -> Iterator[bytes]:
        """Yield one part per frame. Raises ValueError at what is no frame at all."""
        raise NotImplementedError

    def _with_data(self, frame: ClientFrame) -> ClientFrame:
        """Return the frame with its `data` checked, as compact JSON. Raises ValueError."""
        raise NotImplementedError

    # the slow path: something is wrong, find out what

    def _each(self, payload: bytes) -> Iterator[ClientFrame | FrameError]:
        found = False
        try:
            for part in self._parts(payload):
                found = True
                result = self._examine(part)
                yield result
                if isinstance(result, FrameError) and result.code == "bad_frame":
                    return
        except ValueError as error:
            yield FrameError("bad_frame", f"the message is malformed: {error}")
        else:
            if not found:
                yield FrameError("bad_frame", "the message holds no frame")

    def _examine(self, part: bytes) -> ClientFrame | FrameError:
        try:
            frame: ClientFrame = self._one(part)
        except (ValueError, RecursionError) as error:
            return self._explain(part, error)
        try:
            return self._with_data(frame)
        except (RecursionError, TooDeepError):
            return FrameError("bad_frame", _TOO_DEEP)
        except UnicodeDecodeError as error:
            return FrameError("bad_frame", str(error))
        except ValueError as error:
            return FrameError("bad_request", str(error), getattr(frame, "id", None))

    def _explain(self, part: bytes, error: Exception) -> FrameError:
        if isinstance(error, RecursionError):
            return FrameError("bad_frame", _TOO_DEEP)
        if not isinstance(error, msgspec.ValidationError):
            return FrameError("bad_frame", f"the frame is malformed: {error}")
        try:
            peek = self._peek(part)
        except RecursionError:
            return FrameError("bad_frame", _TOO_DEEP)
        except ValueError as found:
            return FrameError("bad_frame", f"the frame is no object of the protocol: {found}")
        if not isinstance(peek.t, str):
            return FrameError("bad_frame", "a frame is an object whose `t` names it")
        frame_id = peek.id if _valid_id(peek.id) else None
        if peek.t not in _CLIENT_TAGS:
            return FrameError("unknown_frame", f"no frame is named {peek.t[:40]!r}", frame_id)
        return FrameError("bad_request", f"{peek.t}: {error}", frame_id)


_TOO_DEEP: Final = f"more than {MAX_DEPTH} arrays and objects inside each other"


class _Json(Wire):
    def __init__(self) -> None:
        super().__init__(SUBPROTOCOL_JSON, msgspec.json, b"\n")
        self._lines = msgspec.json.Decoder(ClientFrame).decode_lines
        self._lines_server = msgspec.json.Decoder(ServerFrame).decode_lines
        self._value = msgspec.json.Decoder().decode

    def _fast(self, payload: bytes) -> list[ClientFrame]:
        # Measured for one `send` of 125 bytes: 0.9 µs, of which msgspec's typed decoder takes 0.2.
        frames = self._lines(payload)
        if len(payload) > 2 * MAX_DEPTH:
            _check_depth(payload, MAX_DEPTH + 1)  # with the frame's own braces
        for frame in frames:
            if isinstance(frame, _RAW):
                self._value(frame.data)
        if b"\n" in payload or b"\r" in payload:
            for frame in frames:
                _on_one_line(frame)
        return frames

    def _fast_server(self, payload: bytes) -> list[ServerFrame]:
        return self._lines_server(payload)

    def _with_data(self, frame: ClientFrame) -> ClientFrame:
        if isinstance(frame, _RAW):
            # `Raw` was only skimmed: bad UTF-8 and numbers out of range show when it is decoded.
            self._value(frame.data)
            _check_depth(bytes(frame.data))
            _on_one_line(frame)
        return frame

    def _parts(self, payload: bytes) -> Iterator[bytes]:
        try:
            self._value(payload)
        except (ValueError, RecursionError):
            parts = payload.split(b"\n")
        else:
            parts = [payload]  # one frame, perhaps on several lines
        for part in parts:
            if line := part.strip(b" \t\r\n"):
                yield line


class _Msgpack(Wire):
    def __init__(self) -> None:
        super().__init__(SUBPROTOCOL_MSGPACK, msgspec.msgpack, b"")

    def encode(self, frame: ClientFrame | ServerFrame) -> bytes:
        # `data` may be JSON as it came, or hold what only JSON can say.
        return to_msgpack(JSON.encode(frame)) if hasattr(frame, "data") else super().encode(frame)

    def _fast(self, payload: bytes) -> list[ClientFrame]:
        return [self._with_data(self._one(payload))]

    def _fast_server(self, payload: bytes) -> list[ServerFrame]:
        return [self._one_server(payload)]

    def _with_data(self, frame: ClientFrame) -> ClientFrame:
        # The default of a frame without `data` is JSON already; no msgpack value has these bytes.
        if isinstance(frame, _RAW) and (packed := bytes(frame.data)) != b"null":
            data = data_to_json(packed, MAX_DEPTH)
            msgspec.structs.force_setattr(frame, "data", msgspec.Raw(data))
        return frame

    def _parts(self, payload: bytes) -> Iterator[bytes]:
        try:
            self._peek(payload)
        except (ValueError, RecursionError):
            pass  # several frames, or malformed
        else:
            yield payload
            return
        position = 0
        while position < len(payload):
            end = end_of_value(payload, position)
            yield payload[position:end]
            position = end


JSON: Final = _Json()
MSGPACK: Final = _Msgpack()


def wire_of(subprotocol: str) -> Wire:
    """Return the wire format of a subprotocol; JSON where none was agreed on."""
    return MSGPACK if subprotocol == SUBPROTOCOL_MSGPACK else JSON


def _on_one_line(frame: ClientFrame) -> None:
    """Replace line ends in `data`, which separate frames. Outside of strings they mean as much as spaces."""
    if isinstance(frame, _RAW):
        data = bytes(frame.data)
        if b"\n" in data or b"\r" in data:
            data = data.replace(b"\n", b" ").replace(b"\r", b" ")
            msgspec.structs.force_setattr(frame, "data", msgspec.Raw(data))


def _valid_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 200
    return type(value) is int and abs(value) <= MAX_ID


def _check_depth(text: bytes, limit: int = MAX_DEPTH) -> None:
    """Raise when JSON is nested above the limit. Only what has that many brackets is looked at closely."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return
    depth = 0
    for bracket in _strings.sub(b"", text).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            raise TooDeepError
