"""Environments as lines, each ``NAME=value``."""

from __future__ import annotations

from collections.abc import Sequence


def merged_environment(below: Sequence[str], above: Sequence[str]) -> list[str]:
    """``NAME=value`` lines; a later one of the same name takes the earlier one's place."""
    found: dict[str, str] = {}
    for line in (*below, *above):
        name, equals, value = line.partition("=")
        if equals:
            found[name] = value
        else:
            found.pop(name, None)
    return [f"{name}={value}" for name, value in found.items()]
