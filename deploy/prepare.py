"""Fetches what the tests need of the machine, before they begin: `python -m deploy.prepare`.

On a new machine that takes minutes, which is longer than any test may take. What cannot be had is said here,
and each test that needs it decides for itself: it is skipped, or with CI=true it fails.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from deploy.local import balancer, consul, kafka, prometheus, redis
from deploy.local.process import Unavailable
from deploy.tools import programs, yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NEEDED: Final[Mapping[str, Callable[[], Any]]] = {
    "redis": redis.find,
    "kafka": kafka.find,
    "consul": consul.find,
    "haproxy": balancer.find_haproxy,
    "nginx": balancer.find_nginx,
    "prometheus": prometheus.find_prometheus,
    "alertmanager": prometheus.find_alertmanager,
    "compiler": programs.compiler,
    "kustomize": programs.kustomize,
    "kubeconform": programs.kubeconform,
    "schemas": programs.schemas,
    "hadolint": programs.hadolint,
    "pyyaml": lambda: yaml.load(""),
    "chromium": programs.chromium,
}

_NOTICED: Final = 1.0
"""Seconds from which on it is worth a line that something had to be fetched."""


def main() -> None:
    """Fetch all of it; end well, whatever is missing."""
    for name, find in _NEEDED.items():
        if os.environ.get(f"HF_LOCAL_{name.upper()}"):
            continue  # one that runs elsewhere is to be used
        began = time.monotonic()
        try:
            find()
        except Unavailable as error:
            sys.stderr.write(f"{name} is not available: {error.why}\n")
            continue
        if (took := time.monotonic() - began) > _NOTICED:
            sys.stderr.write(f"{name}: installed in {took:.0f} s\n")


if __name__ == "__main__":
    main()
