"""Namespaces of our own: for processes, mounts and the network.

When the first process in them ends, however that happens, the kernel ends all others, and with them go their
mounts, devices and packet filters. What they do not hold are control groups: those are removed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.local.process import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NODE: Final = "10.200.0.1"
"""The address of the machine, as the cluster knows it."""
OUTSIDE: Final = "10.200.0.2"
"""The address under which the world finds the balancer: nothing has it but kube-proxy's rules."""
GROUP: Final = "k8s.io"
"""The control group that containerd makes those of containers in, where the kubelet names none."""

GROUPS: Final = Path("/sys/fs/cgroup")
_ENTER: Final = (
    *("setpriv", "--pdeathsig", "KILL"),  # not even SIGKILL to us leaves anything behind
    *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts"),
    *("--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
    # The first process: it takes over orphans, and waits for them.
    *("sh", "-c", '"$0" "$@"; exit $?'),
)
_NETWORK: Final = f"""
ip link set lo up
ip link add node0 type bridge
ip addr add {NODE}/24 dev node0
ip link set node0 up
ip route add default via 10.200.0.254 dev node0
"""
_MOUNTS: Final = """
mount -t tmpfs tmpfs /run
mkdir -p /run/upper /run/lock
for folder in /var/lib /var/log; do
    upper=/run/upper$folder
    mkdir -p $upper/new $upper/work
    mount -t overlay overlay -o lowerdir=$folder,upperdir=$upper/new,workdir=$upper/work $folder
done
"""
_SYSCTLS: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/forwarding": "1",
    "net/bridge/bridge-nf-call-iptables": "1",  # pods of one bridge reach each other by Services, too
}


def run_inside(command: Sequence[str], group: str = GROUP) -> int:
    """Run a command in new namespaces, and return how it ended; leave nothing behind.

    Raises Unavailable where we are not root, or must not make namespaces.
    """
    if os.geteuid() != 0:
        raise Unavailable("kubernetes", "a cluster on this machine needs root, for namespaces of its own")
    process = subprocess.Popen([*_ENTER, *command])
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(5.0)  # Ctrl-C is for it as well
        return 130
    finally:
        process.kill()
        process.wait()
        remove_groups(group)


def set_up() -> None:
    """Make the network and the mounts. For the first program inside."""
    if os.getpid() > 10:
        raise RuntimeError("set_up is for namespaces of our own")
    for script in (_MOUNTS, _NETWORK):
        subprocess.run(["sh", "-ec", script], check=True)
    for name, value in _SYSCTLS.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)


def use_names(server: str) -> None:
    """Have programs in here ask a name server of ours."""
    file = Path("/run/resolv.conf")
    file.write_text(f"nameserver {server}\nsearch svc.cluster.local cluster.local\noptions ndots:5\n")
    subprocess.run(["mount", "--bind", str(file), "/etc/resolv.conf"], check=True)


def left_behind(group: str = GROUP) -> list[str]:
    """Return what there is of ours outside of namespaces: control groups."""
    return [str(path) for path in _our_groups(group)]


def _hierarchies() -> list[Path]:
    """Return where control groups begin: one place, or, of the older kind, one for each controller."""
    older = [path for path in GROUPS.iterdir() if path.is_dir() and (path / "cgroup.procs").exists()]
    return (
        [GROUPS] if (GROUPS / "cgroup.procs").exists() else [path for path in older if not path.is_symlink()]
    )


def _our_groups(group: str) -> Iterator[Path]:
    for place in _hierarchies():
        if (place / group).is_dir():
            yield place / group


def remove_groups(group: str) -> None:
    """Remove the control groups of that name and all below them, once their processes have ended.

    What others have in them (a containerd of this machine's) stays: the kernel keeps groups with processes.
    """
    until = time.monotonic() + 10.0
    while (there := list(_our_groups(group))) and time.monotonic() < until:
        for place in there:
            for folder, _, _ in os.walk(place, topdown=False):
                with contextlib.suppress(OSError):  # its processes are still ending
                    os.rmdir(folder)  # noqa: PTH106
        time.sleep(0.1)
