"""User namespaces: how a person without root gets to mount, and to keep more than one owner.

With a range of subordinate ids (subuid(5)) and the set-uid programs ``newuidmap`` and ``newgidmap``, every
id of a layer has a place. Without, only one id exists: files keep their content and their modes on disk,
and their owners in the layer's index alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from lamina.errors import Denied
from lamina.snapshot import syscalls
from lamina.values import dataclass

_CAP_CHOWN = 0
_CAP_SYS_ADMIN = 21
_WHOLE_RANGE = 4294967295
# Enough for the ids that images use; a range that is smaller cannot hold `nobody` (65534).
_USEFUL_RANGE = 65535


class NamespaceDenied(Denied):
    """This system does not let ordinary users make user namespaces, or map ids into them."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """``count`` ids from ``inside`` on stand for those from ``outside`` on, as in /proc/PID/uid_map."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


class Ownership(StrEnum):
    """Which owners files can have on disk. The values are part of names on disk: never change them."""

    KEPT = "kept"  # root of the machine, or a process that may chown
    MAPPED = "mapped"  # a user namespace with ranges
    SINGLE = "single"  # one id only


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """As whom layers are unpacked and mounted.

    ``is_entered`` is false when a process must still enter a namespace to act under this identity.
    ``may_mount`` says whether it is then allowed to mount at all.
    """

    ownership: Ownership
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    is_entered: bool = True
    may_mount: bool = True
    is_initial: bool = True

    @property
    def key(self) -> str:
        """Names the mapping in a file name: trees of different mappings are different trees."""
        if self.ownership is not Ownership.MAPPED:
            return self.ownership.value
        text = "\n".join([*map(str, self.uid_map), "-", *map(str, self.gid_map)])
        return f"{self.ownership.value}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def xattr_namespace(self) -> str:
        """Where overlayfs keeps its marks: ``trusted`` is for root of the machine alone."""
        return "trusted" if self.is_initial and self.may_mount else "user"


def current_identity(*, subuid: Path = Path("/etc/subuid"), subgid: Path = Path("/etc/subgid")) -> Identity:
    """What this process is, or can become by :func:`enter_user_namespace`."""
    uid_map, gid_map = _read_map("uid"), _read_map("gid")
    is_initial = uid_map == (IdRange(0, 0, _WHOLE_RANGE),)
    capabilities = _effective_capabilities()
    may_mount = bool(capabilities >> _CAP_SYS_ADMIN & 1)
    if is_initial and capabilities >> _CAP_CHOWN & 1:
        return Identity(ownership=Ownership.KEPT, may_mount=may_mount)
    if may_mount:
        return Identity(
            ownership=_ownership(uid_map), uid_map=uid_map, gid_map=gid_map, is_initial=False
        )
    return planned_identity(subuid=subuid, subgid=subgid)


def planned_identity(*, subuid: Path = Path("/etc/subuid"), subgid: Path = Path("/etc/subgid")) -> Identity:
    """The user namespace that an ordinary user would enter."""
    uid, gid = os.geteuid(), os.getegid()
    name = _user_name(uid)
    uids, gids = _subordinate(subuid, name, uid), _subordinate(subgid, name, uid)
    import shutil  # noqa: PLC0415 - it brings bz2 and lzma, and root asks nothing here

    helpers = shutil.which("newuidmap") and shutil.which("newgidmap")
    if not (helpers and uids and gids):
        return single_identity()
    return Identity(
        ownership=Ownership.MAPPED, uid_map=_stacked(uid, uids), gid_map=_stacked(gid, gids),
        is_entered=False, is_initial=False,
    )


def single_identity() -> Identity:
    """A user namespace with one id, still to be entered."""
    uid, gid = os.geteuid(), os.getegid()
    return Identity(
        ownership=Ownership.SINGLE, uid_map=(IdRange(0, uid, 1),), gid_map=(IdRange(0, gid, 1),),
        is_entered=False, is_initial=False,
    )


