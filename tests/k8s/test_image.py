"""The image's recipe, without building it."""

from __future__ import annotations

import re
import subprocess

import pytest

from deploy.tools import programs
from tests.k8s.manifests import DEPLOY

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

FILE = DEPLOY.parent / "Containerfile"


def test_the_containerfile_has_no_fault() -> None:
    """hadolint finds nothing; it does find a fault where one is."""
    for text, status in ((FILE.read_text(), 0), (FILE.read_text() + "\nRUN cd /tmp\nRUN sudo ls\n", 1)):
        command = [programs.hadolint(), "--no-color", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout


def test_the_result_is_not_root_and_has_no_installer() -> None:
    """A user by number; pip is gone from what is copied; only what is listed gets into the build."""
    text = FILE.read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    assert "RUN" not in last
    assert "pip uninstall" in text
    for name in (".containerignore", ".dockerignore"):
        listed = (FILE.parent / name).read_text().split()
        assert listed[0] == "*"
        copied = re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE)
        assert {f"!{path}" for path in copied} <= set(listed)
