"""TLS, of what this process serves and what it calls: contexts whose files are read again when they change.

A changed file makes a new context, which the connections from then on get; those that are open go on with
what they began with. What does not fit together (a certificate whose key is not written yet) leaves the one
in use.
"""

from __future__ import annotations

import logging
import os
import ssl
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from holdfast.errors import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.observe.metrics import Metrics
    from holdfast.settings import Access, Api, Consul, Kafka, Nodelink, Process, Redis

LOOK_SECONDS: Final = 1.0
"""Seconds between looks at the files."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 what has forward secrecy and authenticates what it encrypts; 1.3 has nothing else."""

_log = logging.getLogger(__name__)
_all: weakref.WeakSet[Trust] = weakref.WeakSet()


class Files(NamedTuple):
    """PEM files. `certificate` has the chain, and the key too where `key` is ""; `authority` whom to believe.

    `revoked` has the authority's lists of certificates that are not believed any more. "" where there is
    none: no certificate of our own, the system's authorities.
    """

    certificate: str = ""
    key: str = ""
    authority: str = ""
    revoked: str = ""


class _Newest(ssl.SSLContext):
    """Stands for the newest context, in libraries that take one and keep it. By itself it trusts nobody."""

    newest: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        return self.newest.wrap_bio(*args, **kwargs)


class Trust:
    """One side of TLS: `context` for connections, of files that are watched. `part` is the settings' section.

    `expires` is when the certificate ends to be valid, in Unix seconds; 0 without one.
    """

    def __init__(self, part: str, files: Files, make: Callable[[], ssl.SSLContext]) -> None:
        """Load the files into what `make` returns. Raises Stop, naming the setting, for one that is wrong."""
        self.part = part
        self.expires = 0.0
        self._files = files
        self._make = make
        self._seen = self._stamps()
        self._said = ""
        self.context = _Newest(ssl.PROTOCOL_TLS_CLIENT)
        self.context.newest = self._loaded()
        _all.add(self)

    def look(self, *, force: bool = False) -> bool | None:
        """Load the files again if they changed (or by `force`). True: loaded; False: they cannot be used.

        What could not be used is tried again at the next look: half of it may have been written.
        """
        stamps = self._stamps()
        if stamps == self._seen and not force:
            return None
        try:
            self.context.newest = self._loaded()
        except Stop as stop:
            if str(stop) != self._said:
                self._said = str(stop)
                _log.warning("the certificate in use stays: %s", stop)
            return False
        self._seen, self._said = stamps, ""
        _log.info("certificates were loaded anew", extra={"part": self.part})
        return True

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._files)

    def _loaded(self) -> ssl.SSLContext:
        certificate, key, authority, revoked = self._files
        for name, path in self._files._asdict().items():
            if path:
                try:
                    Path(path).open("rb").close()  # OpenSSL does not say which file it is about
                except OSError as error:
                    raise Stop(f"{self.part}.tls_{name}: cannot read {path}: {error.strerror}") from None
        context = self._make()
        try:
            if certificate:
                context.load_cert_chain(certificate, key or None, password=_no_password)
                self.expires = _end(certificate)
        except (ssl.SSLError, OSError, ValueError) as error:
            both = f"{certificate} with the key {key or 'in it'}"
            raise Stop(f"{self.part}.tls_certificate: {both} cannot be used: {error}") from None
        try:
            if authority:
                context.load_verify_locations(authority)
        except (ssl.SSLError, OSError) as error:
            raise Stop(f"{self.part}.tls_authority: {authority} has no certificate in PEM: {error}") from None
        if revoked:
            _revoke(context, revoked, f"{self.part}.tls_revoked")
        return context


def server(part: str, files: Files, *, minimum: str = "1.2") -> Trust:
    """Return what a listener shows. With an authority, clients must have a certificate of it. Raises Stop."""

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _restrict(context, minimum)
        # A ticket is good at one process only, and its key would outlive the certificate.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
        if files.authority:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return Trust(part, files, make)


def client(part: str, files: Files, *, by_name: bool = True) -> Trust:
    """Return what a connection to a server goes by. Raises Stop.

    Not `by_name`, every certificate of the authority is as good as another, whatever host it names.
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if files.authority else ssl.create_default_context()
        _restrict(context, "1.2")
        context.check_hostname = by_name
        return context

    return Trust(part, files, make)


def access_server(settings: Access) -> Trust | None:
    """Return what clients are shown, None where `access` has no certificate. Raises Stop."""
    return _own("access", settings, minimum=settings.tls_minimum)


def api_server(settings: Api) -> Trust | None:
    """Return what callers of the HTTP API are shown, None where `api` has no certificate. Raises Stop."""
    return _own("api", settings)


def health_server(settings: Process) -> Trust | None:
    """Return what the metrics port shows, None where `process` has no certificate. Raises Stop."""
    return _own("process", settings)


def health_client(settings: Process) -> Trust:
    """Return what whoever asks metrics ports goes by. Raises Stop.

    They are found by address, so names are not compared; nothing is told to them, and what they say is no
    secret.
    """
    return client("process", Files(authority=settings.tls_authority), by_name=False)


def _own(part: str, settings: Access | Api | Process, *, minimum: str = "1.2") -> Trust | None:
    if not settings.tls_certificate:
        return None
    return server(part, Files(settings.tls_certificate, settings.tls_key), minimum=minimum)


def nodelink_server(settings: Nodelink) -> Trust | None:
    """Return what dispatchers are shown and have to show; None without certificates. Raises Stop."""
    return server("nodelink", _both(settings), minimum="1.3") if settings.tls_certificate else None


def nodelink_client(settings: Nodelink) -> Trust | None:
    """Return the other side of `nodelink_server`. Raises Stop.

    Nodes are found by address, and who may be one is what the authority is for: names are not compared.
    """
    return client("nodelink", _both(settings), by_name=False) if settings.tls_certificate else None


def calling(part: str, settings: Kafka | Redis | Consul) -> Trust:
    """Return what servers are believed by, and what they are shown. Raises Stop."""
    return client(part, _files(settings))


def _both(settings: Nodelink) -> Files:
    return _files(settings)._replace(revoked=settings.tls_revoked)


def _files(settings: Nodelink | Kafka | Redis | Consul) -> Files:
    return Files(settings.tls_certificate, settings.tls_key, settings.tls_authority)


def look(metrics: Metrics, *, force: bool = False) -> None:
    """Look at the files of every context of this process, and count what came of it."""
    ends: dict[str, float] = {}
    for trust in tuple(_all):
        done = trust.look(force=force)
        if done is not None:
            metrics.tls_reloads.labels(trust.part, "loaded" if done else "failed").inc()
        if trust.expires:
            ends[trust.part] = min(trust.expires, ends.get(trust.part, trust.expires))
    for part, end in ends.items():
        metrics.tls_expires_seconds.labels(part).set(end)


def _revoke(context: ssl.SSLContext, file: str, setting: str) -> None:
    """Believe no certificate that is in the lists of a file. Raises Stop, naming the setting."""
    try:
        context.load_verify_locations(file)
    except (ssl.SSLError, OSError) as error:
        raise Stop(f"{setting}: {file} has no revocation list in PEM: {error}") from None
    if not context.cert_store_stats()["crl"]:
        raise Stop(f"{setting}: {file} has certificates, and no revocation list")
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _restrict(context: ssl.SSLContext, minimum: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once a second for each file, and it follows links
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _end(certificate: str) -> float:
    from cryptography import x509  # noqa: PLC0415 - of no use where there is no TLS

    found = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    return found.not_valid_after_utc.timestamp()


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to be asked")
