"""Named volumes on disk: ``volumes/<name>/`` with the data in ``_data`` and the rest in ``volume.json``.

The directory above is closed to others, so that set-uid programs in a volume are no use to a person on the
host (CVE-2021-41091). A volume appears and goes by rename: two processes that make the same one get the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lamina.content.durable import make_directory, publish, sync_directory, write_file
from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.runtime.volume import ContainerMount, check_name, oci_mount, parse_tmpfs
from lamina.snapshot import syscalls, trees
from lamina.values import asdict, dataclass, field

DATA = "_data"
_RECORD = "volume.json"
_OPTIONS = ("type", "device", "o", "size")
_STAGED, _STAGING = "image", "image.part"
# An unfinished volume of a process that is gone: making one takes no more than moments.
_STALE_SECONDS = 3600


class VolumeNotFound(NotFound):
    pass


def _missing(name: str) -> VolumeNotFound:
    return VolumeNotFound(f"{name}: no such volume; `lamina volume ls` lists those that there are")


class InvalidVolume(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """``options`` are the local driver's: ``type``, ``device`` and ``o``, as in mount(8)."""

    name: str
    created: float
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    is_anonymous: bool = False

    @property
    def device(self) -> str:
        """The host directory that it stands for, if it is one."""
        return self.options.get("device", "") if is_bind(self.options) else ""


class VolumeStore:
    """Safe for many processes. Whether a volume is in use is for the caller to know."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "volumes"

    def data(self, name: str) -> Path:
        return self.directory / check_name(name) / DATA

    def create(
        self, name: str, *, now: float, labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None, is_anonymous: bool = False,
    ) -> Volume:
        """What is there already under the name is given as it is, as docker does it."""
        check_name(name)
        with contextlib.suppress(VolumeNotFound):
            return self.get(name)
        check_options(options or {})
        volume = Volume(
            name=name, created=now, labels=dict(labels or {}), options=dict(options or {}),
            is_anonymous=is_anonymous,
        )
        make_directory(self.directory, 0o700)
        temporary = self.directory / f".new-{os.urandom(8).hex()}"
        temporary.mkdir(mode=0o700)
        try:
            (temporary / DATA).mkdir()
            (temporary / DATA).chmod(0o755)
            write_file(temporary / _RECORD, json.dumps(asdict(volume)).encode(), 0o600)
            try:
                # A directory that has something in it is never replaced by a rename: ENOTEMPTY.
                publish(temporary, self.directory / name)
            except OSError:
                if not (self.directory / name).exists():
                    raise
                return self.get(name)
            return volume
        finally:
            if temporary.exists():
                trees.empty_and_remove(temporary)

    def create_anonymous(self, *, now: float, labels: Mapping[str, str] | None = None) -> Volume:
        return self.create(os.urandom(32).hex(), now=now, labels=labels, is_anonymous=True)

    def get(self, name: str) -> Volume:
        """Raises :class:`VolumeNotFound`."""
        try:
            document = json.loads((self.directory / check_name(name) / _RECORD).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise _missing(name) from None
        return Volume(**document)

    def walk(self) -> Iterator[Volume]:
        """By name."""
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.listdir(self.directory)):
                if not entry.startswith("."):
                    with contextlib.suppress(VolumeNotFound):
                        yield self.get(entry)

    def remove(self, name: str) -> None:
        """Gone at once under its name; emptied by whoever may. Raises :class:`VolumeNotFound`."""
        doomed = self.directory / f".removing-{os.urandom(8).hex()}"
        try:
            os.rename(self.directory / check_name(name), doomed)
        except FileNotFoundError:
            raise _missing(name) from None
        sync_directory(self.directory)
        _empty(doomed)

    def size(self, name: str) -> int:
        """Bytes on disk, as far as this process may look. What it stands for elsewhere is not counted."""
        try:
            return trees.measure(self.data(name)).size
        except FileNotFoundError:
            raise _missing(name) from None

    def sweep(self) -> None:
        """What interrupted processes left."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.glob(".*"):
                with contextlib.suppress(FileNotFoundError):
                    is_stale = path.lstat().st_mtime < time.time() - _STALE_SECONDS
                    if is_stale or path.name.startswith(".removing-"):
                        _empty(path)


