"""What kustomize makes of an overlay."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

from deploy.tools import programs
from deploy.tools.yaml import load

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = ("dev", "production", "e2e")
ROLES = ("holdfast-access", "holdfast-logic", "holdfast-dispatch")

Manifest = dict[str, Any]


@functools.cache
def built(folder: str) -> str:
    """Return the YAML that kustomize makes of a folder of deploy/."""
    command = [programs.kustomize(), "build", str(DEPLOY / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@functools.cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    """Return every object of an overlay."""
    return tuple(load(built(f"k8s/overlays/{overlay}")))


def of_kind(overlay: str, kind: str) -> dict[str, Manifest]:
    """Return the objects of a kind, by name."""
    return {m["metadata"]["name"]: m for m in manifests(overlay) if m["kind"] == kind}


def pod(manifest: Manifest) -> Manifest:
    """Return the pod that a Deployment makes."""
    return dict(manifest["spec"]["template"]["spec"])


def labels(manifest: Manifest) -> dict[str, str]:
    """Return the labels of the pods that a Deployment makes."""
    return dict(manifest["spec"]["template"]["metadata"]["labels"])


def settings(overlay: str) -> dict[str, str]:
    """Return the environment that the services get from the ConfigMap and the Secret."""
    import base64

    found: dict[str, str] = {}
    for kind in ("ConfigMap", "Secret"):
        for name, manifest in of_kind(overlay, kind).items():
            if name.startswith(("holdfast-settings", "holdfast-secrets")):
                data = manifest.get("data") or {}
                decode = kind == "Secret"
                found |= {k: base64.b64decode(v).decode() if decode else v for k, v in data.items()}
    return found
