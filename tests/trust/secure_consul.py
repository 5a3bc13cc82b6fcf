"""A Consul that denies strangers everything, with HTTPS for who has a certificate; the documented policy."""

from __future__ import annotations

import http.client
import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy.local.certificate import Authority
from deploy.local.servers import Running, free_port, start_consul

if TYPE_CHECKING:
    from pathlib import Path

ROOT = str(uuid.uuid4())
POLICY = """
service_prefix "holdfast-" { policy = "write" }
node_prefix "" { policy = "read" }
"""


class Agent(NamedTuple):
    """A Consul: plain HTTP, HTTPS for who has a certificate, and a token with the documented policy."""

    running: Running
    authority: Authority
    https: int
    token: str


def start(folder: Path) -> Agent:
    """Start it. Raises Unavailable."""
    authority, https = Authority(folder), free_port()
    pem = str(authority.issue("agent"))
    settings = {
        "ports": {"https": https},
        "acl": {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": ROOT}},
        "tls": {
            "defaults": {"ca_file": str(authority.file), "cert_file": pem, "key_file": pem},
            "https": {"verify_incoming": True},
        },
    }
    running = start_consul(folder, 0, settings, token=ROOT)
    if not running.ours:
        return Agent(running, authority, https, "")
    _put(running.address, "/v1/acl/policy", {"Name": "holdfast", "Rules": POLICY})
    made = _put(running.address, "/v1/acl/token", {"Policies": [{"Name": "holdfast"}]})
    return Agent(running, authority, https, made["SecretID"])


def _put(address: str, path: str, body: Any) -> Any:
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("PUT", path, json.dumps(body), {"X-Consul-Token": ROOT})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == 200, text
    return json.loads(text)
