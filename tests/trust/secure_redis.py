"""Redis servers and a Sentinel that speak TLS, and a user with the documented ACL."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from redis import Redis as Client

from deploy.local.certificate import Authority
from deploy.local.servers import Running
from tests.log.servers import Servers

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = secrets.token_urlsafe(12) + "/@:%"
ENCODED = PASSWORD.replace("%", "%25").replace("/", "%2F").replace("@", "%40").replace(":", "%3A")
RULES = (
    "on ~hf:* resetchannels -@all +@read +@write +@connection +@transaction -@dangerous "
    "+eval +evalsha +info +role +cluster|slots"
)


class Site:
    """An authority, and Redis servers that speak TLS only to those who have a certificate of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.own = self.authority.issue("holdfast")
        self.servers = Servers(folder)

    def options(self, port: int, *, mutual: bool = False) -> list[str]:
        pem = str(self.authority.issue("server"))
        return [
            *("--tls-port", str(port), "--tls-cert-file", pem, "--tls-key-file", pem),
            *("--tls-ca-cert-file", str(self.authority.file)),
            *("--tls-auth-clients", "yes" if mutual else "no"),
        ]

    def start(self, port: int, *options: str, mutual: bool = False) -> Running:
        running = self.servers.start(*self.options(port, mutual=mutual), *options)
        with plain(running) as admin:
            admin.execute_command("ACL", "SETUSER", "holdfast", f">{PASSWORD}", *RULES.split())
        return running

    def sentinel(self, port: int, master: int) -> Running:
        """Start a Sentinel that is spoken to by TLS and asks for a password."""
        template = self.servers.start()
        template.stop()
        self.servers.running.remove(template)
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {master} 1\n"
            "tls-replication yes\n"
            f"aclfile {self.folder / 'users.acl'}\n"
        )
        (self.folder / "users.acl").write_text(
            "user default on nopass ~* -@all +ping +client\n"
            "user watcher on >eye ~* -@all +@connection +sentinel|get-master-addr-by-name\n"
        )
        command = [template._command[0], str(config), "--sentinel"]
        command += ["--port", template.address.rpartition(":")[2], *self.options(port)]
        running = Running(
            "sentinel", template.address, template._ready, command=command, directory=self.folder
        )
        running.start()
        running.wait_ready()
        self.servers.running.append(running)
        return running

    @property
    def authority_file(self) -> str:
        return str(self.authority.file)


def plain(running: Running) -> Client:
    host, _, port = running.address.rpartition(":")
    return Client(host=host, port=int(port), decode_responses=True)
