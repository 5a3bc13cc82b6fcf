"""NetworkPolicies allow the arrows of the architecture and no other.

An arrow needs both ends: the one it leaves must be allowed out, the one it reaches must let it in. What is
outside may do as it likes.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.k8s.manifests import OVERLAYS, labels, of_kind

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]

STORES = {"kafka": 9092, "redis": 6379, "consul": 8500}
SERVICES = ("holdfast-access", "holdfast-logic", "holdfast-dispatch")
Arrow = tuple[str, str, int]

ARCHITECTURE: set[Arrow] = {
    ("holdfast-dispatch", "holdfast-access", 8700),
    *((service, store, port) for service in SERVICES for store, port in STORES.items()),
    *(("prometheus", service, 9100) for service in SERVICES),
}
BALANCER: set[Arrow] = {
    *((who, "holdfast-balancer", port) for who in ("world", *STORES) for port in (10443, 10444)),
    *((who, "holdfast-balancer", port) for who in ("company", "prometheus") for port in (10443, 10444)),
    *(("keda", "holdfast-balancer", port) for port in (10443, 10444)),
    ("company", "holdfast-balancer", 10445),
    ("prometheus", "holdfast-balancer", 8404),
    ("holdfast-balancer", "holdfast-access", 8000),
    ("holdfast-balancer", "holdfast-access", 8001),
    ("holdfast-balancer", "holdfast-access", 9100),
    ("holdfast-balancer", "holdfast-logic", 8080),
    ("holdfast-balancer", "holdfast-logic", 9100),
}
PORTS = sorted({port for _, _, port in ARCHITECTURE | BALANCER} | {22, 443, 10446})

OUTSIDE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "prometheus": (
        {"kubernetes.io/metadata.name": "monitoring"},
        {"app.kubernetes.io/name": "prometheus"},
    ),
    "keda": ({"kubernetes.io/metadata.name": "keda"}, {"app": "keda-operator"}),
    "company": ({"kubernetes.io/metadata.name": "shop", "holdfast/api": "allowed"}, {}),
    "world": ({"kubernetes.io/metadata.name": "elsewhere"}, {}),
}
"""Who is in other namespaces: labels of the namespace and of the pod."""

ADDRESSES = {"kafka": "10.20.0.0/24", "redis": "10.20.1.0/24", "consul": "10.20.2.0/24"}


def matches(selector: dict[str, Any], found: dict[str, str]) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if found.get(key) != value:
            return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if found.get(each["key"]) not in each["values"]:
            return False
    return True


class World:
    """The pods of an overlay, those outside that matter, and what the policies say of each pair."""

    def __init__(self, overlay: str) -> None:
        self.policies = [policy["spec"] for policy in of_kind(overlay, "NetworkPolicy").values()]
        self.inside = {name: labels(d) for name, d in of_kind(overlay, "Deployment").items()}
        self.addresses = {} if "kafka" in self.inside else ADDRESSES

    def arrows(self) -> set[Arrow]:
        """Return every arrow that is allowed."""
        names = [*self.inside, *OUTSIDE, *self.addresses]
        return {
            (source, target, port)
            for source in names
            for target in names
            for port in PORTS
            if source != target
            and (source in self.inside or target in self.inside)
            and self.allowed(source, target, port)
        }

    def allowed(self, source: str, target: str, port: int) -> bool:
        return self._side(source, "Egress", target, port) and self._side(target, "Ingress", source, port)

    def _side(self, mine: str, direction: str, other: str, port: int) -> bool:
        if mine not in self.inside:
            return True
        about = [
            policy
            for policy in self.policies
            if direction in policy["policyTypes"] and matches(policy["podSelector"], self.inside[mine])
        ]
        assert about, f"nothing is said about {direction} of {mine}: all would be allowed"
        key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return any(
            (not rule.get("ports") or any(item["port"] == port for item in rule["ports"]))
            and (peers not in rule or any(self._peer(peer, other) for peer in rule[peers]))
            for policy in about
            for rule in policy.get(key, [])
        )

    def _peer(self, peer: dict[str, Any], name: str) -> bool:
        if "ipBlock" in peer:
            return bool(self.addresses.get(name) == peer["ipBlock"]["cidr"])
        if name in self.addresses:
            return False
        own = {"kubernetes.io/metadata.name": "holdfast"}
        space, found = OUTSIDE[name] if name in OUTSIDE else (own, self.inside[name])
        if "namespaceSelector" in peer:
            if not matches(peer["namespaceSelector"], space):
                return False
        elif name in OUTSIDE:
            return False
        return matches(peer.get("podSelector", {}), found)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_arrows_of_the_architecture_and_no_other(overlay: str) -> None:
    """Each arrow that is needed is open, and none besides."""
    wanted = ARCHITECTURE | (set() if overlay == "dev" else BALANCER)
    if overlay == "e2e":  # its stores are inside, and KEDA asks its Kafka
        wanted = {arrow for arrow in wanted if arrow[0] not in STORES} | {("keda", "kafka", 9092)}
    found = World(overlay).arrows()
    assert found - wanted == set(), "open, and in nobody's plan"
    assert wanted - found == set(), "needed, and closed"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everybody_may_ask_for_names(overlay: str) -> None:
    """DNS is open to all pods, by UDP and TCP, and to the cluster's own servers only."""
    policies = of_kind(overlay, "NetworkPolicy")
    names = policies["names"]["spec"]
    assert names["podSelector"] == {}
    (rule,) = names["egress"]
    assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert rule["to"][0]["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
    assert policies["nothing"]["spec"]["podSelector"] == {}


def test_an_arrow_too_many_is_noticed() -> None:
    """Opening anything else shows, and so does closing what is needed."""
    world = World("production")
    before = world.arrows()
    hole = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 8700}]}]}
    world.policies.append(hole)
    assert ("world", "holdfast-access", 8700) in world.arrows() - before
    world.policies.remove(hole)
    world.policies = [p for p in world.policies if "Egress" not in p["policyTypes"] or not p["podSelector"]]
    assert before - world.arrows()
