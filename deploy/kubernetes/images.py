"""The images of a try: a base of Debian's packages, Holdfast's own on it, and a stand-in for the servers.

Built with buildah without a registry. Its store and what does not change with the tree stay in the cache.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from deploy.local import cache, consul, kafka

TREE: Final = Path(__file__).parents[2]
HOLDFAST: Final = "localhost/holdfast"
SERVERS: Final = "localhost/holdfast-servers:1"
PAUSE: Final = "localhost/holdfast-pause:1"
_SUITE: Final = "trixie"
_BASE: Final = f"localhost/holdfast-base:{_SUITE}"
_AUTHORITIES: Final = Path("/etc/ssl/certs")


def archives(folder: Path, tags: tuple[str, ...], *, built: bool = False) -> list[Path]:
    """Return archives of all images; Holdfast's are in `folder`, one for each tag.

    The first time takes some minutes. Raises Unavailable.
    """
    made = [folder / f"holdfast-{tag}.tar" for tag in tags]
    if not built:
        with cache.locked("images"):
            _holdfast(dict(zip(tags, made, strict=True)))
    return [_pause(), _servers(), *made]


def _holdfast(wanted: dict[str, Path]) -> None:
    """Build the tree's Containerfile as it is, and handlers on top of it, as a user would."""
    plain = f"{HOLDFAST}:plain"
    _build(plain, TREE / "Containerfile", TREE, base=_base(), fetches=True)
    with tempfile.TemporaryDirectory() as work:
        context = Path(work)
        shutil.copytree(Path(__file__).parent / "app", context, dirs_exist_ok=True)
        (context / "chaos").mkdir()
        shutil.copy2(TREE / "chaos" / "handlers.py", context / "chaos")
        for tag, archive in wanted.items():
            # A label makes each an image of its own, as a release is.
            name = f"{HOLDFAST}:{tag}"
            _build(name, context / "Containerfile", context, base=plain, label=f"release={tag}")
            _save(name, archive)


def _servers() -> Path:
    """Build the image of Kafka, Redis, Consul and HAProxy."""
    recipe = Path(__file__).parent / "servers"
    texts = b"".join(path.read_bytes() for path in sorted(recipe.iterdir()) if path.is_file())
    key = hashlib.sha256(texts + kafka.VERSION.encode() + consul.VERSION.encode()).hexdigest()[:8]

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache.folder()) as work:
            context = Path(work)
            shutil.copy2(consul.find(), context / "consul")
            shutil.copytree(kafka.jar_folder(), context / "kafka")
            shutil.copy2(recipe / "start.sh", context)
            _build(SERVERS, recipe / "Containerfile", context, base=_base())
        _save(SERVERS, path)

    return cache.keep(f"image-servers-{key}.tar", make)


def _pause() -> Path:
    """Build what holds a pod's namespaces while its containers come and go."""

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            file = Path(work) / "Containerfile"
            file.write_text('ARG BASE\nFROM ${BASE}\nENTRYPOINT ["sleep", "infinity"]\n')
            _build(PAUSE, file, Path(work), base=_base())
        _save(PAUSE, path)

    return cache.keep("image-pause-1.tar", make)


def _base() -> str:
    """Build a base of Debian's packages, with Python: what the Containerfile takes as BASE."""

    def make(path: Path) -> None:
        program = cache.program("debootstrap", "debootstrap", "debootstrap")
        with tempfile.TemporaryDirectory(dir=cache.folder()) as work:
            root = Path(work) / "root"
            options = ["--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
            cache.run("debootstrap", [*_ALONE, program, *options, _SUITE, str(root)])
            for stale in ("var/cache/apt", "var/lib/apt/lists"):
                shutil.rmtree(root / stale)
                (root / stale / "partial").mkdir(parents=True)
            cache.run("tar", ["tar", "-C", str(root), "-cf", str(path), "."])

    archive = cache.keep(f"image-base-{_SUITE}.tar", make)
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "Containerfile"
        file.write_text(f"FROM scratch\nADD {archive.name} /\n")
        _build(_BASE, file, archive.parent)
    return _BASE


_ALONE: Final = ("unshare", "--mount", "--propagation", "private")
"""What is mounted on the way is gone with the command."""


def _build(
    name: str, file: Path, context: Path, *, base: str = "", label: str = "", fetches: bool = False
) -> None:
    options = ["--layers", "--pull-never", "--isolation", "chroot", "--network", "host", "--format", "docker"]
    options += ["--build-arg", f"BASE={base}"] if base else []
    options += ["--label", label] if label else []
    if fetches and _AUTHORITIES.is_dir():  # behind a company's proxy they are not those of the image
        options += ["--volume", f"{_AUTHORITIES}:{_AUTHORITIES}:ro"]
    _buildah("bud", *options, "-t", name, "-f", str(file), str(context))


def _save(name: str, path: Path) -> None:
    _buildah("push", name, f"docker-archive:{path}:{name}")


def _buildah(*arguments: str) -> None:
    program = cache.program("buildah", "buildah", "buildah")
    store = cache.folder() / "images"
    places = ["--root", str(store), "--runroot", "/run/holdfast-images", "--storage-driver", "overlay"]
    # /run is private: state that buildah leaves there goes with the command.
    script = 'mount -t tmpfs tmpfs /run && exec "$0" "$@"'
    cache.run("buildah", [*_ALONE, "sh", "-c", script, program, *places, *arguments])
