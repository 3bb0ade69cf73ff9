"""Laws of layers: applying, comparing, writing and reading belong together, in memory as on disk."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests import oracle
from tests.layer import tarbytes
from tests.layer.observed import Observed, comparable, in_memory, linked, on_disk
from tests.property.layers import Act, entries, layers, tar_of

from lamina.errors import LaminaError
from lamina.layer.apply import apply
from lamina.layer.compress import Compression, deflate, inflate
from lamina.layer.diff import diff
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.extract import extract
from lamina.layer.root import DirectoryRoot, MemoryRoot, Ownership
from lamina.layer.tarstream import TarReader, write_entries

_TYPES = {"f": "file", "d": "directory", "l": "symlink", "p": "fifo"}


def applied(*tars: bytes) -> MemoryRoot:
    root = MemoryRoot()
    for tar in tars:
        apply(TarReader(io.BytesIO(tar)), root)
    return root


def as_model(tree: Observed) -> dict[str, Any]:
    """In the words of the oracle."""
    return {
        path: (
            _TYPES[seen["type"]], seen.get("mode"), seen["uid"], seen["gid"], seen["nanoseconds"],
            seen.get("to", ""), seen.get("size", 0), seen["xattrs"],
        )
        for path, seen in tree.items()
    }


def model(tree: oracle.Tree) -> dict[str, Any]:
    return {
        path: (
            node.type, None if node.type == "symlink" else node.mode, node.uid, node.gid, node.mtime or 0,
            node.target, node.size, node.xattrs,
        )
        for path, node in tree.items()
    }


# -- applying


def markers_first(layer: list[Act]) -> list[Act]:
    return sorted(layer, key=lambda act: act.kind not in ("whiteout", "opaque"))


@given(st.lists(layers(symlinks=False), min_size=1, max_size=4))
def test_memory_is_what_the_oracle_says(stack: list[list[Act]]) -> None:
    agree_with_oracle(stack)


@given(st.lists(layers().map(markers_first), min_size=1, max_size=4))
def test_memory_is_what_the_oracle_says_of_symlinks(stack: list[list[Act]]) -> None:
    """A stream cannot know which symlinks below a later whiteout removes; so here those come first."""
    agree_with_oracle(stack)


def agree_with_oracle(stack: list[list[Act]]) -> None:
    tars = [tar_of(layer) for layer in stack]
    try:
        wanted = oracle.union(tars)
    except oracle.Refused:
        with pytest.raises(InvalidLayer):
            applied(*tars)
        return
    found = in_memory(applied(*tars))
    assert as_model(found) == model(wanted)
    assert linked(found) == oracle.linked(wanted)


@given(st.lists(layers(), min_size=1, max_size=3))
def test_disk_and_memory_agree(stack: list[list[Act]]) -> None:
    tars = [tar_of(layer) for layer in stack]
    with tempfile.TemporaryDirectory() as top:
        with DirectoryRoot(top, owner=Ownership.IGNORE) as root:
            try:
                for tar in tars:
                    apply(TarReader(io.BytesIO(tar)), root)
            except InvalidLayer:
                with pytest.raises(InvalidLayer):
                    applied(*tars)
                return
        found = on_disk(Path(top))
    wanted = in_memory(applied(*tars))
    for tree in (found, wanted):
        for when in ("nanoseconds", "mode"):
            tree[""].pop(when)  # the top belongs to whoever made it, unless a layer lists it
    assert comparable(found, "uid", "gid") == comparable(wanted, "uid", "gid")


@given(layers())
def test_extracting_is_applying(layer: list[Act]) -> None:
    tar = tar_of(layer)
    with tempfile.TemporaryDirectory() as top, DirectoryRoot(top, owner=Ownership.IGNORE) as root:
        seen: list[Entry] = []
        try:
            done = extract(TarReader(io.BytesIO(tar)), root, seen.append)
        except InvalidLayer:
            with pytest.raises(InvalidLayer):
                applied(tar)
            return
        found = on_disk(Path(top))
    assert [entry.path for entry in seen] == [entry.path for entry in TarReader(io.BytesIO(tar))]
    assert done.entries == len(layer)
    wanted = in_memory(applied(tar))
    for tree in (found, wanted):
        tree[""].pop("nanoseconds"), tree[""].pop("mode")
    assert comparable(found, "uid", "gid") == comparable(wanted, "uid", "gid")


# -- comparing


def tree_of(stack: list[list[Act]]) -> MemoryRoot:
    """Any tree will do, so what would be refused is left out."""
    root = MemoryRoot()
    for act in (act for layer in stack for act in layer):
        try:
            apply(TarReader(io.BytesIO(tar_of([act]))), root)
        except InvalidLayer:
            continue
    return root


trees = st.lists(layers(), max_size=3).map(tree_of)


@given(trees, trees)
def test_difference_applied_below_gives_above(lower: MemoryRoot, upper: MemoryRoot) -> None:
    difference = io.BytesIO()
    write_entries(diff(lower, upper), difference)
    apply(TarReader(io.BytesIO(difference.getvalue())), lower)
    assert comparable(in_memory(lower)) == comparable(in_memory(upper))


@given(st.lists(layers(), max_size=3), st.lists(layers(), max_size=3))
def test_difference_of_directories(below: list[list[Act]], above: list[list[Act]]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        for top, stack in ((one, below), (other, above)):
            with DirectoryRoot(top, owner=Ownership.IGNORE) as root:
                apply(diff(MemoryRoot(), tree_of(stack)), root)
        with DirectoryRoot(one, owner=Ownership.IGNORE) as lower, DirectoryRoot(other) as upper:
            apply(list(diff(lower, upper)), lower)
        assert comparable(on_disk(Path(one))) == comparable(on_disk(Path(other)))


@given(trees)
def test_nothing_differs_from_itself(tree: MemoryRoot) -> None:
    assert list(diff(tree, tree)) == []


@given(trees, trees)
def test_difference_stands_alone(lower: MemoryRoot, upper: MemoryRoot) -> None:
    """No hard link of a difference leads out of it, and each comes after its target."""
    files: set[str] = set()
    for entry in diff(lower, upper):
        assert entry.kind is not Kind.HARDLINK or entry.linkname in files
        files.add(entry.path)


# -- writing and reading


def values(entry: Entry) -> tuple[Any, ...]:
    return (entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.linkname,
            dict(entry.xattrs), entry.major, entry.minor)


@given(st.lists(entries(), max_size=6))
def test_entries_survive_a_tar(made: list[Entry]) -> None:
    out = io.BytesIO()
    write_entries(made, out)
    reader = TarReader(io.BytesIO(out.getvalue()))
    for entry, found in zip(made, reader, strict=True):
        assert values(found) == values(entry)
        if entry.open is not None:
            assert found.open is not None
            assert found.open().read() == entry.open().read()


class Dribbling:
    """A stream that gives what it likes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._stream = io.BytesIO(data)
        self._sizes = sizes
        self._turn = 0

    def read(self, size: int = -1) -> bytes:
        self._turn += 1
        return self._stream.read(min(size, self._sizes[self._turn % len(self._sizes)]))


