"""How Kafka is spoken to: TLS, and who we are, for every client that aiokafka makes; and why it failed."""

from __future__ import annotations

import functools
import logging
from typing import Any, Final

from holdfast import tls
from holdfast.settings import Kafka  # noqa: TC001 - beside a decorator


def options(settings: Kafka) -> dict[str, Any]:
    """Return aiokafka's arguments. Raises Stop, naming the setting, for files that cannot be used."""
    protocol = settings.security_protocol
    found: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        found["ssl_context"] = _trust(settings).context
    if protocol.startswith("SASL"):
        found |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.user,
            "sasl_plain_password": settings.password,
        }
    return found


@functools.lru_cache(maxsize=8)
def _trust(settings: Kafka) -> tls.Trust:
    """One for all the clients of a process: reading authorities takes milliseconds, and files are watched."""
    return tls.calling("kafka", settings)


class _Why(logging.Handler):
    """Keeps what aiokafka complained of last: its exceptions do not say why no broker would have us."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.msg.startswith("Unable"):
            self.text = record.getMessage()


_why: Final = _Why(logging.WARNING)
_logger: Final = logging.getLogger("aiokafka")
# It logs every failed attempt of an outage as an error; what matters of them comes from us, as Retry.
_logger.addHandler(_why)
_logger.setLevel(logging.WARNING)
_logger.propagate = False


def why() -> str:
    """Return the last reason for which no connection was made, as the end of a sentence; "" without one."""
    said, _why.text = _why.text, ""
    return f" ({said})" if said else ""
