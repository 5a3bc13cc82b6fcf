"""What a node says of single messages, at debug level: ids only, never who wrote what."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from holdfast.records import body_id

if TYPE_CHECKING:
    from .fanout import Job
    from .registry import Channel

SESSIONS: Final = 16
"""Sessions that are named in one line, at most: a crowd is counted."""

_log = logging.getLogger(__name__)


def wanted() -> bool:
    """Tell whether anybody wants to read this: asked once, at the start, so that it costs nothing."""
    return _log.isEnabledFor(logging.DEBUG)


def stored(what: str, message: str, session: str, offset: int | None) -> None:
    """Say that a send or request is durable at this offset, or (None) not known to be."""
    told = {"message_id": message, "session": session}
    if offset is None:
        _log.debug("%s is not known to be stored", what, extra=told)
    else:
        _log.debug("%s is stored", what, extra=told | {"offset": offset})


def delivered(channel: Channel, job: Job) -> None:
    """Say which messages a job has handed to whom."""
    sessions = [driver.session.id for driver in job.to[:SESSIONS] if driver.session is not None]
    for seq, entry in job.blobs.entries:
        told = {"message_id": body_id(entry), "seq": seq, "connections": len(job.to), "sessions": sessions}
        _log.debug("delivered", extra=told | {"shard": channel.shard, "read": job.lagging})


def replied(session: str, connection: int) -> None:
    """Say that a reply, or a refusal, was handed to its connection."""
    _log.debug("answered", extra={"session": session, "connection": connection})


def began(session: str, carrier: str) -> None:
    """Say that a session is recorded."""
    _log.debug("session began", extra={"session": session, "carrier": carrier})


def ended(session: str, code: str) -> None:
    """Say that a session's connection is gone."""
    _log.debug("session ended", extra={"session": session, "code": code})
