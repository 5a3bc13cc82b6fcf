"""Settings from a TOML file and the environment: what is unknown or wrong is refused by name."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.errors import Stop
from holdfast.log.port import WINDOW_MS
from holdfast.settings import PREFIX, SECRETS, Settings, all_settings, sections
from holdfast.settings_trust import check as check_trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.settings import Setting


def load(path: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a TOML file (or none) and the environment (this process's by default).

    Raises Stop, naming the setting and what to change, when anything is unknown or wrong.
    """
    environ = os.environ if environ is None else environ
    path = path or environ.get(f"{PREFIX}CONFIG")
    tree: dict[str, Any] = {}
    if path:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise Stop(f"cannot read the settings file {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Stop(f"the settings file {path} is not valid TOML: {error}") from error
    known = {setting.variable: setting for setting in all_settings()}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable == f"{PREFIX}CONFIG":
            continue
        setting = known.get(variable)
        if setting is None:
            raise Stop(f"{variable} is not a setting; {_nearest(variable, known)}")
        section = tree.setdefault(setting.section, {})
        if isinstance(section, dict):
            section[setting.name] = _from_text(setting, text)
    return _convert(tree)


def _convert(tree: dict[str, Any]) -> Settings:
    given: dict[str, Any] = {}
    kinds = sections()
    for name, value in tree.items():
        if name == "channels":
            given[name] = value
            continue
        if name not in kinds:
            raise Stop(f"[{name}] is not a section of settings; {_nearest(name, kinds)}")
        if not isinstance(value, dict):
            raise Stop(f"{name} must be a section, [{name}]")
        fields = {field.name for field in msgspec.structs.fields(kinds[name])}
        for key, item in value.items():
            if key not in fields:
                raise Stop(f"{name}.{key} is not a setting; {_nearest(key, fields)}")
            try:
                msgspec.convert({key: item}, kinds[name], strict=False)
            except msgspec.ValidationError as error:
                shown = "" if f"{name}.{key}" in SECRETS else f" (it is {item!r})"
                variable = f"{PREFIX}{name}_{key}".upper()
                reason = str(error).split(" - at ")[0]
                raise Stop(f"{name}.{key} ({variable}) is wrong: {reason}{shown}") from None
        given[name] = value
    try:
        made = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Stop(f"settings: {error}") from None
    _check_retention(made)
    check_trust(made)
    return made


def _check_retention(made: Settings) -> None:
    """Raise Stop where a channel is to keep what Kafka does not: it could not be rebuilt."""
    for kind, policy in made.policies().items():
        needed = policy.keep_seconds + 2 * WINDOW_MS // 1000
        if made.kafka.retention_seconds < needed:
            raise Stop(
                f"kafka.retention_seconds is {made.kafka.retention_seconds}; it must be at least {needed}: "
                f"channels.{kind}.keep_seconds is {policy.keep_seconds}, and a lost Redis is rebuilt from it"
            )


def _from_text(setting: Setting, text: str) -> Any:
    if isinstance(setting.default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _nearest(name: str, known: Any) -> str:
    import difflib  # noqa: PLC0415 - only on the way to a refusal

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else "see docs/settings.md for those that exist"
