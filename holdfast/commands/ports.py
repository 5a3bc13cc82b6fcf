"""The ports as commands use them: of the settings' own servers, read and not written.

A command works in any pod of the cluster, whichever services still live: it asks Kafka, Redis and the
membership store themselves, as their settings name them, and no service.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.errors import Retry
from holdfast.membership.watchers import ROLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from holdfast.clock import Clock
    from holdfast.log.port import Log
    from holdfast.membership.port import Node
    from holdfast.parts import Parts

LOOKS = 0.25
"""Seconds between two looks at the beats."""

PATIENCE = 5.5
"""Seconds of looking without movement until a node counts as dead: `liveness.DEAD_AFTER`, and a look."""

_MARK = 13
"""Characters at the end of an incarnation that are not the node's name."""


def registered(ports: Parts, beating: Collection[str]) -> Sequence[Node]:
    """Return every process that the membership store knows, by role.

    A file (`membership.kind = "static"`) knows no incarnations: they are looked for by name in what beats.
    """
    known: list[Node] = []
    for node in (node for role in ROLES for node in ports.directory.nodes(role)):
        named = [one for one in beating if one[:-_MARK] == node.name] if not node.incarnation else []
        known += [msgspec.structs.replace(node, incarnation=one) for one in named] or [node]
    return known


def run(
    options: argparse.Namespace, work: Callable[[Parts, argparse.Namespace], Awaitable[int]], *needs: str
) -> int:
    """Do a command's work with the ports it `needs`, of `bus`, `log` and `directory`; return its exit status.

    Raises Stop for wrong settings, and Retry where a server is away.
    """
    from holdfast.process import run_loop  # noqa: PLC0415 - uvloop and the adapters, only where used

    return run_loop(_with_ports(options, work, needs))


async def _with_ports(
    options: argparse.Namespace,
    work: Callable[[Parts, argparse.Namespace], Awaitable[int]],
    needs: Sequence[str],
) -> int:
    from holdfast.observe.metrics import Metrics  # noqa: PLC0415
    from holdfast.process import make_parts  # noqa: PLC0415
    from holdfast.settings_load import load  # noqa: PLC0415

    settings = load(options.config)
    # Who looks creates nothing: a wrong prefix is to be seen as one.
    kafka = msgspec.structs.replace(settings.kafka, create_topics=False)
    settings = msgspec.structs.replace(settings, kafka=kafka)
    ports = make_parts(settings, Metrics())
    used: list[Any] = [getattr(ports, need) for need in needs]
    try:
        for need in needs:
            await _start(getattr(ports, need), _NAMES[need].format(settings.consul.address))
        return await work(ports, options)
    finally:
        for port in used:
            await port.close()


_NAMES: Mapping[str, str] = {
    "bus": "",
    "log": "Redis (redis.url) is away: ",
    "directory": "the membership store (membership.kind; Consul would be at {}) is away: ",
}


async def _start(port: Any, name: str) -> None:
    try:
        await port.start()
    except Retry as error:
        raise Retry(f"{name}{error}") from error


async def moving(log: Log, clock: Clock, wanted: Sequence[str], patience: float = PATIENCE) -> set[str]:
    """Return which of these incarnations live: those whose beat moves while this looks.

    It returns as soon as all have, after about a second; else after `patience` s. Time counts only while
    Redis answers. Raises Retry when it does not answer at all.
    """
    left, alive = set(wanted), set[str]()
    first: list[dict[str, int] | None] = [None] * log.partitions
    looked, at = 0.0, clock.monotonic()
    silent = 0
    while left and looked < patience:
        found = await asyncio.gather(
            *(log.beats(shard) for shard in range(log.partitions)), return_exceptions=True
        )
        now = clock.monotonic()
        heard = False
        for shard, counts in enumerate(found):
            if isinstance(counts, Retry):
                continue
            if isinstance(counts, BaseException):
                raise counts
            heard = True
            before = first[shard]
            if before is None:
                first[shard] = counts
            else:
                alive |= {node for node in left if node in counts and counts[node] != before.get(node)}
        if heard:
            looked += now - at
        else:
            silent += 1
            if silent > 3:
                raise next(error for error in found if isinstance(error, Retry))
        at = now
        left -= alive
        if left:
            await clock.sleep(LOOKS)
    return alive
