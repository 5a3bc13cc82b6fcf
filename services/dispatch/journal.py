"""What dispatch says of single records, at debug level: ids only, never who wrote what."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from holdfast.records import Message, Reply, body_id

if TYPE_CHECKING:
    from holdfast.log.port import Applied

    from .outcome import Taken

_log = logging.getLogger(__name__)


def wanted() -> bool:
    """Tell whether anybody wants to read this: asked once, at the start, so that it costs nothing."""
    return _log.isEnabledFor(logging.DEBUG)


def applied(taken: Taken, result: Applied) -> None:
    """Say what became of each message and reply of a batch."""
    for record, message, placed in zip(taken.records, taken.messages, result.placed, strict=True):
        where = {"partition": record.partition, "offset": record.offset}
        if isinstance(message, Message):
            found = {"message_id": body_id(message.body), "seq": placed.seq, "nodes": placed.nodes}
            _log.debug("append: %s", placed.outcome.name.lower(), extra=where | found)
        elif isinstance(message, Reply):
            _log.debug("reply", extra=where | {"access_node": message.node, "connection": message.connection})
