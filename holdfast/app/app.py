"""The App: which function handles what."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from holdfast.app.incoming import Message, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.app.context import Context

    Call = Callable[[Context, Any], Awaitable[Any]]
    Middleware = Callable[[Context, Any, Call], Awaitable[Any]]

F = TypeVar("F", bound="Callable[..., Awaitable[Any]]")

_ANY: Final = msgspec.json.Decoder().decode


class Handler:
    """One registered function. `typed`: its data has a type of its own, checked before it runs."""

    __slots__ = ("_app", "_chain", "call", "decode", "typed")

    def __init__(self, app: App, call: Call, data: Any = None) -> None:
        self.call = call
        self.typed = data is not None
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(data).decode if self.typed else _ANY
        self._app = app
        self._chain: Call | None = None

    def __call__(self, ctx: Context, incoming: Any) -> Awaitable[Any]:
        """Run the function inside the app's middleware."""
        if self._chain is None:
            self._chain = self._app._around(self.call)
        return self._chain(ctx, incoming)


class App:
    """Handlers by what they handle. Each is a plain async function of a context and what came in.

    ```python
    app = App()

    @app.on("chat.text")
    async def text(ctx: Context, message: Message) -> None:
        ctx.forward()
    ```

    Registering a type twice, or what is no async function, raises at once.
    """

    def __init__(self) -> None:
        self.sends: dict[str, Handler] = {}
        self.requests: dict[str, Handler] = {}
        self.connects: list[Handler] = []
        self.disconnects: list[Handler] = []
        self._middleware: list[Middleware] = []

    def on(self, type: str, *, data: Any = None) -> Callable[[F], F]:  # noqa: A002
        """Handle every `send` of this type, instead of passing it on to its channel.

        `data`: a type that msgspec can decode (a Struct, a dataclass, `list[int]`, …); the annotation
        `message: Message[Text]` says the same. What does not fit is refused before the handler runs.
        """

        def register(call: F) -> F:
            if type in self.sends:
                raise ValueError(f"messages of type {type!r} have a handler already")
            self.sends[type] = self._handler(call, data)
            return call

        return register

    def on_request(self, type: str, *, data: Any = None) -> Callable[[F], F]:  # noqa: A002
        """Answer every `request` of this type: what the function returns is the reply."""

        def register(call: F) -> F:
            if type in self.requests:
                raise ValueError(f"requests of type {type!r} have a handler already")
            self.requests[type] = self._handler(call, data)
            return call

        return register

    def on_connect(self, call: F) -> F:
        """Call this for every session that begins. Several functions run in the order of registration."""
        self.connects.append(self._handler(call, None))
        return call

    def on_disconnect(self, call: F) -> F:
        """Call this for every session that ends, however it ends, a node's death included."""
        self.disconnects.append(self._handler(call, None))
        return call

    def middleware(self, call: F) -> F:
        """Run `call(ctx, incoming, proceed)` around every handler; the first registered is outermost.

        It goes on with `await proceed(ctx, incoming)`, whose value is the handler's.
        """
        _must_be_async(call)
        if any(handler._chain for handler in self._all()):
            raise RuntimeError("middleware must be registered before the first message is handled")
        self._middleware.append(call)
        return call

    def _all(self) -> list[Handler]:
        return [*self.sends.values(), *self.requests.values(), *self.connects, *self.disconnects]

    def _handler(self, call: Callable[..., Awaitable[Any]], data: Any) -> Handler:
        _must_be_async(call)
        return Handler(self, call, _annotated(call) if data is None else data)

    def _around(self, call: Call) -> Call:
        for middleware in reversed(self._middleware):
            call = _wrap(middleware, call)
        return call


def _wrap(middleware: Middleware, proceed: Call) -> Call:
    def wrapped(ctx: Context, incoming: Any) -> Awaitable[Any]:
        return middleware(ctx, incoming, proceed)

    return wrapped


def _must_be_async(call: Callable[..., Any]) -> None:
    if not inspect.iscoroutinefunction(call) and not inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - an object whose call is async will do
    ):
        name = getattr(call, "__qualname__", repr(call))
        raise TypeError(f"{name} must be an async function")


def _annotated(call: Callable[..., Any]) -> Any:
    """Return T of `message: Message[T]` (or `Request[T]`), None where the annotation says nothing."""
    if not any("[" in str(hint) for hint in getattr(call, "__annotations__", {}).values()):
        return None
    try:
        hints = get_type_hints(call)
    except NameError as error:
        name = getattr(call, "__qualname__", repr(call))
        raise TypeError(
            f"{name}: the annotation cannot be resolved ({error}); name the type with `data=`"
        ) from None
    hints.pop("return", None)
    for hint in hints.values():
        if get_origin(hint) in (Message, Request):
            return get_args(hint)[0]
    return None
