"""KEDA beside the cluster: its operator and its metrics adapter, as processes of the machine."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from deploy.kubernetes import metrics
from deploy.local.process import Running
from deploy.tools import golang

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.kubernetes.plane import ControlPlane

SPACE: Final = "keda"
_PORT: Final = 6445
_LINK: Final = "127.0.0.1:9666"
"""Where the adapter asks the operator."""
_ENVIRONMENT: Final = {
    "POD_NAMESPACE": SPACE,
    "POD_NAME": "keda-operator",
    "KEDA_CLUSTER_OBJECT_NAMESPACE": SPACE,
    "WATCH_NAMESPACE": "",  # all of them; without it, it refuses to start
}


def start(folder: Path, plane: ControlPlane) -> None:
    """Start both; they end with the namespaces. KEDA's kinds must be known already. Raises Unavailable."""
    folder.mkdir(parents=True)
    certificates = folder / "certificates"
    certificates.mkdir()
    pem = plane.authority.issue("keda", hosts=("localhost", "127.0.0.1"), path=certificates / "tls.crt")
    shutil.copy2(pem, certificates / "tls.key")
    shutil.copy2(plane.authority.file, certificates / "ca.crt")
    plane.api.post("/api/v1/namespaces", {"metadata": {"name": SPACE}})
    config = plane.kubeconfig("admin")
    common = [f"--kubeconfig={config}", f"--cert-dir={certificates}"]
    operator = [
        "--health-probe-bind-address=127.0.0.1:6447",
        "--metrics-bind-address=127.0.0.1:6448",
        f"--metrics-service-bind-address={_LINK}",
        "--enable-webhook-patching=false",
    ]
    adapter = [
        *(f"--{what}-kubeconfig={config}" for what in ("lister", "authentication", "authorization")),
        f"--secure-port={_PORT}",
        "--bind-address=127.0.0.1",
        f"--metrics-service-address={_LINK}",
        "--metrics-service-grpc-authority=localhost",
    ]
    for name, options in (("operator", operator), ("adapter", adapter)):
        Running(
            f"keda-{name}",
            "",
            lambda: True,
            command=[golang.keda(name), *common, *options],
            directory=folder,
            environment=os.environ | _ENVIRONMENT,
            guarded=False,
        ).start()
    metrics.register(plane.api, "external.metrics.k8s.io", "v1beta1", _PORT)
