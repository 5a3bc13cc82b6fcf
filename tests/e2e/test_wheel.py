"""What is published works on a machine that has nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

EXCHANGE = """
import asyncio
from holdfast.client import Client

async def main(url, tokens):
    alice, bob = Client(url, token=tokens[0]), Client(url, token=tokens[1])
    async with alice, bob:
        await alice.send("user:bob", "text", {"text": "from the wheel"})
        async for message in bob.messages():
            print("GOT", message.sender, message.data["text"])
            break

import sys
asyncio.run(main(sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.cluster  # slow as those are: it makes an environment of its own
@pytest.mark.timeout(300)
def test_a_wheel_in_an_empty_environment_runs_dev_and_passes_an_exchange(tmp_path):
    """pip install of the wheel gives a working `holdfast dev`, client included."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env/bin/python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--require-hashes", "-r", ROOT / "requirements/run.lock"],
        check=True,
    )
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "PYTHON"))
    }
    environ |= {
        "HOLDFAST_ACCESS_WEBSOCKET_PORT": "0",
        "HOLDFAST_ACCESS_TCP_PORT": "0",
        "HOLDFAST_API_PORT": "0",
        "HOLDFAST_PROCESS_METRICS_PORT": "0",
        "HOLDFAST_PROCESS_READY_FILE": str(tmp_path / "ready.json"),
    }
    with (tmp_path / "log").open("w") as output:
        process = subprocess.Popen(
            [tmp_path / "env/bin/holdfast", "dev"], cwd=tmp_path, env=environ, stdout=output, stderr=output
        )
    try:
        ready = _wait_for(tmp_path / "ready.json", process)
        api, url = f"http://127.0.0.1:{ready['api']}", f"ws://127.0.0.1:{ready['websocket']}/ws"
        tokens = [_token(api, user) for user in ("alice", "bob")]
        done = subprocess.run(
            [python, "-c", EXCHANGE, url, *tokens],
            cwd=tmp_path,
            env=environ,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert "GOT alice from the wheel" in done.stdout
        with urllib.request.urlopen(f"http://127.0.0.1:{ready['metrics']}/readyz") as answer:
            assert json.load(answer)["ready"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    end = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, f"it ended: {(path.parent / 'log').read_text()}"
        assert time.monotonic() < end, "not ready within 30 s"
        time.sleep(0.05)
    ready: dict[str, Any] = json.loads(path.read_text())
    return ready


def _token(api: str, user: str) -> str:
    request = urllib.request.Request(
        f"{api}/v1/tokens",
        data=json.dumps({"user": user}).encode(),
        headers={"Authorization": "Bearer dev", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["token"])
