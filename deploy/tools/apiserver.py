"""A real Kubernetes API server on loopback, with its etcd: it says what schemas cannot.

Both are built with Go from the module registry, once: ten minutes or more on two cores. There are no nodes:
objects are tried (`dryRun=All`), with the server's own validation and admission.
"""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local.process import Running, free_port
from deploy.tools import golang

if TYPE_CHECKING:
    from pathlib import Path


class ApiServer:
    """See the module. Raises Unavailable where it cannot be had."""

    def __init__(self, directory: Path) -> None:
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        self._token = secrets.token_urlsafe(24)
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}
        etcd, port = f"http://127.0.0.1:{free_port()}", free_port()
        peer = f"http://127.0.0.1:{free_port()}"
        self._etcd = Running(
            "etcd",
            etcd,
            lambda: _answers(f"{etcd}/health"),
            directory=directory,
            command=[
                golang.etcd(),
                f"--data-dir={directory / 'data'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        (directory / "tokens.csv").write_text(f"{self._token},admin,1,system:masters\n")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (directory / "accounts.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self._url = f"https://127.0.0.1:{port}"
        self._server = Running(
            "kube-apiserver",
            f"127.0.0.1:{port}",
            self._ready,
            directory=directory,
            command=[
                golang.kubernetes("kube-apiserver"),
                f"--etcd-servers={etcd}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={directory / 'certificates'}",
                f"--token-auth-file={directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                f"--service-account-key-file={directory / 'accounts.pem'}",
                f"--service-account-signing-key-file={directory / 'accounts.pem'}",
                "--service-account-issuer=https://kubernetes.default.svc",
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
        status, answer = self._call("POST", f"{path}?{options}", manifest)
        return "" if status == 201 else str(answer.get("message", answer))

    def knows(self, manifest: dict[str, Any]) -> bool:
        """Tell whether the server has this kind by itself."""
        return self._call("GET", _group(manifest["apiVersion"]))[0] == 200

    def _path(self, version: str, kind: str) -> tuple[str, bool]:
        if (version, kind) not in self._paths:
            base = _group(version)
            for resource in self._call("GET", base)[1]["resources"]:
                if "/" not in resource["name"]:
                    place = (base + "/{}" + resource["name"], resource["namespaced"])
                    self._paths[version, resource["kind"]] = place
        return self._paths[version, kind]

    def _ready(self) -> bool:
        try:
            return self._call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        context = ssl.create_default_context()
        context.check_hostname = False  # it made its certificate itself, just now, on this machine
        context.verify_mode = ssl.CERT_NONE
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310
                text = answer.read()
                return answer.status, json.loads(text) if text.startswith(b"{") else text
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
                return error.code, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}


def _group(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
