"""Carrying out mount instructions: the new mount API first, mount(2) where the kernel is older.

An overlay's lower layers are handed over as open descriptors (Linux 6.13), which needs no escaping,
knows no limit of 255 bytes a path, and lets a layer be a filesystem that is mounted nowhere: an EROFS
image goes when the overlay over it goes. Before 6.13 such layers are attached for a moment on a scratch
tmpfs at the target, which is gone again when the overlay stands: overlayfs keeps its own clones of its
lower mounts. Before 6.8, and where a sandbox forbids the new calls, mount(2) takes at most 4,095 bytes
of options: some 30 to 130 paths. What is more goes by the numbers of open descriptors, which are paths for a
thread that works in ``/proc/self/fd``; 500 of them take 2,000 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lamina.errors import Conflict, Denied, InvalidInput, Unsupported
from lamina.snapshot import syscalls
from lamina.snapshot.snapshotter import Mount, TooManyLayers

# OVL_MAX_STACK (fs/overlayfs/params.h): the 501st lower layer is EINVAL.
MAX_LOWER_LAYERS = 500
_MAX_TEXT = 255  # strings of fsconfig(2)
_MAX_OPTIONS = 4095  # one page, with its NUL

_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "noatime": syscalls.MOUNT_ATTR_NOATIME,
    "nodiratime": syscalls.MOUNT_ATTR_NODIRATIME,
    "relatime": 0,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME,
}
_FLAGS = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
    "relatime": syscalls.MS_RELATIME,
    "strictatime": syscalls.MS_STRICTATIME,
}


class MountFailed(Unsupported):
    """The kernel said no. The message holds what it says, and what it was asked."""


class MountDenied(Denied):
    """It takes root, or a user namespace."""


class MountBusy(Conflict):
    pass


def mount_all(mounts: Sequence[Mount], target: Path, *, also: Sequence[str] = ()) -> None:
    """Mounts in order below ``target``, an existing directory; all of them or none.

    ``also`` is added to the options of each: ``nodev``, ``nosuid``, ``ro``.
    """
    done: list[Path] = []
    try:
        for mount in mounts:
            _mount(mount, target, tuple(also))
            done.append(target / mount.target)
    except BaseException:
        for path in reversed(done):
            with contextlib.suppress(OSError):
                syscalls.umount(str(path), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        raise


def unmount(target: Path, *, lazily: bool = False) -> None:
    """Raises :class:`MountBusy`; a place where nothing is mounted is fine."""
    flags = syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazily else 0)
    try:
        syscalls.umount(str(target), flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MountBusy(f"{target}: in use: a program has a file open there, or works in it") from None
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise _explained(error, f"umount {target}", "") from None


@contextmanager
def mounted(mounts: Sequence[Mount], target: Path, *, also: Sequence[str] = ()) -> Iterator[Path]:
    """Mounts, gives the path, and unmounts at the end, whoever is still in there."""
    mount_all(mounts, target, also=also)
    try:
        yield target
    finally:
        for mount in reversed(mounts):
            unmount(target / mount.target, lazily=True)


def open_mount(mount: Mount, stack: ExitStack) -> int:
    """The root directory of what is mounted nowhere, and goes when the stack closes it.

    -1 where the kernel cannot: Linux before 5.2, and before 6.13 for an overlay.
    """
    try:
        return _detached(mount, (), stack)
    except (_NoNewCalls, _NoDetachedLayers):
        return -1


def can_mount(mount: Mount) -> str:
    """Tries an instruction without attaching it anywhere; the empty text means that it works."""
    try:
        with ExitStack() as stack:
            if open_mount(mount, stack) < 0:
                _try_attached(mount)
    except (Unsupported, Denied) as error:
        return str(error)
    return ""


def _try_attached(mount: Mount) -> None:
    """Older kernels know no mount that is attached nowhere: this one is on a directory of its own."""
    import tempfile  # noqa: PLC0415 - old kernels

    place = tempfile.mkdtemp(prefix="lamina-trying-")
    try:
        with mounted([mount], Path(place)):
            pass
    finally:
        os.rmdir(place)


def _mount(mount: Mount, target: Path, also: tuple[str, ...]) -> None:
    with ExitStack() as stack:
        place = _open_place(target, mount.target, stack)
        try:
            made = _made(mount, also, place, stack)
        except _NoNewCalls:
            if mount.type == "overlay":
                _classic_overlay(mount, also, place, stack)
            else:
                _classic(mount, also, place)
            return
        try:
            syscalls.move_mount(made, place)
        except OSError as error:
            raise _explained(error, f"mount {mount.type} on {target}", "") from None


def _made(mount: Mount, also: tuple[str, ...], place: int, stack: ExitStack) -> int:
    try:
        return _detached(mount, also, stack)
    except _NoDetachedLayers:
        return _overlay_over_attached(mount, also, place, stack)


def _open_place(target: Path, inner: str, stack: ExitStack) -> int:
    """The directory to mount on, component by component below ``target``: no symlink leads elsewhere."""
    place = _opened(os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), stack)
    for name in inner.split("/") if inner else ():
        if name in ("", ".", ".."):
            raise InvalidInput(f"{inner!r}: a mount's target is a plain relative path")
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        place = _opened(os.open(name, flags, dir_fd=place), stack)
    return place


def _opened(descriptor: int, stack: ExitStack) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


# -- the new mount API


class _NoNewCalls(Exception):
    """fsopen and its family are missing, forbidden by a seccomp filter, or too young for what is asked."""


class _NoDetachedLayers(Exception):
    """overlayfs takes no descriptors: Linux before 6.13."""


def _detached(mount: Mount, also: tuple[str, ...], stack: ExitStack) -> int:
    """The mount of an instruction, attached nowhere. The stack closes it."""
    options = (*mount.options, *also)
    attributes = _attributes(options)
    if mount.type.startswith("fuse."):
        from lamina.snapshot.fusemount import detached_fuse  # noqa: PLC0415 - one driver only

        return detached_fuse(mount, options, attributes, stack)
    try:
        if mount.type == "bind":
            made = _opened(syscalls.open_tree(mount.source), stack)
            if attributes:
                syscalls.mount_setattr(made, attributes)
            return made
        context = _opened(syscalls.fsopen(mount.type), stack)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise _NoNewCalls from None
        raise _explained(error, _shown(mount), "") from None
    try:
        if mount.type == "overlay":
            _give_lower_layers(context, mount, stack)
        _configure(context, mount, options, stack)
        syscalls.fsconfig_create(context)
        return _opened(syscalls.fsmount(context, attributes), stack)
    except OSError as error:
        raise _explained(error, _shown(mount), _complaints(context)) from None


def _give_lower_layers(context: int, mount: Mount, stack: ExitStack) -> None:
    _check_depth(mount)
    for layer in mount.layers:
        try:
            syscalls.fsconfig_descriptor(context, "lowerdir+", _layer_descriptor(layer, stack))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise _NoDetachedLayers from None
            if error.errno == errno.EOPNOTSUPP:  # before Linux 6.5 overlayfs had the older calls alone
                raise _NoNewCalls from None
            raise


def _layer_descriptor(layer: Mount, stack: ExitStack) -> int:
    if layer.type == "bind":
        return _opened(os.open(layer.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), stack)
    return _detached(layer, (), stack)


def _configure(context: int, mount: Mount, options: tuple[str, ...], stack: ExitStack) -> None:
    syscalls.fsconfig_text(context, "source", _short(mount.source, stack))
    for option in options:
        name, equals, value = option.partition("=")
        if equals:
            syscalls.fsconfig_text(context, name, _short(value, stack))
        elif name == "ro" or name not in _ATTRIBUTES:  # the others are the mount's, not the filesystem's
            syscalls.fsconfig_flag(context, name)


def _short(value: str, stack: ExitStack) -> str:
    """A path that is too long for the call goes by the name that /proc has for its descriptor."""
    if len(os.fsencode(value)) <= _MAX_TEXT:
        return value
    return f"/proc/self/fd/{_opened(os.open(value, os.O_PATH | os.O_CLOEXEC), stack)}"


def _attributes(options: Sequence[str]) -> int:
    total = 0
    for option in options:
        total |= _ATTRIBUTES.get(option, 0)
    return total


def _complaints(context: int) -> str:
    """What the filesystem had to say, a line each, ``e`` for errors (fsopen(2) calls it the log)."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        while len(lines) < 16:
            lines.append(os.read(context, 1024).decode("utf-8", "replace").strip())
    return "; ".join(line[2:] for line in lines if line.startswith("e "))


