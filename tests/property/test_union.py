"""The union read from indexes is what applying the layers one after the other gives."""

from __future__ import annotations

import io
import random
from collections import defaultdict
from collections.abc import Sequence

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.layer.indexed import index_of_tar

from lamina.layer.apply import apply
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.root import MemoryRoot
from lamina.layer.tarstream import read_entries
from lamina.layer.tree import Tree
from lamina.testing.images import (
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    random_stack,
    symlink,
    tar_of,
    whiteout,
)

# A loop that a mark leads through is gone by then for who applies a stream, if an earlier mark hid it.
LOOP = "too many symlinks"
Seen = dict[str, tuple[object, ...]]


def in_order(tars: Sequence[bytes]) -> tuple[Seen, set[frozenset[str]]] | None:
    """The layers applied to a root in memory; ``None`` if one is refused."""
    root = MemoryRoot()
    try:
        for tar in tars:
            apply(read_entries(io.BytesIO(tar)), root)
    except InvalidLayer as error:
        assume(LOOP not in str(error))
        return None
    seen, groups = {}, defaultdict(set)
    for entry in root.walk():
        seen[entry.path] = describe(entry, root.read(entry.path))
        identity = root.identity(entry.path)
        if identity is not None:
            groups[identity].add(entry.path)
    return seen, set(map(frozenset, groups.values()))


def from_indexes(tars: Sequence[bytes]) -> tuple[Seen, set[frozenset[str]]] | None:
    try:
        tree = Tree(map(index_of_tar, tars))
    except InvalidLayer as error:
        assume(LOOP not in str(error))
        return None
    seen, groups = {}, defaultdict(set)
    for node in tree.walk():
        start = node.content.data_offset
        seen[node.path] = describe(node.entry, tars[node.content_layer][start : start + node.content.size])
        if node.entry.kind is not Kind.DIRECTORY:
            groups[node.inode].add(node.path)
    return seen, {frozenset(names) for names in groups.values() if len(names) > 1}


def describe(entry: Entry, data: bytes) -> tuple[object, ...]:
    return (
        entry.kind.name, entry.mode, entry.uid, entry.gid, entry.mtime, entry.linkname, dict(entry.xattrs),
        (entry.major, entry.minor), data if entry.kind is Kind.FILE else b"",
    )


@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_random_stacks(chance: random.Random, layers: int) -> None:
    tars = [tar_of(layer) for layer in random_stack(chance, layers)]
    assert from_indexes(tars) == in_order(tars)


names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
texts = st.sampled_from(["a", "b", "/a", "../b", "/", "c/a", "/a/../b", "./b"])
acts = st.one_of(
    st.builds(file, paths, st.binary(max_size=3)),
    st.builds(directory, paths, mode=st.sampled_from([0o755, 0o700])),
    st.builds(symlink, paths, texts),
    st.builds(hardlink, paths, paths),
    st.builds(fifo, paths),
)
# Marks come first: where they stand must not matter, but who applies a stream sees symlinks until they are hidden.
hostile_layers = st.tuples(
    st.lists(paths.map(whiteout) | paths.map(opaque) | st.just(opaque("")), max_size=2),
    st.lists(acts, max_size=5),
).map(lambda parts: [*parts[0], *parts[1]])


@given(st.lists(hostile_layers, min_size=1, max_size=3))
@settings(max_examples=400)
def test_stacks_that_no_builder_would_make(layers: list[list[Entry]]) -> None:
    """Duplicates, names below symlinks and files, links to anything: the same outcome, or both refuse."""
    tars = [tar_of(layer) for layer in layers]
    assert from_indexes(tars) == in_order(tars)
