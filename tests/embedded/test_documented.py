"""The README and the pages for client and handler authors do what they say."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.auth.issue import issue

if TYPE_CHECKING:
    from tests.embedded.conftest import Running

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str = "python") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def marked(name: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, name
    return found[1]


async def test_readme_script_and_curl(running: Running) -> None:
    """The README's `websockets` script prints its own message, and then what the README's curl publishes."""
    script = running.localized(marked("script"))
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd="/"
    )
    assert reader.stdout is not None
    try:
        await seen(reader.stdout, {"text": "hi", "to": "room:lobby"})
        curl = await asyncio.create_subprocess_shell(
            running.localized(marked("curl")) + " --silent --show-error", stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await curl.communicate()
        assert json.loads(answer)["id"]
        await seen(reader.stdout, {"text": "hello from curl"})
    finally:
        reader.kill()
        await reader.wait()


async def seen(stream: asyncio.StreamReader, data: Any) -> None:
    """Read the script's output until a message with this data."""
    async with asyncio.timeout(20):
        while line := await stream.readline():
            frame = json.loads(line)
            if frame["t"] == "message" and frame["data"] == data:
                return
    raise AssertionError("the script ended")


async def test_readme_handler_and_its_test() -> None:
    """The README's handler passes the README's test."""
    names: dict[str, Any] = {}
    exec(marked("app") + marked("handler"), names)
    await names["test_bob_gets_what_alice_writes"]()


def _testing_page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks("docs/testing.md"):
        exec(block, names)
    return names


@pytest.mark.parametrize("name", [name for name in _testing_page() if name.startswith("test_")])
async def test_testing_page(name: str) -> None:
    """Every example of docs/testing.md passes."""
    await _testing_page()[name]()


@pytest.mark.parametrize("number", range(len(blocks("docs/client.md"))))
async def test_client_page(running: Running, number: int) -> None:
    """Every example of docs/client.md runs against the embedded cluster."""
    names: dict[str, Any] = {}
    exec("import asyncio\nfrom holdfast.client import Client\n", names)
    exec(running.localized(blocks("docs/client.md")[number]), names)
    now = running.cluster.clock.now_ms()
    token, _ = issue(running.cluster.settings.auth, "ann", now)
    async with asyncio.timeout(20):
        await names["main"](token)
