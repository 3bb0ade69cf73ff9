"""What ``-v`` and ``--tmpfs`` say, each as one value, and all mounts of a container; nothing looks at a disk.

The grammar is docker's (its reference pages "docker container run" and "Bind mounts", "Volumes", "tmpfs").
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from lamina.errors import Conflict, InvalidInput, nearest
from lamina.values import asdict, dataclass, replace

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
DEFAULT_PROPAGATION = "rprivate"
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MAX_NAME = 255
# What each word of a -v mode is about; of each kind one may be given.
_MODES = {
    **dict.fromkeys(("ro", "rw"), "access"), **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(("nocopy", "copy"), "copy"), "U": "owner", **dict.fromkeys(PROPAGATIONS, "propagation"),
    **dict.fromkeys(("consistent", "cached", "delegated"), "consistency"),
}
# mount(8)'s flags that a tmpfs takes, and tmpfs(5)'s own options.
_TMPFS_FLAGS = frozenset({
    "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "remount",
    "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime",
    "nostrictatime", *PROPAGATIONS, "defaults",
})
_TMPFS_VALUES = frozenset({
    "mode", "size", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge", "inode32", "inode64",
})
_OPPOSITES = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro"}



class InvalidMount(InvalidInput):
    """What was asked for cannot be mounted, whatever is on the disk."""


class DuplicateMount(Conflict):
    pass


class MountKind(StrEnum):
    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"
    IMAGE = "image"  # a filesystem of layers, which the plan of a build step brings along
    FILE = "file"  # what is in it comes with the plan too, and lies in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMount:
    """``source`` is an absolute host path, a volume's name, or empty: an anonymous volume, or a tmpfs.

    ``creates_source``: a missing host directory is made, as ``-v`` has it. ``copies_up``: an empty volume
    gets what the image has at the target. ``chowns``: the source is given to the container's user (``:U``).
    ``options`` are a tmpfs'; ``volume_options`` and ``volume_labels`` are for a volume still to be made.
    """

    kind: MountKind
    target: str
    source: str = ""
    is_read_only: bool = False
    is_recursive: bool = True
    propagation: str = DEFAULT_PROPAGATION
    subpath: str = ""
    copies_up: bool = True
    creates_source: bool = False
    chowns: bool = False
    options: tuple[str, ...] = ()
    volume_options: tuple[tuple[str, str], ...] = ()
    volume_labels: tuple[tuple[str, str], ...] = ()

    @property
    def is_anonymous(self) -> bool:
        """A volume that still needs a name."""
        return self.kind is MountKind.VOLUME and not self.source

    def named(self, name: str) -> ContainerMount:
        return replace(self, source=name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ContainerMount:
        return cls(**{
            **document, "kind": MountKind(document["kind"]), "options": tuple(document["options"]),
            "volume_options": tuple((key, value) for key, value in document["volume_options"]),
            "volume_labels": tuple((key, value) for key, value in document["volume_labels"]),
        })


# -- -v


def parse_volume(text: str, directory: str = "") -> ContainerMount:
    """``[SOURCE:]TARGET[:MODE,...]``. A source like ``./data`` is below ``directory``, an absolute path."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidMount(f"{text!r}: expected [SOURCE:]TARGET[:OPTIONS], each of them with something in it")
    if len(parts) == 1:
        return ContainerMount(kind=MountKind.VOLUME, target=mount_target(parts[0], text))
    if len(parts) == 2 and _is_mode(parts[1]):
        raise InvalidMount(f"{text!r}: options need a source before them: SOURCE:{text}")
    source, target = host_source(parts[0], directory, text), mount_target(parts[1], text)
    mode = _mode(parts[2], text) if len(parts) == 3 else {}
    is_bind = source.startswith("/")
    if not is_bind:
        check_name(source)
        if "propagation" in mode:
            raise InvalidMount(
                f"{text!r}: {mode['propagation']} is for host directories, and {source} is a volume"
            )
    return ContainerMount(
        kind=MountKind.BIND if is_bind else MountKind.VOLUME, source=source, target=target,
        is_read_only=mode.get("access") == "ro", propagation=mode.get("propagation", DEFAULT_PROPAGATION),
        copies_up=not is_bind and mode.get("copy") != "nocopy", creates_source=is_bind,
        chowns="owner" in mode,
    )


def settle_volume(text: str, directory: str) -> str:
    """The same request with an absolute source: what is kept must not depend on where it was typed."""
    source, colon, rest = text.partition(":")
    return f"{host_source(source, directory, text)}:{rest}" if colon and source.startswith(".") else text


def check_name(name: str) -> str:
    """Raises :class:`InvalidMount` for what no volume can be called."""
    if _VOLUME_NAME.fullmatch(name) is None:
        advice = "; give a host directory as an absolute path, or as ./PATH" if "/" in name else ""
        raise InvalidMount(
            f"{name!r}: no name for a volume: two or more of [a-zA-Z0-9_.-], a letter or digit first{advice}"
        )
    if len(name) > _MAX_NAME:
        raise InvalidMount(f"{name[:40]!r}…: a volume's name has at most {_MAX_NAME} characters")
    return name


def _is_mode(text: str) -> bool:
    return not text.startswith("/") and all(word in _MODES for word in text.split(","))


def _mode(text: str, whole: str) -> dict[str, str]:
    """By what each word is about."""
    found: dict[str, str] = {}
    for word in text.split(","):
        about = _MODES.get(word)
        if about is None:
            raise InvalidMount(f"{whole!r}: unknown option {word!r}{nearest(word, _MODES)}")
        if about in found:
            raise InvalidMount(f"{whole!r}: {found[about]!r} and {word!r} cannot both be given")
        found[about] = word
    return found


