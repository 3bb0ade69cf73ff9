"""Where control groups can be made: the machine's hierarchies, as far as this user may write to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lamina.errors import Conflict
from lamina.runtime import cgroup2
from lamina.runtime.limit import read_text
from lamina.snapshot.mountinfo import mounts
from lamina.values import dataclass

_VERSION_1 = frozenset((
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio",
    "perf_event", "pids", "rdma", "misc",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """``base`` is the directory below which groups are made; ``top`` is where the hierarchy is mounted.

    ``controllers`` of version 2 are those that can be enabled below ``base``.
    """

    version: int
    controllers: frozenset[str]
    top: str
    base: str


def has_limits_of_version_1(hierarchy: Hierarchy) -> bool:
    """A machine with version 2 may still have a hierarchy of version 1 for net_cls or for a name."""
    return hierarchy.version == 1 and not hierarchy.controllers.isdisjoint({"cpu", "memory", "pids"})


def hierarchies(proc: str = "/proc/self") -> tuple[tuple[Hierarchy, ...], dict[str, str]]:
    """Those that this user may use, and for each controller that he may not, why."""
    found: dict[frozenset[str] | int, Hierarchy] = {}
    refusals: dict[str, str] = {}
    for line in mounts(Path(f"{proc}/mountinfo")):
        if line.type == "cgroup":
            names = frozenset(
                item for item in line.options if item in _VERSION_1 or item.startswith("name=")
            )
            if _is_writable(line.target):
                found.setdefault(names, Hierarchy(1, names, line.target, line.target))
            else:
                reason = f"this user may not write to {line.target} (cgroup version 1)"
                refusals |= dict.fromkeys(names, reason)
        elif line.type == "cgroup2":
            base = _delegated(line.target, line.root, proc)
            if base is None:
                reason = f"nothing of {line.target} is delegated to this user (systemd: Delegate=yes)"
                refusals |= dict.fromkeys((*cgroup2.CONTROLLERS, ""), reason)
            else:
                names = frozenset(read_text(f"{base}/cgroup.controllers").split())
                found.setdefault(2, Hierarchy(2, names, line.target, base))
    return tuple(found.values()), refusals


def make(path: str) -> None:
    """With the directories above it, also while another container's end removes those."""
    for _ in range(100):
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.mkdir(path)
        except FileNotFoundError:
            continue
        return
    raise Conflict(f"{path}: the control group cannot be made: what is above it is removed again and again")


def prepare(hierarchy: Hierarchy, path: str) -> dict[str, str]:
    """Makes a new group usable, and returns why a controller is not."""
    refusals: dict[str, str] = {}
    above = list(_above(path, hierarchy.base))
    if hierarchy.version == 1:
        if "cpuset" in hierarchy.controllers:
            # Both are empty in a new group, and no process can enter until they are set (cpuset(7)).
            for directory in (*above[1:], path):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if not read_text(f"{directory}/{file}"):
                        write(f"{directory}/{file}", read_text(f"{os.path.dirname(directory)}/{file}"))
        return refusals
    for controller in cgroup2.CONTROLLERS:
        if controller not in hierarchy.controllers:
            refusals[controller] = f"the {controller} controller is not available in {hierarchy.base}"
            continue
        try:
            for directory in above:
                if controller not in read_text(f"{directory}/cgroup.subtree_control").split():
                    write(f"{directory}/cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            # EBUSY: a group with processes of its own cannot share its controllers out, unless it is the top.
            reason = f"the {controller} controller cannot be enabled in {directory}: {error.strerror}"
            refusals[controller] = reason
    return refusals


def _above(path: str, base: str) -> Iterator[str]:
    """The directories from ``base`` to the one that ``path`` is in."""
    yield base
    for name in os.path.dirname(path).removeprefix(base).split("/"):
        if name:
            base = f"{base}/{name}"
            yield base


def write(path: str, value: str) -> None:
    """One write(2), into a file that is there: the kernel takes each as a whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _is_writable(path: str) -> bool:
    return os.access(path, os.W_OK, effective_ids=True)


def _delegated(top: str, root: str, proc: str) -> str | None:
    """The highest directory, from this process's own group upwards, where groups can be made and filled."""
    own = ""
    for line in read_text(f"{proc}/cgroup").splitlines():
        if line.startswith("0::"):
            own = line[3:].removeprefix(root if root != "/" else "")
    parts = [part for part in own.split("/") if part]
    if ".." in parts:  # our group is outside of what our cgroup namespace shows
        parts = []
    found = None
    for length in range(len(parts), -1, -1):
        directory = "/".join([top, *parts[:length]])
        # What systemd gives away with a delegated group. Moving a process needs the second, in an ancestor of
        # both its groups.
        if _is_writable(directory) and _is_writable(f"{directory}/cgroup.procs"):
            found = directory
        elif found is not None or length < len(parts):
            break
    return found
