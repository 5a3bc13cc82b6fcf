"""Every object is one that Kubernetes, KEDA and the Prometheus operator know, field by field."""

from __future__ import annotations

import json
import subprocess

import pytest

from deploy.tools import programs
from tests.k8s.manifests import DEPLOY, OVERLAYS, built

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]


def conforms(text: str) -> subprocess.CompletedProcess[str]:
    own = str(
        DEPLOY / "tools" / "schemas" / "{{ .ResourceKind }}_{{ .Group }}_{{ .ResourceAPIVersion }}.json"
    )
    theirs = str(programs.schemas() / "{{ .ResourceKind }}{{ .KindSuffix }}.json")
    command = [programs.kubeconform(), "-strict", "-summary", "-output", "json"]
    command += ["-schema-location", theirs, "-schema-location", own]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay: str) -> None:
    """Unknown, missing and mistyped fields are refused; no kind goes unchecked."""
    done = conforms(built(f"k8s/overlays/{overlay}"))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["valid"] > 30
    assert summary["skipped"] == summary["invalid"] == summary["errors"] == 0


@pytest.mark.parametrize("component", ["nginx", "ingress", "haproxy", "keda", "hpa", "monitoring"])
def test_every_component_fits_its_schema(component: str) -> None:
    """The components that no overlay has are checked too."""
    folder = DEPLOY / "k8s" / "components" / component
    files = [path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml"]
    done = conforms("---\n".join(path.read_text() for path in files))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("maxUnavailable: 0", "maxUnavailabel: 0"),
        ("lagThreshold:", "lagThreshold: [x]\n    x:"),
        ("jobLabel:", "jobLabell:"),
        ("pollingInterval: 10", "pollingInterval: often"),
        ("minReadySeconds: 30", "minReadySeconds: long"),
    ],
)
def test_the_check_notices_mistakes(before: str, after: str) -> None:
    """A misspelt field or a wrong type in any of the kinds is an error."""
    text = built("k8s/overlays/production")
    assert before in text
    assert conforms(text.replace(before, after)).returncode != 0
