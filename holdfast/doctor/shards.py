"""The shards in Redis: whether each has a dispatcher that gets on, and fits the settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from holdfast.doctor.finding import Findings
from holdfast.doctor.spans import spans
from holdfast.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.clock import Clock
    from holdfast.doctor.finding import Finding
    from holdfast.log.port import Log, ShardState

LOOK_SECONDS: Final = 3.0
"""Seconds between two looks: an idle owner applies something once in `dispatch.idle`."""


async def look(log: Log, idle: float, clock: Clock) -> Sequence[Finding]:
    """Look at all shards twice. `idle` is `dispatch.idle`; `log` need not be started."""
    findings = Findings("shards")
    try:
        first = await _states(log)
        await clock.sleep(max(LOOK_SECONDS, 3 * idle))
        _compare(findings, first, await _states(log), log.partitions)
    except Retry as error:
        findings.unknown("all", str(error))
    return findings.all


async def _states(log: Log) -> Sequence[ShardState]:
    return await asyncio.gather(*(log.state(shard) for shard in range(log.partitions)))


def _compare(
    findings: Findings, first: Sequence[ShardState], then: Sequence[ShardState], partitions: int
) -> None:
    other = sorted({state.partitions for state in then} - {0, partitions})
    if other:
        findings.wrong(
            "partitions",
            f"made for {other[0]} partitions, kafka.partitions is {partitions}",
            f"set kafka.partitions to {other[0]}, or give redis.prefix another value",
        )
    unowned = [shard for shard, state in enumerate(then) if not state.owner]
    still = [
        shard
        for shard, (was, now) in enumerate(zip(first, then, strict=True))
        if now.owner and (now.owner, now.moved) == (was.owner, was.moved)
    ]
    rebuilding = [shard for shard, state in enumerate(then) if state.owner and state.rebuilding]
    if unowned:
        findings.wrong(
            spans(unowned),
            "no dispatcher has them",
            "start dispatch, or look at its log: messages wait in Kafka",
        )
    if still:
        owners = ", ".join(sorted({then[shard].owner for shard in still}))
        findings.wrong(
            spans(still),
            f"their dispatcher does not get on ({owners})",
            "look at its log; where it is dead, another one follows within 5 s",
        )
    if rebuilding:
        left = sum(max(0, then[shard].until - then[shard].watermark.offset) for shard in rebuilding)
        findings.advice(
            spans(rebuilding),
            f"being rebuilt from Kafka, {left} records to go",
            "wait; docs/runbook.md, HoldfastShardRebuilding, says for how long",
        )
    if not (unowned or still or rebuilding or other):
        owners = ", ".join(sorted({state.owner for state in then}))
        findings.good(spans(range(len(then))), f"each has a dispatcher that gets on ({owners})")
