"""Programs of the Go world, built from the module registry into the cache, where they are not on PATH.

A module is required by one of our own, so that versions can be replaced: Kubernetes names its own parts at
v0.0.0, and each is published as a module of the same minor version.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.local import cache

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES: Final = "v1.36.3"
ETCD: Final = "v3.6.5"
CONTAINERD: Final = "v2.4.2"
COREDNS: Final = "v1.15.0"
KEDA: Final = "v2.21.0"
METRICS: Final = "v0.9.0"
_CONTAINERD: Final = "github.com/containerd/containerd/v2"
_COREDNS: Final = "github.com/coredns/coredns"
_KEDA: Final = "github.com/kedacore/keda/v2"
_NAMES: Final = f"""package main

import (
\t"{_COREDNS}/coremain"
\t_ "{_COREDNS}/plugin/errors"
\t_ "{_COREDNS}/plugin/health"
\t_ "{_COREDNS}/plugin/kubernetes"
)

func main() {{ coremain.Run() }}
"""
"""CoreDNS with what a cluster's names need: all of its plugins would be the clients of every cloud."""


def etcd() -> str:
    """Return the path of etcd; built in a minute where missing. Raises Unavailable."""
    return _kept("etcd", "go.etcd.io/etcd/server/v3", ETCD, "go.etcd.io/etcd/server/v3")


def kubernetes(name: str) -> str:
    """Return the path of a program of Kubernetes, as `kubelet`; the first one takes ten minutes.

    Raises Unavailable.
    """
    flags = f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    return _kept(name, "k8s.io/kubernetes", KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", flags)


def containerd(name: str) -> str:
    """Return the path of a program of containerd: Debian's is too old for the kubelet. Raises Unavailable."""
    flags = f"-X {_CONTAINERD}/version.Version={CONTAINERD}"
    return _kept(name, _CONTAINERD, CONTAINERD, f"{_CONTAINERD}/cmd/{name}", flags, anywhere=False)


def coredns() -> str:
    """Return the path of CoreDNS; built in a minute or two where missing. Raises Unavailable."""
    return _kept("coredns", _COREDNS, COREDNS, _NAMES)


def metrics_server() -> str:
    """Return the path of metrics-server; built in a minute or two where missing. Raises Unavailable."""
    module = "sigs.k8s.io/metrics-server"
    return _kept("metrics-server", module, METRICS, f"{module}/cmd/metrics-server")


def keda(name: str) -> str:
    """Return the path of KEDA's `operator` or `adapter`; the first takes a quarter of an hour, and 3 GB.

    Raises Unavailable.
    """
    return _kept(f"keda-{name}", _KEDA, KEDA, f"{_KEDA}/cmd/{name}")


def keda_definitions() -> list[Path]:
    """Return the files of the kinds that KEDA adds to Kubernetes. Raises Unavailable."""
    return sorted((_source("keda", _KEDA, KEDA) / "config" / "crd" / "bases").glob("*.yaml"))


def _source(name: str, module: str, version: str) -> Path:
    go = cache.program(name, "go", "golang-go")
    told = cache.run(name, [go, "mod", "download", "-json", f"{module}@{version}"])
    return Path(json.loads(told)["Dir"])


def _kept(name: str, module: str, version: str, main: str, flags: str = "", *, anywhere: bool = True) -> str:
    if anywhere and (path := shutil.which(name)):
        return path
    return str(cache.keep(f"{name}-{version}", lambda path: _build(path, module, version, main, flags)))


def _build(path: Path, module: str, version: str, main: str, flags: str) -> None:
    """Build `main`, the path of a package or the text of one."""
    go = cache.program(path.name, "go", "golang-go")
    requirements = (_source(path.name, module, version) / "go.mod").read_text()
    go_version = cache.run("go", [go, "env", "GOVERSION"]).strip().removeprefix("go")
    text = (
        main if main.startswith("package ") else f'//go:build tools\n\npackage build\n\nimport _ "{main}"\n'
    )
    what = "." if text is main else main
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        head = f"module build\ngo {go_version}\nrequire {module} {version}\n"
        (work / "go.mod").write_text(head + "\n".join(_replaced(requirements, version)) + "\n")
        (work / "main.go").write_text(text)
        environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
        cache.run(path.name, [go, "mod", "tidy"], directory=work, environment=environment)
        build = ["nice", go, "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", str(path), what]
        cache.run(path.name, build, directory=work, environment=environment)


def _replaced(requirements: str, version: str) -> Iterator[str]:
    """Yield what our module must replace: what the one that we build replaces, and parts of Kubernetes."""
    words = [line.split() for line in requirements.splitlines()]
    staging = version.replace("v1.", "v0.", 1)
    yield from sorted({f"replace {one[0]} => {one[0]} {staging}" for one in words if one[1:2] == ["v0.0.0"]})
    for one in words:
        if "=>" in one and not one[-1].startswith("."):
            yield " ".join(["replace", *(one[1:] if one[0] == "replace" else one)])