def unprivileged_identity() -> Identity:
    """An ordinary user who cannot have a user namespace: one owner, and no mounts."""
    return Identity(ownership=Ownership.SINGLE, may_mount=False, is_initial=False)


def enter_user_namespace(identity: Identity) -> None:
    """Makes this process root of a new user and mount namespace.

    Only while it has a single thread; everything that it starts afterwards is in there too. Raises
    :class:`NamespaceDenied`.
    """
    if identity.is_entered:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    elif identity.ownership is Ownership.MAPPED:
        _enter_with_ranges(identity)
    else:
        _unshare()
        _write_single_maps(identity)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def _unshare() -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        raise NamespaceDenied(
            f"user namespaces: {error.strerror}; see kernel.unprivileged_userns_clone, "
            "user.max_user_namespaces and the system's AppArmor or SELinux policy"
        ) from None


def _write_single_maps(identity: Identity) -> None:
    # user_namespaces(7): a gid map may be written by its own user only once setgroups is denied.
    for name, text in (
        ("setgroups", "deny"), ("uid_map", str(identity.uid_map[0])), ("gid_map", str(identity.gid_map[0]))
    ):
        try:
            Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
        except OSError as error:
            raise NamespaceDenied(f"/proc/self/{name}: {error.strerror}") from None


def _enter_with_ranges(identity: Identity) -> None:
    """newuidmap must run outside of the namespace, so a child that stays behind calls it."""
    ready, tell = os.pipe()
    heard, answer = os.pipe()
    process = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.close(heard)
        _map_from_outside(process, identity, ready, answer)
    os.close(ready)
    os.close(answer)
    try:
        _unshare()
        os.write(tell, b"!")
        os.close(tell)
        tell = -1
        with open(heard, "rb", closefd=False) as stream:
            complaint = stream.read().decode("utf-8", "replace").strip()
    finally:
        if tell >= 0:
            os.close(tell)
        os.close(heard)
        _, status = os.waitpid(child, 0)
    if status != 0:
        raise NamespaceDenied(f"newuidmap: {complaint or 'failed'}")


def _map_from_outside(process: int, identity: Identity, ready: int, answer: int) -> None:
    """The child's whole life. What the programs say goes to the pipe ``answer``."""
    status = 1
    try:
        if os.read(ready, 1) == b"!":
            os.dup2(answer, 1)
            os.dup2(answer, 2)
            status = 0
            for program, ranges in (("newuidmap", identity.uid_map), ("newgidmap", identity.gid_map)):
                numbers = [number for part in ranges for number in str(part).split()]
                status = status or os.spawnvp(os.P_WAIT, program, [program, str(process), *numbers])  # noqa: S606 - numbers only
    finally:
        os._exit(1 if status else 0)


# -- reading what is


def _read_map(which: str) -> tuple[IdRange, ...]:
    try:
        text = Path(f"/proc/self/{which}_map").read_text(encoding="ascii")
    except FileNotFoundError:  # a kernel without user namespaces
        return (IdRange(0, 0, _WHOLE_RANGE),)
    return tuple(IdRange(*map(int, line.split())) for line in text.splitlines())


def _effective_capabilities() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def _ownership(uid_map: tuple[IdRange, ...]) -> Ownership:
    return Ownership.SINGLE if sum(part.count for part in uid_map) == 1 else Ownership.MAPPED


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _subordinate(path: Path, name: str, uid: int) -> list[tuple[int, int]]:
    """Ranges of a user, by name or number, if they are useful at all. Malformed lines count for nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        owner, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if owner in (name, str(uid)) and owner and start.isdigit() and count.isdigit() and int(count):
            found.append((int(start), int(count)))
    return found if sum(count for _, count in found) >= _USEFUL_RANGE else []


def _stacked(own: int, ranges: Sequence[tuple[int, int]]) -> tuple[IdRange, ...]:
    """0 is the user, and the ranges follow one another from 1 on."""
    parts = [IdRange(0, own, 1)]
    inside = 1
    for start, count in ranges:
        parts.append(IdRange(inside, start, count))
        inside += count
    return tuple(parts)
