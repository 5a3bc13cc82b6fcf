"""The local cluster as its command line runs it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.service import runs, started

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "deploy.local"]


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_start_describe_stop(kafka_server: object, consul_server: object, tmp_path: Path) -> None:
    """Started detached, it serves where cluster.json says, and stop ends every process of it."""
    place = ["--dir", str(tmp_path)]
    start = [*COMMAND, "start", "--detach", *place, "--access", "1", "--logic", "1", "--dispatch", "1"]
    subprocess.run(start, cwd=ROOT, check=True, timeout=60)
    file = tmp_path / "cluster.json"
    about = json.loads(file.read_text())
    try:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {node["role"] for node in about["nodes"]} == {"access", "logic", "dispatch"}
        for node in about["nodes"]:
            ready = node["metrics"].replace("/metrics", "/readyz")
            with urllib.request.urlopen(ready, timeout=5) as answer:
                assert answer.status == 200
        again = subprocess.run(start, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
        assert again.returncode == 1
        assert "has a cluster already" in again.stderr
    finally:
        subprocess.run([*COMMAND, "stop", *place], cwd=ROOT, check=True, timeout=60)
    for process in [*about["nodes"], *about["servers"].values()]:
        assert not runs(process["pid"], process["started"])
    assert not file.exists()


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_three_brokers_outlive_one(kafka_server: object, consul_server: object, tmp_path: Path) -> None:
    """inv 1: with three brokers, topics have three replicas, and one that dies stops nothing."""
    with LocalCluster(tmp_path, access=0, logic=1, dispatch=0, brokers=3) as cluster:
        if not cluster.kafka.ours:
            pytest.skip("a Kafka given by setting has the brokers it has")
        first, *others = cluster.brokers
        assert [broker.name for broker in cluster.brokers] == ["kafka-1", "kafka-2", "kafka-3"]
        first.kill()
        logs = [broker.log.parent / "data" for broker in (first, *others)]
        assert all(len(list(log.glob("*outbound-0"))) == 1 for log in logs)
        call = urllib.request.Request(
            cluster.describe()["api"] + "/v1/publish",
            data=b'{"channel": "user:bob", "type": "text", "data": 1, "id": "one"}',
            headers={"Authorization": f"Bearer {cluster.api_key}"},
        )
        with urllib.request.urlopen(call, timeout=20) as answer:
            assert answer.status == 200
        first.start()
        first.wait_ready()


def test_a_reused_process_id_is_another_process() -> None:
    """A process is ended only if it is the one that was started: its id and its start time."""
    mine = started(os.getpid())
    assert runs(os.getpid(), mine)
    assert not runs(os.getpid(), str(int(mine) - 1))
    assert not runs(0, "")
