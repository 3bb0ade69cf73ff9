"""Squashing any range of layers leaves the union as it was, whatever the layers say."""

from __future__ import annotations

import io
import random
import tarfile
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests import oracle
from tests.layer.indexed import index_of_tar
from tests.layer.squashing import squash, squashed_index, squashed_stack
from tests.property.layers import Act, layers, tar_of
from tests.property.test_union_oracle import leads_through_what_it_replaces

from lamina.layer.entry import InvalidLayer
from lamina.layer.tree import Tree
from lamina.testing import images

Seen = tuple[dict[str, dict[str, object]], set[frozenset[str]]]


def seen(tars: list[bytes]) -> Seen | None:
    try:
        tree = oracle.union(tars)
    except oracle.Refused:
        return None
    # A directory that no layer lists has no time; squashing lists it, with the beginning of time.
    return {path: node.values() | {"mtime": node.mtime or 0} for path, node in tree.items()}, oracle.linked(tree)


def ordinary(chance: random.Random, count: int) -> list[bytes]:
    """Random layers that can be unpacked: by chance, some lie below a symlink that leads to itself."""
    tars = [images.tar_of(layer) for layer in images.random_stack(chance, count)]
    try:
        Tree(map(index_of_tar, tars))
    except InvalidLayer:
        assume(False)
    assume(seen(tars) is not None)
    return tars


def contents(tar: bytes) -> set[str]:
    return {node.sha256 for node in oracle.union([tar]).values() if node.type == "file" and node.size}


ranges = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(st.lists(layers(), min_size=2, max_size=4), ranges)
@settings(max_examples=600)
def test_the_union_stays(stack: list[list[Act]], where: tuple[int, int]) -> None:
    assume(not leads_through_what_it_replaces(stack))
    first, last = sorted(min(number, len(stack) - 1) for number in where)
    tars = [tar_of(layer) for layer in stack]
    wanted = seen(tars)
    assume(wanted is not None)
    try:
        made = squashed_stack(tars, first, last)
    except InvalidLayer:
        assume(False)
    assert seen(made) == wanted


@given(st.randoms(use_true_random=False), st.integers(2, 6), st.data())
def test_the_union_of_ordinary_layers_stays(chance: random.Random, count: int, data: st.DataObject) -> None:
    tars = ordinary(chance, count)
    wanted = seen(tars)
    assert wanted is not None
    last = data.draw(st.integers(0, count - 1))
    first = data.draw(st.integers(0, last))
    assert seen(squashed_stack(tars, first, last)) == wanted


@given(st.randoms(use_true_random=False), st.integers(2, 6), st.data())
def test_any_partition_gives_the_same_union(chance: random.Random, count: int, data: st.DataObject) -> None:
    tars = ordinary(chance, count)
    borders = [*sorted(data.draw(st.sets(st.integers(1, count - 1)))), count]
    made, first = list(tars), 0
    for number, border in enumerate(borders):
        length = border - first
        made = squashed_stack(made, number, number + length - 1)
        first = border
    assert len(made) == len(borders)
    assert seen(made) == seen(tars)


@given(st.lists(layers(), min_size=1, max_size=4), ranges)
@settings(max_examples=200)
def test_squashing_again_changes_no_byte(stack: list[list[Act]], where: tuple[int, int]) -> None:
    first, last = sorted(min(number, len(stack) - 1) for number in where)
    tars = [tar_of(layer) for layer in stack]
    try:
        made = squashed_stack(tars, first, last)
    except InvalidLayer:
        assume(False)
    assert squash(made, first, first) == made[first]


@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_flattening_leaves_what_is_seen_and_nothing_else(chance: random.Random, count: int) -> None:
    tars = ordinary(chance, count)
    flat = squash(tars, 0, count - 1)
    with tarfile.open(fileobj=io.BytesIO(flat)) as tar:
        names = [member.name for member in tar.getmembers()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.rpartition("/")[2].startswith(".wh.")]
    union = oracle.union(tars)
    assert {name.rstrip("/") for name in names} | {"", "."} == {*union, "."}
    assert contents(flat) == {node.sha256 for node in union.values() if node.type == "file" and node.size}


@given(st.randoms(use_true_random=False), st.integers(2, 6), st.data())
def test_no_byte_of_what_is_gone_remains(chance: random.Random, count: int, data: st.DataObject) -> None:
    """Above a base too: only content that the union shows after the range is in the merged layer."""
    tars = ordinary(chance, count)
    last = data.draw(st.integers(1, count - 1))
    first = data.draw(st.integers(0, last))
    shown = {node.sha256 for node in oracle.union(tars[: last + 1]).values() if node.type == "file"}
    merged = squash(tars, first, last)
    found = set()
    with tarfile.open(fileobj=io.BytesIO(merged), encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar.getmembers():
            if member.isfile() and member.size:
                found.add(oracle._node("file", member, tar).sha256)
    assert found <= shown


@given(st.lists(layers(), min_size=1, max_size=4), ranges)
@settings(max_examples=200)
def test_every_directory_is_listed_before_what_is_in_it(stack: list[list[Act]], where: tuple[int, int]) -> None:
    first, last = sorted(min(number, len(stack) - 1) for number in where)
    try:
        made = squash([tar_of(layer) for layer in stack], first, last)
    except InvalidLayer:
        assume(False)
    assert index_of_tar(made).implied_parents == ()


@given(st.lists(layers(), min_size=1, max_size=4), ranges)
@settings(max_examples=200)
def test_the_index_made_while_writing_is_the_one_that_reading_makes(stack: list[list[Act]], where: tuple[int, int]) -> None:
    first, last = sorted(min(number, len(stack) - 1) for number in where)
    tars = [tar_of(layer) for layer in stack]
    try:
        tar, made = squashed_index(tars, first, last)
    except InvalidLayer:
        assume(False)
    read = index_of_tar(tar)
    assert list(made.entries()) == [replace(entry, open=None) for entry in read.entries()]
    assert (made.diff_id, made.tar_size) == (read.diff_id, read.tar_size)
    again = io.BytesIO()
    made.rebuild(lambda entry: io.BytesIO(tar[entry.data_offset : entry.data_offset + entry.size]), again)
    assert again.getvalue() == tar
