"""``--filter`` of lists: which keys there are, and what a label's value means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.errors import InvalidInput


def check_filters(filters: Mapping[str, Sequence[str]], known: Sequence[str], verb: str) -> None:
    for name in filters:
        if name not in known:
            raise InvalidInput(f"{name}: not a filter of {verb} (one of {', '.join(known)})")


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """``key`` or ``key=value``."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
