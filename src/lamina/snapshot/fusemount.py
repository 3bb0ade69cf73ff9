"""Overlays that a process of the user's serves, through FUSE: for where the kernel's own are refused.

The mount is made first, attached nowhere, and fuse-overlayfs is given its end of it. That process stands in a
mount namespace in which the mount is not: so it keeps no mount alive, and ends when the last one is gone,
whoever was killed. It is nobody's child and holds no descriptor of ours.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack

from lamina.snapshot import syscalls
from lamina.snapshot.mounting import MountDenied, MountFailed, run_apart
from lamina.snapshot.snapshotter import Mount

PROGRAM = "fuse-overlayfs"
TYPE = f"fuse.{PROGRAM}"
_DEVICE = "/dev/fuse"
# Of the mount itself; everything else is told to the program.
_OF_MOUNTS = ("ro", "nosuid", "nodev", "noexec")


def detached_fuse(mount: Mount, options: Sequence[str], attributes: int, stack: ExitStack) -> int:
    """The mount of an instruction of this type, attached nowhere. The stack closes it."""
    with ExitStack() as ours:
        device = _open_device(ours)
        made = _make(mount, device, attributes, stack)
        _serve(mount, [option for option in options if option not in _OF_MOUNTS], device, ours)
    _insist_served(made)
    return made


def program() -> str:
    """Where it is; the empty text if it is not."""
    import shutil  # noqa: PLC0415 - one driver only

    return shutil.which(PROGRAM) or ""


def _open_device(stack: ExitStack) -> int:
    try:
        device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MountFailed(f"{_DEVICE}: not there; `modprobe fuse` makes it, outside of containers") from None
    except OSError as error:
        raise MountDenied(f"{_DEVICE}: {error.strerror}; its mode should be 666") from None
    stack.callback(os.close, device)
    return device


def _make(mount: Mount, device: int, attributes: int, stack: ExitStack) -> int:
    try:
        context = syscalls.fsopen("fuse")
        try:
            for name, value in (
                ("source", mount.source), ("subtype", PROGRAM), ("fd", str(device)), ("rootmode", "40000"),
                ("user_id", "0"), ("group_id", "0"),
            ):
                syscalls.fsconfig_text(context, name, value)
            # The kernel checks modes, as with any filesystem, and lets every user of a container in.
            for name in ("default_permissions", "allow_other"):
                syscalls.fsconfig_flag(context, name)
            syscalls.fsconfig_create(context)
            made = syscalls.fsmount(context, attributes)
        finally:
            os.close(context)
    except OSError as error:
        said = "needs Linux 5.2" if error.errno == errno.ENOSYS else error.strerror
        kind = MountDenied if error.errno == errno.EPERM else MountFailed
        raise kind(f"mount {mount.type} {mount.source}: {said}") from None
    stack.callback(os.close, made)
    return made


def _serve(mount: Mount, options: Sequence[str], device: int, stack: ExitStack) -> None:
    """Returns when the program has read its layers and gone into the background."""
    where = program()
    if not where:
        raise MountFailed(f"{PROGRAM}: no such program here; install the package {PROGRAM}")
    layers = [_opened(layer.source, stack) for layer in mount.layers]
    given, others = [], []
    for option in options:
        name, equals, value = option.partition("=")
        if equals and value.startswith("/"):
            others.append(_opened(value, stack))
            value = _by_number(others[-1])
        given.append(f"{name}{equals}{value}")
    lowers = f"lowerdir={':'.join(map(_by_number, layers))}"
    # With its cache of what is written, a file that somebody has open still would be old in the upper
    # directory, which is what `diff` and `commit` read.
    command = [where, "-o", ",".join((lowers, *given, "writeback=0")), f"/dev/fd/{device}"]
    run_apart(
        lambda: _start(mount, command, [device, *layers, *others]), namespaces=syscalls.CLONE_NEWNS
    )


def _start(mount: Mount, command: Sequence[str], descriptors: Sequence[int]) -> None:
    import subprocess  # noqa: PLC0415 - one driver only

    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    done = subprocess.run(
        command, pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True, check=False,
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise MountFailed(f"mount {mount.type} {mount.source}: {lines[-1] if lines else done.returncode}")


def _opened(path: str, stack: ExitStack) -> int:
    """A descriptor has a short name, and no colon or comma in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _by_number(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _insist_served(made: int) -> None:
    """A program that ended at once leaves a mount that answers nothing but ENOTCONN."""
    try:
        os.stat(f"/proc/self/fd/{made}/.")
    except OSError as error:
        raise MountFailed(f"{PROGRAM}: ended at once: {error.strerror}") from None
