"""How a handler says no."""

from __future__ import annotations

import re
from typing import Final

from holdfast.errors import Reject
from holdfast.protocol.codes import CODES

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Refuse(Reject):
    """Raised by a handler: the sender gets an `error` with this code and sentence, nothing else happens.

    `Refuse("too long")` has the code `rejected`; `Refuse("too_long", "500 characters at most")` one of your
    own, in lower case. Outputs that the handler collected before are not released. Raises ValueError for a
    code that is malformed, or that ends connections (those are the server's).
    """

    def __init__(self, code_or_message: str, message: str | None = None) -> None:
        code, text = ("rejected", code_or_message) if message is None else (code_or_message, message)
        known = CODES.get(code)
        if not _CODE.fullmatch(code) or (known is not None and known.close is not None):
            raise ValueError(f"{code!r} cannot be the code of a refusal")
        super().__init__(code, text)
