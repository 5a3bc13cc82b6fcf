"""What handlers receive: a message, a request, or the beginning or end of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, cast

import msgspec

from holdfast.app.refuse import Refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
    """So that a plain `Message` is one with any data, for strict type checkers too."""
else:
    from typing import TypeVar

    T = TypeVar("T")

_UNSEEN: Final = object()


class _Incoming(Generic[T]):
    """What a client wrote. `data` is decoded when it is first looked at."""

    __slots__ = ("_data", "_decode", "_raw", "device", "id", "session", "ts", "type", "user")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the protocol's name
        user: str,
        type: str,  # noqa: A002
        raw: bytes,
        ts: int,
        session: str,
        device: str,
        decode: Callable[[bytes], T],
    ) -> None:
        self.id = id
        self.user = user
        self.type = type
        self.ts = ts
        self.session = session
        self.device = device
        self._raw = raw
        self._decode = decode
        self._data: object = _UNSEEN

    @property
    def data(self) -> T:
        """The value the client sent, as the handler's type where it named one.

        Raises Refuse (`bad_request`), which reaches the client, when it is not of that type.
        """
        if self._data is _UNSEEN:
            try:
                self._data = self._decode(self._raw)
            except msgspec.DecodeError as error:
                raise Refuse("bad_request", f"data: {error}") from None
        return cast("T", self._data)

    @property
    def raw(self) -> bytes:
        """The JSON text of `data`."""
        return self._raw

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.type!r} from {self.user!r}, id {self.id!r})"


class Message(_Incoming[T]):
    """A client's `send`.

    `id` is what its `ack` named, `to` the channel it is addressed to, `n` the number the client gave it,
    `client` the client instance, `ts` when the node took it in (Unix ms).
    """

    __slots__ = ("client", "n", "to")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        user: str,
        type: str,  # noqa: A002
        raw: bytes,
        ts: int,
        session: str,
        device: str,
        decode: Callable[[bytes], T],
        to: str,
        client: str,
        n: int,
    ) -> None:
        super().__init__(
            id=id, user=user, type=type, raw=raw, ts=ts, session=session, device=device, decode=decode
        )
        self.to = to
        self.client = client
        self.n = n


class Request(_Incoming[T]):
    """A `request`: what its handler returns is the `reply`. Nobody waits after `deadline` (Unix ms)."""

    __slots__ = ("deadline",)

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        user: str,
        type: str,  # noqa: A002
        raw: bytes,
        ts: int,
        session: str,
        device: str,
        decode: Callable[[bytes], T],
        deadline: int,
    ) -> None:
        super().__init__(
            id=id, user=user, type=type, raw=raw, ts=ts, session=session, device=device, decode=decode
        )
        self.deadline = deadline


class Session(msgspec.Struct, frozen=True):
    """A session that began or ended. `reason` is the code it ended with; `ts` is Unix ms."""

    id: str
    user: str
    device: str
    client: str
    ts: int
    reason: str = ""
