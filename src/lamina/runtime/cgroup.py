"""Control groups for containers: what a container may use of the machine, and what it does use (cgroups(7)).

Version 1 has a hierarchy for each controller, version 2 one for all, and a hybrid machine has both:
controllers in the first, and the second for what its core can do (kill everything at once). Names are given
from the place where this user may make groups. That place is the top for root, and on version 2 the highest
directory that was delegated to an ordinary user; a runtime with the ``cgroupsPath`` of
:meth:`Cgroups.spec_path` uses the same groups.

An ordinary user on version 1, or on version 2 with nothing delegated, gets a group of no place at all: limits
are reported as not applied, and the rest does nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.errors import Conflict, InvalidInput, Unavailable, Unsupported
from lamina.runtime import cgroup1, cgroup2
from lamina.runtime.hierarchy import Hierarchy, has_limits_of_version_1, hierarchies, make, prepare, write
from lamina.runtime.limit import CgroupStats, Limit, Unapplied, read_text
from lamina.values import dataclass, replace

__all__ = ["Cgroup", "CgroupStats", "Cgroups", "Hierarchy", "Unapplied"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_PATIENCE = 5.0  # seconds for what the kernel does soon, unless the machine is very busy
_PAUSE = 0.002


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The hierarchies in which this user may make groups, and why there are no others."""

    hierarchies: tuple[Hierarchy, ...]
    refusals: Mapping[str, str]

    @classmethod
    def detect(cls, proc: str = "/proc/self") -> Cgroups:
        return cls(*hierarchies(proc))

    @property
    def version(self) -> int:
        """Which version has the controllers: 1 on a hybrid machine, 0 if this user may not make groups."""
        if not self.hierarchies:
            return 0
        return 1 if any(map(has_limits_of_version_1, self.hierarchies)) else 2

    def at(self, name: str) -> Cgroup:
        """The group as it is now, whoever made it. Places that do not exist are left out.

        ``name`` may also be what :meth:`spec_path` made of it.
        """
        name = self._named(name)
        places = [(item, f"{item.base}/{name}") for item in self.hierarchies]
        return Cgroup(name, tuple(place for place in places if os.path.isdir(place[1])), self.refusals)

    def create(
        self, name: str, resources: Mapping[str, Any] | None = None, *, strict: bool = False
    ) -> Cgroup:
        """A new group with limits; what could not be applied is in its ``unapplied``.

        With ``strict`` that is an error. An empty group of the same name is replaced, so that its counters
        start at zero; one with processes in it is a ``Conflict``.
        """
        name = self._named(name)
        old = self.at(name)
        if old.places:
            if old.pids():
                raise Conflict(f"{name}: this control group still has processes: {_listed(old.pids())}")
            old.remove()
        places = tuple((item, f"{item.base}/{name}") for item in self.hierarchies)
        group = Cgroup(name, places, self.refusals)
        try:
            refusals = dict(self.refusals)
            for hierarchy, path in group.places:
                make(path)
                refusals |= prepare(hierarchy, path)
            group = replace(group, refusals=refusals)
            unapplied = group.update(resources or {}, strict=strict)
            unapplied += group._restrict_devices(resources or {}, strict=strict)  # noqa: SLF001 - below
        except BaseException:
            with contextlib.suppress(OSError, Conflict):
                group.remove()
            raise
        return replace(group, unapplied=tuple(unapplied))

    def spec_path(self, name: str) -> str:
        """``linux.cgroupsPath`` with which runc and crun make the group that :meth:`at` finds."""
        return f"{self._prefix()}/{self._named(name)}"

    def _prefix(self) -> str:
        """The way from the top of version 2 to where groups are made; empty for root."""
        return next((item.base.removeprefix(item.top) for item in self.hierarchies if item.version == 2), "")

    def _named(self, text: str) -> str:
        name = f"/{text.lstrip('/')}".removeprefix(f"{self._prefix()}/").lstrip("/")
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{text}: not a control group's name; expected words and slashes, as in lamina/ID"
            )
        return name


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group: a directory in each hierarchy. All methods may be called from any process, and again."""

    name: str
    places: tuple[tuple[Hierarchy, str], ...]
    refusals: Mapping[str, str]
    unapplied: tuple[Unapplied, ...] = ()

    @property
    def paths(self) -> dict[str, str]:
        """The directory of each controller of version 1, and that of version 2 as ``""``."""
        found: dict[str, str] = {}
        for hierarchy, path in self.places:
            names = hierarchy.controllers if hierarchy.version == 1 else ("",)
            found |= dict.fromkeys(names, path)
        return found

    def add(self, pid: int) -> None:
        """Moves a process with all its threads; 0 is the caller. What it starts later begins in the group."""
        for _, path in self.places:
            write(f"{path}/cgroup.procs", str(pid))

    def update(self, resources: Mapping[str, Any], *, strict: bool = False) -> list[Unapplied]:
        """Changes the limits that are named, and returns those that this machine or user cannot have.

        Raises ``InvalidInput`` for values that the kernel refuses, ``Conflict`` for less memory than is used.
        Rules for devices are taken at :meth:`Cgroups.create` only.
        """
        if self._is_version_1():
            wanted, unapplied = cgroup1.limits(resources), []
        else:
            wanted, unapplied = cgroup2.limits(resources), cgroup2.meaningless(resources)
        # Memory's and swap's limits bound each other, as do quota and period: what fails is tried again
        # after the others.
        again = [limit for limit in wanted if not self._apply(limit, unapplied, is_last=False)]
        for limit in again:
            self._apply(limit, unapplied, is_last=True)
        if strict and unapplied:
            raise Unsupported("; ".join(map(str, unapplied)))
        return unapplied

    def pids(self) -> list[int]:
        """Those that this process can see, in the group and the groups below it. Zombies are not in it."""
        found: set[int] = set()
        for _, path in self.places:
            for directory, _, _ in os.walk(path):
                found |= {int(word) for word in read_text(f"{directory}/cgroup.procs").split()}
        return sorted(found - {0})  # 0 is a process of another pid namespace

    def freeze(self) -> None:
        """Returns when every process stands still."""
        self._set_frozen(yes=True)

    def thaw(self) -> None:
        self._set_frozen(yes=False)

    @property
    def is_frozen(self) -> bool:
        paths = self.paths
        if "freezer" in paths:
            return read_text(f"{paths['freezer']}/freezer.state") != "THAWED"
        return "" in paths and read_text(f"{paths['']}/cgroup.freeze") == "1"

    def kill(self) -> None:
        """SIGKILL for every process, also for those that are being started; returns when none is left."""
        unified = self.paths.get("")
        if unified is not None:
            with contextlib.suppress(OSError):  # Linux 5.14
                write(f"{unified}/cgroup.kill", "1")
        if self._is_version_1() or not os.path.exists(f"{unified}/cgroup.kill"):
            # Frozen processes start no others meanwhile, and die when they thaw.
            with contextlib.suppress(Unavailable, Unsupported, OSError):
                self.freeze()
            self._signal_all()
        with contextlib.suppress(Unsupported, OSError):
            self.thaw()
        _wait_until(lambda: not self._signal_all(), f"{self.name}: killed processes do not end")

    def stats(self) -> CgroupStats:
        """Zero for what no controller tells."""
        paths = self.paths
        if not paths:
            raise Unsupported(f"{self.name}: no statistics: {_first(self.refusals)}")
        found = cgroup1.measured(paths)
        if "" in paths:
            found = {**cgroup2.measured(paths[""]), **found}
        system = sum(map(int, read_text("/proc/stat").partition("\n")[0].split()[1:8]))
        return CgroupStats(
            system_cpu_ns=system * (1_000_000_000 // os.sysconf("SC_CLK_TCK")),
            online_cpus=os.cpu_count() or 1, **found,  # type: ignore[arg-type] # None is for limits only
        )

    def oom_kills(self) -> int:
        """How often the kernel killed a process for want of memory. Gone with the group: ask before."""
        paths = self.paths
        return cgroup1.oom_kills(paths) + (cgroup2.oom_kills(paths[""]) if "" in paths else 0)

    def remove(self) -> None:
        """The group, what is below it, and what is above it and empty. ``Conflict`` if processes stay."""
        for hierarchy, path in self.places:
            for directory, _, _ in os.walk(path, topdown=False):
                self._remove(directory)
            parent = os.path.dirname(path)
            with contextlib.suppress(OSError):  # another container's group is in there
                while parent != hierarchy.base:
                    os.rmdir(parent)
                    parent = os.path.dirname(parent)

    def _remove(self, directory: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                return
            except OSError as error:
                # A process that has just ended may be counted a little longer.
                if error.errno != errno.EBUSY or time.monotonic() > deadline or self.pids():
                    raise Conflict(
                        f"{directory}: the control group cannot be removed: {error.strerror}; "
                        f"processes in it: {_listed(self.pids())}"
                    ) from None
                time.sleep(_PAUSE)
            else:
                return

    def _is_version_1(self) -> bool:
        return any(has_limits_of_version_1(item) for item, _ in self.places)

    def _apply(self, limit: Limit, unapplied: list[Unapplied], *, is_last: bool) -> bool:
        """Whether this limit is dealt with."""
        paths = self.paths
        path = paths.get(limit.controller, paths.get("") if not self._is_version_1() else None)
        if path is None:
            reason = self.refusals.get(limit.controller) or f"there is no {limit.controller} controller here"
            unapplied.append(Unapplied(limit.option, reason))
            return True
        try:
            write(f"{path}/{limit.file}", limit.value)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EBUSY) and not is_last:
                return False
            unapplied.append(Unapplied(limit.option, self._reason(limit, error)))
        return True

    def _reason(self, limit: Limit, error: OSError) -> str:
        if error.errno == errno.ENOENT:
            return self.refusals.get(limit.controller) or f"this kernel has no {limit.file} for a group"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENODEV, errno.EOPNOTSUPP):
            return f"{limit.file} cannot be set: {error.strerror}"
        if error.errno == errno.EBUSY and limit.controller == "memory":
            raise Conflict(f"{limit.option}: more than {limit.value} bytes are in use, and cannot be freed")
        raise InvalidInput(f"{limit.option}: the kernel refuses {limit.value!r} ({error.strerror})")

    def _restrict_devices(self, resources: Mapping[str, Any], *, strict: bool) -> list[Unapplied]:
        """Which devices may be used. An ordinary user can make none, not even in a user namespace."""
        rules = resources.get("devices") or ()
        if not rules or os.geteuid() != 0 or not _is_first_user_namespace():
            return []
        try:
            self._write_device_rules(resources)
        except (OSError, Unsupported) as error:
            failure = Unapplied("--device", f"the rules for devices cannot be set: {error}")
            if strict:
                raise Unsupported(str(failure)) from None
            return [failure]
        return []

    def _write_device_rules(self, resources: Mapping[str, Any]) -> None:
        paths = self.paths
        if "devices" in paths:
            for limit in cgroup1.device_rules(resources):
                write(f"{paths['devices']}/{limit.file}", limit.value)
        elif "" in paths:
            from lamina.runtime import devicefilter  # noqa: PLC0415 - for version 2 only

            program = devicefilter.compile_rules(resources["devices"])
            if program:
                devicefilter.attach(paths[""], program)
        else:
            raise Unsupported(_first(self.refusals))

    def _set_frozen(self, *, yes: bool) -> None:
        paths = self.paths
        if "freezer" in paths:
            file, wanted = f"{paths['freezer']}/freezer.state", "FROZEN" if yes else "THAWED"

            def is_done() -> bool:
                write(file, wanted)  # again: a process that was being started may have been missed
                return read_text(file) == wanted
        elif "" in paths:
            file, state = f"{paths['']}/cgroup.freeze", f"frozen {int(yes)}"
            write(file, str(int(yes)))

            def is_done() -> bool:
                return state in read_text(f"{paths['']}/cgroup.events").splitlines()
        else:
            raise Unsupported(f"{self.name}: cannot be paused: {_first(self.refusals)}")
        try:
            _wait_until(is_done, f"{self.name}: its processes do not stand still")
        except Unavailable:
            if yes:
                self.thaw()
            raise

    def _signal_all(self) -> list[int]:
        """Returns whom it met."""
        met = self.pids()
        for pid in met:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return met


def _is_first_user_namespace() -> bool:
    return read_text("/proc/self/uid_map").split() == ["0", "0", "4294967295"]


def _wait_until(is_so: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise Unavailable(f"{failure} within {_PATIENCE:.0f} seconds")
        time.sleep(_PAUSE)


def _first(refusals: Mapping[str, str]) -> str:
    return next(iter(refusals.values()), "no control groups are mounted here")


def _listed(pids: Sequence[int]) -> str:
    return ", ".join(map(str, pids[:8])) or "none that can be seen"
