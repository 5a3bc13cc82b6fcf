"""The cluster as it is, and asking a node to drain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import Reject
from holdfast.membership.watchers import ROLES

from .schemas import Nodes, NodeView

if TYPE_CHECKING:
    from holdfast.membership.port import Node

    from .context import Api, Call


async def nodes(api: Api, call: Call) -> Nodes:
    """Return every process that is known."""
    del call
    return Nodes([_view(api, node) for role in ROLES for node in api.directory.nodes(role)])


async def drain(api: Api, call: Call) -> Nodes:
    """Ask an access node, by name or incarnation, to send its clients elsewhere and leave."""
    name = call.path["node"]
    found = [
        node for role in ROLES for node in api.directory.nodes(role) if name in (node.name, node.incarnation)
    ]
    if not found:
        raise Reject("not_found", f"no node is called {name!r}")
    for node in found:
        if node.role != "access":
            raise Reject("conflict", f"{name!r} is of {node.role}: only access nodes hold clients to drain")
        await api.log.ask(0, node.incarnation, "drain")
    return Nodes([_view(api, node) for node in found])


def _view(api: Api, node: Node) -> NodeView:
    return NodeView(
        node=node.name,
        incarnation=node.incarnation,
        role=node.role,
        address=node.address,
        endpoints=node.endpoints,
        metrics=node.metrics,
        region=node.region,
        weight=node.weight,
        draining=node.draining,
        alive=node.role != "access" or api.alive(node.incarnation),
    )
