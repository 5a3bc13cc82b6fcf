"""A scenario: who is there and what they do, step by step. One small TOML file each, in `scenarios`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FOLDER = Path(__file__).parent / "scenarios"

Share = Annotated[float, Meta(gt=0, le=1)]


class Crowd(msgspec.Struct, forbid_unknown_fields=True):
    """Users who write to the same kind of channel.

    `to`: "peer" (the other one of a pair), "group" (of `size` members), "room" (one for every `size` users,
    who subscribe), or "none".
    """

    name: str
    users: Annotated[int, Meta(ge=1)]
    to: Literal["none", "peer", "group", "room"] = "none"
    size: Annotated[int, Meta(ge=2)] = 2


class Open(msgspec.Struct, tag="open", tag_field="do", forbid_unknown_fields=True):
    """Open every connection that is not open."""


class Load(msgspec.Struct, tag="load", tag_field="do", forbid_unknown_fields=True):
    """Let a crowd (empty: all) send `rate` messages a second of `bytes`, for `seconds` (0: on and on)."""

    rate: float
    seconds: float
    crowd: str = ""
    bytes: int = 128


class Publish(msgspec.Struct, tag="publish", tag_field="do", forbid_unknown_fields=True):
    """Publish `rate` messages a second over the API, `batch` in a request, to all users in turn."""

    rate: float
    seconds: float
    batch: Annotated[int, Meta(ge=1)] = 50
    bytes: int = 128


class Cut(msgspec.Struct, tag="cut", tag_field="do", forbid_unknown_fields=True):
    """Cut a share of the connections at once; `open` brings them back, and they resume."""

    share: Share = 1.0


class Kill(msgspec.Struct, tag="kill", tag_field="do", forbid_unknown_fields=True):
    """End the first access node with SIGKILL (of a cluster of ours); its clients go to the others."""


class Stall(msgspec.Struct, tag="stall", tag_field="do", forbid_unknown_fields=True):
    """Let a share of the connections read nothing until `resume`."""

    share: Share


class Resume(msgspec.Struct, tag="resume", tag_field="do", forbid_unknown_fields=True):
    """Let those who were stalled read again."""


class Wait(msgspec.Struct, tag="wait", tag_field="do", forbid_unknown_fields=True):
    """Let time pass."""

    seconds: float


class Quiet(msgspec.Struct, tag="quiet", tag_field="do", forbid_unknown_fields=True):
    """Wait until what was sent is acked and has come, as at the end of a run."""


Step = Open | Load | Publish | Cut | Kill | Stall | Resume | Wait | Quiet


class Scenario(msgspec.Struct, forbid_unknown_fields=True):
    """One scenario. `closes`: the server may close slow clients; they come back with the next `open`.

    `rounds`: so often are the steps after the first taken.
    """

    title: str
    about: str
    crowds: list[Crowd]
    steps: list[Step]
    closes: bool = False
    rounds: Annotated[int, Meta(ge=1)] = 1


def names() -> list[str]:
    """Return the scenarios there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, scale: float = 1.0, rounds: int = 0) -> Scenario:
    """Return a scenario by its name or its file. `scale` multiplies users and rates.

    `rounds` replaces the scenario's own.

    Raises ValueError with what is wrong with it.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        scenario = msgspec.toml.decode(path.read_bytes(), type=Scenario)
    except OSError:
        raise ValueError(f"{name} is no scenario; there are {', '.join(names())}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    scenario.rounds = rounds or scenario.rounds
    for crowd in scenario.crowds:
        crowd.users = max(2, round(crowd.users * scale))
        crowd.size = min(crowd.size, crowd.users)
    for step in scenario.steps:
        if isinstance(step, Load | Publish):
            step.rate *= scale
        if isinstance(step, Load) and step.crowd not in ("", *(crowd.name for crowd in scenario.crowds)):
            raise ValueError(f"{path}: there is no crowd {step.crowd!r}")
    return scenario
