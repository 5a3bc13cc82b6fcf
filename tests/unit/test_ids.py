"""Random names."""

from __future__ import annotations

import os
import re

from holdfast.ids import random_id


def test_names_are_random_and_differ() -> None:
    """Ten thousand names are all different, each 96 bits in 16 characters that need no quoting."""
    names = [random_id() for _ in range(10_000)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", name) for name in names)
    assert all(len({name[place] for name in names}) == 64 for place in range(16))


def test_a_child_has_names_of_its_own() -> None:
    """A process that is forked gives none of the names that its parent has ready."""
    random_id()
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        os.write(theirs, random_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    given = os.read(ours, 100).decode()
    os.close(ours)
    os.close(theirs)
    assert len(given) == 16
    assert given not in {random_id() for _ in range(256)}
