"""What a run prints at its end: tables, and every violation with the faults around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chaos.counters import Counters
    from chaos.faults import Done
    from chaos.ledger import Ledger
    from chaos.memory import Memory

AROUND: Final = 15.0
"""Faults that began up to so many seconds before a violation are shown with it."""
AFTER: Final = 5.0
"""What was sent up to so many seconds after a fault was undone counts to its interruption."""
SHOWN: Final = 40
"""Violations printed; all are in the run's folder."""


def table(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield rows as lines, the first as the head; numbers to the right."""
    cells = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    right = [not isinstance(cell, str) for cell in rows[-1]]
    for number, row in enumerate(cells):
        yield "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


def totals(ledger: Ledger) -> Iterator[str]:
    """Yield what was sent and came through. Those from `lost` to `failed` must be 0."""
    counts = ledger.counts
    yield from table([("joined a group", "left it"), (counts["joined"], counts["left"])])
    yield ""
    yield from table(
        [
            ("sent", "acked", "unknown", "delivered", "lost", "doubled", "reordered", "failed", "resets"),
            (
                counts["sent"],
                counts["acked"],
                counts["unknown"],
                counts["delivered"],
                ledger.count("lost"),
                ledger.count("doubled"),
                ledger.count("reordered"),
                ledger.count("failed"),
                len(ledger.resets),
            ),
        ]
    )


def delays(ledger: Ledger) -> Iterator[str]:
    """Yield how long answers and deliveries took, over the whole run."""
    rows: list[tuple[object, ...]] = [("seconds, at most", "half of all", "99 %", "longest")]
    for name, each in (("send to ack", ledger.acks), ("send to delivery", ledger.deliveries)):
        rows.append((name, f"{each.share(0.5):g}", f"{each.share(0.99):g}", each.longest))
    yield from table(rows)


def slowest(ledger: Ledger) -> Iterator[str]:
    """Yield what took longest, and when it was sent."""
    rows: list[tuple[object, ...]] = [("slowest", "sent at", "seconds", "of")]
    for name, each in (("ack", ledger.acks), ("delivery", ledger.deliveries)):
        rows += [(name, sent, delay, of) for delay, sent, of in sorted(each.slowest, reverse=True)]
    if len(rows) > 1:
        yield from table(rows)


def interruptions(ledger: Ledger, done: Sequence[Done]) -> Iterator[str]:
    """Yield, by kind of fault, the longest delays (s) of what was sent while it lasted, or right after."""
    kinds: dict[str, list[Done]] = {}
    for one in done:
        kinds.setdefault(str(one.fault.kind), []).append(one)
    rows: list[tuple[object, ...]] = [
        ("fault", "times", "held (s)", "ack, alone", "together", "delivery, alone", "together", "resets")
    ]
    for name, every in sorted(kinds.items()):
        spans = [(one.begin - 0.5, one.end + AFTER, one.fault.alone) for one in every]
        longest = [
            [each.longest_sent_within(begin, end) for begin, end, alone in spans if alone == wanted]
            for each in (ledger.acks, ledger.deliveries)
            for wanted in (True, False)
        ]
        rows.append(
            (
                name,
                len(every),
                max(one.end - one.begin for one in every),
                *(f"{max(of):.1f}" if of else "" for of in longest),
                sum(any(begin <= reset.at <= end for begin, end, _ in spans) for reset in ledger.resets),
            )
        )
    if len(rows) > 1:
        yield from table(rows)


def memory(sizes: Memory, restarts: Mapping[str, int]) -> Iterator[str]:
    """Yield the memory of every process."""
    rows: list[tuple[object, ...]] = [("process", "MiB at start", "most", "at end", "started again")]
    for name, size in sizes.sizes.items():
        rows.append((name, size.start, size.most, size.end, restarts.get(name, 0)))
    yield from table(rows)


def violations(ledger: Ledger, done: Sequence[Done]) -> Iterator[str]:
    """Yield every violation and reset, with the faults around it."""
    broken = [(one.at, f"{one.kind.upper()} {one.channel}: {one.text}") for one in ledger.violations]
    broken += [(one.at, f"RESET {one.channel}: {one.view} {one.text}") for one in ledger.resets]
    for at, text in sorted(broken):
        yield f"{at:9.2f}  {text}"
        for one in done:
            if one.begin - 1.0 <= at and at - AROUND <= one.end:
                yield f"           during or after {one}"


def counted(counters: Counters) -> Iterator[str]:
    """Yield what services counted."""
    totals = counters.totals()
    if totals:
        yield from table([("counted by services", "times"), *totals.items()])


def whole(
    ledger: Ledger, done: Sequence[Done], sizes: Memory, restarts: Mapping[str, int], counters: Counters
) -> list[str]:
    """Return the report's lines, with the first violations."""
    lines: list[str] = []
    for part in (
        interruptions(ledger, done),
        delays(ledger),
        slowest(ledger),
        memory(sizes, restarts),
        counted(counters),
        totals(ledger),
    ):
        block = list(part)
        lines += [*block, ""] if block else []
    told = list(violations(ledger, done))
    lines += told[:SHOWN]
    if len(told) > SHOWN:
        lines.append(f"… and {len(told) - SHOWN} lines more in violations.txt")
    return lines