def _empty(doomed: Path) -> None:
    """Files of a container's other users are for their user namespace to remove."""
    from lamina.snapshot.hands import empty_anyhow  # noqa: PLC0415 - removing only

    with contextlib.suppress(FileNotFoundError):
        empty_anyhow(doomed)


# -- the local driver's options


def check_options(options: Mapping[str, str]) -> None:
    """Raises :class:`InvalidVolume` and ``Unsupported``."""
    for name in options:
        if name not in _OPTIONS:
            raise InvalidVolume(f"volume option {name!r}: unknown (one of {', '.join(_OPTIONS)})")
    kind = options.get("type", "")
    if not options or is_bind(options):
        if options and not options.get("device", "").startswith("/"):
            raise InvalidVolume("volume option device: a bind needs an absolute path: --opt device=/PATH")
        return
    if kind == "tmpfs":
        _tmpfs(options, "/checked")
        return
    raise Unsupported(
        f"volume type {kind!r}: only type=tmpfs, and type=none with o=bind, are mounted here; mount it on "
        "the host, and use --opt type=none --opt o=bind --opt device=PATH"
    )


def is_bind(options: Mapping[str, str]) -> bool:
    return bool({"bind", "rbind"} & set(options.get("o", "").split(","))) or options.get("type") == "bind"


def volume_mount(mount: ContainerMount, volume: Volume, data: Path) -> dict[str, Any]:
    """The runtime-spec mount of a volume: its data, the directory that it stands for, or a tmpfs.

    A tmpfs is each container's own: there is nobody to keep one alive between them.
    """
    if volume.options.get("type") == "tmpfs" and not volume.device:
        return oci_mount(_tmpfs(volume.options, mount.target))
    if volume.device and not os.path.isdir(volume.device):
        raise VolumeNotFound(f"{volume.name}: stands for {volume.device}, and there is no such directory")
    made = oci_mount(mount, volume.device or str(data))
    if "ro" in volume.options.get("o", "").split(",") and "ro" not in made["options"]:
        made["options"].append("ro")
    return made


def _tmpfs(options: Mapping[str, str], target: str) -> ContainerMount:
    words = [word for word in options.get("o", "").split(",") if word]
    if options.get("size"):
        words.append(f"size={options['size']}")
    return parse_tmpfs(f"{target}:{','.join(words)}" if words else target)


# -- the first use


def prepare_volume(directory: Path, rootfs: int, target: str) -> bool:
    """Gives an empty volume what the image has at ``target``, with its owners, modes and xattrs.

    For the container's monitor, in its namespaces, before anything is mounted there; ``directory`` is the
    volume's, ``rootfs`` the open root. The answer is whether something was done. The copy is made beside the
    data, and its pieces are moved over when it is whole: who comes after a killed one goes on.
    """
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data, staged = directory / DATA, directory / _STAGED
        if not staged.is_dir():
            if os.listdir(data):
                return False
            if not _stage(directory, rootfs, target):
                return False
        _move_over(staged, data)
        return True
    finally:
        os.close(lock)


def _stage(directory: Path, rootfs: int, target: str) -> bool:
    try:
        source = syscalls.open_in_root(rootfs, target, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        trees.remove_tree(directory / _STAGING)
        # The dot makes the kernel look behind the link, which nothing may follow as such.
        trees.copy_tree(f"/proc/self/fd/{source}/.", directory / _STAGING)
    finally:
        os.close(source)
    trees.sync_tree(directory / _STAGING)
    publish(directory / _STAGING, directory / _STAGED)
    return True


def _move_over(staged: Path, data: Path) -> None:
    for name in os.listdir(staged):
        # What somebody else has put there meanwhile stays; rename(2) would take its place.
        if os.path.lexists(data / name):
            trees.remove_tree(staged / name)
        else:
            os.rename(staged / name, data / name)
    trees.copy_root_attributes(staged, data)
    trees.sync_tree(data)
    os.rmdir(staged)


def give_to(source: Path, uid: int, gid: int) -> None:
    """``:U``: everything in the source belongs to a user of the container, in the caller's user namespace."""
    os.chown(source, uid, gid, follow_symlinks=False)
    for _path, names, files, directory in os.fwalk(source):
        for name in (*names, *files):
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
