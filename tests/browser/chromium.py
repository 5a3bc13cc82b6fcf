"""A headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from deploy.local.process import Unavailable
from deploy.tools.programs import chromium
from tests.unavailable import without

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-background-timer-throttling",
    "--remote-debugging-port=0",
)


def find_or_skip() -> str:
    """Return the browser's path: found or installed, else skip (fail in CI)."""
    try:
        return chromium()
    except Unavailable as error:
        why = f"{error.why}; or set HF_LOCAL_CHROMIUM to its path"
        without(why)


class Browser:
    """One browser process with a profile of its own, in `folder`."""

    def __init__(self, path: str, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.problems: list[str] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            self._path,
            *FLAGS,
            f"--user-data-dir={self._folder}",
            "about:blank",
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        port_file = self._folder / "DevToolsActivePort"
        await until(lambda: port_file.exists() and "\n" in port_file.read_text(), "the browser to start", 60)
        port, path = port_file.read_text().split("\n")[:2]
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0)
        self._reader = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()
        await self._session.close()
        self._process.terminate()
        await self._process.wait()

    async def _read(self) -> None:
        async for message in self._socket:
            answer = message.json()
            if (waiting := self._answers.pop(answer.get("id"), None)) is not None:
                if not waiting.done():
                    waiting.set_result(answer)
            elif answer.get("method") == "Runtime.exceptionThrown":
                self.problems.append(str(answer["params"]["exceptionDetails"]))
            elif answer.get("method") == "Log.entryAdded":
                entry = answer["params"]["entry"]
                if entry["level"] == "error":
                    self.problems.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, session: str = "", **params: Any) -> Any:
        number = next(self._ids)
        self._answers[number] = waiting = asyncio.get_running_loop().create_future()
        more = {"sessionId": session} if session else {}
        await self._socket.send_json({"id": number, "method": method, "params": params} | more)
        answer = await asyncio.wait_for(waiting, 30)
        assert "error" not in answer, answer
        return answer["result"]

    async def open(self, url: str, *, width: int = 1200, height: int = 800) -> Tab:
        """Open a page in a new tab of a given size."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await tab.call("Page.navigate", url=url)
        await tab.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def call(self, method: str, **params: Any) -> Any:
        return await self._browser.call(method, self._session, **params)

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, script: str, seconds: float = 15.0) -> None:
        """Wait until a JavaScript expression is true."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await self.run(script):
            if loop.time() > end:
                page = await self.run("document.body.innerText")
                raise AssertionError(f"not within {seconds} s: {script}\n{page}")
            await asyncio.sleep(0.03)

    async def screenshot(self, path: Path) -> None:
        """Write a PNG of what is seen."""
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        path.write_bytes(base64.b64decode(data))

    async def write(self, text: str) -> None:
        """Type into the focused field and press Enter."""
        await self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            more: dict[str, Any] = {"text": "\r"} if kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, **more
            )

    async def click(self, selector: str) -> None:
        """Click the middle of an element, as a person does."""
        box = await self.run(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1
            )


async def until(ready: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not ready():
        if loop.time() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        await asyncio.sleep(0.03)
