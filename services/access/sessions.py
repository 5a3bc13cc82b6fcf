"""Sessions: what is known of a connection whose `connect` was accepted."""

from __future__ import annotations

import msgspec

from holdfast.log.port import SessionInfo

from .grants import granted


class Session(msgspec.Struct, gc=False):
    """One session. `since` is Unix ms, `iat` and `exp` Unix seconds; `channels` the token's patterns.

    `client` is the session's id where the client gave none; `seat` see `SessionInfo`.
    """

    id: str
    user: str
    client: str
    device: str
    since: int
    exp: float
    iat: float
    jti: str
    channels: tuple[str, ...]
    seat: str = ""

    @property
    def inbox(self) -> str:
        """The user's own channel."""
        return f"user:{self.user}"

    @property
    def cursor_key(self) -> str:
        """Whose cursors these are."""
        return f"{self.user}\0{self.device}"

    def granted(self, channel: str) -> bool:
        """Tell whether the token itself names the channel."""
        return granted(self.channels, channel)

    def info(self, incarnation: str) -> SessionInfo:
        """Return the session as the log keeps it."""
        client = "" if self.client == self.id else self.client
        return SessionInfo(self.id, incarnation, self.device, self.since, client, self.jti, self.seat)

    def ended(self, incarnation: str) -> SessionInfo:
        """Return the same of a session that has ended: it takes nobody's place any more."""
        return SessionInfo(self.id, incarnation, self.device, self.since, "", self.jti)

    def revoked_by(self, before: int) -> bool:
        """Tell whether a revocation of all tokens issued before `before` (Unix ms) concerns this one."""
        return self.iat * 1000 < before
