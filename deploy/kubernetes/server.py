"""A real Kubernetes API server on loopback, with its etcd: it says what schemas cannot.

Both are built with Go from the module registry, once: ten minutes or more on two cores. There are no nodes:
objects are tried (`dryRun=All`), with the server's own validation and admission.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Self

from deploy.kubernetes import accounts, etcd
from deploy.kubernetes.api import Api, Refused
from deploy.local.certificate import Authority, write_secret
from deploy.local.process import Running, free_port
from deploy.tools import golang

if TYPE_CHECKING:
    from pathlib import Path

_HOST = "127.0.0.1"


class ApiServer:
    """See the module. Raises Unavailable where it cannot be had."""

    def __init__(self, directory: Path) -> None:
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}
        store, peers, port = f"http://{_HOST}:{free_port()}", f"http://{_HOST}:{free_port()}", free_port()
        self._etcd = etcd.make(directory, store, peers)
        authority, token = Authority(directory), secrets.token_urlsafe(24)
        certificate = authority.issue("kube-apiserver", hosts=(_HOST,))
        write_secret(directory / "tokens.csv", f"{token},admin,1,system:masters\n".encode())
        self._api = Api(f"https://{_HOST}:{port}", authority.file, token)
        self._server = Running(
            "kube-apiserver",
            f"{_HOST}:{port}",
            self._api.ready,
            directory=directory,
            command=[
                golang.kubernetes("kube-apiserver"),
                f"--etcd-servers={store}",
                f"--bind-address={_HOST}",
                f"--advertise-address={_HOST}",
                f"--secure-port={port}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={certificate}",
                f"--token-auth-file={directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                *accounts.options(accounts.make(directory)),
                "--service-cluster-ip-range=10.96.0.0/16",
                # It waits for tokens that a controller would make.
                "--disable-admission-plugins=ServiceAccount",
            ],
        )

    def __enter__(self) -> Self:
        self._etcd.start()
        self._etcd.wait_ready(30.0)
        self._server.start()
        self._server.wait_ready(90.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(5.0)
        self._etcd.stop(5.0)

    def create(self, manifest: dict[str, Any], *, dry_run: bool = True) -> str:
        """Create an object, or try to; return "" or what the server says against it."""
        base, namespaced = self._path(manifest["apiVersion"], manifest["kind"])
        space = manifest["metadata"].get("namespace", "default")
        path = base.replace("{}", f"namespaces/{space}/" if namespaced else "")
        options = "fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        try:
            self._api.post(f"{path}?{options}", manifest)
        except Refused as refused:
            return str(refused.answer.get("message", refused.answer))
        return ""

    def knows(self, manifest: dict[str, Any]) -> bool:
        """Tell whether the server has this kind by itself."""
        try:
            self._api.get(_group(manifest["apiVersion"]))
        except Refused:
            return False
        return True

    def _path(self, version: str, kind: str) -> tuple[str, bool]:
        if (version, kind) not in self._paths:
            base = _group(version)
            for resource in self._api.get(base)["resources"]:
                if "/" not in resource["name"]:
                    place = (base + "/{}" + resource["name"], resource["namespaced"])
                    self._paths[version, resource["kind"]] = place
        return self._paths[version, kind]


def _group(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
