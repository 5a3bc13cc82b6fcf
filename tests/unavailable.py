"""What a test does without a server that it needs: it is skipped, but CI must have everything."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from deploy.local.process import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def without(missing: Unavailable | str) -> NoReturn:
    """Skip the test that needs what is missing; with CI=true, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


@contextmanager
def available() -> Iterator[None]:
    """Start servers within: where one cannot be had, do as `without` does."""
    try:
        yield
    except Unavailable as error:
        without(error)
