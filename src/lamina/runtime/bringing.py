"""Sources of mounts that a plan brings along: layers to be mounted, and files that lie in memory.

Done by the monitor in its own mount namespace, so that all of it goes with the monitor, however that ends.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.runtime.binding import bind_subpath
from lamina.runtime.plan import read_mounts
from lamina.runtime.volume import ContainerMount
from lamina.snapshot import syscalls
from lamina.snapshot.mounting import mount_all

_MEMORY = "brought"


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


def bring_file(directory: Path, _mount: ContainerMount, asked: Mapping[str, Any]) -> Path:
    """On a tmpfs that only the monitor and the container see: a secret never lies on a disk."""
    memory = directory / _MEMORY
    if not memory.exists():
        memory.mkdir(mode=0o700)
        syscalls.mount("tmpfs", str(memory), "tmpfs", 0, "mode=0711,size=64m")
    place = _place(memory, "file")
    place.write_bytes(base64.b64decode(asked["content"]))
    dress(place, asked)
    return place


def dress(path: Path, asked: Mapping[str, Any]) -> None:
    """Gives it the owner and the mode that were asked for, by the container's numbers."""
    owner = asked.get("owner")
    if owner is not None:
        os.chown(path, owner[0], owner[1], follow_symlinks=False)
    if asked.get("mode") is not None:
        os.chmod(path, asked["mode"])


def _place(directory: Path, name: str) -> Path:
    """A name that is free: several mounts may bring something."""
    number = 0
    while (directory / f"{name}-{number}").exists():
        number += 1
    return directory / f"{name}-{number}"