sizes = st.lists(st.sampled_from((1, 7, 511, 512, 513, 4096, 1 << 20)), min_size=1, max_size=4)


@given(st.lists(entries(), max_size=5), sizes, st.binary(max_size=2000))
def test_skeleton_and_data_are_the_tar(made: list[Entry], reads: list[int], trailer: bytes) -> None:
    out = io.BytesIO()
    write_entries(made, out)
    tar = out.getvalue() + trailer
    found = bytearray()
    reader = TarReader(Dribbling(tar, reads), skeleton=found.extend)
    for number, entry in enumerate(reader):
        assert number == 0 or entry.header_offset > 0
        if entry.kind is Kind.FILE:
            assert reader.position == entry.data_offset
            assert reader.copy_data(found.extend) == entry.size
    assert bytes(found) == tar
    assert reader.position == len(tar)


@given(st.binary(max_size=3000), st.sampled_from(Compression), st.lists(st.integers(1, 2000), min_size=1, max_size=3))
def test_inflating_undoes_deflating(data: bytes, compression: Compression, reads: list[int]) -> None:
    out = io.BytesIO()
    stream = deflate(out, compression)
    for at in range(0, len(data), 700):
        stream.write(memoryview(data)[at : at + 700])
    stream.finish()
    inflated = inflate(Dribbling(out.getvalue(), reads), forced=compression)
    found = b"".join(iter(lambda: inflated.read(reads[0]), b""))
    assert found == data


# -- whatever comes


def read_all(tar: bytes) -> None:
    reader = TarReader(io.BytesIO(tar))
    for entry in reader:
        if entry.size:
            reader.copy_data(len)


@contextmanager
def refused_or_not() -> Iterator[None]:
    """Nothing but our own errors, in one sentence."""
    try:
        yield
    except LaminaError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert "\n" not in sentence


REAL = tar_of([
    Act("directory", "a", mode=0o755), Act("file", "a/b", b"x" * 700, mtime=1_700_000_000_123_456_789, xattr=b"v"),
    Act("symlink", "a/c", target="b"), Act("hardlink", "d", target="a/b"), Act("fifo", "e"),
]) + tarbytes.gnu_long("g" * 150) + tarbytes.gnu_long("l" * 150, b"K") + tarbytes.symlink("g", "l") + bytes(1024)


@given(st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(REAL)))
@example([], 0)
def test_damaged_tars_are_refused_or_read(changes: list[tuple[int, int]], end: int) -> None:
    tar = bytearray(REAL)
    for at, value in changes:
        tar[at] = value
    with refused_or_not():
        read_all(bytes(tar[:end]))


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_headers_with_right_checksums(block: int, changes: list[tuple[int, int]]) -> None:
    """A checksum keeps out accidents, not strangers."""
    at = 512 * (block % (len(REAL) // 512))
    header = bytearray(REAL[at : at + 512])
    for offset, value in changes:
        header[offset] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar = REAL[:at] + bytes(header) + REAL[at + 512 :]
    with refused_or_not():
        read_all(tar)
        applied(tar)


def compressed(compression: Compression) -> bytes:
    out = io.BytesIO()
    stream = deflate(out, compression)
    stream.write(REAL)
    stream.finish()
    return out.getvalue() * 2


STREAMS = {compression: compressed(compression) for compression in (Compression.GZIP, Compression.ZSTD)}


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3),
       st.integers(0, 10**6), sizes)
def test_damaged_streams_are_refused_or_read(
    compression: Compression, changes: list[tuple[int, int]], end: int, reads: list[int]
) -> None:
    stream = bytearray(STREAMS[compression])
    for at, value in changes:
        stream[at % len(stream)] = value
    with refused_or_not():
        inflated = inflate(Dribbling(bytes(stream[: end % (len(stream) + 1)]), reads), forced=compression)
        while inflated.read(5000):
            pass


@given(st.binary(max_size=2000))
def test_garbage_is_refused_or_read(garbage: bytes) -> None:
    for compression in (None, *Compression):
        with refused_or_not():
            read_all(inflate(io.BytesIO(garbage), forced=compression).read())