# -- between: the new API without descriptors for layers


def _overlay_over_attached(mount: Mount, also: tuple[str, ...], place: int, stack: ExitStack) -> int:
    """An overlay whose layers have paths for as long as it takes to make it."""
    options = (*mount.options, *also)
    with _attached_layers(mount, place, stack) as paths:
        context = _opened(syscalls.fsopen("overlay"), stack)
        try:
            for path in paths:
                syscalls.fsconfig_text(context, "lowerdir+", path)
            _configure(context, mount, options, stack)
            syscalls.fsconfig_create(context)
            return _opened(syscalls.fsmount(context, _attributes(options)), stack)
        except OSError as error:
            if error.errno == errno.EINVAL and "lowerdir+" in str(error):  # before Linux 6.8
                raise _NoNewCalls from None
            raise _explained(error, _shown(mount), _complaints(context)) from None


@contextmanager
def _attached_layers(mount: Mount, place: int, stack: ExitStack) -> Iterator[list[str]]:
    """A path for each layer, short enough for every call; what had to be mounted goes at the end."""
    if all(layer.type == "bind" for layer in mount.layers):
        yield [f"/proc/self/fd/{_layer_descriptor(layer, stack)}" for layer in mount.layers]
        return
    where = f"/proc/self/fd/{place}"
    syscalls.mount("tmpfs", where, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=700")
    scratch = os.readlink(where)
    try:
        paths = []
        for number, layer in enumerate(mount.layers):
            path = layer.source
            if layer.type != "bind":
                path = f"{scratch}/{number}"
                os.mkdir(path, 0o700)
                _mount(layer, Path(path), ())
            paths.append(f"/proc/self/fd/{_opened(os.open(path, os.O_PATH | os.O_DIRECTORY), stack)}")
        yield paths
    finally:
        syscalls.umount(scratch, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)


# -- mount(2)


def _classic(mount: Mount, also: tuple[str, ...], place: int) -> None:
    options = (*mount.options, *also)
    target = f"/proc/self/fd/{place}"
    flags = sum({_FLAGS[option] for option in options if option in _FLAGS})
    data = ",".join(option for option in options if option not in _FLAGS)
    try:
        if mount.type != "bind":
            syscalls.mount(mount.source, target, mount.type, flags, data or None)
            return
        syscalls.mount(mount.source, target, None, syscalls.MS_BIND)
        if flags:
            # A bind mount takes its flags only when it is mounted again; in a user namespace the ones it
            # inherited are locked and must be said again (mount_namespaces(7)).
            top = os.readlink(target)
            again = syscalls.MS_REMOUNT | syscalls.MS_BIND | flags | (os.statvfs(top).f_flag & 0xF)
            syscalls.mount(None, top, None, again)
    except OSError as error:
        raise _explained(error, _shown(mount), "") from None


def _classic_overlay(mount: Mount, also: tuple[str, ...], place: int, stack: ExitStack) -> None:
    _check_depth(mount)
    if any(layer.type != "bind" for layer in mount.layers):
        raise MountFailed(
            f"{_shown(mount)}: needs the mount calls of Linux 6.8 (fsopen, and lowerdir+ of overlayfs)"
        )
    lowers = ":".join(_escaped_lower(layer.source) for layer in mount.layers)
    whole = _with_lowers(mount, lowers, mount.options)
    if len(_data_of(whole)) <= _MAX_OPTIONS:
        _classic(whole, also, place)
        return
    numbers = ":".join(str(_layer_descriptor(layer, stack)) for layer in mount.layers)
    whole = _with_lowers(mount, numbers, mount.options)
    if len(_data_of(whole)) > _MAX_OPTIONS:
        whole = _with_lowers(mount, numbers, [_by_number(option, stack) for option in mount.options])
    run_apart(lambda: _classic(whole, also, place), directory="/proc/self/fd")


def _with_lowers(mount: Mount, lowers: str, options: Sequence[str]) -> Mount:
    return Mount(
        type="overlay", source=mount.source,
        options=(f"lowerdir={lowers}", *(_escaped(option) for option in options)),
    )


def _data_of(mount: Mount) -> bytes:
    return os.fsencode(",".join(mount.options))


def _by_number(option: str, stack: ExitStack) -> str:
    name, equals, value = option.partition("=")
    if not equals or not value.startswith("/"):
        return option
    return f"{name}={_opened(os.open(value, os.O_PATH | os.O_CLOEXEC), stack)}"


def run_apart(act: Callable[[], object], *, directory: str = "", namespaces: int = 0) -> None:
    """In a thread with a working directory, and perhaps namespaces, of its own; raises what it raises.

    What is started in there stays in there.
    """
    import threading  # noqa: PLC0415 - rare

    raised: list[BaseException] = []

    def run() -> None:
        try:
            syscalls.unshare(namespaces | syscalls.CLONE_FS)
            if directory:
                os.chdir(directory)
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="apart")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _escaped(option: str) -> str:
    return option.replace("\\", "\\\\").replace(",", "\\,")


def _escaped_lower(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _check_depth(mount: Mount) -> None:
    if len(mount.layers) > MAX_LOWER_LAYERS:
        raise TooManyLayers(
            f"{len(mount.layers)} layers: overlayfs stacks at most {MAX_LOWER_LAYERS}; "
            "the storage driver vfs has no such limit"
        )


# -- saying what went wrong


def _shown(mount: Mount) -> str:
    layers = f" over {len(mount.layers)} layers" if mount.layers else ""
    return f"mount {mount.type} {mount.source}{layers}"


def _explained(error: OSError, what: str, complaints: str) -> MountFailed | MountDenied:
    said = error.strerror or str(error)
    detail = f" ({complaints})" if complaints else ""
    if error.errno in (errno.EPERM, errno.EACCES):
        return MountDenied(f"{what}: {said}{detail}")
    if error.errno == errno.ENODEV:
        said = "this kernel has no such filesystem"
    if error.errno in (errno.EBADMSG, errno.EUCLEAN):
        said = "damaged; `lamina check --repair` makes it again"
    if error.errno == errno.ENOTBLK:
        said = "cannot be mounted from where it lies (tmpfs, overlayfs), or Linux is older than 6.12"
    return MountFailed(f"{what}: {said}{detail}")
