"""The component that lets services out to the issuer of tokens."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.tools import programs
from deploy.tools.yaml import load
from tests.k8s.manifests import DEPLOY
from tests.k8s.test_network import World

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]
ADDRESS = "198.51.100.7/32"


def test_it_opens_one_arrow_for_who_checks_tokens_and_no_other(tmp_path: Path) -> None:
    """With the component, access and logic reach the issuer's address by HTTPS; nothing else is opened."""
    base, component = (
        os.path.relpath(DEPLOY / "k8s" / each, tmp_path)
        for each in ("overlays/production", "components/issuer")
    )
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: holdfast\n"
        f"resources: [{base}]\ncomponents: [{component}]\n"
        "patches:\n  - target: {kind: NetworkPolicy, name: issuer}\n    patch: |\n"
        f"      - {{op: replace, path: /spec/egress/0/to/0/ipBlock/cidr, value: {ADDRESS}}}\n"
    )
    command = [programs.kustomize(), "build", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, world = World("production"), World("production")
    for each in (before, world):
        each.addresses = each.addresses | {"issuer": ADDRESS}
    found = [each for each in load(made) if each["kind"] == "NetworkPolicy"]
    assert {each["metadata"]["namespace"] for each in found} == {"holdfast"}
    world.policies = [each["spec"] for each in found]
    assert not [arrow for arrow in before.arrows() if arrow[1] == "issuer"]
    assert world.arrows() - before.arrows() == {
        ("holdfast-access", "issuer", 443),
        ("holdfast-logic", "issuer", 443),
    }
    assert before.arrows() <= world.arrows()
