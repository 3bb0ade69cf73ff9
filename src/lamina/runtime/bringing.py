"""Sources of mounts that a plan brings along: layers to be mounted, and files that lie in memory.

Done by the monitor in its own mount namespace, so that all of it goes with the monitor, however that ends.
"""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.errors import InvalidInput
from lamina.runtime.binding import bind_subpath
from lamina.runtime.plan import read_mounts
from lamina.runtime.volume import ContainerMount
from lamina.snapshot import syscalls
from lamina.snapshot.mounting import mount_all

_MEMORY = "brought"
_DOCUMENT = "config.json"
_CRUN_STATE = "runtime"


def bring_layers(directory: Path, mount: ContainerMount, asked: Mapping[str, Any]) -> Path:
    """Where the filesystem is mounted, or what ``subpath`` leads to in it. Raises ``SubpathNotFound``."""
    place = _place(directory, "image")
    place.mkdir(mode=0o755)
    mount_all(read_mounts(asked["layers"]), place)
    if not mount.subpath.strip("/"):
        return place
    part = _place(directory, "part")
    bind_subpath(place, mount.subpath, part)
    return part


def bring_file(directory: Path, asked: Mapping[str, Any], *, has_single_id: bool = False) -> Path:
    """On a tmpfs that only the monitor and the container see: a secret never lies on a disk."""
    place = _place(_memory(directory), "file")
    place.write_bytes(base64.b64decode(asked["content"]))
    dress(place, asked, has_single_id=has_single_id)
    return place


def keep_document_in_memory(directory: Path, runtime: str) -> None:
    """What is written to ``config.json`` is seen here only, and on no disk.

    crun keeps a copy with its state.
    """
    if runtime == "crun":
        (directory / _CRUN_STATE).mkdir(mode=0o700, exist_ok=True)
        syscalls.mount("tmpfs", str(directory / _CRUN_STATE), "tmpfs", 0, "mode=0700,size=64m")
    for place in (_memory(directory) / _DOCUMENT, directory / _DOCUMENT):
        place.touch(mode=0o600)
    syscalls.mount(str(_memory(directory) / _DOCUMENT), str(directory / _DOCUMENT), "", syscalls.MS_BIND)


def _memory(directory: Path) -> Path:
    memory = directory / _MEMORY
    if not memory.exists():
        memory.mkdir(mode=0o700)
        syscalls.mount("tmpfs", str(memory), "tmpfs", 0, "mode=0711,size=64m")
    return memory


def dress(path: Path, asked: Mapping[str, Any], *, has_single_id: bool = False) -> None:
    """Gives it the owner and the mode that were asked for, by the container's numbers.

    Where there is one id only, everything is its, and whoever the command takes itself for may use it.
    """
    owner = asked.get("owner")
    if owner is not None and not has_single_id:
        try:
            os.chown(path, owner[0], owner[1], follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise InvalidInput(
                f"{owner[0]}:{owner[1]}: beyond the ids that this user may give to containers (/etc/subuid)"
            ) from None
    if asked.get("mode") is not None:
        os.chmod(path, asked["mode"])


def _place(directory: Path, name: str) -> Path:
    """A name that is free: several mounts may bring something."""
    number = 0
    while (directory / f"{name}-{number}").exists():
        number += 1
    return directory / f"{name}-{number}"
