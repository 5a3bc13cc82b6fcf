"""How Kafka is spoken to: TLS, and who we are, by both libraries; and why it failed."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final

from holdfast import tls
from holdfast.settings import Kafka  # noqa: TC001 - beside a decorator

if TYPE_CHECKING:
    from confluent_kafka import KafkaError


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


class Librdkafka:
    """The same for one client of librdkafka, which takes files, and reads them once."""

    def __init__(self, settings: Kafka) -> None:
        """Look at the files. Raises Stop, naming the setting, for those that cannot be used."""
        self._settings = settings
        self._trust = _trust(settings) if settings.security_protocol.endswith("SSL") else None
        self._used = self._trust.context.newest if self._trust else None
        self._failing = False
        self.logger = _silent

    def options(self) -> dict[str, Any]:
        """Return its settings, for a client that is made now."""
        settings = self._settings
        found: dict[str, Any] = {"security.protocol": settings.security_protocol}
        if self._trust:
            self._used, self._failing = self._trust.context.newest, False
            files = {
                "ssl.ca.location": settings.tls_authority,
                "ssl.certificate.location": settings.tls_certificate,
                "ssl.key.location": settings.tls_key or settings.tls_certificate,
            }
            found |= {name: path for name, path in files.items() if path}
            found["ssl.cipher.suites"] = tls.CIPHERS
        if settings.security_protocol.startswith("SASL"):
            found |= {
                "sasl.mechanism": settings.sasl_mechanism,
                "sasl.username": settings.user,
                "sasl.password": settings.password,
            }
        return found

    def failed(self, error: KafkaError) -> None:
        """Note what it could not do."""
        self._failing = True
        _why.text = error.str()

    @property
    def stale(self) -> bool:
        """Whether it should be made anew: it fails, and the files are others than those that it read."""
        return self._failing and self._trust is not None and self._trust.context.newest is not self._used


class _Why(logging.Handler):
    """Keeps what was complained of last: exceptions do not say why no broker would have us."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.msg.startswith("Unable"):
            self.text = record.getMessage()


_silent: Final = logging.getLogger("librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False

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
