"""The other side of ``reach``: a process that holds a container's root open, and serves its files."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.layer.root import Ownership
from lamina.layer.tarstream import TarReader
from lamina.runtime.binding import SubpathNotFound, bind_inside, open_source
from lamina.runtime.container import ContainerNotRunning
from lamina.runtime.copying import (
    PathNotFound,
    cleaned,
    final_place,
    locate,
    retried,
    write_tree,
)
from lamina.runtime.extraction import Extraction
from lamina.snapshot import syscalls
from lamina.snapshot.hands import MAX_MESSAGE, error_document, read_identity
from lamina.snapshot.namespace import Ownership as Ids
from lamina.snapshot.namespace import current_identity, enter_user_namespace
from lamina.snapshot.snapshotter import Mount
from lamina.values import dataclass

_BUFFER = 1 << 18
_PSEUDO = frozenset({
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "securityfs", "debugfs",
    "tracefs", "bpf",
})


def main() -> None:
    """``argv``: the import path (consumed before), the socket's descriptor. The first message says where."""
    from lamina.snapshot.trees import raise_descriptor_limit  # noqa: PLC0415 - workers only

    wire = socket.socket(fileno=int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over, and hangs up
    os.umask(0)
    raise_descriptor_limit()
    try:
        place = json.loads(wire.recv(MAX_MESSAGE))
        root = _open_running(place) if "pid" in place else _open_stopped(place)
    except Exception as error:
        _send(wire, {"error": error_document(error)})
        return
    without = _pseudo_devices(place["pid"]) if "pid" in place else frozenset()
    while _serve(wire, _Root(root, without)):
        pass


@dataclass(frozen=True, slots=True)
class _Root:
    """``without`` are devices that a walk does not enter: what is on them is no file of anybody's."""

    descriptor: int
    without: frozenset[int]

    def open(self, path: str, flags: int) -> int:
        return syscalls.open_in_root(self.descriptor, path, flags)


def _serve(wire: socket.socket, root: _Root) -> bool:
    try:
        message, descriptors, _flags, _address = socket.recv_fds(wire, MAX_MESSAGE, 1)
    except OSError:
        return False
    if not message:
        return False
    job = json.loads(message)
    try:
        result = _SERVICES[job.pop("verb")](root, *descriptors, **job)
    except Exception as error:
        answer = {"error": error_document(error)}
    else:
        answer = {"result": result}
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return _send(wire, answer)


def _send(wire: socket.socket, message: Mapping[str, Any]) -> bool:
    try:
        wire.send(json.dumps(message).encode("ascii"))
    except OSError:
        return False
    return True


# -- the root


def _open_running(place: Mapping[str, Any]) -> int:
    """The user namespace first: what the container may see and do is what we may.

    A process of the container that has the rights of our user must not trace us meanwhile.
    """
    from lamina.content.lease import process_start  # noqa: PLC0415 - of running containers only

    pid = place["pid"]
    syscalls.set_dumpable(0)
    try:
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            theirs, ours = os.fstat(namespace), os.stat("/proc/self/ns/user")
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
                syscalls.set_dumpable(0)
        finally:
            os.close(namespace)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise ContainerNotRunning("the container ended while it was looked at") from None
    # A pid may have become another process': what was opened is the container's only if it still is.
    if process_start(pid) != place["started"]:
        raise ContainerNotRunning("the container ended while it was looked at")
    return root


def _pseudo_devices(pid: int) -> frozenset[int]:
    """Of a running container's /proc, /sys and /dev: docker copies what the image has there."""
    from lamina.snapshot.mountinfo import mounts  # noqa: PLC0415 - of running containers only

    found = set()
    for line in mounts(Path(f"/proc/{pid}/mountinfo")):
        is_dev = line.type == "tmpfs" and f"{line.target}/".startswith("/dev/")
        if is_dev or line.type in _PSEUDO:
            major, _, minor = line.device.partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _open_stopped(place: Mapping[str, Any]) -> int:
    from lamina.snapshot.mounting import mount_all  # noqa: PLC0415 - of stopped containers only

    identity = read_identity(place["identity"])
    mounts = [_read_mount(document) for document in place["mounts"]]
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    if not identity.may_mount:
        return os.open(mounts[0].source, flags)
    enter_user_namespace(identity)
    mount_all(mounts, Path(place["place"]))
    root = os.open(place["place"], flags)
    for document in place["binds"]:
        _bind(root, **document)
    return root


def _bind(root: int, *, target: str, source: str, subpath: str, is_read_only: bool) -> None:
    try:
        opened = open_source(source, subpath)
    except (FileNotFoundError, SubpathNotFound):
        return  # it will be missing when the container is started, which is the time to complain
    try:
        bind_inside(root, target, opened, is_read_only=is_read_only)
    finally:
        os.close(opened)


def _read_mount(document: Mapping[str, Any]) -> Mount:
    return Mount(
        type=document["type"], source=document["source"], target=document["target"],
        options=tuple(document["options"]), layers=tuple(map(_read_mount, document["layers"])),
    )


# -- services


def _find(root: _Root, *, path: str, follow: bool) -> Any:
    try:
        located = locate(retried(root.open), path, follow=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
    os.close(located.directory)
    return located.found.to_json()


def _place(root: _Root, *, path: str) -> Any:
    where, found = final_place(retried(root.open), path)
    return [where, None if found is None else found.to_json()]


def _read(root: _Root, descriptor: int, *, path: str, name: str, follow: bool) -> None:
    try:
        located = locate(retried(root.open), path, follow=follow)
    except (FileNotFoundError, NotADirectoryError):
        raise PathNotFound(f"{path}: could not find the file in the container") from None
    try:
        with open(descriptor, "wb", buffering=_BUFFER, closefd=False) as out:
            write_tree(located, name, out, _owner(), without=root.without)
    finally:
        os.close(located.directory)


def _write(root: _Root, descriptor: int, *, path: str, keeps_ids: bool) -> list[int]:
    directory = cleaned(path)
    within = retried(root.open)
    try:
        os.close(within(directory, os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        raise PathNotFound(f"{directory}: no such directory in the container") from None

    def opener(below: str, flags: int) -> int:
        return within(f"{directory}/{below}" if below else directory, flags)

    extraction = Extraction(
        opener, owner=_owner(), ids=None if keeps_ids else (0, 0),
        has_devices=current_identity().ownership is Ids.KEPT,
    )
    with open(descriptor, "rb", buffering=0, closefd=False) as stream:
        done = extraction.run(TarReader(stream))
    return [done.size, done.devices]


def _owner() -> Ownership:
    """Where only one id exists, owners are notes beside the files."""
    return Ownership.IGNORE if current_identity().ownership is Ids.SINGLE else Ownership.KEEP


_SERVICES: Mapping[str, Any] = {"find": _find, "place": _place, "read": _read, "write": _write}
