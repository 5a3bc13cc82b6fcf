"""Registering handlers, and refusing: what is wrong is said when the module is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast.app import App, Message, Refuse, Request

NO_CONTEXT: Any = None


class Text(msgspec.Struct):
    text: str


async def nothing(ctx, message):
    """Do nothing."""


def test_a_type_has_one_handler():
    """Two handlers of one type are a mistake, told at once."""
    app = App()
    app.on("a")(nothing)
    app.on_request("a")(nothing)
    with pytest.raises(ValueError, match="'a' have a handler already"):
        app.on("a")(nothing)
    with pytest.raises(ValueError, match="'a' have a handler already"):
        app.on_request("a")(nothing)


def test_handlers_are_async():
    """A plain function would block every sender: it is refused."""
    app = App()

    def plain(ctx, message):
        """Not async."""

    for register in (
        app.on("a"),
        app.on_request("a"),
        app.on_connect,
        app.on_disconnect,
        app.middleware,
    ):
        with pytest.raises(TypeError, match="plain must be an async function"):
            register(plain)


async def test_an_object_whose_call_is_async_will_do():
    """Handlers may carry state of their own."""

    class Counter:
        async def __call__(self, ctx, message):
            return 1

    app = App()
    app.on("a")(Counter())
    assert await app.sends["a"](NO_CONTEXT, None) == 1


def test_the_type_of_data_is_taken_from_the_annotation_or_told():
    """`Message[T]`, `Request[T]` and `data=T` are the same."""
    app = App()

    @app.on("a")
    async def a(ctx, message: Message[Text]) -> None:
        """Typed by its annotation."""

    @app.on_request("b")
    async def b(ctx, request: Request[list[int]]) -> list[str]:
        return []

    @app.on("c", data=Text)
    async def c(ctx, message):
        """Typed by the decorator."""

    @app.on("d")
    async def d(ctx, message: Message) -> dict[str, int]:
        return {}

    assert app.sends["a"].decode(b'{"text":"x"}') == Text("x")
    assert app.requests["b"].decode(b"[1]") == [1]
    assert app.sends["c"].typed
    assert not app.sends["d"].typed


def test_an_annotation_that_cannot_be_resolved_is_refused():
    """A type that was meant and not found must not be left unchecked in silence."""

    class Local(msgspec.Struct):
        text: str

    async def handler(ctx, message: Message[Local]):
        """Typed by a class that only this function sees."""

    with pytest.raises(TypeError, match="data="):
        App().on("a")(handler)


async def test_middleware_cannot_come_too_late():
    """Registered after the first message it would not run: refused."""
    app = App()
    app.on("a")(nothing)
    await app.sends["a"](NO_CONTEXT, None)

    async def late(ctx, incoming, proceed):
        """Too late."""

    with pytest.raises(RuntimeError, match="before the first message"):
        app.middleware(late)


def test_refusals():
    """One argument is the sentence, two code and sentence; codes that end connections are the server's."""
    assert (Refuse("no").code, str(Refuse("no"))) == ("rejected", "no")
    assert (Refuse("too_rude", "no").code, str(Refuse("too_rude", "no"))) == ("too_rude", "no")
    for code in ("unauthorized", "Too Rude", "", "a" * 65):
        with pytest.raises(ValueError, match="code of a refusal"):
            Refuse(code, "no")


def test_data_is_decoded_once_and_only_when_asked_for():
    """A handler that only forwards never pays for decoding."""
    decoded = []

    def decode(raw: bytes) -> str:
        decoded.append(raw)
        return raw.decode()

    message = Message(
        id="m", user="u", type="t", raw=b"1", ts=1, session="s", device="", decode=decode, to="user:u",
        client="c", n=1,
    )  # fmt: skip
    assert decoded == []
    assert message.raw == b"1"
    assert (message.data, message.data) == ("1", "1")
    assert len(decoded) == 1
    assert "m" in repr(message)


def test_the_package_offers_what_authors_use():
    """`from holdfast import App` works, and importing the package alone loads nothing of it."""
    for name in holdfast.__all__:
        assert getattr(holdfast, name)
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = holdfast.Nonsense
    code = "import sys, holdfast; print(any(name.startswith('msgspec') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
