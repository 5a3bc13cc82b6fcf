"""Settings are refused by name, and read from both places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Stop
from holdfast.settings import SECRETS, all_settings
from holdfast.settings_load import load


def test_the_environment_wins_over_the_file(tmp_path):
    """A variable overrides the file; what neither names keeps its default."""
    path = tmp_path / "holdfast.toml"
    path.write_text('[api]\nport = 1\nkeys = ["a"]\n[kafka]\nservers = "k:1"\n')
    settings = load(str(path), {"HOLDFAST_API_PORT": "2"})
    assert (settings.api.port, settings.api.keys, settings.kafka.servers) == (2, ("a",), "k:1")
    assert settings.kafka.partitions == 12


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (
            {"HOLDFAST_KAFKA_SERVER": "x"},
            "HOLDFAST_KAFKA_SERVER is not a setting; did you mean HOLDFAST_KAFKA_SERVERS",
        ),
        ({"HOLDFAST_API_PORT": "70000"}, "api.port (HOLDFAST_API_PORT) is wrong"),
        ({"HOLDFAST_ACCESS_RATE": "many"}, "access.rate (HOLDFAST_ACCESS_RATE) is wrong"),
        ({"HOLDFAST_MEMBERSHIP_KIND": "etcd"}, "membership.kind (HOLDFAST_MEMBERSHIP_KIND) is wrong"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(environ, named):
    """inv 11: a setting that is unknown or wrong ends in a refusal that names it."""
    with pytest.raises(Stop) as refusal:
        load(environ=environ)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[acces]\nrate = 1\n", "[acces] is not a section of settings; did you mean access?"),
        ("[access]\nrates = 1\n", "access.rates is not a setting; did you mean rate?"),
        ("[access]\nrate = 0\n", "access.rate (HOLDFAST_ACCESS_RATE) is wrong"),
        ("access = 3\n", "access must be a section"),
        ("[channels.room]\nkeep_count = 0\n", "channels"),
        ("[channels.room]\nkept = 1\n", "channels"),
        ("[", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, named):
    """inv 11: the same for the file."""
    path = tmp_path / "holdfast.toml"
    path.write_text(text)
    with pytest.raises(Stop) as refusal:
        load(str(path), {})
    assert named in str(refusal.value)


def test_a_missing_file_is_refused():
    """A file that was named must be there."""
    with pytest.raises(Stop, match="cannot read the settings file"):
        load("/nowhere/holdfast.toml", {})


@pytest.mark.parametrize("setting", sorted(SECRETS))
def test_a_secret_is_not_shown_in_a_refusal(tmp_path, setting):
    """A secret of a wrong type is refused without its value."""
    section, name = setting.split(".")
    path = tmp_path / "holdfast.toml"
    path.write_text(f"[{section}]\n{name} = {{ hunter2 = 1 }}\n")
    with pytest.raises(Stop) as refusal:
        load(str(path), {})
    assert setting in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_only_our_own_variables_are_looked_at(environ):
    """Whatever else is in the environment, the defaults hold."""
    others = {name: value for name, value in environ.items() if not name.startswith("HOLDFAST_")}
    assert load(environ=others) == load(environ={})


def test_every_setting_is_described():
    """A reader of docs/settings.md finds a sentence for each."""
    assert [setting.variable for setting in all_settings() if not setting.description] == []


def test_own_kinds_of_channels_join_the_built_in_ones(tmp_path):
    """`[channels.device]` adds a kind and leaves the others."""
    path = tmp_path / "holdfast.toml"
    path.write_text('[channels.device]\nsend = "nobody"\nkeep_count = 3\n')
    policies = load(str(path), {}).policies()
    assert policies["device"].send == "nobody"
    assert set(policies) == {"user", "group", "room", "device"}


def test_kafka_must_keep_what_channels_keep():
    """inv 9, 11: a channel that keeps longer than Kafka could not be rebuilt, and is refused."""
    load(environ={"HOLDFAST_KAFKA_RETENTION_SECONDS": str(7 * 86_400 + 600)})
    with pytest.raises(Stop, match=r"kafka\.retention_seconds is 604800; it must be at least 605400"):
        load(environ={"HOLDFAST_KAFKA_RETENTION_SECONDS": str(7 * 86_400)})
