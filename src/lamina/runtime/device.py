"""Host devices for a container: ``--device`` as a request, and what a runtime-spec document says of it."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator
from typing import Any

from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.values import dataclass

_ACCESS = re.compile("(?!.*(.).*\\1)[rwm]{1,3}")
# Container Device Interface: vendor.example/class=name
_CDI = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_.-]*=\S+")
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


class InvalidDevice(InvalidInput):
    pass


class DeviceNotFound(NotFound):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """``access`` is some of r, w and m (mknod)."""

    source: str
    target: str
    access: str = "rwm"


def parse_device(text: str) -> DeviceRequest:
    """``/dev/x[:/dev/y][:rwm]``"""
    if _CDI.fullmatch(text):
        raise Unsupported(f"{text!r}: devices by CDI name are not supported; give the path of the device")
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidDevice(f"{text!r}: expected HOST[:CONTAINER][:ACCESS], as in /dev/sda:/dev/xvda:rw")
    source, target, access = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        target, access = parts[1:]
    elif len(parts) == 2 and _ACCESS.fullmatch(parts[1]):
        access = parts[1]
    elif len(parts) == 2:
        target = parts[1]
    if not _ACCESS.fullmatch(access):
        raise InvalidDevice(f"{text!r}: access is some of r, w and m, each once, and not {access!r}")
    for path in (source, target):
        if not path.startswith("/"):
            raise InvalidDevice(f"{text!r}: {path!r} is no absolute path")
    cleaned = "/" + posixpath.normpath(target).lstrip("/")
    if cleaned == "/":
        raise InvalidDevice(f"{text!r}: a device cannot take the place of the whole filesystem")
    return DeviceRequest(source=posixpath.normpath(source), target=cleaned, access=access)


def find_devices(request: DeviceRequest) -> Iterator[tuple[DeviceRequest, os.stat_result]]:
    """The device itself, or all below a directory of them, as docker has it. Looks at the host's /dev.

    Raises :class:`DeviceNotFound`.
    """
    try:
        status = os.stat(request.source)
    except OSError as error:
        raise DeviceNotFound(f"{request.source}: {(error.strerror or str(error)).lower()}") from None
    if stat.S_IFMT(status.st_mode) in _KINDS:
        yield request, status
        return
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidDevice(f"{request.source}: neither a device nor a directory of devices")
    found = False
    for directory, _names, files in os.walk(request.source):
        for name in sorted(files):
            path = posixpath.join(directory, name)
            inside = os.lstat(path)
            if stat.S_IFMT(inside.st_mode) in _KINDS:
                found = True
                target = request.target + path[len(request.source):]
                yield DeviceRequest(source=path, target=target, access=request.access), inside
    if not found:
        raise DeviceNotFound(f"{request.source}: no device in this directory")


def oci_device(request: DeviceRequest, status: os.stat_result) -> dict[str, Any]:
    """An entry of ``linux.devices``: the runtime makes the node."""
    return {
        "path": request.target, "type": _KINDS[stat.S_IFMT(status.st_mode)],
        "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid,
    }


def device_rule(request: DeviceRequest, status: os.stat_result) -> dict[str, Any]:
    """An entry of ``linux.resources.devices``: the cgroup lets it be used."""
    return {
        "allow": True, "type": _KINDS[stat.S_IFMT(status.st_mode)],
        "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev), "access": request.access,
    }


def device_mount(request: DeviceRequest) -> dict[str, Any]:
    """For user namespaces, where nobody can make devices (mknod(2)): the host's own, with its own rights."""
    options = ["bind", "rprivate", "nosuid", "noexec", *([] if "w" in request.access else ["ro"])]
    return {"destination": request.target, "type": "bind", "source": request.source, "options": options}
