"""Runs a scenario step by step, and says what it cost and whether everything came, once and in order."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from loadtest import scenario as steps
from loadtest.backend import Backend
from loadtest.generators import Generators, Members
from loadtest.histogram import Histogram
from loadtest.native import resident
from loadtest.target import machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploy.local.cluster import LocalCluster
    from loadtest.target import Target

SLICE = 0.5
"""Seconds between two looks at the counters."""

LAST = 30.0
"""Seconds at the end for what is still on its way."""


class Sample(msgspec.Struct):
    """The counters at a moment; `cpu` in seconds and `memory` in bytes by role."""

    at: float
    counts: dict[str, float]
    cpu: dict[str, float]
    memory: dict[str, int] = {}


class StepResult(msgspec.Struct):
    """What one step did. `cpu` in seconds by role, `did` what it says of itself."""

    name: str
    seconds: float
    messages: float
    cpu: dict[str, float]
    did: str = ""


class Result(msgspec.Struct):
    """All that is kept of a run. Times are histograms of µs by bucket (see loadtest.histogram)."""

    scenario: str
    title: str
    machine: str
    started: str
    connections: int
    steps: list[StepResult]
    samples: list[Sample]
    counts: dict[str, float]
    times: dict[str, dict[int, int]]
    summaries: dict[str, dict[str, float]]
    cpu: dict[str, float]
    memory: dict[str, int]
    problems: list[str]


class Run:
    """One run of a scenario against a target. `cluster` is ours to break, where there is one."""

    def __init__(
        self,
        name: str,
        scenario: steps.Scenario,
        target: Target,
        folder: Path,
        *,
        say: Callable[[str], None],
        cluster: LocalCluster | None = None,
    ) -> None:
        self._name = name
        self._scenario = scenario
        self._target = target
        self._cluster = cluster
        self._say = say
        self._folder = folder
        run = secrets.token_hex(3)
        self._members = [Members(crowd, run) for crowd in scenario.crowds]
        self._users = [each.user(n) for each in self._members for n in range(each.crowd.users)]
        self._generators = Generators(folder, target, self._members)
        self._began = time.monotonic()
        self._samples: list[Sample] = []
        self._steps: list[StepResult] = []
        self._problems: list[str] = []
        self.last = LAST

    async def run(self) -> Result:
        """Run all steps; the result says what was wrong, too."""
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        generators = self._generators
        try:
            async with Backend(self._target) as backend:
                groups = [pair for members in self._members for pair in members.groups()]
                if groups:
                    self._say(f"{len(groups)} memberships ...")
                    await backend.join(groups)
                opening, *rest = self._scenario.steps
                for step in (opening, *rest * self._scenario.rounds):
                    await self._timed(step, backend)
                await generators.load("", 0.0, 0)
                await self._rest(backend)
                self._check(backend)
            times = {what: generators.times(what) for what in ("connect", "ack", "message")}
            cpu = self._target.cpu() | {"load": generators.cpu()}
        finally:
            generators.close()
        first = self._samples[0].cpu if self._samples else {}
        return Result(
            scenario=self._name,
            title=self._scenario.title,
            machine=machine(),
            started=started,
            connections=len(self._users),
            steps=self._steps,
            samples=self._samples,
            counts=generators.counts | {"published": backend.published, "refused": backend.refused},
            times={what: histogram.counts for what, histogram in times.items()},
            summaries={what: histogram.summary() for what, histogram in times.items()},
            cpu={role: spent - first.get(role, 0.0) for role, spent in cpu.items()},
            memory={name: resident(pid) for name, pid in self._target.pids.items()},
            problems=self._problems,
        )

    async def _timed(self, step: steps.Step, backend: Backend) -> None:
        before = await self._sample()
        did = await self._step(step, backend)
        after = await self._sample()
        result = StepResult(
            name=str(step.__struct_config__.tag),
            seconds=after.at - before.at,
            messages=after.counts["messages"] - before.counts["messages"],
            cpu={role: spent - before.cpu.get(role, 0.0) for role, spent in after.cpu.items()},
            did=did,
        )
        self._steps.append(result)
        self._say(f"{result.name}: {did} ({result.seconds:.1f} s, {result.messages:,.0f} messages)")

    async def _step(self, step: steps.Step, backend: Backend) -> str:
        generators = self._generators
        match step:
            case steps.Open():
                await generators.count("again")
                opened = await generators.open()
                if opened["failed"]:
                    self._problems.append(f"{opened['failed']:.0f} connections could not be opened")
                return f"{opened['opened']:,.0f} are open after {opened['seconds']:.2f} s"
            case steps.Load():
                await generators.load(step.crowd, step.rate, step.bytes)
                await self._serve(step.seconds)
                if step.seconds:
                    await generators.load(step.crowd, 0.0, 0)
                return f"{step.rate:g} messages a second of {step.bytes} bytes"
            case steps.Publish():
                publishing = asyncio.create_task(
                    backend.publish(
                        self._users,
                        rate=step.rate,
                        seconds=step.seconds,
                        batch=step.batch,
                        size=step.bytes,
                    )
                )
                while not publishing.done():
                    await self._serve(SLICE)
                await publishing
                return f"{step.rate:g} messages a second, {step.batch} in a request"
            case steps.Cut():
                await generators.share("drop", step.share)
                return f"{step.share:.0%} of the connections"
            case steps.Kill():
                return await self._kill()
            case steps.Stall():
                await generators.share("stall", step.share)
                return f"{step.share:.0%} read nothing"
            case steps.Resume():
                await generators.each("stall 0")
                return "all read again"
            case steps.Wait():
                await self._serve(step.seconds)
                return ""
            case steps.Quiet():
                await self._rest(backend)
                return "all that was on its way"

    async def _kill(self) -> str:
        if self._cluster is None or len(self._target.websockets) < 2:
            raise ValueError("this scenario kills a node: it needs --cluster, and two access nodes")
        name = next(name for name, role in self._target.roles.items() if role == "access")
        await asyncio.to_thread(self._cluster.kill, name)
        del self._target.pids[name]
        await self._serve(SLICE)
        await self._generators.move(0)
        return name

    async def _serve(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.001:
            before = self._generators.counts
            counts = await self._generators.count(f"run {min(SLICE, left):.3f}")
            await self._sample(counts)
            rate = (counts["messages"] - before.get("messages", 0.0)) / min(SLICE, left)
            self._say(f"\r{counts['open']:,.0f} open, {rate:,.0f} messages/s, {counts['gaps']:.0f} gaps")

    async def _sample(self, counts: dict[str, float] | None = None) -> Sample:
        if counts is None:
            counts = await self._generators.count()
        cpu = self._target.cpu() | {"load": self._generators.cpu()}
        sample = Sample(time.monotonic() - self._began, counts, cpu, self._target.memory())
        self._samples.append(sample)
        return sample

    async def _rest(self, backend: Backend) -> None:
        """Wait for what is still on its way."""
        end = time.monotonic() + self.last
        while time.monotonic() < end:
            counts = self._generators.counts
            if counts["messages"] >= counts["expected"] + backend.published:
                if counts["acked"] >= counts["sent"]:
                    return
                end = min(end, time.monotonic() + 3)
            await self._serve(SLICE)

    def _check(self, backend: Backend) -> None:
        counts = self._generators.counts
        told = self._problems.append
        wanted = counts["expected"] + backend.published
        missing = wanted - counts["messages"]
        for name, what in (("gaps", "messages were skipped"), ("doubles", "messages came twice")):
            if counts[name]:
                told(f"{counts[name]:.0f} {what}")
        if backend.refused:
            told(f"{backend.refused} messages were refused by the API")
        if counts["errors"]:
            told(f"{counts['errors']:.0f} errors")
        if counts["failed"] and not self._scenario.closes:
            told(f"{counts['failed']:.0f} connections failed")
        if counts["open"] < len(self._users):
            told(f"{len(self._users) - counts['open']:.0f} connections are not open at the end")
        # A send whose connection was cut before its ack may have come through, or not.
        unsure = (counts["sent"] - counts["acked"]) * max(
            (each.crowd.size for each in self._members if each.crowd.to in ("group", "room")), default=1
        )
        if not -0.5 < missing <= unsure and not counts["resets"]:
            told(f"{wanted:.0f} messages were to come, {counts['messages']:.0f} came")


def histogram(result: Result, what: str) -> Histogram:
    """Return a histogram of a result."""
    return Histogram(result.times[what].items())
