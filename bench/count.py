"""Counts what is below a directory, to see that what an engine calls pulled is all there: prints JSON.

A program of its own, without imports from here, so that it can run inside an engine's namespace.
"""

from __future__ import annotations

import json
import os
import stat
import sys


def count(root: str) -> dict[str, int]:
    """Entries below `root` by kind, and the bytes of its files; a hard link counts like its file."""
    totals = {"directories": 0, "files": 0, "symlinks": 0, "bytes": 0}
    for directory, _, _ in os.walk(root, onerror=_refuse):
        totals["directories"] += 1
        with os.scandir(directory) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(mode.st_mode):
                    totals["files"] += 1
                    totals["bytes"] += mode.st_size
                elif stat.S_ISLNK(mode.st_mode):
                    totals["symlinks"] += 1
    totals["directories"] -= 1  # the root itself is in no layer
    return totals


def _refuse(error: OSError) -> None:
    raise error


if __name__ == "__main__":
    print(json.dumps(count(sys.argv[1] if len(sys.argv) > 1 else os.environ["LAMINA_MOUNT"])))
