"""The control plane: etcd, the API server, the controllers and the scheduler; and who may say what to it."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final

from deploy.kubernetes import accounts, etcd
from deploy.kubernetes.api import Api
from deploy.kubernetes.sandbox import NODE
from deploy.local.certificate import Authority, write_secret
from deploy.local.process import Running
from deploy.tools import golang

if TYPE_CHECKING:
    from pathlib import Path

URL: Final = f"https://{NODE}:6443"
_ETCD: Final = "http://127.0.0.1:2379"
_PEER: Final = "http://127.0.0.1:2380"
_HOSTS: Final = (NODE, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default.svc")
_USERS: Final = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": ("system:node:node1", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
}
# Of the controllers; so that a scaler is looked at in the time that a try has.
_QUICK: Final = (
    "--horizontal-pod-autoscaler-sync-period=2s",
    "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
    "--horizontal-pod-autoscaler-cpu-initialization-period=1s",
)


class ControlPlane:
    """Started by `start`; it ends with the namespaces. `folder` takes data, keys and logs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.authority = Authority(folder)
        self._accounts = accounts.make(folder)
        self._tokens = {name: secrets.token_urlsafe(24) for name in _USERS}
        self._certificate = str(self.authority.issue("kube-apiserver", hosts=_HOSTS))
        self.api = Api(URL, self.authority.file, self._tokens["admin"])

    def start(self) -> None:
        """Start all, and wait until the API serves. Raises Unavailable."""
        self._write_tokens()
        store = etcd.make(self.folder, _ETCD, _PEER, guarded=False)
        store.start()
        store.wait_ready(30.0)
        server = self._program("kube-apiserver", golang.kubernetes("kube-apiserver"), *self._server())
        server.wait_ready(90.0)
        common = ["--leader-elect=false", "--bind-address=127.0.0.1"]
        for name, user, more in (
            ("kube-controller-manager", "controllers", self._controllers()),
            ("kube-scheduler", "scheduler", []),
        ):
            file = self.kubeconfig(user)
            files = [f"--{what}kubeconfig={file}" for what in ("", "authentication-", "authorization-")]
            self._program(name, golang.kubernetes(name), *files, *common, *more)

    def kubeconfig(self, user: str) -> Path:
        """Return the file with which a program is that user."""
        path = self.folder / f"{user}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": URL, "certificate-authority": str(self.authority.file)}}
            ],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": user}}],
            "current-context": "c",
        }
        write_secret(path, json.dumps(config).encode())
        return path

    def _program(self, name: str, *command: str) -> Running:
        ready = self.api.ready if name == "kube-apiserver" else lambda: True
        running = Running(name, NODE, ready, command=command, directory=self.folder, guarded=False)
        running.start()
        return running

    def _write_tokens(self) -> None:
        lines = [f'{self._tokens[name]},{user},{name},"{group}"' for name, (user, group) in _USERS.items()]
        write_secret(self.folder / "tokens.csv", "\n".join(lines).encode())

    def _server(self) -> list[str]:
        authority, certificate = self.authority.file, self._certificate
        client = self.authority.issue("kube-apiserver-client", use="client")
        return [
            f"--etcd-servers={_ETCD}",
            f"--advertise-address={NODE}",
            "--secure-port=6443",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={certificate}",
            f"--client-ca-file={authority}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            *accounts.options(self._accounts),
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client}",
            "--kubelet-preferred-address-types=InternalIP",
            # Metrics come from programs outside of pods; they trust us by this certificate.
            f"--requestheader-client-ca-file={authority}",
            "--requestheader-allowed-names=kube-apiserver-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={client}",
            f"--proxy-client-key-file={client}",
            "--enable-aggregator-routing=false",
        ]

    def _controllers(self) -> list[str]:
        return [
            f"--root-ca-file={self.authority.file}",
            f"--service-account-private-key-file={self._accounts}",
            "--use-service-account-credentials=true",
            *_QUICK,
        ]
