"""What access counts by a label is there, at 0, from its start: Prometheus sees no increase from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from holdfast.protocol.codes import CODES
from holdfast.protocol.frames import ClientFrame, ServerFrame

if TYPE_CHECKING:
    from holdfast.observe.metrics import Metrics

ENDS: Final = (
    *(code.name for code in CODES.values() if code.close is not None),
    "closed",
    "handshake",
    "lost",
    "violation",
)
"""How connections end: by a code of ours, by the peer's close, or by what the carrier saw."""

REFUSALS: Final = (
    "channels",
    "connections",
    "draining",
    "fenced",
    "handshake",
    "key",
    "overloaded",
    "per_address",
    "proxy_header",
    "rate",
    "timeout",
    "tls",
    "unauthorized",
)
"""Why connections have no session."""


def begin(metrics: Metrics) -> None:
    """Make the series of all values that are known beforehand."""
    for metric, values in (
        (metrics.access_closes, ENDS),
        (metrics.access_errors, CODES),
        (metrics.access_refused, REFUSALS),
        (metrics.access_frames_in, map(tag, get_args(ClientFrame))),
        (metrics.access_frames_out, map(tag, get_args(ServerFrame))),
    ):
        for value in values:
            metric.labels(value)


def tag(frame: type) -> str:
    """Return the `t` of a kind of frame, by which it is counted."""
    return str(frame.__struct_config__.tag)  # type: ignore[attr-defined]
