"""Which sessions of a user exclude each other, by the class of their device (`access.devices`).

A session takes a seat, or none; of a user's sessions with the same seat the newest stays. That is decided
where the session is recorded, on the user's shard, so it holds across nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.errors import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY: Final = "*"
RULES: Final = ("all", "class", "newest")


class Devices:
    """The rules of `access.devices`. Raises Stop, naming the setting, for one that is malformed.

    `all`: any number of sessions. `class`: one of this class. `newest`: one of all classes with this rule.
    """

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules: dict[str, str] = {}
        for rule in rules:
            name, _, what = rule.rpartition("=")
            if not name or what not in RULES or name in self._rules:
                raise Stop(
                    f"access.devices (HOLDFAST_ACCESS_DEVICES): {rule!r} must be CLASS=RULE, each class "
                    f"once, with a rule of {', '.join(RULES)}"
                )
            self._rules[name] = what

    def seat(self, device: str) -> str:
        """Return the seat of a session on a device of this class, "" for none."""
        rule = self._rules.get(device) or self._rules.get(ANY, "all")
        if rule == "all":
            return ""
        return ANY if rule == "newest" else f"={device}"
