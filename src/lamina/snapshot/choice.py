"""Which driver a state directory uses, as it was written down: read without opening any driver."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def choice_file(root: Path) -> Path:
    return root / "snapshots" / "driver.json"


def read_choice(root: Path) -> dict[str, Any] | None:
    """``driver``, ``ownership``, ``mounts``, ``options``, ``wanted``; ``None`` while nothing was chosen."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(choice_file(root).read_bytes())
        if isinstance(found, dict) and {"driver", "ownership", "mounts"} <= found.keys():
            return {"options": {}, "wanted": False, **found}
    return None
