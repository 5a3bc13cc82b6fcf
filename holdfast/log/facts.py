"""What a shard caches of the state topic: memberships, groups of users, cursors, revocations. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast.log.port import Membership, Outcome, Placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.log.port import LogRecord
    from holdfast.records import StateRecord


class Fact(NamedTuple):
    """A fact of version `version`: a place in a channel."""

    version: int
    seq: int
    epoch: str


class Facts:
    """Decides by version: what is not newer than what is held is skipped, and what is held is told."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, Fact]] = {}
        self.groups: dict[str, dict[str, Fact]] = {}
        self.cursors: dict[str, dict[str, Fact]] = {}
        self.revoked: dict[str, int] = {}

    def member(self, group: str, user: str) -> Membership | None:
        """Return a user's place in a group."""
        fact = self.members.get(group, {}).get(user)
        return None if fact is None else Membership(user, fact.version, fact.epoch, fact.seq)

    def of_group(self, group: str) -> tuple[Membership, ...]:
        """Return the members of a group, ordered by user."""
        return _memberships(self.members.get(group, {}))

    def of_user(self, inbox: str) -> tuple[Membership, ...]:
        """Return the groups of the user whose inbox this is, ordered by name."""
        return _memberships(self.groups.get(inbox, {}))

    def cursor(self, channel: str, device: str) -> tuple[str, int] | None:
        """Return a stored cursor's (epoch, seq)."""
        fact = self.cursors.get(channel, {}).get(device)
        return None if fact is None else (fact.epoch, fact.seq)

    def move_cursor(self, record: LogRecord, current: str) -> Placed:
        """Take in a cursor, unless it goes back in its epoch or leaves the channel's `current` one."""
        held = self.cursors.get(record.channel, {}).get(record.source)
        if held is not None and (
            record.score <= held.seq if record.epoch == held.epoch else held.epoch == current
        ):
            return skipped(held)
        fact = Fact(record.offset, record.score, record.epoch)
        self.cursors.setdefault(record.channel, {})[record.source] = fact
        return Placed(Outcome.DONE, fact.seq, fact.epoch, (), fact.version)

    def revoke(self, record: LogRecord) -> Placed:
        """Take in a revocation: the latest `before` counts, and is its own version."""
        held = self.revoked.get(record.channel, 0)
        if record.score <= held:
            return Placed(Outcome.SKIPPED, held, "", (), held)
        self.revoked[record.channel] = record.score
        return Placed(Outcome.DONE, record.score, "", (), record.score)

    def load(self, facts: Sequence[StateRecord], gone: dict[tuple[str, str], tuple[int, str]]) -> None:
        """Take in records of the state topic; of who left, `gone` keeps version and generation."""
        kinds = {"member": self.members, "group": self.groups, "cursor": self.cursors}
        for told in facts:
            channel, field, generation = told.channel, told.field, generation_of(told.epoch)
            if told.kind == "revoke":
                if told.version > self.revoked.get(channel, 0):
                    self.revoked[channel] = told.version
                continue
            if told.kind not in kinds:
                continue
            kind = kinds[told.kind]
            held = kind.get(channel, {}).get(field)
            known = gone.get((channel, field)) if held is None and told.kind != "cursor" else None
            if held is not None:
                known = held.version, generation_of(held.epoch)
            if known is not None and known[1] == generation and known[0] > told.version:
                continue
            if told.present:
                kind.setdefault(channel, {})[field] = Fact(told.version, told.seq, told.epoch)
                if told.kind != "cursor":
                    gone.pop((channel, field), None)
            elif told.kind != "cursor":
                fields = kind.get(channel, {})
                fields.pop(field, None)
                if not fields:
                    kind.pop(channel, None)
                gone[channel, field] = told.version, generation


def generation_of(epoch: str) -> str:
    """Return the generation of an epoch."""
    return epoch.partition(".")[0]


def skipped(held: Fact | None, absent: int = 0, epoch: str = "") -> Placed:
    """Return what is held, or the version `absent` (of `epoch`) where nothing is."""
    if held is None:
        return Placed(Outcome.SKIPPED, epoch=epoch, version=absent)
    return Placed(Outcome.SKIPPED, held.seq, held.epoch, (), held.version)


def _memberships(facts: dict[str, Fact]) -> tuple[Membership, ...]:
    return tuple(Membership(name, fact.version, fact.epoch, fact.seq) for name, fact in sorted(facts.items()))
