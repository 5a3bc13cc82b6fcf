"""Membership from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.clock import ManualClock
from holdfast.errors import Stop
from holdfast.membership.port import Node
from holdfast.membership.static import StaticDirectory
from holdfast.observe.metrics import Metrics
from holdfast.settings import Membership

if TYPE_CHECKING:
    from pathlib import Path

A, B = Node("a", "a-1", "access", "h:1"), Node("b", "b-1", "access", "h:2")


async def opened(path: Path, clock: ManualClock) -> StaticDirectory:
    directory = StaticDirectory(Membership(kind="static", static=str(path)), Metrics(), clock)
    await directory.start()
    return directory


async def test_follows_the_file(tmp_path: Path) -> None:
    """The file is read again when it changes; one that cannot be read leaves what was known."""
    clock, path = ManualClock(), tmp_path / "nodes.json"
    path.write_bytes(msgspec.json.encode([B, A]))
    directory = await opened(path, clock)
    calls: list[int] = []
    directory.watch(lambda: calls.append(1))
    assert list(directory.nodes("access")) == [A, B]
    path.write_bytes(msgspec.json.encode([A]))
    await clock.advance(1.1)
    assert list(directory.nodes("access")) == [A]
    path.write_bytes(b"[{")
    await clock.advance(1.1)
    assert list(directory.nodes("access")) == [A]
    assert not await directory.healthy()
    path.write_bytes(msgspec.json.encode([A, B]))
    await clock.advance(1.1)
    assert list(directory.nodes("access")) == [A, B]
    assert await directory.healthy()
    assert len(calls) == 2
    await directory.close()


async def test_own_incarnation(tmp_path: Path) -> None:
    """A process that joins takes the place that the file gives to its name."""
    path = tmp_path / "nodes.json"
    path.write_bytes(msgspec.json.encode([A, B]))
    directory = await opened(path, ManualClock())
    own = Node("a", "a-77", "access", "h:1")
    await directory.join(own)
    assert list(directory.nodes("access")) == [own, B]
    await directory.leave()
    assert list(directory.nodes("access")) == [A, B]
    await directory.close()


async def test_nodes_without_an_incarnation(tmp_path: Path) -> None:
    """A file may know names only: each of them is a node, and of another role another one."""
    path = tmp_path / "nodes.json"
    listed = [Node("a", "", "access", "h:1"), Node("b", "", "access", "h:2"), Node("a", "", "logic")]
    path.write_bytes(msgspec.json.encode(listed))
    directory = await opened(path, ManualClock())
    assert [node.name for node in directory.nodes("access")] == ["a", "b"]
    assert [node.name for node in directory.nodes("logic")] == ["a"]
    own = Node("a", "a-77", "access", "h:1")
    await directory.join(own)
    assert list(directory.nodes("access")) == [own, listed[1]]
    await directory.close()


@pytest.mark.parametrize("content", [None, b"{}", b"nonsense"])
async def test_refuses_what_is_no_list_of_nodes(tmp_path: Path, content: bytes | None) -> None:
    """inv 11: a wrong file is a refusal to start that names the setting."""
    path = tmp_path / "nodes.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Stop, match=r"membership\.static"):
        await opened(path, ManualClock())
