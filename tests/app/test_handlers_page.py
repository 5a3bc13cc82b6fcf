"""docs/handlers.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.testing import Cluster

if TYPE_CHECKING:
    from holdfast.app import App

PAGE = Path(__file__).parents[2] / "docs" / "handlers.md"


@pytest.fixture
def app() -> App:
    text = PAGE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    page: dict[str, Any] = {"__name__": "handlers_page"}
    exec(compile(code, str(PAGE), "exec"), page)  # the page's own examples
    made: App = page["app"]
    return made


async def test_messages_are_checked_changed_and_counted(app: App):
    """The first example: typed data, a refusal, a changed message, and one to another channel."""
    async with Cluster(app) as cluster:
        alice, bob = await cluster.connect("alice"), await cluster.connect("bob")
        await bob.subscribe("room:statistics")
        await alice.send("user:bob", "chat.text", {"text": "  hi "})
        got = await bob.receive(type="chat.text")
        assert (got.data, got.sender) == ({"text": "hi"}, "alice")
        counted = await bob.receive(type="chat.counted")
        assert (counted.data, counted.sender) == ({"characters": 5}, None)
        for data, code in (({"text": "x" * 501}, "too_long"), ({"text": 5}, "bad_request")):
            await alice.send("user:bob", "chat.text", data)
            assert (await alice.receive_error()).code == code
        await alice.send("group:secret", "chat.text", {"text": "hi"})
        assert (await alice.receive_error()).code == "forbidden"


async def test_requests_sessions_and_middleware(app: App):
    """The examples of requests, sessions and middleware."""
    async with Cluster(app) as cluster:
        alice = await cluster.connect("alice")
        await alice.subscribe("room:door")
        bob = await cluster.connect("bob")
        assert (await alice.receive(type="came")).data["user"] == "bob"
        await bob.send("user:alice", "chat.text", {"text": "hello"})
        await alice.receive(type="chat.text")
        assert await alice.request("chat.latest", "user:alice") == ["hello"]
        await bob.close()
        assert (await alice.receive(type="went")).data["user"] == "bob"


@pytest.mark.parametrize(
    "name",
    ["publish", "forward", "reply", "join", "leave", "presence", "history", "may_send", "log", "now"],
)
def test_everything_a_context_offers_is_on_the_page(name: str):
    """What the page leaves out is not found."""
    from holdfast.app import Context

    assert hasattr(Context, name) or name in Context.__slots__
    assert f"ctx.{name}" in PAGE.read_text(encoding="utf-8")
