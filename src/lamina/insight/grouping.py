"""Waste in rows that somebody can read: files with one cause and one fix are one row a directory."""

from __future__ import annotations

from collections.abc import Iterable

from lamina.insight.waste import WasteItem, WasteKind
from lamina.values import dataclass

# How many names of a path tell directories apart: /usr/lib and /usr/share are, their subdirectories are not.
_DEPTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WasteGroup:
    """``path`` is the file if there is one only, else the nearest directory above all ``files`` of them.

    So is ``other_path``. ``item`` is the largest, which stands for the others: kind, layers,
    instructions and fix are the same.
    """

    path: str
    other_path: str
    files: int
    bytes: int
    item: WasteItem


def group_items(items: Iterable[WasteItem]) -> tuple[WasteGroup, ...]:
    """The largest group first. ``items`` are ordered as ``Waste`` has them."""
    groups: dict[tuple[object, ...], list[WasteItem]] = {}
    for item in items:
        key = (item.kind, item.layer, item.other, item.fix, item.changed, _directory(item))
        groups.setdefault(key, []).append(item)
    made = [_group(members) for members in groups.values()]
    return tuple(sorted(made, key=lambda group: (-group.bytes, group.path, group.item.layer)))


def alone(items: Iterable[WasteItem]) -> tuple[WasteGroup, ...]:
    """Each item a group of its own, in the same order."""
    return tuple(_group([item]) for item in items)


def _directory(item: WasteItem) -> str:
    if item.kind is WasteKind.CACHE:
        return item.other_path
    parent = item.path.rpartition("/")[0]
    return "/".join(parent.split("/")[:_DEPTH])


def _group(members: list[WasteItem]) -> WasteGroup:
    first = members[0]
    is_one = len(members) == 1
    return WasteGroup(
        path=first.path if is_one else _common([item.path for item in members]),
        other_path=first.other_path if is_one else _common([item.other_path for item in members]),
        files=len(members),
        bytes=sum(item.bytes for item in members),
        item=first,
    )


def _common(paths: list[str]) -> str:
    """The deepest directory above all of them."""
    low, high = min(paths), max(paths)
    parents = low.split("/")[:-1]
    others = high.split("/")[:-1]
    length = 0
    while length < min(len(parents), len(others)) and parents[length] == others[length]:
        length += 1
    return "/".join(parents[:length])
