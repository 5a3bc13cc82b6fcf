"""What is done to the cluster under load, and what is claimed of each step."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from chaos import report
from tests.k8s.e2e.claims import Claims
from tests.k8s.e2e.cluster import ROLES, SPACE
from tests.k8s.e2e.load import LISTENING, MORE, SPREAD, TALKING, Load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from chaos.ledger import Kind
    from tests.k8s.e2e.cluster import Cluster

WINDOW: Final = 5.0
"""Seconds over which the rate of reconnects is taken."""
BRIEF: Final = 2.0
"""The same where all clients of a pod come at once."""
SHARE: Final = 0.5
"""Of an equal share of all clients, what the emptiest pod is to have."""
STEPS: Final = ("upgrade", "balancer", "kill", "drain", "hpa", "keda")


class Run:
    """See the module."""

    def __init__(self, cluster: Cluster, folder: Path, only: Sequence[str], *, keda: bool) -> None:
        self.cluster = cluster
        self.folder = folder
        self.claims = Claims()
        self.told: list[str] = []
        self._steps = [name for name in STEPS if (not only or name in only) and (keda or name != "keda")]

    async def go(self) -> bool:
        """Do all steps; `told` has the tables then. Returns whether every claim holds."""
        self.load = load = Load(self.cluster, self.folder)
        settings = await asyncio.to_thread(self._settings)
        rates = ("HOLDFAST_ACCESS_DRAIN_RATE", "HOLDFAST_ACCESS_REBALANCE_RATE")
        self.rate = sum(int(settings[name]) for name in rates)
        try:
            await load.start()
            people = TALKING + LISTENING
            self.claims.claim("start", "clients connect through HAProxy", f"{people} of {people}", True)
            self.cluster.say(f"{people} clients are there; 15 s of quiet")
            await asyncio.sleep(15.0)
            for name in self._steps:
                self.cluster.say(name)
                await self._step(name, getattr(self, f"_{name}"))
            self.cluster.say("waiting until everything has come")
            await load.finish()
        finally:
            await load.end()
        self._messages()
        lines = [
            *report.delays(load.ledger),
            "",
            *report.slowest(load.ledger),
            "",
            *report.totals(load.ledger),
            "",
            *self.claims.told(),
        ]
        broken = list(report.violations(load.ledger, []))
        (self.folder / "violations.txt").write_text("\n".join(broken) + "\n")
        (self.folder / "report.txt").write_text("\n".join(lines) + "\n")
        self.told = [*lines, "", *broken[: report.SHOWN]]
        return self.claims.kept

    async def _step(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.load.note(f"=== {name}")
        try:
            await work()
            took = await self.load.until(self.load.all_here, 60.0)
            self.load.note(f"=== {name} done; all clients there after {took:.1f} s")
        except Exception as error:  # noqa: BLE001 - the table says so
            (self.folder / f"{name}.trace").write_text(traceback.format_exc())
            self.claims.claim(name, "it comes to an end", f"{type(error).__name__}: {error}"[:100], False)

    # steps

    async def _upgrade(self) -> None:
        """Another image for one service after the other, as docs/upgrading.md has it."""
        for role in ROLES:
            begin = self.load.now()
            await asyncio.to_thread(self.cluster.release, role, "two")
            rolled_out = partial(self.cluster.rolled_out, role)
            fewest = await self._watched(role, self.load.until(rolled_out, 400.0))
            took = self.load.now() - begin
            self.cluster.say(f"  {role} is rolled out")
            self.claims.claim(f"upgrade {role}", "rolled out", f"{took:.0f} s", True)
            self.claims.claim(
                f"upgrade {role}", "never fewer ready than before", f"at least {fewest}", fewest >= 2
            )
            if role == "access":
                moved = self.load.connects(begin)
                people = TALKING + LISTENING
                self.claims.claim("upgrade access", "clients were moved", moved, moved >= people)
                self._rate("upgrade access", begin)

    async def _balancer(self) -> None:
        """The only balancer is replaced, which cuts everybody at once."""
        begin = self.load.now()
        await asyncio.to_thread(self.cluster.restart, "balancer")
        await self.load.until(partial(self.cluster.rolled_out, "balancer"), 200.0)
        took = self.load.now() - begin
        self.claims.claim("balancer", "rolled out on the only node", f"{took:.0f} s", True)
        took = await self.load.until(self.load.all_here, 120.0)
        self.claims.claim("balancer", "everybody is there again", f"{took:.0f} s later", True)
        await self._storm("balancer", begin)

    async def _kill(self) -> None:
        """The process of one pod of each service, killed."""
        for role in ROLES:
            begin = self.load.now()
            await asyncio.to_thread(self.cluster.kill, role)
            took = await self.load.until(partial(self._has, role, 2), 120.0)
            self.claims.claim(f"kill {role}", "ready again", f"{took:.0f} s after its start", True)
            if role == "access":
                await self.load.until(self.load.all_here, 60.0)
                await self._storm("kill access", begin)

    async def _drain(self) -> None:
        """The only node is closed and emptied: the budgets hold the last pods until there is room again."""
        cluster = self.cluster
        begin = self.load.now()
        before = {role: await asyncio.to_thread(cluster.ready, role) for role in ROLES}
        process = await asyncio.to_thread(cluster.drain)
        watching = {role: asyncio.ensure_future(self._watch(role)) for role in ROLES}
        try:
            await asyncio.sleep(30.0)
            left = {role: [p for p in before[role] if p in await self._ready(role)] for role in ROLES}
            held = all(len(pods) == 1 for pods in left.values())
            counts = ", ".join(f"{role} {len(pods)}" for role, pods in left.items())
            self.claims.claim("drain", "a full node: budgets keep one pod of each", counts, held)
            answers = {role: await asyncio.to_thread(cluster.evict, left[role][0]) for role in ROLES}
            self.claims.claim(
                "drain", "eviction of the last one is refused", answers, set(answers.values()) == {429}
            )
            await asyncio.to_thread(cluster.uncordon)
            told, _ = await asyncio.to_thread(process.communicate, timeout=300)
        finally:
            process.kill()
            await asyncio.to_thread(cluster.uncordon)
            fewest = {role: await self._stop(task) for role, task in watching.items()}
        (self.folder / "drain.txt").write_text(told)
        self.claims.claim(
            "drain", "kubectl drain ends", f"exit status {process.returncode}", process.returncode == 0
        )
        self.claims.claim("drain", "never fewer ready than budgets say", fewest, min(fewest.values()) >= 1)
        gone = [pod for role in ROLES for pod in before[role] if pod in await self._ready(role)]
        self.claims.claim("drain", "every pod was moved", f"{len(gone)} are left", not gone)
        await self.load.until(lambda: all(self._has(role, 2) for role in ROLES), 120.0)
        self._rate("drain", begin)

    async def _hpa(self) -> None:
        """More clients than the pods of access are for."""
        begin = self.load.now()
        before = len(await self._ready("access"))
        await self.load.grow()
        await self.load.until(partial(self._has, "access", before + 1), 180.0)
        took = self.load.now() - begin
        people = TALKING + LISTENING + MORE
        what = f"{people} sessions are too many for {before} pods: one more"
        self.claims.claim("hpa", what, f"{took:.0f} s", True)
        took = await self.load.until(lambda: self._least() >= SHARE * people / (before + 1), 180.0)
        sessions = sorted((await asyncio.to_thread(self.cluster.sessions)).values())
        self.claims.claim("hpa", "the new pod has its share", f"{took:.0f} s, {sessions}", True)
        self._rate("hpa", begin)

    async def _keda(self) -> None:
        """More messages than logic gets done at once."""

        async def flood() -> None:
            while True:
                await self.load.burst(50)
                await asyncio.sleep(1.0)

        before = len(await self._ready("logic"))
        limit = await asyncio.to_thread(self.cluster.lag_limit, "logic")
        flooding = asyncio.ensure_future(flood())
        lags = [0]

        def scaled() -> bool:
            lags.append(self.cluster.lag("logic"))
            return self._has("logic", before + 1)

        try:
            took = await self.load.until(scaled, 180.0)
        finally:
            flooding.cancel()
        what = f"a lag above {limit} for each pod of logic: more than {before} pods"
        self.claims.claim("keda", what, f"up to {max(lags)}, {took:.0f} s", max(lags) > limit)

    # looking

    def _least(self) -> int:
        return min(self.cluster.sessions().values())

    def _has(self, role: str, pods: int) -> bool:
        return len(self.cluster.ready(role)) >= pods

    async def _ready(self, role: str) -> list[str]:
        return await asyncio.to_thread(self.cluster.ready, role)

    async def _watched(self, role: str, work: Awaitable[Any]) -> int:
        """Do something; return the fewest ready pods of a service meanwhile."""
        task = asyncio.ensure_future(self._watch(role))
        try:
            await work
        finally:
            fewest = await self._stop(task)
        return fewest

    async def _watch(self, role: str) -> int:
        fewest = len(await self._ready(role))
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                fewest = min(fewest, len(await self._ready(role)))
                await asyncio.sleep(0.5)
        return fewest

    async def _stop(self, task: asyncio.Future[int]) -> int:
        task.cancel()
        return await task

    async def _storm(self, step: str, begin: float) -> None:
        """Claim that clients who were cut at once came back no faster than the balancer lets them."""
        limit = await asyncio.to_thread(self._accepts)
        most = self.load.most_connects(begin, BRIEF)
        bound = int(limit * (BRIEF + 1.0))  # HAProxy takes those of one second at once
        what = f"reconnects in any {BRIEF:.0f} s: at most {bound} (HAProxy: {limit} a second)"
        self.claims.claim(step, what, most, 0 < most <= bound)

    def _rate(self, step: str, begin: float) -> None:
        """Claim that clients came back no faster than they are sent away."""
        bound = int(self.rate * (WINDOW + SPREAD))
        most = self.load.most_connects(begin, WINDOW)
        what = f"reconnects in any {WINDOW:.0f} s: at most {bound} ({self.rate} a second)"
        self.claims.claim(step, what, most, most <= bound)

    def _settings(self) -> dict[str, str]:
        for found in self.cluster.api.get(f"/api/v1/namespaces/{SPACE}/configmaps")["items"]:
            if found["metadata"]["name"].startswith("holdfast-settings"):
                data: dict[str, str] = found["data"]
                return data
        raise LookupError("there are no settings")

    def _accepts(self) -> int:
        pod = self.cluster.deployment("balancer")["spec"]["template"]["spec"]
        (value,) = (e["value"] for e in pod["containers"][0]["env"] if e["name"] == "BALANCER_ACCEPTS")
        return int(value)

    def _messages(self) -> None:
        ledger = self.load.ledger
        counts = ledger.counts
        self.claims.claim("messages", "the load was there", f"{counts['acked']} acked", counts["acked"] > 500)
        kinds: tuple[Kind, ...] = ("lost", "doubled", "reordered", "failed")
        for kind in kinds:
            count = ledger.count(kind)
            self.claims.claim("messages", f"0 {kind}", count, count == 0)
