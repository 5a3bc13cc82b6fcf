"""A shard's knowledge of nodes: routes, sessions, beats, kicks, tombstones. Pure: part of `Shard`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.log.port import FENCED, REPLACED, Kick, Swept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import Change, NodeUpdate, SessionInfo
    from holdfast.records import StateRecord


class Nodes:
    """Who holds which channel and which session. `held` is the reverse index, by incarnation."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.beats: dict[str, int] = {}
        self.routes: dict[str, dict[str, None]] = {}
        self.held: dict[str, set[tuple[str, str]]] = {}
        self._sessions: dict[str, dict[str, SessionInfo]] = {}
        self._newest: dict[tuple[str, str], tuple[str, str]] = {}
        self._kicks: dict[str, dict[str, Kick]] = {}
        self.asks: dict[str, dict[str, None]] = {}
        self.dead: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.loads: dict[str, int] = {}

    def route(self, channel: str) -> tuple[str, ...]:
        """Return the incarnations in a channel's route, oldest first."""
        return tuple(self.routes.get(channel, ()))

    def update(self, update: NodeUpdate) -> int:
        """See `Log.update`."""
        node, number = update.incarnation, self.numbers.get(update.incarnation, 0)
        if node in self.dead:
            return FENCED
        if update.number <= number:
            return number
        if update.whole:
            keep = {_held(change) for change in update.changes}
            for user, name in sorted(self.held.get(node, set()) - keep):
                self._drop(node, user, name)
        elif update.number != number + 1:
            return number
        for change in update.changes:
            self._change(node, change, whole=update.whole)
        self.numbers[node] = update.number
        self.beats.setdefault(node, 0)
        return update.number

    def beat(self, node: str, told: int, load: int) -> tuple[int, tuple[Kick, ...], tuple[str, ...]]:
        """Count a beat; return the last update's number, the kicks ordered by session, and the asks."""
        if node not in self.dead:
            self.beats[node] = self.beats.get(node, 0) + 1
            if told > 0:
                self.told[node] = told
            if load >= 0:
                self.loads[node] = load
        kicks = self._kicks.get(node, {})
        return (
            self.numbers.get(node, 0),
            tuple(kicks[session] for session in sorted(kicks)),
            tuple(self.asks.get(node, ())),
        )

    def sessions(self, user: str) -> tuple[SessionInfo, ...]:
        """Return a user's sessions, ordered by id."""
        of_user = self._sessions.get(user, {})
        return tuple(of_user[session] for session in sorted(of_user))

    def kick(self, user: str, sessions: Sequence[str], code: str, reason: str) -> int:
        """See `Log.kick`."""
        of_user = self._sessions.get(user, {})
        there = [session for session in dict.fromkeys(sessions) if session in of_user]
        for session in there:
            self._add_kick(of_user[session].node, Kick(user, session, code, reason))
        return len(there)

    def ask(self, node: str, what: str) -> None:
        """See `Log.ask`."""
        self.asks.setdefault(node, {})[what] = None

    def load(self, facts: Sequence[StateRecord]) -> None:
        """Take in the tombstones among facts of the state topic."""
        for fact in facts:
            if fact.kind != "dead":
                continue
            if fact.present:
                self.dead[fact.field] = fact.version
            else:
                self.dead.pop(fact.field, None)

    def sweep(self, node: str, done: Sequence[tuple[str, str]], limit: int) -> Swept:
        """See `Log.sweep`."""
        for user, name in done:
            if (user, name) in self.held.get(node, ()):
                self._drop(node, user, name)
        page = sorted(self.held.get(node, ()))[:limit]
        for _, name in [one for one in page if not one[0]]:
            self._drop(node, "", name)
        told = self.told.get(node, 0)
        sessions = tuple((user, self._sessions[user][name]) for user, name in page if user)
        if node in self.held:
            return Swept(sessions, told)
        for known in (self.numbers, self.beats, self.asks, self.told, self.loads, self._kicks):
            known.pop(node, None)
        return Swept(sessions, told, over=True)

    def _change(self, node: str, change: Change, *, whole: bool) -> None:
        key = _held(change)
        if change.op in ("-r", "-s"):
            if key in self.held.get(node, ()):
                self._drop(node, *key)
            return
        self.held.setdefault(node, set()).add(key)
        if change.op == "+r":
            self.routes.setdefault(change.name, {})[node] = None
        else:
            assert change.info is not None
            self._add_session(change.name, change.info, whole=whole)

    def _add_session(self, user: str, info: SessionInfo, *, whole: bool) -> None:
        of_user = self._sessions.setdefault(user, {})
        same = of_user.get(info.session)
        if same is not None and same.client != info.client:
            self._free(user, same)
        of_user[info.session] = info

        def stays(other: SessionInfo) -> bool:
            """Who writes all again may write what was replaced meanwhile: the one that began later stays."""
            return whole and (other.since, other.session) > (info.since, info.session)

        if info.client:
            before = self._newest.get((user, info.client))
            other = None if before is None or before[0] == info.session else of_user[before[0]]
            if other is not None and stays(other):
                self._add_kick(info.node, Kick(user, info.session, "superseded"))
            else:
                if other is not None:
                    self._add_kick(other.node, Kick(user, other.session, "superseded"))
                self._newest[user, info.client] = (info.session, info.node)
        if not info.seat:
            return
        for name in sorted(of_user):
            other = of_user[name]
            if other.seat == info.seat and name != info.session:
                loser = info if stays(other) else other
                self._add_kick(loser.node, Kick(user, loser.session, "disconnected", REPLACED))

    def _drop(self, node: str, user: str, name: str) -> None:
        """Forget a route (`user` is "") or a session that this node holds."""
        self.held[node].discard((user, name))
        if not self.held[node]:
            del self.held[node]
        if not user:
            route = self.routes[name]
            route.pop(node, None)
            if not route:
                del self.routes[name]
            return
        info = self._sessions[user].pop(name)
        if not self._sessions[user]:
            del self._sessions[user]
        self._free(user, info)
        kicks = self._kicks.get(info.node, {})
        kicks.pop(name, None)
        if not kicks:
            self._kicks.pop(info.node, None)

    def _free(self, user: str, info: SessionInfo) -> None:
        """Let go of the client that a session had."""
        if self._newest.get((user, info.client)) == (info.session, info.node):
            del self._newest[user, info.client]

    def _add_kick(self, node: str, kick: Kick) -> None:
        self._kicks.setdefault(node, {})[kick.session] = kick


def _held(change: Change) -> tuple[str, str]:
    if change.op in ("+r", "-r"):
        return "", change.name
    if change.op == "+s":
        assert change.info is not None
        return change.name, change.info.session
    return change.name, change.session
