"""Nodelink by mutual TLS: who may push to a node, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from deploy.local.certificate import Authority
from holdfast import tls
from holdfast.clock import SystemClock
from holdfast.errors import Stop
from holdfast.membership.port import Node
from holdfast.network import TcpNetwork
from holdfast.nodelink.frames import MessageItem, Push
from holdfast.nodelink.link import Link
from holdfast.nodelink.server import LinkServer
from holdfast.observe.metrics import Metrics
from holdfast.settings import Nodelink
from tests.access.world import World
from tests.trust.talk import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class Node_:
    """An access node's side."""

    def __init__(self, settings: Nodelink) -> None:
        self.metrics = Metrics()
        self.pushes: list[Push] = []
        self.server = LinkServer(
            TcpNetwork(),
            "127.0.0.1",
            0,
            incarnation="a-1",
            secret=settings.secret,
            other_secret=settings.other_secret,
            metrics=self.metrics,
            on_push=lambda _, push: self.pushes.append(push),
            on_lost=lambda _: None,
            trust=tls.nodelink_server(settings),
        )

    def link(self, settings: Nodelink) -> Link:
        node = Node("a", "a-1", "access", f"127.0.0.1:{self.server.port}")
        return Link(
            TcpNetwork(),
            SystemClock(),
            node,
            dispatcher="d",
            secret=settings.secret,
            buffer=1 << 24,
            metrics=Metrics(),
            random=Random(1),
            trust=tls.nodelink_client(settings),
        )

    def refused(self, reason: str) -> float:
        return value(self.metrics, "access_nodelink_refused", reason=reason)


def files(authority: Authority, name: str, **more: Any) -> Nodelink:
    pem = authority.issue(name, hosts=(f"{name}.nowhere",), **more)
    return Nodelink(tls_authority=str(authority.file), tls_certificate=str(pem))


@contextlib.asynccontextmanager
async def linked(node: Node_, *dispatchers: Nodelink) -> AsyncIterator[list[Link]]:
    await node.server.start()
    links = [node.link(settings) for settings in dispatchers]
    for link in links:
        link.start()
    try:
        yield links
    finally:
        for link in links:
            link.close()
        node.server.close()
        await asyncio.sleep(0.05)


def is_new(link: Link, wire: object) -> bool:
    return link.connected and link._wire is not wire


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_both_sides_have_a_certificate_of_the_authority(tmp_path: Path) -> None:
    """Pushes arrive, in order and whole, whatever hosts the certificates name."""
    authority = Authority(tmp_path)
    node = Node_(files(authority, "access"))
    async with linked(node, files(authority, "dispatch")) as (link,):
        await until(lambda: link.connected)
        for number in range(20):
            body = b"x" * (number * 20_000)
            assert link.push(0, "g", number, [MessageItem("room:a", "e", number, body)])
        await until(lambda: len(node.pushes) == 20)
        assert [len(push.items[0].entry) for push in node.pushes] == [n * 20_000 for n in range(20)]  # type: ignore[union-attr]
        assert node.server.links == 1


