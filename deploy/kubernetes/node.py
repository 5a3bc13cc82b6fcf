"""The one node: containerd, the kubelet, kube-proxy, and names by CoreDNS, with files in one folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploy.kubernetes.api import until
from deploy.kubernetes.images import PAUSE
from deploy.kubernetes.sandbox import NODE, use_names
from deploy.local import cache
from deploy.local.process import Running, Unavailable
from deploy.tools import golang

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.kubernetes.plane import ControlPlane

NAME: Final = "node1"
SOCKET: Final = "/run/containerd.sock"
_NETWORKS: Final = Path("/usr/lib/cni")
_PODS: Final = "10.244.0.0/24"

_CONTAINERD: Final = """version = 3
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{networks}"]
    conf_dir = "{folder}/network"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "{shim}"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""
_NAMES: Final = """.:53 {{
    errors
    health 127.0.0.1:8081
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 2
    }}
}}
"""


class Node:
    """Started by `start`; it ends with the namespaces."""

    def __init__(self, folder: Path, plane: ControlPlane) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._plane = plane

    def start(self, images: Sequence[Path]) -> None:
        """Start all, take the images in, and wait until the node is ready. Raises Unavailable."""
        self._write()
        self._program(
            "containerd", golang.containerd("containerd"), f"--config={self.folder}/containerd.toml"
        )
        until("containerd", Path(SOCKET).exists, 30.0, 0.05)
        for image in images:
            self._import(image)
        admin = self._plane.kubeconfig("admin")
        (self.folder / "Corefile").write_text(_NAMES.format(kubeconfig=admin))
        self._program("coredns", golang.coredns(), f"-conf={self.folder}/Corefile")
        use_names(NODE)
        self._program(
            "kubelet",
            golang.kubernetes("kubelet"),
            f"--config={self.folder}/kubelet.json",
            f"--kubeconfig={self._plane.kubeconfig('kubelet')}",
            f"--root-dir={self.folder}/kubelet",
            f"--hostname-override={NAME}",
            f"--node-ip={NODE}",
        )
        self._program(
            "kube-proxy",
            golang.kubernetes("kube-proxy"),
            f"--kubeconfig={self._plane.kubeconfig('proxy')}",
            f"--hostname-override={NAME}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={_PODS}",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )
        until("the node", self._ready, 60.0)

    def _ready(self) -> bool:
        nodes = self._plane.api.get("/api/v1/nodes")["items"]
        return any(
            one["type"] == "Ready" and one["status"] == "True"
            for node in nodes
            for one in node["status"].get("conditions", ())
        )

    def _program(self, name: str, *command: str) -> None:
        folder = self.folder
        Running(name, NODE, lambda: True, command=command, directory=folder, guarded=False).start()

    def _import(self, image: Path) -> None:
        command = [golang.containerd("ctr"), "-a", SOCKET, "-n", "k8s.io", "images", "import", str(image)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable("containerd", f"{image.name} is not taken in: {done.stderr.strip()}")

    def _write(self) -> None:
        folder, plane = self.folder, self._plane
        (folder / "containerd.toml").write_text(
            _CONTAINERD.format(
                folder=folder,
                socket=SOCKET,
                pause=PAUSE,
                networks=_NETWORKS,
                shim=golang.containerd("containerd-shim-runc-v2"),
            )
        )
        ranges = [[{"subnet": _PODS}]]
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
        }
        (folder / "network").mkdir()
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        _json(
            folder / "network" / "pods.conflist", {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        )
        _json(
            folder / "kubelet.json",
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": str(plane.authority.file)},
                },
                "authorization": {"mode": "AlwaysAllow"},
                "containerRuntimeEndpoint": f"unix://{SOCKET}",
                "cgroupDriver": "cgroupfs",
                # What a machine without all rights, or with the older control groups, can do.
                "failCgroupV1": False,
                "cgroupsPerQOS": False,
                "enforceNodeAllocatable": [],
                "oomScoreAdj": 0,
                "failSwapOn": False,
                "resolvConf": "",
                "podLogsDir": str(folder / "logs"),
                "evictionHard": {
                    "memory.available": "100Mi",
                    "nodefs.available": "1%",
                    "imagefs.available": "1%",
                },
                "nodeStatusUpdateFrequency": "5s",
                "clusterDNS": [NODE],
                "clusterDomain": "cluster.local",
            },
        )


def need_packages() -> None:
    """See that there is what Debian has of a node: plugins that give pods addresses, runc, nftables.

    Raises Unavailable.
    """
    if not (_NETWORKS / "bridge").exists():
        cache.install("kubernetes", "containernetworking-plugins")
    for command, package in (("runc", "runc"), ("nft", "nftables"), ("ip", "iproute2")):
        cache.program("kubernetes", command, package)


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
