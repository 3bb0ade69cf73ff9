"""A container's filesystem from the inside: the mounts of a runtime-spec document, devices, masks, the pivot.

Runs in the child of our own runner, in the container's namespaces, before anything of the container's does.
The image is a stranger's: every target is looked up below the root by openat2(2), and what is mounted is
moved onto the descriptor that this gave, so that no symlink leads elsewhere (CVE-2019-19921, CVE-2021-30465).
Needs the mount calls of Linux 5.12.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from lamina.snapshot import syscalls

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY, "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC, "noatime": syscalls.MOUNT_ATTR_NOATIME,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME, "nodiratime": syscalls.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": syscalls.MOUNT_ATTR_NOSYMFOLLOW,
}
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE, "rprivate": syscalls.MS_PRIVATE, "slave": syscalls.MS_SLAVE,
    "rslave": syscalls.MS_SLAVE, "shared": syscalls.MS_SHARED, "rshared": syscalls.MS_SHARED,
    "unbindable": syscalls.MS_UNBINDABLE, "runbindable": syscalls.MS_UNBINDABLE,
}
_SWITCHES = ("rw", "suid", "dev", "exec", "atime", "relatime", "diratime", "bind", "rbind", "defaults")
_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"),
          ("/proc/self/fd/2", "stderr"), ("pts/ptmx", "ptmx"))


# What runc allows as well: files that only tell something, and that a filesystem such as lxcfs tells better.
_SHOWN_IN_PROC = tuple(f"/proc/{name}" for name in (
    "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
    "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
))


class StageFailed(Exception):
    """Told to the parent as a sentence."""


class Stage:
    """``top`` is a descriptor of the root filesystem, a mount. One use; the process execs afterwards."""

    def __init__(self, document: Mapping[str, Any], cgroups: Sequence[tuple[str, str]] = ()) -> None:
        self._document = document
        self._cgroups = cgroups
        self._root = document["root"]["path"]
        self.top = os.open(self._root, _DIRECTORY)

    def build(self, *, is_user_namespace: bool) -> None:
        for mount in self._document["mounts"]:
            try:
                self._mount(mount)
            except OSError as error:
                raise StageFailed(
                    f"mount {mount['destination']} ({mount['type']}): {error.strerror}"
                ) from None
        self._make_devices(is_user_namespace=is_user_namespace)
        self._set_sysctls()

    def enter(self) -> None:
        """The root becomes the process' own; the old one is mounted nowhere any more."""
        os.fchdir(self.top)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")

    def close_off(self) -> None:
        """After :meth:`enter`: what the container must not see, or not change."""
        linux = self._document["linux"]
        for path in linux.get("readonlyPaths", ()):
            _make_read_only(path)
        null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
        _insist_null(null)
        for path in linux.get("maskedPaths", ()):
            _mask(path)
        os.close(null)
        if self._document["root"].get("readonly"):
            root = os.open("/", _DIRECTORY)
            syscalls.mount_setattr(root, syscalls.MOUNT_ATTR_RDONLY)
            os.close(root)

    # -- mounts

    def _mount(self, mount: Mapping[str, Any]) -> None:
        options = list(mount.get("options") or ())
        attributes, propagation, rest = _sorted_out(options)
        if mount["type"] == "cgroup":
            self._mount_cgroups(mount["destination"], attributes)
            return
        if mount["type"] == "bind" or "bind" in options or "rbind" in options:
            made = _bound(mount["source"], attributes, is_recursive="rbind" in options)
        else:
            if mount["type"] == "tmpfs":
                rest += self._mode(mount["destination"], rest)
            made = _made(mount["type"], mount.get("source") or mount["type"], rest, attributes)
        try:
            is_directory = stat.S_ISDIR(os.fstat(made).st_mode)
            target = self.place(mount["destination"], is_directory=is_directory)
            self._insist_place(target, mount)
            syscalls.move_mount(made, target)
            os.close(target)
            if propagation:
                syscalls.mount_setattr(made, 0, is_recursive=True, propagation=propagation)
        finally:
            os.close(made)

    def _insist_place(self, target: int, mount: Mapping[str, Any]) -> None:
        """The kernel's own filesystems are where they belong, and nothing hides a part of /proc: what is
        written there, such as sysctls, would go to somebody's file (CVE-2019-16884, CVE-2025-52881)."""
        top = os.readlink(f"/proc/self/fd/{self.top}")
        real = os.readlink(f"/proc/self/fd/{target}")[len(top) :]
        # Where the processes are another's to show, it is the host's own /proc.
        is_own = mount["type"] in ("proc", "sysfs") or (mount["source"] == mount["destination"] == "/proc")
        if is_own:
            if real != mount["destination"]:
                raise StageFailed(f"{mount['destination']}: the image has no directory there, but a symlink")
        elif (real == "/proc" or real.startswith("/proc/")) and real not in _SHOWN_IN_PROC:
            raise StageFailed(f"{mount['destination']}: nothing is mounted over /proc, the kernel's own")

    def _mode(self, destination: str, options: Sequence[str]) -> list[str]:
        """A tmpfs has the mode of what it is mounted on, unless another was asked for, as runc has it."""
        if any(option.startswith("mode=") for option in options):
            return []
        try:
            place = syscalls.open_in_root(self.top, destination, os.O_PATH)
        except FileNotFoundError:
            return []
        mode = stat.S_IMODE(os.fstat(place).st_mode)
        os.close(place)
        return [f"mode={mode:o}"]

    def _mount_cgroups(self, destination: str, attributes: int) -> None:
        """``cgroups`` pairs a name below the destination (empty for version 2) with what is shown there."""
        if len(self._cgroups) == 1 and not self._cgroups[0][0]:
            made = _made("cgroup2", "cgroup", [], attributes)
            target = self.place(destination, is_directory=True)
            syscalls.move_mount(made, target)
            os.close(target)
            os.close(made)
            return
        writable = attributes & ~syscalls.MOUNT_ATTR_RDONLY
        self._attach(_made("tmpfs", "cgroup", ["mode=755"], writable), destination)
        for name, source in self._cgroups:
            self._attach(_bound(source, attributes, is_recursive=False), f"{destination}/{name}")
        if attributes & syscalls.MOUNT_ATTR_RDONLY:
            top = self.place(destination, is_directory=True)
            syscalls.mount_setattr(top, syscalls.MOUNT_ATTR_RDONLY)
            os.close(top)

    def _attach(self, made: int, destination: str) -> None:
        target = self.place(destination, is_directory=True)
        syscalls.move_mount(made, target)
        os.close(target)
        os.close(made)

    def place(self, path: str, *, is_directory: bool) -> int:
        """A descriptor of a mount's target below the root; made, with what leads to it, if missing."""
        try:
            return syscalls.open_in_root(self.top, path, os.O_PATH)
        except FileNotFoundError:
            pass
        parent, _, name = path.strip("/").rpartition("/")
        above = self.place(parent, is_directory=True) if parent else os.dup(self.top)
        try:
            if is_directory:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(name, flags, 0o644, dir_fd=above))
        finally:
            os.close(above)
        return syscalls.open_in_root(self.top, path, os.O_PATH)

    # -- devices and settings

    def _make_devices(self, *, is_user_namespace: bool) -> None:
        directory = self.place("/dev", is_directory=True)
        try:
            for name, major, minor in _NODES:
                self._make_node(directory, name, major, minor, is_bound=is_user_namespace)
            for target, name in _LINKS:
                with contextlib.suppress(FileExistsError):
                    os.symlink(target, name, dir_fd=directory)
        finally:
            os.close(directory)
        for device in self._document["linux"].get("devices", ()):
            self._make_device(device)

    def _make_node(self, directory: int, name: str, major: int, minor: int, *, is_bound: bool) -> None:
        if is_bound:
            made = syscalls.open_tree(f"/dev/{name}")
            target = self.place(f"/dev/{name}", is_directory=False)
            syscalls.move_mount(made, target)
            os.close(target)
            os.close(made)
            return
        with contextlib.suppress(FileExistsError):
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=directory)
            _give_attributes(directory, name, 0o666)

    def _make_device(self, device: Mapping[str, Any]) -> None:
        parent, _, name = device["path"].rpartition("/")
        directory = self.place(parent, is_directory=True)
        kind = stat.S_IFBLK if device["type"] == "b" else stat.S_IFCHR
        mode = device.get("fileMode", 0o666)
        with contextlib.suppress(FileExistsError):
            os.mknod(name, kind | mode, os.makedev(device["major"], device["minor"]), dir_fd=directory)
            _give_attributes(directory, name, mode, device.get("uid", 0), device.get("gid", 0))
        os.close(directory)

    def _set_sysctls(self) -> None:
        for name, value in self._document["linux"].get("sysctl", {}).items():
            path = f"/proc/sys/{name.replace('.', '/')}"
            try:
                descriptor = syscalls.open_in_root(self.top, path, os.O_WRONLY)
                with open(descriptor, "w", encoding="ascii") as file:
                    file.write(value)
            except OSError as error:
                raise StageFailed(f"--sysctl {name}: {error.strerror}") from None


