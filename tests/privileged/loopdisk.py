"""Filesystems in files, when their power is cut and comes back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def wait_until_forgotten(image: Path) -> None:
    """Until no mount of a filesystem in a file is left anywhere.

    A process of another test that entered a mount namespace meanwhile holds a copy of every mount, and with
    it the filesystem as it was when it was stopped: mounted again at once, it would still be that one. The
    loop device goes with the last of them.
    """
    until = time.monotonic() + 120
    while subprocess.run(["losetup", "-j", image], capture_output=True, check=True).stdout:
        assert time.monotonic() < until, f"{image}: something keeps it mounted"
        time.sleep(0.05)
