"""What logic says of single records, at debug level: ids only, never who wrote what."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from . import emit

if TYPE_CHECKING:
    from holdfast.records import Inbound

    from .partition import Item

_log = logging.getLogger(__name__)


def wanted() -> bool:
    """Tell whether anybody wants to read this: asked once, at the start, so that it costs nothing."""
    return _log.isEnabledFor(logging.DEBUG)


def finished(item: Item, kind: str, outcome: str) -> None:
    """Say what came of a record."""
    record = item.record
    told = {"partition": record.partition, "offset": record.offset, "kind": kind, "attempt": item.attempt}
    if item.what is not None:
        told |= ids(item.what)
    _log.debug(outcome, extra=told)


def ids(what: Inbound) -> dict[str, str]:
    """Return what any line about a record says of it."""
    return {"message_id": emit.cause_of(what), "session": what.session}
