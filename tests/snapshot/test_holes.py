"""Files with holes: the same bytes, of which zeros that take no room are not read."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.snapshot.holes import PastHoles, WithHoles
from lamina.snapshot.moving import copy_changes
from lamina.testing.bench import Bench
from lamina.testing.images import directory

BLOCK = 4096
Part = tuple[bool, int]
PARTS = st.lists(st.tuples(st.booleans(), st.integers(1, 3 * BLOCK) | st.just(1 << 20)), max_size=8)


def filled(file: io.FileIO, parts: list[Part]) -> bytes:
    """Data and holes."""
    whole = b"".join((b"d" if is_data else b"\0") * size for is_data, size in parts)
    at = 0
    for is_data, size in parts:
        if is_data:
            os.pwrite(file.fileno(), b"d" * size, at)
        at += size
    os.ftruncate(file.fileno(), at)
    return whole


@given(parts=PARTS, size=st.sampled_from([100, BLOCK, 1 << 20]))
def test_what_is_read_is_what_is_there(parts: list[Part], size: int) -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        whole = filled(file, parts)  # type: ignore[arg-type]  # unbuffered, so it is one
        reader = PastHoles(file.fileno())
        assert b"".join(iter(lambda: reader.read(size), b"")) == whole
        assert reader.read(size) == b""


@given(parts=PARTS)
def test_what_is_written_is_what_was_given(parts: list[Part]) -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        out, whole = WithHoles(file.fileno()), b""
        for is_data, size in parts:
            chunk = (b"d" if is_data else b"\0") * size
            out.write(memoryview(chunk))
            whole += chunk
        os.ftruncate(file.fileno(), len(whole))
        assert os.pread(file.fileno(), len(whole) + 1, 0) == whole


def test_a_file_that_shrinks_meanwhile_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "w+b", buffering=0) as file:
        filled(file, [(True, BLOCK), (False, 1 << 20), (True, BLOCK)])
        reader = PastHoles(file.fileno())
        assert len(reader.read(100)) == 100
        os.ftruncate(file.fileno(), 50)
        assert b"".join(iter(reader.read, b"")) == b""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Bench, Bench]]:
    both = Bench("vfs", tmp_path / "a", may_mount=False), Bench("vfs", tmp_path / "b", may_mount=False)
    yield both
    for each in both:
        each.close()


def bytes_read() -> int:
    """By this process' system calls; those from holes count too (proc(5), rchar)."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_holes_are_moved_without_being_read(two: tuple[Bench, Bench], tmp_path: Path) -> None:
    for bench in two:
        bench.driver.prepare("key", bench.stack([directory("etc")]))
    source, target = two
    with source.mounted(source.driver.mounts("key")) as path, open(path / "big", "wb", buffering=0) as file:
        filled(file, [(True, BLOCK), (False, 256 << 20), (True, 10), (False, 5)])
    before = bytes_read()
    copy_changes(source.driver, target.driver, "key", tmp_path)
    assert bytes_read() - before < 16 << 20
    with target.mounted(target.driver.mounts("key")) as path:
        status = (path / "big").stat()
        assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (BLOCK + (256 << 20) + 15, True)
        with open(path / "big", "rb") as file:
            assert file.read(BLOCK) == b"d" * BLOCK
            file.seek(BLOCK + (256 << 20) - 5)
            assert file.read() == bytes(5) + b"d" * 10 + bytes(5)
