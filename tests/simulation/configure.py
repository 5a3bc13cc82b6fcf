"""The settings of a simulated cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.policy import Policy
from holdfast.settings import Settings
from services.embedded.cluster import ready_settings

if TYPE_CHECKING:
    from tests.simulation.plan import Plan


BRIEF_KEEPS: Final = 5
"""Messages that a channel of the kind `brief` keeps."""

DRAIN_RATE: Final = 4


def simulated_settings(plan: Plan) -> Settings:
    """Return settings that make time limits short and bounds small, so that runs reach them."""
    return ready_settings(
        Settings(channels={"brief": Policy(keep_count=BRIEF_KEEPS)}),
        secret="a secret of the simulation, of no use anywhere else",
        access={
            "websocket_port": 0,
            "tcp_port": 0,
            "heartbeat": 4.0,
            "handshake": 4.0,
            "buffer": 4096,
            "aside": 8.0,
            "drain_rate": DRAIN_RATE,
        },
        api={"port": 0, "keys": ("simulated",)},
        kafka={
            "partitions": plan.partitions,
            "replication": 1,
            "deadline": 3.0,
            "session_timeout": 4.0,
            "buffer_records": 300,
            "inbound_backlog": plan.backlog,
            "outbound_backlog": plan.backlog,
        },
        redis={"timeout": 1.0},
        nodelink={"port": 0, "buffer": 16_384},
        logic={"pending": 40, "batch": 20, "share": 10},
        dispatch={"pending": 40, "fetch": 20},
        process={"drain_seconds": 4.0},
    )
