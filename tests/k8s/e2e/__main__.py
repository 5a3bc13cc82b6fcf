"""`python -m tests.k8s.e2e`: what `make k8s-e2e` runs. All of it on a real Kubernetes, under load.

Programs and images are seen to first, with the machine's network. What comes then is in namespaces of its
own (`deploy.kubernetes.sandbox`), and so is a second Python: this module again, with `--inside`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from deploy.kubernetes import images, node, sandbox
from deploy.local import cache
from deploy.local.process import Unavailable
from deploy.tools import golang
from tests.k8s.e2e.cluster import Cluster
from tests.k8s.e2e.run import Run

RELEASES: Final = ("one", "two")
_CONTROL: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_KUBERNETES: Final = (*_CONTROL, "kubelet", "kube-proxy", "kubectl")
_CONTAINERD: Final = ("containerd", "containerd-shim-runc-v2", "ctr")
_KEDA: Final = ("operator", "adapter")
_BULKY: Final = (
    "node/containerd",
    "node/kubelet",
    "plane/etcd",
    *(f"holdfast-{tag}.tar" for tag in RELEASES),
)
"""What a run leaves in its folder that nobody reads."""


def main() -> int:
    """Run the command line: 0 when every claim holds, 1 when one does not, 2 when there was no run."""
    parser = argparse.ArgumentParser(prog="python -m tests.k8s.e2e", description=__doc__)
    parser.add_argument("--only", default="", help="steps, comma-separated (default: all)")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder, and wait at the end")
    parser.add_argument("--without-keda", action="store_true", help="do not build and run KEDA: 15 minutes")
    parser.add_argument("--dir", default="run/k8s-e2e", help="the run's folder (default: run/k8s-e2e)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.dir).resolve()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has us in the background
        signal.signal(number, _interrupted)
    try:
        if options.inside:
            return _inside(options, folder)
        with cache.locked("k8s-e2e"):  # control groups and two cores are for one run at a time
            return _outside(options, folder)
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _outside(options: argparse.Namespace, folder: Path) -> int:
    begin = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _say("building what is not in the cache")
    _build(keda=not options.without_keda)
    node.need_packages()
    images.archives(folder, RELEASES)
    _say(f"{time.monotonic() - begin:.0f} s for programs and images")
    code = sandbox.run_inside([sys.executable, "-m", "tests.k8s.e2e", "--inside", *sys.argv[1:]])
    for path in _BULKY if not options.keep else ():
        _remove(folder / path)
    return code


def _build(*, keda: bool) -> None:
    """Build the programs: inside there is no network. Raises Unavailable."""
    golang.etcd()
    for name in _KUBERNETES:
        golang.kubernetes(name)
    for name in _CONTAINERD:
        golang.containerd(name)
    golang.coredns()
    golang.metrics_server()
    golang.keda_definitions()
    for name in _KEDA if keda else ():
        golang.keda(name)


def _inside(options: argparse.Namespace, folder: Path) -> int:
    sandbox.set_up()
    begin = time.monotonic()

    def say(text: str) -> None:
        _say(f"{time.monotonic() - begin:6.1f} s  {text}")

    cluster = Cluster(folder, images.archives(folder, RELEASES, built=True), say)
    run = Run(
        cluster, folder, [name for name in options.only.split(",") if name], keda=not options.without_keda
    )
    kept = False
    try:
        cluster.start()
        cluster.deploy(scaled=not options.without_keda)
        say("all of it is available")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            kept = runner.run(run.go())
        _say("\n".join(["", *run.told]))
    except (Unavailable, TimeoutError, OSError):
        traceback.print_exc()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if options.keep:
        say("waiting for Ctrl-C")
        signal.pause()
    return 0 if kept else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
