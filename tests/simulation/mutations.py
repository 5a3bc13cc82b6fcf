"""`python -m tests.simulation.mutations`: break the code on purpose, and count the seeds until it is noticed.

Each mutation replaces a piece of one function's text while it runs; nothing is written. One that is not
noticed within the limit is a hole in the search. The table goes to docs/simulation.md.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import textwrap
from typing import Any, Final, NamedTuple

if __name__ == "__main__" and os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation.mutations", *sys.argv[1:]])

from tests.simulation.plan import DEFAULT
from tests.simulation.search import many


class Mutation(NamedTuple):
    """In the function `where` (module:qualified name), `old` becomes `new`."""

    invariant: int
    what: str
    where: str
    old: str
    new: str


MUTATIONS: Final = (
    Mutation(
        1,
        "access acks a send whose produce failed",
        "services.access.produce:Produce._sent",
        "if self._told(future):",
        "if self._told(future) and False:",
    ),
    Mutation(
        2,
        "logic commits what it put out before that is durable",
        "services.logic.partition:Partition.settle",
        "if item.outputs is None or not _durable(item.outputs):",
        "if item.outputs is None:",
    ),
    Mutation(
        3,
        "the shard does not look whether a source was applied before",
        "holdfast.log.shard:Shard._append",
        "if before is not None and (",
        "if False and (",
    ),
    Mutation(
        3,
        "the shard applies again what is at or below its watermark",
        "holdfast.log.shard:Shard._place",
        "if record.offset <= done:",
        "if False:",
    ),
    Mutation(
        4,
        "access takes a push that does not follow as if it did",
        "services.access.delivery:Delivery.push",
        "if seq == channel.seq + 1 and",
        "if seq > channel.seq and",
    ),
    Mutation(
        4,
        "access does not ask what it missed when a chain is broken",
        "services.access.links:Links.push",
        "if missed:",
        "if False:",
    ),
    Mutation(
        4,
        "a subscriber who comes back goes on at the head, and is told that it missed nothing",
        "services.access.joins:Joins.start",
        "return Start(epoch, since.seq, recovered=True)",
        "return Start(epoch, head, recovered=True)",
    ),
    Mutation(
        5,
        "a subscriber reads the log before its route is recorded",
        "services.access.joins:Joins.begin",
        "if channel.routed:",
        "if True:",
    ),
    Mutation(
        6,
        "every incarnation counts as alive",
        "holdfast.log.liveness:Liveness.alive",
        "return self._looked - moved < DEAD_AFTER",
        "return True",
    ),
    Mutation(
        8,
        "the shard takes what a superseded dispatcher applies",
        "holdfast.log.shard:Shard.apply",
        "if not batch.owner or batch.owner != self.owner:",
        "if False:",
    ),
    Mutation(
        2,
        "logic does not go back to what is durable after an output failed",
        "services.logic.outbox:Outbox.failed",
        "if not self._broken:",
        "if False:",
    ),
    Mutation(
        9,
        "the shard does not notice that it has lost writes",
        "holdfast.log.shard:Shard.apply",
        "if other or found.offset < batch.carried.offset:",
        "if False:",
    ),
    Mutation(
        9,
        "a node does not write its routes again when a shard forgot them",
        "services.access.routes:Routes.forgot",
        "if number < known and not state.whole:",
        "if False:",
    ),
    Mutation(
        12,
        "access takes a send although an earlier one failed",
        "holdfast.protocol.connection:Connection._send",
        "if n > self._next:",
        "if False:",
    ),
    Mutation(
        12,
        "logic puts out what follows a failed output",
        "services.logic.outbox:Outbox._put",
        "if self._broken or (last is not None and last.done() and last.exception() is not None):",
        "if False:",
    ),
    Mutation(
        4,
        "a device without a memory begins at the head, not at its stored cursor",
        "services.access.joins:Joins.start",
        "seq = max(view.cursor[1], oldest)",
        "seq = head",
    ),
    Mutation(
        4,
        "whoever comes back is told that continuity is broken",
        "services.access.joins:Joins.start",
        "if fits and seen and since.seq >= oldest:",
        "if False:",
    ),
    Mutation(
        5,
        "who has left a group keeps its channel",
        "services.access.groups:Groups._compare",
        "if node.automatic(session, channel.name) and channel.name not in groups:",
        "if False:",
    ),
    Mutation(
        6,
        "the sessions of a dead node are removed without their last events",
        "services.dispatch.sweeper:Sweeper._end",
        'for kind in ("connect", "disconnect") if info.since >= told else ("disconnect",):',
        "for kind in ():",
    ),
    Mutation(
        7,
        "dispatch reads on, whatever waits",
        "services.dispatch.feed:Feed._flow",
        "elif not queue.paused and queue.full:",
        "elif False:",
    ),
    Mutation(
        7,
        "logic reads on, whatever is unfinished",
        "services.logic.worker:Worker._hold_back",
        "if not part.paused and (far or len(part.items) >= bound):",
        "if False:",
    ),
    Mutation(
        7,
        "a link takes all, whether its node reads or not",
        "holdfast.nodelink.link:Link.push",
        "if (waiting and waiting + len(data) > self._buffer) or len(data) > MAX_FRAME:",
        "if False:",
    ),
    Mutation(
        7,
        "access lets everything into a queue that is full",
        "holdfast.bus.backlog:Backlog.check",
        "if not self.full:",
        "if True:",
    ),
    Mutation(
        9,
        "a revoked token's sessions go on",
        "services.access.groups:Groups._token",
        "if view.revoked:",
        "if False:",
    ),
    Mutation(
        10,
        "a draining node sends all its clients away at once",
        "services.access.drain:drain_connections",
        "for driver in node.random.sample(asked, min(int(credit), len(asked))):",
        "for driver in asked:",
    ),
    Mutation(
        6,
        "the sweeper tells the ends of sessions whose beginnings nobody was told",
        "services.dispatch.sweeper:Sweeper._end",
        '("connect", "disconnect") if info.since >= told else ("disconnect",):',
        '("disconnect",):',
    ),
    Mutation(
        6,
        "a session's end goes past its beginning, which failed",
        "services.access.produce:Produce._emit",
        'if record.kind == "disconnect" and f"{record.session}/connect" in self._again:',
        "if False:",
    ),
    Mutation(
        6,
        "handlers are told of a session's event again, and of a beginning after the end",
        "services.logic.partition:Partition.is_late",
        'if before or (ended < offset and event.kind == "connect"):',
        "if False:",
    ),
    Mutation(
        8,
        "the shard takes what a dead node writes",
        "holdfast.log.nodes:Nodes.update",
        "if node in self.dead:",
        "if False:",
    ),
    Mutation(
        11,
        "logic passes over what is no record",
        "services.logic.runner:Runner.take",
        'self._endings.bury(item, "undecodable", error)',
        "item.outputs = ()",
    ),
    Mutation(
        11,
        "dispatch passes over what is no record, or of another partition",
        "services.dispatch.outcome:Interpreter.take_in",
        "self._dead_letter(taken, record, reject.code, str(reject))",
        "pass",
    ),
    Mutation(
        11,
        "logic refuses what a user may not, and does not say so",
        "services.logic.endings:Endings.pass_on",
        "item.outputs = self._refuse(what, code, REASONS.get(code, code), span)",
        "item.outputs = ()",
    ),
    Mutation(
        11,
        "a message whose handler fails for good is forgotten",
        "services.logic.runner:Runner._failed",
        "self._endings.bury(item, reason, error, what if isinstance(what, Send | Request) else None)",
        "item.outputs = ()",
    ),
    Mutation(
        11,
        "access takes what is no frame for silence",
        "services.access.driver:Driver._receive",
        "self.machine.reject(frame, now)",
        "pass",
    ),
    Mutation(
        11,
        "a client that gives up while it comes back does not say so",
        "holdfast.client.driver:Driver._run",
        "if self._live is not None or over:",
        "if self._live is not None:",
    ),
    Mutation(
        12,
        "access takes what follows a send that it refused for a backlog",
        "holdfast.protocol.connection:Connection._publish",
        'self._refuse("unavailable", str(retry), frame.id, retry.after)',
        'self._next = max(self._next, n + 1); self._refuse("unavailable", str(retry), frame.id)',
    ),
)


def mutated(mutation: Mutation) -> tuple[Any, str]:
    """Return the function, and the text that it is to have. Raises ValueError where its text has changed."""
    module, _, path = mutation.where.partition(":")
    function: Any = importlib.import_module(module)
    for name in path.split("."):
        function = getattr(function, name)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutation.old) != 1:
        raise ValueError(f"{mutation.where} has no (or more than one) {mutation.old!r}")
    return function, source.replace(mutation.old, mutation.new)


def apply(mutation: Mutation) -> None:
    """Carry a mutation out, in this process."""
    function, source = mutated(mutation)
    space: dict[str, Any] = {}
    exec(source, function.__globals__, space)
    function.__code__ = space[function.__name__].__code__  # wherever it is known, tables of steps included


def measure(mutation: Mutation, limit: int) -> tuple[int | None, str]:
    """Return the number of seeds until a mutation is noticed, and by what."""
    child, parent = os.pipe()
    if (pid := os.fork()) == 0:  # what is mutated stays so: a process for each
        apply(mutation)
        text = "0 "
        for count, one in enumerate(many(range(limit), DEFAULT), start=1):
            if one.violations:
                text = f"{count} {one.violations[0]}"
                break
        os.write(parent, text.encode()[:4000])
        os._exit(0)
    os.close(parent)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the runs with a mutation of {mutation.where} broke off")
    found = os.read(child, 4000).decode()
    os.close(child)
    number, _, how = found.partition(" ")
    return int(number or 0) or None, how


def main() -> int:
    """Return 1 where a mutation was not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations")
    parser.add_argument("--limit", type=int, default=1000, help="seeds, at most")
    parser.add_argument("--only", type=int, help="those of this invariant")
    options = parser.parse_args()
    limit = options.limit
    missed = 0
    sys.stdout.write("| inv | broken on purpose | where | seeds | noticed as |\n|---|---|---|---|---|\n")
    for mutation in MUTATIONS:
        if options.only not in (None, mutation.invariant):
            continue
        count, how = measure(mutation, limit)
        missed += count is None
        shown = count if count is not None else f"not in {limit}"
        place = mutation.where.partition(":")[2]
        line = f"| {mutation.invariant} | {mutation.what} | `{place}` | {shown} | {how[:90]} |"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
