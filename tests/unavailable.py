"""What a test does without a server that it needs: it is skipped, but CI must have everything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from deploy.local.process import Unavailable


def without(missing: Unavailable | str) -> NoReturn:
    """Skip the test that needs what is missing; with CI=true, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))
