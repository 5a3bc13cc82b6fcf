"""`holdfast presence USER`: a user's sessions, and on which nodes they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.channel import parse, partition_of
from holdfast.commands.ports import moving, registered, run
from holdfast.commands.show import Tinted, as_json, note, say, table, when
from holdfast.errors import Retry

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from holdfast.log.port import SessionInfo
    from holdfast.parts import Parts


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "presence",
        parents=[common],
        help="a user's sessions, and the nodes they are on",
        description="Show users' sessions as Redis has them, those on dead nodes too. A session is online "
        "while the beat of its node moves (invariant 6): that takes 1 s to see, 6 s where the node is dead. "
        "Exits with 1 where a user is not online.",
    )
    parser.add_argument("users", metavar="USER", nargs="+", help="user ids, as the tokens' `sub`")
    parser.set_defaults(run=lambda options: run(options, show, "log"))


async def show(ports: Parts, options: argparse.Namespace) -> int:
    """Show the sessions of users."""
    users: Sequence[str] = list(dict.fromkeys(options.users))
    for user in users:
        parse(f"user:{user}")
    shards = [partition_of(f"user:{user}", ports.log.partitions) for user in users]
    found = await asyncio.gather(
        *(ports.log.sessions(shard, [user]) for shard, user in zip(shards, users, strict=True))
    )
    sessions = [(user, info) for user, (of_user,) in zip(users, found, strict=True) for info in of_user]
    alive = await moving(ports.log, ports.clock, [info.node for _, info in sessions])
    names = await _names(ports, alive) if sessions else {}
    online = {user for user, info in sessions if info.node in alive}
    if options.json:
        say(as_json({user: [_as_dict(i, names, alive) for u, i in sessions if u == user] for user in users}))
    elif sessions:
        head = ("user", "session", "state", "node", "device", "since", "client")
        say(table(head, [_row(user, info, names, alive) for user, info in sessions]))
    for user in users:
        if user not in online:
            note(f"{user} is not online" if user in dict(sessions) else f"{user} has no session")
    return 0 if len(online) == len(users) else 1


def _row(user: str, info: SessionInfo, names: dict[str, str], alive: set[str]) -> tuple[str, ...]:
    state = Tinted("online", "good") if info.node in alive else Tinted("node dead", "bad")
    node = names.get(info.node, info.node)
    return (user, info.session, state, node, info.device, when(info.since), info.client)


async def _names(ports: Parts, alive: set[str]) -> dict[str, str]:
    """Return the names of access nodes by incarnation; without the membership store, none."""
    try:
        await ports.directory.start()
        return {node.incarnation: node.name for node in registered(ports, alive) if node.role == "access"}
    except Retry:
        return {}
    finally:
        await ports.directory.close()


def _as_dict(info: SessionInfo, names: dict[str, str], alive: set[str]) -> dict[str, Any]:
    return {
        "session": info.session,
        "online": info.node in alive,
        "node": names.get(info.node, ""),
        "incarnation": info.node,
        "device": info.device,
        "since": info.since,
        "client": info.client,
    }
