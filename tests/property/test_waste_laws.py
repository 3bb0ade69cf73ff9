"""Waste, usage and differences add up, for any stack of layers, to what the oracle sees of it."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests import oracle
from tests.insight import dive
from tests.insight.told import Told
from tests.property.layers import MODES, Act, acts, layers, paths, tar_of, times
from tests.property.test_union_oracle import leads_through_what_it_replaces

from lamina.insight.comparison import Change, compare_images
from lamina.insight.duplicates import MIN_DUPLICATE
from lamina.insight.grouping import group_items
from lamina.insight.usage import By, usage_of
from lamina.insight.waste import WasteKind
from lamina.layer.entry import InvalidLayer, Kind
from lamina.testing.images import Chances, random_stack
from lamina.testing.images import tar_of as tar_of_entries

CONTENTS = (b"", b"x", b"b" * MIN_DUPLICATE, b"o" * MIN_DUPLICATE)
SEEN = (WasteKind.CACHE, WasteKind.DUPLICATE)

few_contents = st.builds(
    Act, st.just("file"), st.one_of(paths, st.just("tmp/a"), st.just("tmp/b")), st.sampled_from(CONTENTS),
    st.sampled_from(MODES), times,
)
stacks = st.lists(st.lists(st.one_of(few_contents, few_contents, acts()), max_size=8), min_size=1, max_size=4)


def told_and_seen(stack: list[list[Act]]) -> tuple[Told, oracle.Tree]:
    assume(not leads_through_what_it_replaces(stack))
    tars = [tar_of(layer) for layer in stack]
    try:
        return Told(*tars), oracle.union(tars)
    except (InvalidLayer, oracle.Refused):
        assume(False)
        raise


@given(stacks)
@settings(max_examples=200, deadline=None)
def test_what_is_wasted(stack: list[list[Act]]) -> None:
    told, seen = told_and_seen(stack)
    found = told.waste
    files = {id(node): node for node in seen.values() if node.type == "file"}.values()
    live = sum(node.size for node in files)
    assert sum(item.bytes for item in found.items) == found.wasted_bytes <= found.total_bytes
    assert len({(item.layer, item.path) for item in found.items if item.kind in SEEN}) == len(
        [item for item in found.items if item.kind in SEEN])
    assert sum(item.bytes for item in found.items if item.kind not in SEEN) == found.total_bytes - live, (
        "every byte that no container sees, and no other")
    distinct = sum({node.sha256: node.size for node in files}.values())
    assert sum(item.bytes for item in found.items if item.kind is WasteKind.DUPLICATE) <= live - distinct
    assert sum(group.bytes for group in group_items(found.items)) == found.wasted_bytes


@given(st.integers(0, 2**32), st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_all_that_dive_finds(seed: int, count: int) -> None:
    stack = random_stack(Random(seed), count, Chances(names=("a", "b", "c"), largest=600))
    tars = [tar_of_entries(layer) for layer in stack]
    try:
        found = Told(*tars).waste
    except InvalidLayer:
        assume(False)
    symlinks = {entry.path for layer in stack for entry in layer if entry.kind is Kind.SYMLINK}
    elsewhere = {
        entry.path for layer in stack for entry in layer
        if any(entry.path.startswith(f"{symlink}/") for symlink in symlinks)
    }
    linked = {entry.linkname for layer in stack for entry in layer if entry.kind is Kind.HARDLINK}
    ours = {item.path for item in found.items}
    for path in dive.wasted(tars):
        if any(path.startswith(f"{symlink}/") for symlink in symlinks):
            continue  # what a layer calls so is elsewhere
        if any(each.startswith(f"{path}/") for each in elsewhere):
            continue  # and so is some of what would be below it
        if any(target == path or target.startswith(f"{path}/") for target in linked):
            continue  # another name may still show the bytes
        assert any(each == path or each.startswith(f"{path}/") for each in ours), path


@given(stacks, st.sampled_from(By), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_usage_adds_up(stack: list[list[Act]], by: By, depth: int) -> None:
    told, seen = told_and_seen(stack)
    rows = usage_of(told.image, told.tree, by, depth=depth)
    files = {id(node): node for node in seen.values() if node.type == "file"}.values()
    assert sum(row.bytes for row in rows) == sum(node.size for node in files)
    assert sum(row.files for row in rows) == sum(1 for node in files if node.size)
    total = sum(sum(index.sizes) for index in told.tree.indexes)
    assert sum(row.bytes + row.hidden_bytes for row in rows) == total
    below = usage_of(told.image, told.tree, by, path="a", depth=depth)
    assert sum(row.bytes + row.hidden_bytes for row in below) <= total


def differences(one: oracle.Node | None, other: oracle.Node | None, *, is_timed: bool) -> Any:
    if one is None or other is None:
        return Change.REMOVED if other is None else Change.ADDED
    is_same = one.type == other.type
    return {
        name for name, is_different in {
            "kind": not is_same,
            "mode": one.mode != other.mode and "symlink" not in (one.type, other.type),
            "owner": (one.uid, one.gid) != (other.uid, other.gid),
            "mtime": is_timed and (one.mtime or 0) != (other.mtime or 0),
            "xattrs": one.xattrs != other.xattrs,
            "content": is_same and one.type == "file" and one.sha256 != other.sha256,
            "target": is_same and one.type == "symlink" and one.target != other.target,
            "device": is_same and one.device != other.device,
        }.items() if is_different
    }


@given(stacks, stacks, layers(), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_differs(
    before: list[list[Act]], after: list[list[Act]], more: list[Act], is_based: bool, is_timed: bool
) -> None:
    if is_based:
        after = [*before, more]
    (one, seen), (other, seen_after) = told_and_seen(before), told_and_seen(after)
    found = compare_images(one.side, other.side, times=is_timed)
    wanted = {
        path: differences(seen.get(path), seen_after.get(path), is_timed=is_timed) for path in {*seen, *seen_after}
    }
    assert {
        change.path: set(change.fields) if change.change is Change.CHANGED else change.change for change in found.files
    } == {path: what for path, what in wanted.items() if what}
    assert [change.path for change in found.files] == sorted(change.path for change in found.files)
    assert not any(change.before is None and change.after is None for change in found.files)


@given(stacks)
@settings(max_examples=50, deadline=None)
def test_an_image_does_not_differ_from_itself(stack: list[list[Act]]) -> None:
    told, _ = told_and_seen(stack)
    found = compare_images(told.side, told.side, times=True)
    assert found.is_same
    assert all(layer.is_prefix for layer in found.layers)
    assert told.read == [], "the same place of the same layer is the same without reading"


@given(stacks, stacks)
@settings(max_examples=100, deadline=None)
def test_bytes_of_what_was_added_and_removed(before: list[list[Act]], after: list[list[Act]]) -> None:
    (one, seen), (other, seen_after) = told_and_seen(before), told_and_seen(after)
    found = compare_images(one.side, other.side)
    added = {id(seen_after[path]): seen_after[path].size for path in seen_after if path not in seen}
    changed = {
        id(seen_after[change.path]): seen_after[change.path].size
        for change in found.files if change.change is Change.CHANGED
    }
    assert sum(change.bytes_after for change in found.files) == sum({**added, **changed}.values())
