"""Which driver a state directory uses, as it is written down: read and changed without opening any driver."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lamina.content.directorylock import locked
from lamina.content.durable import make_directory, write_file


def choice_file(root: Path) -> Path:
    return root / "snapshots" / "driver.json"


def read_choice(root: Path) -> dict[str, Any] | None:
    """``driver``, ``ownership``, ``mounts``, ``options``, ``wanted``; ``None`` while nothing was chosen."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(choice_file(root).read_bytes())
        if isinstance(found, dict) and {"driver", "ownership", "mounts"} <= found.keys():
            return {"options": {}, "wanted": False, **found}
    return None


@contextmanager
def changing_choice(root: Path) -> Iterator[dict[str, Any] | None]:
    """What is written down, which nobody else changes until the block ends.

    The lock is on ``layers``, which nobody else locks: that on ``snapshots`` is held for as long as a
    migration takes, and that on the state directory while a command lives on the reserve.
    """
    for name in ("snapshots", "layers"):
        make_directory(root / name)
    with locked(root / "layers", fcntl.LOCK_EX):
        yield read_choice(root)


def write_choice(root: Path, choice: Mapping[str, Any]) -> None:
    """For who is :func:`changing_choice`."""
    write_file(choice_file(root), json.dumps(choice).encode())
