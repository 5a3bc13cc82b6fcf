"""The names of a shard's keys in Redis. All carry one hash tag, so they live in one Cluster slot."""

from __future__ import annotations


class Keys:
    """One shard's keys. `docs/redis.md` says what each holds."""

    __slots__ = (
        "_list",
        "_start",
        "asks",
        "beats",
        "changed",
        "clients",
        "dead",
        "for_apply",
        "for_begin",
        "gone",
        "headers",
        "kicks",
        "loads",
        "meta",
        "numbers",
        "revoked",
        "routes",
        "sessions",
        "told",
    )

    def __init__(self, prefix: str, tag: str) -> None:
        start = self._start = f"{prefix}:{{{tag}}}:"
        self._list = f"{start}l:"
        self.meta = f"{start}meta"
        self.changed = f"{start}changed"
        self.headers = f"{start}headers"
        self.routes = f"{start}routes"
        self.revoked = f"{start}revoked"
        self.numbers = f"{start}numbers"
        self.beats = f"{start}beats"
        self.sessions = f"{start}sessions"
        self.clients = f"{start}clients"
        self.kicks = f"{start}kicks"
        self.asks = f"{start}asks"
        self.dead = f"{start}dead"
        self.told = f"{start}told"
        self.loads = f"{start}loads"
        self.gone = f"{start}gone"
        seen = (f"{start}seen0", f"{start}seen1")
        self.for_apply = (self.meta, self.changed, self.headers, self.routes, *seen, self.revoked, self.gone)
        self.for_begin = (self.meta, self.changed, self.headers, *seen, self.gone)

    def list(self, channel: str) -> str:
        """Return the list of a channel's entries."""
        return self._list + channel

    def members(self, group: str) -> str:
        """Return the hash of a group's members."""
        return f"{self._start}m:{group}"

    def groups(self, inbox: str) -> str:
        """Return the hash of a user's groups."""
        return f"{self._start}g:{inbox}"

    def cursors(self, channel: str) -> str:
        """Return the hash of a channel's stored cursors."""
        return f"{self._start}c:{channel}"

    def held(self, incarnation: str) -> str:
        """Return the set of what a node holds: its routes and sessions."""
        return f"{self._start}h:{incarnation}"

    @property
    def for_beat(self) -> tuple[str, ...]:
        """Return what a beat touches."""
        nodes = (self.numbers, self.kicks, self.asks, self.dead, self.told, self.loads)
        return (self.meta, self.beats, *nodes)

    def for_update(self, incarnation: str) -> tuple[str, ...]:
        """Return what a node's update touches."""
        held = self.held(incarnation)
        return (
            self.numbers,
            held,
            self.routes,
            self.sessions,
            self.clients,
            self.kicks,
            self.beats,
            self.dead,
        )

    def for_sweep(self, incarnation: str) -> tuple[str, ...]:
        """Return what sweeping a dead incarnation touches."""
        known = (self.numbers, self.beats, self.asks, self.told, self.loads)
        held = self.held(incarnation)
        return (self.meta, self.dead, held, self.routes, self.sessions, self.clients, self.kicks, *known)
