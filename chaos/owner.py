"""Whose connection is it? The kernel tells, without any rights: which socket, and which process has it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_HEADER: Final = struct.Struct("=IHHII")
_ASK: Final = struct.Struct("=BBBBI")
_INODE_AT: Final = _HEADER.size + 68


def owner(near: tuple[str, int], far: tuple[str, int], names: Mapping[int, str]) -> str:
    """Return whose socket is bound to `near` and connected to `far`: a name, or `?` for none of these.

    `names`: the processes to be looked at, by process id.
    """
    number = inode(near, far)
    if number:
        wanted = f"socket:[{number}]"
        for pid, name in sorted(
            names.items(), key=lambda each: each[1].startswith("kafka")
        ):  # has most files
            folder = f"/proc/{pid}/fd"
            with contextlib.suppress(OSError):
                for descriptor in os.listdir(folder):  # noqa: PTH208 - pathlib takes ten times as long
                    try:
                        if os.readlink(f"{folder}/{descriptor}") == wanted:  # noqa: PTH115
                            return name
                    except OSError:
                        continue
    return "?"


def inode(near: tuple[str, int], far: tuple[str, int]) -> int:
    """Return the number of a TCP socket of IPv4 on this machine by its two ends; 0 where there is none.

    One look-up in the kernel's table (/proc/net/tcp would be the whole table, and that may be long).
    """
    ends = struct.pack(">HH", near[1], far[1])
    addresses = b"".join(socket.inet_aton(end[0]) + bytes(12) for end in (near, far))
    ask = _ASK.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    ask += ends + addresses + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(ask), _BY_FAMILY, 1, 0, 0) + ask)
        answer = netlink.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY or len(answer) < _INODE_AT + 4:
        return 0
    return int(struct.unpack_from("=I", answer, _INODE_AT)[0])
