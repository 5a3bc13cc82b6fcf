"""What a service is built from: the ports, chosen once by whoever starts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.observe.metrics import Metrics

if TYPE_CHECKING:
    from holdfast.bus.port import Bus
    from holdfast.clock import Clock
    from holdfast.log.port import Log
    from holdfast.membership.port import Directory
    from holdfast.network import Network
    from holdfast.observe.tracing import Tracing
    from holdfast.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The ports of one process. Services know nothing of which adapters these are.

    `tracing` is None where no message is followed, which is the default.
    """

    settings: Settings
    clock: Clock
    network: Network
    bus: Bus
    log: Log
    directory: Directory
    metrics: Metrics = field(default_factory=Metrics)
    metrics_address: str = ""
    """host:port under which others reach this process's metrics and health, after https:// where it has TLS;
    "" where it serves none."""
    tracing: Tracing | None = None
