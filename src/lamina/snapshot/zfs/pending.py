"""Waiting until a FUSE filesystem has been told of every file that was closed.

The kernel tells its daemon so in the background, and drops what it has not told yet when the filesystem ends.
zfs-fuse then believes that the file is open, and tries to end it for ever, with a lock held that everybody
needs: nothing of it is answered any more. So who unmounts waits first; ``fusectl`` has the count.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from lamina.snapshot.mounting import open_mount
from lamina.snapshot.snapshotter import Mount

_SECONDS = 5.0
_PAUSE = 0.001


def wait_until_told(device: str) -> None:
    """``device`` is as in mountinfo. A daemon that does not answer is not waited for long."""
    with contextlib.ExitStack() as stack:
        control = open_mount(Mount(type="fusectl", source="fusectl"), stack)
        count = Path(f"/proc/self/fd/{control}/{device.partition(':')[2]}/waiting")
        deadline = time.monotonic() + _SECONDS
        with contextlib.suppress(OSError):  # the connection is gone already
            while int(count.read_text(encoding="ascii")) and time.monotonic() < deadline:
                time.sleep(_PAUSE)
