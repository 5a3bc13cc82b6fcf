"""Commands of an operator on the cluster of `holdfast.testing`, and what they answer."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import pytest

    from holdfast.parts import Parts
    from holdfast.testing import Cluster

    Work = Callable[[Parts, argparse.Namespace], Coroutine[Any, Any, int]]

DEFAULTS: dict[str, Any] = {
    "json": False,
    "wait": False,
    "force": False,
    "lines": 10,
    "follow": False,
    "since": 600,
    "user": "",
    "channel": "",
}


class Operator:
    """Runs commands beside a cluster, with ports of their own, as a process of its own would have."""

    def __init__(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
        self.cluster = cluster
        self._capsys = capsys
        self.notes = ""
        self.works = False

    def ports(self) -> Parts:
        """Return what a command works with."""
        parts: Parts = self.cluster.embedded.parts()
        return parts

    async def run(self, work: Work, *, ports: Parts | None = None, **options: Any) -> tuple[int, str]:
        """Run a command to its end, moving the clock; return its status and its answer."""
        self._capsys.readouterr()
        given = argparse.Namespace(**DEFAULTS | options)
        status = await self.cluster._driving.run(work(ports or self.ports(), given), 60.0, "a command")
        told = self._capsys.readouterr()
        self.notes = told.err
        return status, told.out

    async def json(self, work: Work, **options: Any) -> Any:
        """Run a command to its end; return its answer as a program reads it."""
        return msgspec.json.decode((await self.run(work, json=True, **options))[1])

    def begin(self, work: Work, **options: Any) -> asyncio.Task[int]:
        """Begin a command that goes on."""
        given = argparse.Namespace(**DEFAULTS | options)
        return asyncio.ensure_future(work(self.ports(), given))
