"""The step of a record that is followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import emit

if TYPE_CHECKING:
    from holdfast.observe.tracing import Span, Step, Tracing

    from .partition import Item


def follow(tracing: Tracing | None, item: Item, step: Step) -> Span | None:
    """Begin a step of a record, where it is followed."""
    if tracing is None or item.what is None:
        return None
    return tracing.of_record(
        item.record.headers,
        step,
        message=emit.cause_of(item.what),
        session=item.what.session,
        partition=str(item.record.partition),
        offset=item.record.offset,
        attempt=item.attempt,
    )
