"""Sizes as people type them for storage: docker counts these in 1,024s."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lamina.errors import InvalidInput

_SIZE = re.compile(r"(?i)([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([bkmgtp]?)(?:i?b)?")


def parse_size(text: str, subject: str) -> int:
    """``10G``, ``512m``, ``1.5 TiB``, ``1048576``: bytes. ``subject`` begins the message of what is none."""
    found = re.fullmatch(_SIZE, text.strip()) if text.isascii() else None
    size = 0 if found is None else int(float(found[1]) * 1024 ** "bkmgtp".index(found[2].lower() or "b"))
    if not 0 < size < 1 << 63:
        raise InvalidInput(f"{subject}: expected a size such as 512m or 10G, got {text[:40]!r}")
    return size


def default_size(driver: str, options: Mapping[str, str]) -> int:
    """What a driver's option ``size`` bounds its containers to; 0 for no limit."""
    return parse_size(options["size"], f"storage option {driver}.size") if "size" in options else 0
