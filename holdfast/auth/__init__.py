"""Tokens of clients: checking them, and issuing them for `POST /v1/tokens`."""

from holdfast.auth.issue import issue
from holdfast.auth.verify import Claims, Verifier

__all__ = ["Claims", "Verifier", "issue"]
