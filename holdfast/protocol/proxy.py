"""PROXY protocol without I/O: the header that a balancer puts before a connection's own bytes.

Version 2 is what HAProxy and cloud balancers write; version 1, a line of text, is all that Nginx can.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from holdfast.errors import Reject

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
MAX_HEADER: Final = 4096
"""Bytes of a header, TLVs included, at most: 64 KiB would be allowed, balancers send a few hundred."""

LINE_START: Final = b"PROXY "
MAX_LINE: Final = 107
"""Bytes of a version 1 header, its line end included, at most: the protocol's own bound."""

_FIXED: Final = 16
_SIZES: Final = {0x1: (4, 12), 0x2: (16, 36), 0x3: (108, 216)}
"""Address family -> (bytes of one address, of the whole address block): IPv4, IPv6, Unix."""

Address = tuple[str, int]


class ProxyHeader:
    """Reads one header. `source` and `destination` are known once `done`.

    They stay None where the balancer speaks for itself (LOCAL, as in health checks) or has no IP address to
    tell: then the connection's own addresses hold.
    """

    __slots__ = ("_buffer", "destination", "done", "source")

    def __init__(self) -> None:
        self._buffer = b""
        self.done = False
        self.source: Address | None = None
        self.destination: Address | None = None

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes; return what follows the header once it is complete, None before that.

        Raises Reject(`bad_frame`) as soon as it is no such header; the connection is to be closed.
        """
        data = self._buffer + data
        if data[: len(LINE_START)] == LINE_START[: len(data)]:
            return self._line(data)
        if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
            raise Reject("bad_frame", "no PROXY protocol signature")
        if len(data) < _FIXED:
            self._buffer = data
            return None
        command, family, transport = data[12], data[13] >> 4, data[13] & 15
        if command not in (0x20, 0x21):
            raise Reject("bad_frame", "the PROXY header's version or command is unknown")
        if family > 3 or transport > 2:
            raise Reject("bad_frame", "the PROXY header's family or transport is unknown")
        length = data[14] << 8 | data[15]
        end = _FIXED + length
        if end > MAX_HEADER:
            raise Reject("bad_frame", f"the PROXY header is longer than {MAX_HEADER} bytes")
        one, both = _SIZES.get(family, (0, 0))
        known = command == 0x21 and family != 0 and transport != 0
        if known and length < both:
            raise Reject("bad_frame", "the PROXY header is too short for its addresses")
        if len(data) < end:
            self._buffer = data
            return None
        if known and family != 3:
            ports = _FIXED + 2 * one
            self.source = _address(data[_FIXED : _FIXED + one], data[ports : ports + 2])
            self.destination = _address(data[_FIXED + one : ports], data[ports + 2 : ports + 4])
        self._buffer = b""
        self.done = True
        return data[end:]

    def _line(self, data: bytes) -> bytes | None:
        end = data.find(b"\r\n", 0, MAX_LINE)
        if end < 0:
            if len(data) >= MAX_LINE:
                raise Reject("bad_frame", f"the PROXY line is longer than {MAX_LINE} bytes")
            self._buffer = data
            return None
        words = data[len(LINE_START) : end].split(b" ")
        if words[0] != b"UNKNOWN":
            self.source, self.destination = _line_addresses(words)
        self._buffer = b""
        self.done = True
        return data[end + 2 :]


def _address(host: bytes, port: bytes) -> Address:
    return str(ipaddress.ip_address(host)), int.from_bytes(port, "big")


def _line_addresses(words: list[bytes]) -> tuple[Address, Address]:
    versions = {b"TCP4": 4, b"TCP6": 6}
    try:
        family, *hosts, source, destination = (word.decode("ascii") for word in words)
        one, other = (ipaddress.ip_address(host) for host in hosts)
        ports = int(source), int(destination)
    except ValueError:
        raise Reject("bad_frame", "the PROXY line cannot be read") from None
    if not source.isdigit() or not destination.isdigit():  # int() takes signs and underscores too
        raise Reject("bad_frame", "the PROXY line's ports cannot be read")
    fits = {one.version, other.version} == {versions.get(words[0])}
    if not fits or max(ports) > 65_535:
        raise Reject("bad_frame", f"the PROXY line's addresses do not fit {family}")
    return (str(one), ports[0]), (str(other), ports[1])


def header(source: Address, destination: Address) -> bytes:
    """Return the header of a proxied TCP connection, as a balancer or a test writes it."""
    hosts = ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])
    family = 0x11 if hosts[0].version == 4 else 0x21
    body = b"".join(
        (hosts[0].packed, hosts[1].packed, source[1].to_bytes(2, "big"), destination[1].to_bytes(2, "big"))
    )
    return SIGNATURE + bytes((0x21, family)) + len(body).to_bytes(2, "big") + body
