"""The demo page in a real browser."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.embedded.cluster import Embedded
from services.embedded.demo import app
from services.embedded.routes import add_routes
from tests.browser.chromium import Browser, Tab, find_or_skip
from tests.embedded.conftest import development_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.browser

TEXTS = "[...document.querySelectorAll('#messages .body')].map((one) => one.textContent)"
STATE = "document.getElementById('state').dataset.state"


@pytest.fixture
async def page() -> AsyncIterator[str]:
    settings = development_settings()
    cluster = Embedded(settings, app=app, routes=lambda web: add_routes(web, settings))
    await cluster.start()
    yield f"http://127.0.0.1:{cluster.logic[0].details()['api']}/"
    await cluster.stop()


async def join(browser: Browser, page: str, name: str, width: int = 1200) -> Tab:
    tab = await browser.open(page, width=width)
    await tab.run("document.getElementById('name').focus()")
    await tab.write(name)
    await tab.until(f"{STATE} === 'connected'")
    await tab.until("document.getElementById('position').textContent !== ''")
    await tab.run("document.getElementById('text').focus()")
    return tab


async def picture(tab: Tab, name: str) -> None:
    """Write a screenshot where HOLDFAST_TEST_SCREENSHOTS names a folder: for eyes."""
    folder = os.environ.get("HOLDFAST_TEST_SCREENSHOTS")
    if folder:
        await tab.screenshot(Path(folder) / f"{name}.png")


async def test_two_tabs_chat_see_each_other_and_survive_a_disconnect(page: str, tmp_path: Path) -> None:
    """Two tabs chat and see each other; one is cut off by the server and misses nothing (inv 4)."""
    async with Browser(find_or_skip(), tmp_path) as browser:
        ann = await join(browser, page, "ann")
        bob = await join(browser, page, "bob", width=390)
        online = "document.querySelector('#people .dot.online') !== null"
        await asyncio.gather(ann.until(online), bob.until(online))

        await ann.write("good morning")
        await bob.until(f"{TEXTS}.includes('good morning')")
        await bob.write("morning")
        await ann.until(f"{TEXTS}.includes('morning')")
        await ann.until("document.querySelector('.pending') === null")

        await ann.click("#cut")
        await ann.until(f"{STATE} === 'waiting'")
        await bob.until("document.querySelector('#people .dot:not(.online)') !== null")
        for text in ("one", "two", "three"):
            await bob.write(text)
        await ann.write("written while away")
        assert await ann.run(f"{STATE} === 'waiting'")
        await picture(ann, "cut-off")
        await ann.until(f"{STATE} === 'connected'")
        await ann.until("document.querySelector('.note.back') !== null")
        await ann.until("document.querySelector('.pending') === null")
        await bob.until(f"{TEXTS}.includes('written while away')")
        expected = {"good morning", "morning", "one", "two", "three", "written while away"}
        for tab in (ann, bob):
            texts = await tab.run(TEXTS)
            assert sorted(texts) == sorted(expected)
            assert [text for text in texts if text in ("one", "two", "three")] == ["one", "two", "three"]
        await picture(ann, "back")

        await bob.click("#people button")
        await bob.write("just for you")
        await ann.until("document.querySelector('#people .unread') !== null")
        await ann.click("#people button")
        await ann.until(f"{TEXTS}.join() === 'just for you'")
        await bob.until("document.querySelector('.pending') === null")
        await picture(bob, "phone")
        width = await bob.run("document.documentElement.scrollWidth")
        assert width == 390, "the page is wider than the phone"
        assert browser.problems == []


async def test_a_name_that_cannot_be_is_refused_on_the_form(page: str, tmp_path: Path) -> None:
    """A name with a space does not get in, and the form says why."""
    async with Browser(find_or_skip(), tmp_path) as browser:
        tab = await browser.open(page)
        await tab.run("document.getElementById('name').removeAttribute('pattern')")
        await tab.run("document.getElementById('name').focus()")
        await tab.write("a b")
        await tab.until("document.getElementById('join-error').textContent.includes('letters')")
        assert await tab.run("document.getElementById('chat').hidden")
