"""The membership port: who is there, and where. Life and death for fencing is the beat in Redis alone.

Adapters: `memory`, `consul`, `redis`, `static`. Contract: `tests/contracts/test_membership.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Role = Literal["access", "logic", "dispatch"]


class Node(msgspec.Struct, frozen=True):
    """One process of the cluster.

    `name` is the operator's name for it; `incarnation` is new at every start; `address` is `host:port` of
    its nodelink (access) or "" where nobody connects to it; `endpoints` what clients may connect to, as
    `{protocol: url}`; `metrics` is `host:port` of its metrics and health, after `https://` where it has TLS.
    """

    name: str
    incarnation: str
    role: Role
    address: str = ""
    endpoints: dict[str, str] = {}
    metrics: str = ""
    region: str = ""
    weight: int = 100
    draining: bool = False


class Directory(Protocol):
    """Registers this node and follows the others. An outage keeps the last known membership."""

    async def start(self) -> None:
        """Connect and learn the first membership. Raises Retry while the store is away."""

    async def close(self) -> None:
        """Leave if joined, stop following."""

    async def join(self, node: Node) -> None:
        """Register this node and keep it registered, again if the store forgets. Joining again updates it."""

    async def leave(self) -> None:
        """Take this node out, so that others see it gone at once."""

    def nodes(self, role: Role) -> Sequence[Node]:
        """Return the nodes of a role as last known, sorted by name."""

    def watch(self, call: Callable[[], object]) -> Callable[[], None]:
        """Call `call` whenever the membership has changed; return what ends that."""

    async def healthy(self) -> bool:
        """Tell whether the store answers now; never raises, takes at most a second."""
