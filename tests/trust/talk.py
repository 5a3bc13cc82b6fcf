"""Both ends of TLS without a network: what a server shows, and a client that is fed by hand."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.local.certificate import Authority
    from holdfast.observe.metrics import Metrics
    from holdfast.tls import Trust


class Peer:
    """A TLS client on memory: `feed` takes what the server wrote, `take` gives what is to be sent."""

    def __init__(self, authority: Authority, *, ciphers: str = "", certificate: str = "") -> None:
        context = ssl.create_default_context(cafile=str(authority.file))
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        if certificate:
            context.load_cert_chain(certificate)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self.shaken = False
        self.got = b""
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take what the server sent. Raises ssl.SSLError."""
        self._in.write(data)
        try:
            if not self.shaken:
                self.ssl.do_handshake()
                self.shaken = True
            while True:
                got = self.ssl.read(65_536)
                if not got:
                    self.ended = True
                    return
                self.got += got
        except ssl.SSLWantReadError:
            pass

    def send(self, data: bytes) -> None:
        """Encrypt; see `take`."""
        self.ssl.write(data)

    def take(self) -> bytes:
        """Return what is to be sent."""
        return self._out.read()


def shown(trust: Trust, authority: Authority, **options: Any) -> str:
    """Return the common name that a client sees which believes an authority. Raises ssl.SSLError."""
    peer = Peer(authority, **options)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = trust.context.wrap_bio(incoming, outgoing, server_side=True)
    peer.feed(b"")
    while not peer.shaken:
        incoming.write(peer.take())
        with contextlib.suppress(ssl.SSLWantReadError):
            server.do_handshake()
        peer.feed(outgoing.read())
    subject: Any = (peer.ssl.getpeercert() or {})["subject"]
    return str(subject[0][0][1])


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return a metric's value."""
    for suffix in ("", "_total"):
        found = metrics.registry.get_sample_value(f"holdfast_{name}{suffix}", labels)
        if found is not None:
            return found
    return 0.0
