"""The keys of an identity provider: fetched from its JWKS, kept while it is away, new ones looked up.

One task of a process fetches: every `auth.jwks_refresh` seconds, and sooner where a token names a key that is
not known, but never more often than every `auth.jwks_pause` seconds, whatever tokens strangers make up. What
cannot be fetched or read changes nothing: the last good keys stay.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp

from holdfast import tls
from holdfast.auth.keys import Key, from_jwks
from holdfast.clock import within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.clock import Clock
    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Auth

FETCH_SECONDS: Final = 5.0
FIRST_DELAY: Final = 0.5
"""Seconds before a fetch that failed is tried again; it doubles, up to the pause."""

MAX_BYTES: Final = 256 * 1024
"""Bytes of a JWKS, at most."""

MAX_ASKED: Final = 64
"""Unknown names of keys that are remembered; the oldest is forgotten, and asked for anew if it comes."""

_log = logging.getLogger(__name__)


class Jwks:
    """The keys as they were last fetched. `fetched` is when that fetch began (monotonic), None before any."""

    def __init__(
        self,
        settings: Auth,
        clock: Clock,
        metrics: Metrics,
        *,
        fetch: Callable[[], Awaitable[bytes]] | None = None,
    ) -> None:
        """Fetch nothing yet. Raises Stop, naming the setting, for an authority that cannot be read."""
        self.keys: tuple[Key, ...] = ()
        self.fetched: float | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._url = settings.jwks_url
        self._refresh = settings.jwks_refresh
        self._pause = settings.jwks_pause
        self._clock = clock
        self._metrics = metrics
        self._fetched, self._failed = map(metrics.auth_jwks_fetches.labels, ("fetched", "failed"))
        secure = urlsplit(self._url).scheme == "https"
        self._trust = tls.client("auth", tls.Files(authority=settings.tls_authority)) if secure else None
        self._fetch = fetch or self._get
        self._asked: collections.OrderedDict[str, float] = collections.OrderedDict()
        self._text = b""
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fetch."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def may_come(self, name: str) -> bool:
        """Take notice of a token whose key is not known; True: whether it exists is being looked up.

        False where a fetch that began after the name was first seen did not bring it.
        """
        now = self._clock.monotonic()
        asked = self._asked.get(name)
        if asked is not None and self.fetched is not None and self.fetched >= asked:
            if now - self.fetched < self._pause:
                return False
            asked = None  # much may have changed since
        if asked is None:
            self._asked[name] = now
            self._asked.move_to_end(name)
            if len(self._asked) > MAX_ASKED:
                self._asked.popitem(last=False)
        self._wanted.set()
        return True

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            self._wanted.clear()
            began = self._clock.monotonic()
            if await self._try():
                self.fetched = began
                delay, rest = FIRST_DELAY, self._refresh
                await self._clock.sleep(max(began + self._pause - self._clock.monotonic(), 0.0))
            else:
                await self._clock.sleep(min(delay, self._pause))
                delay, rest = delay * 2, 0.0
            with contextlib.suppress(TimeoutError):
                left = began + rest - self._clock.monotonic()
                if left > 0:
                    await within(self._clock, left, self._wanted.wait())

    async def _try(self) -> bool:
        """Fetch once; tell whether that went well."""
        try:
            self._take(await within(self._clock, FETCH_SECONDS, self._fetch()))
        except Exception as error:  # noqa: BLE001 - whatever an issuer answers, the next fetch comes
            self._failed.inc()
            why = str(error) or type(error).__name__
            _log.warning(
                "auth.jwks_url: no keys were fetched, %d from before stay in use: %s", len(self.keys), why
            )
            return False
        self._fetched.inc()
        return True

    def _take(self, text: bytes) -> None:
        if text == self._text:
            return
        self.keys = from_jwks(text)
        self._text = text
        self._metrics.auth_jwks_keys.set(len(self.keys))
        self.on_change()
        _log.info("the keys of the JWKS changed", extra={"kids": [key.name for key in self.keys]})

    async def _get(self) -> bytes:
        connector = aiohttp.TCPConnector(ssl=self._trust.context if self._trust is not None else False)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"the address answered {answer.status}")
            text = bytearray()
            async for piece in answer.content.iter_any():
                text += piece
                if len(text) > MAX_BYTES:
                    raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return bytes(text)
