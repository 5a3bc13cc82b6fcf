"""What a run claims, what it saw of each, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.report import table

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Claims:
    """Taken down as they are seen."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def claim(self, step: str, what: str, seen: object, holds: bool) -> None:
        """Take one down."""
        self.rows.append((step, what, str(seen), holds))

    @property
    def kept(self) -> bool:
        """Whether there are any, and all hold."""
        return bool(self.rows) and all(row[3] for row in self.rows)

    def told(self) -> Iterator[str]:
        """Yield the table."""
        rows = [(step, what, seen, "holds" if holds else "FAILS") for step, what, seen, holds in self.rows]
        yield from table([("step", "claim", "seen", ""), *rows])