def _give_attributes(directory: int, name: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    """To the node and through no symlink: the directory may be a volume, which others change meanwhile."""
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_ISLNK(os.fstat(place).st_mode):
            raise StageFailed(f"/dev/{name}: somebody put a symlink there")
        os.chown(f"/proc/self/fd/{place}", uid, gid)
        os.chmod(f"/proc/self/fd/{place}", mode)
    finally:
        os.close(place)


def _sorted_out(options: Sequence[str]) -> tuple[int, int, list[str]]:
    """Attributes of a mount, its propagation, and what is the filesystem's own business."""
    attributes, propagation, rest = 0, 0, []
    for option in options:
        if option in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[option]
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option not in _SWITCHES:
            rest.append(option)
    return attributes, propagation, rest


def _bound(source: str, attributes: int, *, is_recursive: bool) -> int:
    made = syscalls.open_tree(source, is_recursive=is_recursive)
    if attributes:
        syscalls.mount_setattr(made, attributes, is_recursive=is_recursive)
    return made


def _made(kind: str, source: str, options: Sequence[str], attributes: int) -> int:
    context = syscalls.fsopen(kind)
    try:
        syscalls.fsconfig_text(context, "source", source)
        for option in options:
            name, equals, value = option.partition("=")
            if equals:
                syscalls.fsconfig_text(context, name, value)
            else:
                syscalls.fsconfig_flag(context, name)
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


def _make_read_only(path: str) -> None:
    """In the container's own /proc and /sys; what this kernel lacks needs no protection."""
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    made = _bound(f"/proc/self/fd/{place}", syscalls.MOUNT_ATTR_RDONLY, is_recursive=True)
    syscalls.move_mount(made, place)
    os.close(made)
    os.close(place)


def _mask(path: str) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    if stat.S_ISDIR(os.fstat(place).st_mode):
        made = _made("tmpfs", "tmpfs", ["size=0k"], syscalls.MOUNT_ATTR_RDONLY)
    else:
        made = syscalls.open_tree("/dev/null")
        _insist_null(made)
    syscalls.move_mount(made, place)
    os.close(made)
    os.close(place)


def _insist_null(descriptor: int) -> None:
    """CVE-2025-31133: a mask that is not really /dev/null would show, or bind, what somebody put there."""
    found = os.fstat(descriptor)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        raise OSError(errno.ENODEV, "the container's /dev/null is not the kernel's", "/dev/null")
