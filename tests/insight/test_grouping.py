"""One row for what has one cause, one fix and one place."""

from __future__ import annotations

from tests.insight.told import Told

from lamina.insight.grouping import WasteGroup, alone, group_items
from lamina.insight.waste import WasteKind
from lamina.testing.images import directory, file, whiteout


def shown(groups: tuple[WasteGroup, ...]) -> list[tuple[str, int, int]]:
    return [(group.path, group.files, group.bytes) for group in groups]


def test_a_cache_is_one_row_and_so_is_a_directory() -> None:
    told = Told(
        ("RUN x", [
            *(file(f"var/lib/apt/lists/{name}/x", b"1" * 9) for name in "abc"), file("tmp/y", b"22"),
            file("opt/app/a/b", b"1"), file("opt/app/a/c", b"1"), file("opt/other/d", b"1"), file("opt/e", b"1"),
        ]),
        ("RUN rm", [whiteout("opt")]),
    )
    items = told.waste.items
    assert shown(group_items(items)) == [
        ("var/lib/apt/lists", 3, 27), ("opt/app/a", 2, 2), ("tmp/y", 1, 2), ("opt/e", 1, 1), ("opt/other/d", 1, 1),
    ]
    assert sum(group.bytes for group in group_items(items)) == told.waste.wasted_bytes
    assert sum(group.files for group in group_items(items)) == len(items)
    assert shown(alone(items)) == [(item.path, 1, item.bytes) for item in items]


def test_layers_causes_and_fixes_are_told_apart() -> None:
    told = Told(
        ("COPY a /", [file("opt/app/a", b"1"), file("opt/app/b", b"1"), file("opt/app/c", b"1"), file("opt/app/d", b"1")]),
        ("RUN x", [file("opt/app/a", b"1", mode=0o755), file("opt/app/b", b"1", mode=0o600), whiteout("opt/app/c")]),
        ("RUN y", [whiteout("opt/app/d")]),
    )
    assert len(group_items(told.waste.items)) == 4


def test_the_new_places_of_what_was_moved_are_one_directory_too() -> None:
    told = Told(
        ("RUN x", [directory("a"), file("a/x", b"1"), file("a/y", b"2")]),
        ("RUN mv", [whiteout("a"), directory("b"), directory("b/c"), file("b/c/x", b"1"), file("b/c/y", b"2")]),
    )
    (group,) = group_items(told.waste.items)
    assert (group.path, group.other_path, group.item.kind) == ("a", "b/c", WasteKind.MOVED)


def test_files_at_the_top() -> None:
    told = Told(("RUN x", [file("a", b"1"), file("b", b"2")]), ("RUN rm", [whiteout("a"), whiteout("b")]))
    assert shown(group_items(told.waste.items)) == [("", 2, 2)]
