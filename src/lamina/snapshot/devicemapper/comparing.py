"""What differs between a snapshot and its parent, as the pool and the filesystem know it."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

from lamina.errors import LaminaError
from lamina.snapshot.devicemapper import filesystem
from lamina.snapshot.devicemapper.delta import Delta, changed_blocks
from lamina.snapshot.devicemapper.devices import Devices, Volume
from lamina.snapshot.inodes import touched_inodes
from lamina.snapshot.snapshotter import Mount
from lamina.snapshot.touched import Touched

# Whatever is the matter: then whole trees are compared.
FAILURES = (OSError, LaminaError, subprocess.SubprocessError)

_Side = tuple[Mount, Volume]


def touched_between(devices: Devices, lower: _Side, upper: _Side) -> Touched:
    """Both are active; nobody but us has ``upper`` open. Raises one of :data:`FAILURES`."""
    filesystem.insist_whole(upper[0])
    sync_device(Path(upper[0].source))
    with devices.pool() as pool, pool.metadata_held() as metadata:
        parts = changed_blocks(metadata, lower[1].device, upper[1].device)
    with (
        closing(Delta(Path(lower[0].source), Path(upper[0].source), parts)) as delta,
        filesystem.opened(lower[0]) as below, filesystem.opened(upper[0]) as above,
    ):
        return touched_inodes(_path(below), _path(above), delta.is_changed)


def _path(directory: int) -> str:
    """With a dot, since a link itself is not followed."""
    return f"/proc/self/fd/{directory}/."


def sync_device(node: Path) -> None:
    with open(node, "rb") as device:
        os.fsync(device.fileno())
