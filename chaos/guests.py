"""Guests: people who join a group and leave it, again and again, while it is written to.

Who joined by an answered call while it was connected is to get all that is sent from that answer on. Before
it is taken out again it is to have all that was sent meanwhile: where something was lost it stays, and the
ledger says so. A call that was given up may be carried out later, after the one that takes it back; so after
such a call this guest goes for good, and another comes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from chaos.people import Person

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from chaos.callers import Caller
    from chaos.people import World

STAY: Final = 4.0
"""Seconds for which a guest stays, on average; and twice the time for which it stays away."""
HEAR: Final = 60.0
"""Seconds after which a guest was not told that it came in or went out."""


class Guests:
    """Lets them come and go. `people` takes them in; `groups`: who else is in each group."""

    def __init__(
        self, world: World, caller: Caller, people: list[Person], groups: Mapping[str, Iterable[str]]
    ) -> None:
        self._world = world
        self._people = people
        self._caller = caller
        self._members = {group: set(users) for group, users in groups.items()}

    def start(self, hosts: int) -> None:
        """Have so many at a time."""
        names = list(self._members)
        for number in range(hosts):
            self._caller.run(self._host(number, names[number % len(names)]))

    async def compare(self) -> None:
        """Compare the members that the API knows with those there must be."""
        for group, wanted in self._members.items():
            found = set(await self._caller.members(group))
            if found != wanted:
                text = f"the API has {sorted(found - wanted)} too many, and lacks {sorted(wanted - found)}"
                self._world.ledger.violate("failed", f"group:{group}", text)

    async def _host(self, number: int, group: str) -> None:
        turn = 0
        while self._world.going:
            turn += 1
            guest = Person(self._world, f"guest-{number}-{turn}", [])
            self._people.append(guest)
            guest.start()
            await guest.ready.wait()
            while self._world.going and await self._visit(guest, group):
                pass

    async def _visit(self, guest: Person, group: str) -> bool:
        """Let a guest come in, go out, and stay away for a while. False: it does not come again."""
        world, ledger, view, channel = self._world, self._world.ledger, guest.view, f"group:{group}"
        before = guest.connection
        sure = await self._caller.change("PUT", group, guest.user)
        answered = ledger.now()
        self._members[group].add(guest.user)
        ledger.counts["joined"] += 1
        await self._caller.say(f"host of {guest.user}", channel)  # at once: nothing may fall in between
        if not await self._until(lambda: channel in view.place):
            ledger.violate("failed", channel, f"{guest.user} joined, and is not told so")
            return False
        if before is not None and guest.stood[channel] is before:
            ledger.promised(view, channel, answered)
        await asyncio.sleep(world.random.expovariate(1 / STAY))
        now = ledger.now()
        while not ledger.has_all(view, channel, now):
            if not world.going:
                return False  # waiting for quiet is to tell what it lacks
            await asyncio.sleep(0.1)
        if not sure:
            ledger.leaves(view, channel, now)
            await guest.end()
            return False
        if not world.going:
            return False
        ledger.leaves(view, channel, now)
        sure = await self._caller.change("DELETE", group, guest.user)
        self._members[group].discard(guest.user)
        ledger.counts["left"] += 1
        if not await self._until(lambda: channel not in view.place):
            ledger.violate("failed", channel, f"{guest.user} has left, and is not told so")
            return False
        if not sure:
            await guest.end()
        await asyncio.sleep(world.random.expovariate(2 / STAY))
        return sure

    async def _until(self, holds: Callable[[], bool]) -> bool:
        until = self._world.ledger.now() + HEAR
        while not holds():
            if self._world.ledger.now() > until:
                return False
            await asyncio.sleep(0.02)
        return True
