"""What a real API server says of the manifests. Its programs take ten minutes to build: `make k8s-server`."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import pytest

from deploy.kubernetes.server import ApiServer
from tests.k8s.manifests import OVERLAYS, manifests, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.tools,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("HF_K8S_SERVER" not in os.environ, reason="asked for by `make k8s-server`"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server that has the namespace, with its rules for pods."""
    with ApiServer(tmp_path_factory.mktemp("kubernetes")) as running:
        assert not running.create(of_kind("production", "Namespace")["holdfast"], dry_run=False)
        yield running


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_accepted(overlay: str, server: ApiServer) -> None:
    """Validation beyond schemas: ports, selectors, quantities, metrics of scalers."""
    tried = [m for m in manifests(overlay) if m["kind"] != "Namespace" and server.knows(m)]
    assert len(tried) > 25
    refused = {f"{m['kind']} {m['metadata']['name']}": server.create(m) for m in tried}
    assert not {name: why for name, why in refused.items() if why}


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    template = copy.deepcopy(deployment["spec"]["template"])
    template["metadata"] |= {"name": "try", "namespace": "holdfast"}
    return {"apiVersion": "v1", "kind": "Pod", **template}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_within_the_restricted_profile(overlay: str, server: ApiServer) -> None:
    """The namespace's admission lets all pods in, and none that asks for more."""
    for name, deployment in of_kind(overlay, "Deployment").items():
        assert not server.create(pod_of(deployment)), name
    root = pod_of(of_kind(overlay, "Deployment")["holdfast-access"])
    root["spec"]["containers"][0]["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}
    assert "restricted" in server.create(root)


def test_mistakes_that_schemas_let_pass_are_refused(server: ApiServer) -> None:
    """A probe's port that does not exist, a negative budget, a selector that does not select its own pods."""
    deployment = copy.deepcopy(of_kind("dev", "Deployment")["holdfast-access"])
    deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] = "other"
    assert "selector" in server.create(deployment)
    budget = copy.deepcopy(of_kind("dev", "PodDisruptionBudget")["holdfast-access"])
    budget["spec"]["minAvailable"] = -1
    assert "minAvailable" in server.create(budget)