def host_source(text: str, directory: str, whole: str) -> str:
    if text.startswith("/"):
        return cleaned(text)
    if not text.startswith("."):
        return text
    if not directory:
        raise InvalidMount(f"{whole!r}: a host directory needs an absolute path here")
    return cleaned(posixpath.join(directory, text))


def mount_target(text: str, whole: str) -> str:
    if not text.startswith("/"):
        raise InvalidMount(f"{whole!r}: {text!r} is no absolute path, and where to mount must be one")
    path = cleaned(text)
    if path == "/":
        raise InvalidMount(f"{whole!r}: nothing can be mounted over the container's whole filesystem")
    return path


def cleaned(path: str) -> str:
    """Without ``.``, ``..``, double and trailing slashes; POSIX lets two leading ones stand."""
    if "\0" in path:
        raise InvalidMount(f"{path!r}: a path cannot hold a NUL")
    return "/" + posixpath.normpath(path).lstrip("/")


# -- --tmpfs


def parse_tmpfs(text: str) -> ContainerMount:
    """``TARGET[:OPTION,...]``"""
    target, colon, rest = text.partition(":")
    options = tuple(rest.split(",")) if colon and rest else ()
    for option in options:
        name = option.partition("=")[0]
        known = _TMPFS_VALUES if "=" in option else _TMPFS_FLAGS | {"inode32", "inode64"}
        if name not in known:
            raise InvalidMount(f"{text!r}: unknown tmpfs option {option!r}"
                               f"{nearest(name, [*_TMPFS_FLAGS, *_TMPFS_VALUES])}")
    return ContainerMount(
        kind=MountKind.TMPFS, target=mount_target(target, text), options=options,
        is_read_only="ro" in options, copies_up=False,
    )


# -- all of a container's


def parse_borrowed(text: str) -> tuple[str, bool | None]:
    """``--volumes-from CONTAINER[:ro|rw]``: whose, and whether read-only (``None``: as they are there)."""
    name, colon, mode = text.partition(":")
    if not name:
        raise InvalidMount(f"{text!r}: expected CONTAINER[:ro|rw]")
    if colon:
        words = _mode(mode, text)
        if set(words) - {"access", "label"}:
            raise InvalidMount(f"{text!r}: only ro, rw, z and Z can be said of another container's volumes")
        return name, {"ro": True, "rw": False}.get(words.get("access", ""))
    return name, None


def borrowed_mounts(theirs: Iterable[ContainerMount], is_read_only: bool | None) -> list[ContainerMount]:
    """Another container's mounts for this one; its tmpfs stay its own. What was read-only there stays so."""
    return [
        replace(mount, is_read_only=mount.is_read_only or bool(is_read_only), copies_up=False)
        for mount in theirs if mount.kind is not MountKind.TMPFS
    ]


def image_mounts(volumes: Iterable[str]) -> list[ContainerMount]:
    """The anonymous volumes that an image asks for (``VOLUME``); what it says in vain is left out.

    A hostile or careless one may say ``/`` or a relative path: docker fails then, and so do we.
    """
    targets = [mount_target(path, f"VOLUME {path}") for path in volumes]
    return [ContainerMount(kind=MountKind.VOLUME, target=target) for target in targets]


def all_mounts(
    asked: Sequence[ContainerMount], *, borrowed: Iterable[ContainerMount] = (),
    image: Iterable[ContainerMount] = (),
) -> tuple[ContainerMount, ...]:
    """One a target, in mounting order: what was asked for, else other containers', else the image's.

    Raises :class:`DuplicateMount` when the same target was asked for twice.
    """
    chosen: dict[str, ContainerMount] = {}
    for mount in asked:
        if mount.target in chosen:
            raise DuplicateMount(f"{mount.target}: two mounts at one place; give each a target of its own")
        chosen[mount.target] = mount
    late: dict[str, ContainerMount] = {mount.target: mount for mount in image}
    late |= {mount.target: mount for mount in borrowed}
    return in_mounting_order((late | chosen).values())


def in_mounting_order(mounts: Iterable[ContainerMount]) -> tuple[ContainerMount, ...]:
    """A mount hides what is mounted below it already, so the outer ones come first."""
    return tuple(sorted(mounts, key=lambda mount: (mount.target.count("/"), mount.target)))


# -- as the runtime-spec has it


def oci_mount(
    mount: ContainerMount, source: str = "", *, has_recursive_read_only: bool = True
) -> dict[str, Any]:
    """``source`` is the host path of what is mounted: the volume's data, or the bind mount's own source.

    Without ``has_recursive_read_only`` (Linux before 5.12) what is mounted below a read-only source stays
    writable.
    """
    if mount.kind is MountKind.TMPFS:
        options = tmpfs_options(mount)
        return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}
    options = ["rbind" if mount.is_recursive else "bind", mount.propagation]
    if mount.is_read_only:
        options.append("ro")
        if mount.is_recursive and has_recursive_read_only:
            options.append("rro")
    return {"destination": mount.target, "type": "bind", "source": source or mount.source, "options": options}


def tmpfs_options(mount: ContainerMount) -> list[str]:
    """noexec, nosuid and nodev, as docker has it, unless the opposite was said; the last word counts."""
    asked = [option for option in mount.options if option != "defaults"]
    if mount.is_read_only and "ro" not in asked:
        asked.append("ro")
    merged = {default: None for default in ("noexec", "nosuid", "nodev") if default not in asked}
    for option in asked:
        name = option.partition("=")[0]
        opposite = _OPPOSITES.get(option) or next((on for on, off in _OPPOSITES.items() if off == option), "")
        merged = {kept: None for kept in merged if kept != opposite and kept.partition("=")[0] != name}
        merged[option] = None
    return [*merged, *([] if any(name in PROPAGATIONS for name in merged) else [DEFAULT_PROPAGATION])]
