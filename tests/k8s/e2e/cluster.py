"""The cluster of a run, and what is asked of it: deploy, look, roll out, kill, evict."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.kubernetes import keda, metrics
from deploy.kubernetes.api import Object, Refused, until
from deploy.kubernetes.node import NAME, SOCKET, Node
from deploy.kubernetes.plane import ControlPlane
from deploy.kubernetes.sandbox import OUTSIDE
from deploy.local.process import Running, Unavailable
from deploy.tools import golang

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OVERLAY: Final = Path(__file__).parents[3] / "deploy" / "k8s" / "overlays" / "e2e"
SPACE: Final = "holdfast"
ROLES: Final = ("dispatch", "access", "logic")
API: Final = f"holdfast-api.{SPACE}.svc.cluster.local"
_PODS: Final = f"/api/v1/namespaces/{SPACE}/pods"
_DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{SPACE}/deployments"


class Cluster:
    """One node with everything on it. `folder` takes data and logs; `say` is told what takes long."""

    def __init__(self, folder: Path, images: Sequence[Path], say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self._images = images
        self.plane = ControlPlane(folder / "plane")
        self.node = Node(folder / "node", self.plane)
        self.api = self.plane.api
        self._kubectl = golang.kubernetes("kubectl")

    def start(self) -> None:
        """Start it without any of ours. Raises Unavailable, TimeoutError."""
        self.plane.start()
        self.say("the API server answers")
        self.node.start(self._images)
        self.say("the node is ready")
        certificate = self.plane.authority.issue("metrics")
        metrics.serve(self.api, certificate)
        self._resource_metrics(certificate)

    def deploy(self, *, scaled: bool) -> None:
        """Apply the overlay, as an operator does, and wait until all of it is available.

        Not `scaled` by KEDA, logic and dispatch get their number here.
        """
        self.kubectl("apply", "-f", str(OVERLAY.parents[1] / "base" / "namespace.yaml"))
        pem = self.plane.authority.issue(OUTSIDE, hosts=(OUTSIDE, API)).read_bytes()
        data = {name: base64.b64encode(pem).decode() for name in ("tls.crt", "tls.key")}
        secret = {"metadata": {"name": "holdfast-tls"}, "type": "kubernetes.io/tls", "data": data}
        self.api.post(f"/api/v1/namespaces/{SPACE}/secrets", secret)
        for path in golang.keda_definitions():
            self.kubectl("apply", "--server-side", "-f", str(path))
        if scaled:
            keda.start(self.folder / "keda", self.plane)
        self.kubectl("apply", "-k", str(OVERLAY))
        if not scaled:
            self.kubectl("-n", SPACE, "scale", "--replicas=2", *(f"deployment/holdfast-{r}" for r in ROLES))
        # What a provider's controller does for a Service of type LoadBalancer.
        status = {"status": {"loadBalancer": {"ingress": [{"ip": OUTSIDE}]}}}
        self.api.patch(f"/api/v1/namespaces/{SPACE}/services/holdfast/status", status)
        until("deployments", lambda: all(map(whole, self.deployments())), 300.0)

    # looking

    def deployments(self) -> list[Object]:
        """Return all Deployments."""
        found: list[Object] = self.api.get(_DEPLOYMENTS)["items"]
        return found

    def deployment(self, role: str) -> Object:
        """Return a service's Deployment."""
        return self.api.get(f"{_DEPLOYMENTS}/holdfast-{role}")

    def pods(self, role: str) -> list[Object]:
        """Return a service's pods."""
        found: list[Object] = self.api.get(f"{_PODS}?labelSelector=app.kubernetes.io/name=holdfast-{role}")[
            "items"
        ]
        return found

    def ready(self, role: str) -> list[str]:
        """Return the names of a service's pods that are ready, and stay."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(role)
            if "deletionTimestamp" not in pod["metadata"] and _is(pod, "Ready")
        ]

    def sessions(self) -> dict[str, int]:
        """Return the connections of access pods, as scalers are told of them."""
        path = f"/apis/{metrics.GROUP}/{metrics.VERSION}/namespaces/{SPACE}/pods/*/{metrics.METRIC}"
        found = self.api.get(f"{path}?labelSelector=app.kubernetes.io/name=holdfast-access")["items"]
        return {item["describedObject"]["name"]: int(quantity(item["value"])) for item in found}

    def lag_limit(self, role: str) -> int:
        """Return the lag for each pod of a service from which on KEDA wants more."""
        path = f"/apis/keda.sh/v1alpha1/namespaces/{SPACE}/scaledobjects/holdfast-{role}"
        return int(self.api.get(path)["spec"]["triggers"][0]["metadata"]["lagThreshold"])

    def lag(self, role: str) -> int:
        """Return the lag for each pod of a service, as KEDA told it last; 0 while it has not."""
        path = f"/apis/autoscaling/v2/namespaces/{SPACE}/horizontalpodautoscalers/keda-hpa-holdfast-{role}"
        for metric in self.api.get(path)["status"].get("currentMetrics") or ():
            if metric["type"] == "External":
                return int(quantity(metric["external"]["current"]["averageValue"]))
        return 0

    # doing

    def release(self, role: str, tag: str) -> None:
        """Have a service run another release of the image."""
        name = f"holdfast-{role}"
        self.kubectl("-n", SPACE, "set", "image", f"deployment/{name}", f"{role}=localhost/holdfast:{tag}")

    def restart(self, role: str) -> None:
        """Replace all pods of a Deployment, in its own way."""
        self.kubectl("-n", SPACE, "rollout", "restart", f"deployment/holdfast-{role}")

    def rolled_out(self, role: str) -> bool:
        """Tell whether a service has the pods that its Deployment wants, and the old ones are gone."""
        deployment = self.deployment(role)
        wanted = deployment["status"].get("replicas", 0)
        return whole(deployment) and len(self.pods(role)) == wanted

    def kill(self, role: str) -> str:
        """Kill the process of one of a service's pods, as a crash does; return the pod's name."""
        pod = self.ready(role)[0]
        status = self.api.get(f"{_PODS}/{pod}")["status"]["containerStatuses"][0]
        container = status["containerID"].removeprefix("containerd://")
        command = ["-a", SOCKET, "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container]
        _run([golang.containerd("ctr"), *command])
        until(f"{pod} to be started again", lambda: self._restarts(pod) > status["restartCount"], 60.0)
        return pod

    def evict(self, pod: str) -> int:
        """Ask for the eviction of a pod; return the status of the answer: 201, or 429 where it must stay."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": SPACE},
        }
        try:
            self.api.post(f"{_PODS}/{pod}/eviction", body)
        except Refused as error:
            return error.status
        return 201

    def drain(self) -> subprocess.Popen[str]:
        """Begin to drain the node of Holdfast's pods; it is closed for new ones at once."""
        command = ["drain", NAME, "--pod-selector=app.kubernetes.io/part-of=holdfast", "--timeout=300s"]
        command += ["--ignore-daemonsets", "--delete-emptydir-data"]
        return subprocess.Popen(
            [*self._command(), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def uncordon(self) -> None:
        """Open the node again."""
        self.kubectl("uncordon", NAME)

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl; return its output. Raises Unavailable where it fails."""
        return _run([*self._command(), *arguments])

    def _command(self) -> list[str]:
        return [self._kubectl, f"--kubeconfig={self.plane.kubeconfig('admin')}"]

    def _restarts(self, pod: str) -> int:
        statuses = self.api.get(f"{_PODS}/{pod}")["status"].get("containerStatuses", [])
        return sum(status["restartCount"] for status in statuses)

    def _resource_metrics(self, certificate: Path) -> None:
        admin = self.plane.kubeconfig("admin")
        files = [f"--{what}kubeconfig={admin}" for what in ("", "authentication-", "authorization-")]
        command = [golang.metrics_server(), *files, "--secure-port=6446", "--bind-address=127.0.0.1"]
        command += [f"--tls-cert-file={certificate}", f"--tls-private-key-file={certificate}"]
        command += ["--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP"]
        command += ["--metric-resolution=15s"]
        server = Running(
            "metrics-server", "", lambda: True, command=command, directory=self.folder, guarded=False
        )
        server.start()
        metrics.register(self.api, "metrics.k8s.io", "v1beta1", 6446)


def whole(deployment: Object) -> bool:
    """Tell whether a Deployment has all the pods it wants, of its newest kind, available."""
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    current = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    return current and counts == [wanted] * 3


def quantity(text: str) -> float:
    """Return the number that Kubernetes writes as `1500m` or `2k`."""
    unit = {"m": 0.001, "k": 1000.0}.get(text[-1], 0.0)
    return float(text[:-1]) * unit if unit else float(text)


def _is(pod: Object, condition: str) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == condition and one["status"] == "True" for one in conditions)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(Path(command[0]).name, done.stderr.strip()[-1000:])
    return done.stdout