@pytest.mark.parametrize("who", ["plain", "stranger", "without", "server only"])
async def test_nobody_else_pushes(tmp_path: Path, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who has no certificate, another authority's, or one that is for servers only is refused and counted."""
    authority = Authority(tmp_path)
    node = Node_(files(authority, "access"))
    match who:
        case "plain":
            dispatcher = Nodelink()
        case "stranger":
            (tmp_path / "x").mkdir()
            stranger = Authority(tmp_path / "x")
            own = stranger.issue("dispatch")
            dispatcher = Nodelink(tls_authority=str(authority.file), tls_certificate=str(own))
        case "without":
            dispatcher = Nodelink()
        case _:
            dispatcher = files(authority, "access-2", use="server")
    async with linked(node, dispatcher) as (link,):
        if who == "without":  # a client of TLS that shows nothing
            link._trust = tls.client("nodelink", tls.Files(authority=str(authority.file)), by_name=False)
        await until(lambda: node.refused("tls") >= 1)
        link.push(0, "g", 1, [MessageItem("room:a", "e", 1, b"forged")])
        await until(lambda: node.refused("tls") >= 2)
        assert node.pushes == []
        assert node.server.links == 0
    assert "nodelink closed" in caplog.text


async def test_a_node_that_is_none_gets_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Dispatch does not push to who cannot show a certificate of the authority, and says so in its log."""
    (tmp_path / "x").mkdir()
    authority, stranger = Authority(tmp_path), Authority(tmp_path / "x")
    node = Node_(files(stranger, "access"))
    async with linked(node, files(authority, "dispatch")) as (link,):
        await until(lambda: caplog.text.count("link not connected: ") >= 2)
        assert "certificate verify failed" in caplog.text
        assert not link.connected
        assert node.server.links == 0


async def test_the_secret_is_asked_for_besides(tmp_path: Path) -> None:
    """With both set, a certificate alone is not enough."""
    authority = Authority(tmp_path)
    ours = files(authority, "access")
    node = Node_(
        Nodelink(secret="s" * 20, tls_authority=ours.tls_authority, tls_certificate=ours.tls_certificate)
    )
    async with linked(node, files(authority, "dispatch")) as (link,):
        await until(lambda: node.refused("secret") >= 1)
        assert node.server.links == 0
        del link


async def test_the_secret_changes_without_a_pause() -> None:
    """While one secret replaces the other access takes both, so that nobody is refused at any step."""
    old, new = "o" * 20, "n" * 20
    steps = [(old, ""), (old, new), (new, old), (new, "")]
    for before, after in itertools.pairwise(steps):
        for access in (before, after):
            node = Node_(Nodelink(secret=access[0], other_secret=access[1]))
            async with linked(node, Nodelink(secret=before[0]), Nodelink(secret=after[0])):
                await until(lambda node=node: node.server.links == 2)  # type: ignore[misc]
                assert node.refused("secret") == 0
    node = Node_(Nodelink(secret=new))
    async with linked(node, Nodelink(secret=old), Nodelink()):
        await until(lambda: node.refused("secret") >= 2)
        assert node.server.links == 0


async def test_certificates_change_without_a_pause(tmp_path: Path) -> None:
    """A new authority beside the old, new certificates, then the old one goes: links stay or come back."""
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path), Authority(tmp_path / "new")
    believed = tmp_path / "believed.pem"
    believed.write_bytes(old.file.read_bytes())
    sides = [old.issue(name) for name in ("access", "dispatch")]
    access, dispatch = (Nodelink(tls_authority=str(believed), tls_certificate=str(pem)) for pem in sides)
    node = Node_(access)
    metrics = Metrics()
    async with linked(node, dispatch, dispatch) as (first, second):
        await until(lambda: node.server.links == 2)
        for change in ("both", "access", "dispatch", "new"):
            if change in ("both", "new"):
                texts = (old.file, new.file) if change == "both" else (new.file,)
                believed.write_bytes(b"".join(text.read_bytes() for text in texts))
            else:
                new.issue(change, path=sides[change == "dispatch"])
            tls.look(metrics)
            assert first._wire is not None
            before = first._wire
            assert before.transport is not None
            before.transport.abort()  # it comes back by what holds now
            await until(functools.partial(is_new, first, before))
            await until(lambda: node.server.links == 2)
            assert second.connected
        assert value(metrics, "tls_reloads", part="nodelink", outcome="failed") == 0
        assert node.refused("tls") == 0
    late = Nodelink(tls_authority=str(believed), tls_certificate=str(old.issue("late")))
    node = Node_(access)
    async with linked(node, late):
        await until(lambda: node.refused("tls") >= 1)
        assert node.server.links == 0


@pytest.mark.parametrize("who", ["dispatch", "access"])
async def test_a_certificate_that_was_taken_back_is_believed_no_more(
    tmp_path: Path, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Either side refuses one that is in the list, from the list's change on; others are let in."""
    authority = Authority(tmp_path)
    lists = str(authority.revoke())
    access, dispatch, other = (
        replace(files(authority, name), tls_revoked=lists) for name in ("access", "dispatch", "other")
    )
    node = Node_(access)
    async with linked(node, dispatch, other) as (link, second):
        await until(lambda: node.server.links == 2)
        authority.revoke(tmp_path / f"{who}.pem")
        tls.look(Metrics())
        wires = [link._wire, second._wire]
        for wire in wires:
            assert wire is not None
            assert wire.transport is not None
            wire.transport.abort()
        await until(lambda: caplog.text.count("certificate revoked") >= 2)
        if who == "dispatch":  # the node refuses it, and the other one is back
            await until(functools.partial(is_new, second, wires[1]))
            assert node.refused("tls") >= 1
            await until(lambda: node.server.links == 1)
        else:  # nobody pushes to that node any more
            assert node.server.links == 0
            assert not link.connected


async def test_a_list_that_has_ended_is_no_leave(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an old list does not know may have been taken back since: nobody is believed by it."""
    authority = Authority(tmp_path)
    lists = str(authority.revoke(days=-1))
    node = Node_(files(authority, "access"))
    async with linked(node, replace(files(authority, "dispatch"), tls_revoked=lists)) as (link,):
        await until(lambda: "CRL has expired" in caplog.text)
        assert not link.connected


@pytest.mark.parametrize("wrong", ["nothing", "a certificate", "away"])
def test_a_file_without_a_list_is_refused(tmp_path: Path, wrong: str) -> None:
    """inv 11: at the start, by the setting's name, and not at each handshake."""
    authority = Authority(tmp_path)
    file = tmp_path / "lists.pem"
    if wrong == "nothing":
        file.touch()
    elif wrong == "a certificate":
        file.write_bytes(authority.file.read_bytes())
    with pytest.raises(Stop, match=r"nodelink\.tls_revoked"):
        tls.nodelink_server(replace(files(authority, "access"), tls_revoked=str(file)))


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_port_for_everybody_is_told(guarded: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With neither a secret nor certificates, a node that listens for others says what that means."""
    world = World()
    if guarded:
        world.node.settings = replace(world.settings, nodelink=Nodelink(port=0, secret="s" * 20))
    async with world:
        pass
    assert ("nodelink.secret and nodelink.tls_certificate are empty" in caplog.text) is not guarded
