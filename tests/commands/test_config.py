"""`holdfast config check`: what a service would say of its settings, without one."""

from __future__ import annotations

import msgspec
import pytest

from holdfast import cli

SECRET = "a secret of tests, of no use anywhere else"

WHOLE = f"""
[process]
host = "10.0.0.1"
drain_seconds = 60
[kafka]
replication = 3
[redis]
url = "redis://user:hunter2hunter2@example:6379/0"
[auth]
secrets = ["{SECRET}"]
[nodelink]
secret = "between nodes"
[api]
keys = ["an api key"]
[channels.room]
keep_count = 7
"""


def check(capsys, monkeypatch, tmp_path, text, *more, **variables):
    """Return the status, the answer and what was said beside it."""
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"HOLDFAST_{name}", value)
    with pytest.raises(SystemExit) as ended:
        cli.main(["config", "check", "--config", str(file), *more])
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def test_settings_in_order(capsys, monkeypatch, tmp_path):
    """What is set and from where, no secret, and every service would start."""
    status, text, _ = check(capsys, monkeypatch, tmp_path, WHOLE, KAFKA_GROUP="other")
    assert status == 0
    for secret in (SECRET, "hunter2", "between nodes", "an api key"):
        assert secret not in text
    assert ["kafka.group", "HOLDFAST_KAFKA_GROUP", "other"] in [line.split() for line in text.splitlines()]
    assert "channels.room.keep_count" in text
    assert text.count("it would start") == 3
    assert text.splitlines()[-1] == "nothing wrong, 3 in order."
    status, text, _ = check(capsys, monkeypatch, tmp_path, WHOLE, "--json")
    found = msgspec.json.decode(text)
    assert found["settings"]["redis.url"]["value"] == "(secret)"
    assert found["settings"]["kafka.replication"] == {"value": 3, "from": str(tmp_path / "holdfast.toml")}
    assert {one["level"] for one in found["findings"]} == {"good"}


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ('[logic]\napp = "nothere:app"', "there is no module 'nothere'"),
        ('[access]\ndevices = ["phone=maybe"]', "access.devices"),
        ('[membership]\nkind = "static"', "membership.static"),
        ("[channels.chat]\nkeep_seconds = 99999999", "kafka.retention_seconds"),
        ("[dispatch]\nfetch = 0", "dispatch.fetch"),
        ("[acess]\nrate = 1", "did you mean access?"),
    ],
)
def test_settings_that_a_service_would_refuse(capsys, monkeypatch, tmp_path, section, says):
    """inv 11: each is named, with what to change, and the status is that of a service that refuses."""
    status, text, wrong = check(capsys, monkeypatch, tmp_path, WHOLE + section)
    assert status == 78
    assert says in text + wrong
    assert "Traceback" not in wrong


@pytest.mark.parametrize("url", ["http://example", "redis://example:port/0", "redis+sentinel://u:hunter2@a"])
def test_a_wrong_redis_url_is_not_shown(capsys, monkeypatch, tmp_path, url):
    """The URL may hold a password: it is refused by its name alone."""
    status, text, wrong = check(capsys, monkeypatch, tmp_path, WHOLE, REDIS_URL=url)
    assert status == 78
    assert "redis.url" in text + wrong
    assert "hunter2" not in text + wrong


def test_what_is_hardly_meant(capsys, monkeypatch, tmp_path):
    """Allowed, and told all the same; without keys no client could connect."""
    status, text, _ = check(capsys, monkeypatch, tmp_path, "")
    assert status == 78
    assert "auth: no keys" in text
    for name in ("api.keys", "nodelink.secret", "kafka.replication", "process.advertise"):
        assert (f"advice  {name}" in text) == (name != "kafka.replication"), name
    assert "Nothing is set" in text
