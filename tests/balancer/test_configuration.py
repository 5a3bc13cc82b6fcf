"""The shipped configurations, checked by the programs that read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy.local import cache
from deploy.local.certificate import make_certificate

pytestmark = pytest.mark.tools

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("servers", ["static", "kubernetes"])
def test_haproxy_takes_it_without_a_warning(servers: str, tmp_path: Path) -> None:
    """Both ways of finding servers make a valid configuration with the defaults that are shipped."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "BALANCER_CERTIFICATE": str(make_certificate(tmp_path / "tls.pem")),
        "BALANCER_CONNECTIONS": "1000",  # the one default that this machine's limits may not allow
    }
    files = [f"{DEPLOY}/haproxy/{name}.cfg" for name in ("haproxy", f"servers-{servers}")]
    command = [cache.program("haproxy", "haproxy", "haproxy"), "-c", "-dW", "-f", files[0], "-f", files[1]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_balancers_keep_silent_connections_for_longer_than_the_nodes_do() -> None:
    """A client that answers pings is never cut by a balancer: the time-outs are above two heartbeats."""
    from holdfast.settings import Access

    texts = [(DEPLOY / "haproxy/haproxy.cfg").read_text(), (DEPLOY / "nginx/nginx.conf.template").read_text()]
    found = [
        int(seconds) for text in texts for seconds in re.findall(r"(?:SILENCE-|proxy_timeout )(\d+)s", text)
    ]
    assert len(found) == 4
    assert min(found) > 2 * Access().heartbeat


def test_kubernetes_gives_every_variable_of_the_nginx_template() -> None:
    """Nginx has no defaults for them: a forgotten variable would stand there as text."""
    wanted = set(re.findall(r"\$\{(BALANCER_\w+)\}", (DEPLOY / "nginx/nginx.conf.template").read_text()))
    manifest = (DEPLOY / "k8s/components/nginx/nginx.yaml").read_text()
    assert set(re.findall(r"name: (BALANCER_\w+)", manifest)) == wanted
