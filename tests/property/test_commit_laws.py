"""What an overlay's upper directory says, and what comparing both trees says, is the same layer.

Programs do random things in a really mounted container root; the layer is then applied to the same base.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.layer.entry import Entry, Kind, ancestors
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tarstream import read_entries
from lamina.layer.upper import ContainerRoot, listed, sayable, tree_changes
from lamina.oci.digest import Digest
from lamina.snapshot.changes import list_changes, write_layer
from lamina.testing.bench import Bench
from lamina.testing.images import directory, file
from lamina.testing.model import differences, read_tree

pytestmark = pytest.mark.privileged

NAMES = ("a", "b", "c")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
BASE = (
    directory("", mtime=5), directory("a", mode=0o750, uid=3), directory("a/b"), file("a/b/c", b"1" * 600, mode=0o4755),
    file("a/c", b"2"), directory("b", xattrs={"user.x": b"1"}), file("b/a", b"3", xattrs={"user.x": b"1"}),
    Entry("b/b", Kind.HARDLINK, linkname="b/a"), Entry("b/c", Kind.SYMLINK, 0o777, linkname="../a"),
    directory("c"), directory("c/a"), file("c/a/a", b"4"), file("c/a/b", b""), Entry("c/b", Kind.FIFO),
    Entry("c/c", Kind.CHAR, major=1, minor=3),
)
ABOVE = (directory("c"), file("c/.wh.b"), directory("c/a"), file("c/a/b", b"5"))
MORE = (file("d", b"6", mtime=10**9 + 5), Entry("e", Kind.SYMLINK, 0o777, linkname="nowhere"))


class Program:
    """Does something to some path; what the kernel does not allow is part of life."""

    def __init__(self, chance: random.Random, root: Path) -> None:
        self._chance = chance
        self._root = root

    def run(self, count: int) -> None:
        acts = [name for name in dir(self) if name.startswith("do_")]
        for _ in range(count):
            with contextlib.suppress(OSError):
                getattr(self, self._chance.choice(acts))(self._path())

    def _path(self) -> Path:
        return self._root.joinpath(*self._chance.choices(NAMES, k=self._chance.randint(1, 3)))

    def _inside(self, path: Path) -> None:
        """Symlinks of the tree lead nowhere else here, but not through ``..``."""
        parent = path.parent
        while parent != self._root:
            if parent.is_symlink():
                raise OSError
            parent = parent.parent

    def do_write(self, path: Path) -> None:
        self._inside(path)
        if path.is_symlink() or stat.S_ISCHR(os.lstat(path).st_mode if path.exists() else 0) or path.is_fifo():
            return
        path.write_bytes(self._chance.choice((b"", b"n", b"N" * 2000)))

    def do_open_for_writing(self, path: Path) -> None:
        """Copies it up, and changes nothing."""
        self._inside(path)
        if path.is_file() and not path.is_symlink():
            os.close(os.open(path, os.O_WRONLY))

    def do_change_and_change_back(self, path: Path) -> None:
        """As it was in all that one can see but the time of its last change."""
        self._inside(path)
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            status, data = path.stat(), path.read_bytes()
            path.write_bytes(bytes(len(data)))
            if self._chance.random() < 0.5:
                path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def do_chmod(self, path: Path) -> None:
        self._inside(path)
        if not path.is_symlink():
            path.chmod(self._chance.choice((0o600, 0o755, 0o2750, 0o4711)))

    def do_chown(self, path: Path) -> None:
        self._inside(path)
        os.lchown(path, self._chance.choice((0, 7)), 7)

    def do_touch(self, path: Path) -> None:
        self._inside(path)
        os.utime(path, ns=(0, self._chance.choice((0, 10**18 + 1))), follow_symlinks=False)

    def do_set_xattr(self, path: Path) -> None:
        self._inside(path)
        name, value = self._chance.choice((("user.y", b"1"), ("trusted.z", b"2"), ("security.capability", CAPABILITY)))
        os.setxattr(path, name, value, follow_symlinks=False)

    def do_remove_xattr(self, path: Path) -> None:
        self._inside(path)
        os.removexattr(path, "user.x", follow_symlinks=False)

    def do_remove(self, path: Path) -> None:
        self._inside(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def do_make_directory(self, path: Path) -> None:
        self._inside(path)
        path.mkdir()

    def do_replace_directory(self, path: Path) -> None:
        """Opaque for overlayfs."""
        self.do_remove(path)
        path.mkdir()
        if self._chance.random() < 0.5:
            (path / self._chance.choice(NAMES)).write_bytes(b"r")

    def do_rename(self, path: Path) -> None:
        self._inside(path)
        other = self._path()
        self._inside(other)
        path.rename(other)

    def do_link(self, path: Path) -> None:
        self._inside(path)
        other = self._path()
        self._inside(other)
        os.link(path, other, follow_symlinks=False)

    def do_symlink(self, path: Path) -> None:
        self._inside(path)
        path.symlink_to(self._chance.choice(("a", "/b", "nowhere")))

    def do_make_special(self, path: Path) -> None:
        self._inside(path)
        kind = self._chance.choice(("fifo", "char", "block", "socket"))
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            # By a short name: paths of sockets have 108 bytes at most.
            where = os.open(path.parent, os.O_PATH)
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{where}/{path.name}")
            os.close(where)
        else:
            os.mknod(path, (stat.S_IFCHR if kind == "char" else stat.S_IFBLK) | 0o640, os.makedev(7, 9))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="lamina-commit-"))
    made = Bench("overlay2", home / "root")
    yield made
    made.close()
    shutil.rmtree(home)


def told(entries: list[Entry]) -> list[Entry]:
    """Without the places in a tar; and content."""
    return [
        replace(entry, header_offset=-1, data_offset=-1, open=None, mode=0 if entry.kind is Kind.SYMLINK else entry.mode,
                xattrs=dict(entry.xattrs))
        for entry in entries
    ]


def read(tar: bytes) -> list[Entry]:
    found = []
    for entry in read_entries(io.BytesIO(tar)):
        data = entry.open().read() if entry.open else b""
        found.append(replace(entry, open=lambda data=data: io.BytesIO(data)))
    return found


@given(st.integers(0, 1 << 32), st.integers(0, 40), st.booleans(), st.booleans())
@settings(max_examples=150)
def test_both_ways_give_a_layer_that_makes_the_same_tree(
    bench: Bench, seed: int, count: int, is_deep: bool, is_over_a_commit: bool
) -> None:
    chance = random.Random(seed)
    layers = [BASE, ABOVE, MORE] if is_deep else [BASE]
    diff_ids = bench.receive(*layers)
    base = bench.driver.commit_layers(diff_ids)
    key = f"key-{secrets.token_hex(8)}"
    if is_over_a_commit:
        # Its parent is no layer; what is committed on the way belongs to the change that is asked about last.
        name = f"name-{key}"
        bench.write_snapshot(name, base, lambda path: Program(chance, path).run(count))
        base = name
    with bench.mounted(bench.driver.prepare(key, base)) as path:
        Program(chance, path).run(count)
        expected = {name: each for name, each in read_tree(path).items() if each.kind != "s"}
        with bench.viewed(base) as below, ContainerRoot(below) as lower, ContainerRoot(path) as upper:
            compared = [sayable(change) for change in listed(tree_changes(upper, lower), upper, {})]
            linked = {name for name in read_tree(below) if name and lower.identity(name) is not None}
    out, index = io.BytesIO(), io.BytesIO()
    builder = IndexBuilder(index)
    written = write_layer(bench.driver, key, out, builder)
    tar = out.getvalue()
    builder.finish(Digest.of(tar), written.tar_size)
    entries = read(tar)
    assert written.entries == len(entries)

    # The layer on its base is what the container saw.
    if not is_over_a_commit:
        diff_id = Digest.of(tar)
        bench.receive_tar(tar, diff_id)
        committed = bench.driver.commit_layers([*diff_ids, diff_id])
        assert differences(expected, bench.read(committed)) == []
        bench.driver.remove(committed)
    # Nothing steers overlayfs, nothing is opaque, and the index knows where everything is.
    assert not [entry for entry in entries if entry.is_opaque or any("overlay" in name for name in entry.xattrs)]
    loaded = LayerIndex.from_bytes(index.getvalue())
    assert loaded.is_self_contained
    assert [loaded.entry(number).data_offset for number in range(len(loaded))] == [entry.data_offset for entry in entries]
    again = io.BytesIO()
    loaded.rebuild(lambda entry: io.BytesIO(tar[entry.data_offset : entry.data_offset + entry.size]), again)
    assert again.getvalue() == tar

    # Comparing says the same, but for files that lost their links below: each way has another one stay.
    mine, theirs = ({each.path: each for each in told(side)} for side in (entries, compared))
    unsure = linked | {parent for path in linked for parent in ancestors(path)}
    assert {path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path)} <= unsure

    listing = {change.path: change.kind for change in list_changes(bench.driver, key)}
    assert listing.keys() == {f"/{entry.hides or entry.path}" for entry in entries if entry.path}
    for entry in entries:
        if entry.path:
            assert listing[f"/{entry.hides or entry.path}"] in ("D" if entry.hides else "AC")
    bench.driver.remove(key)
    if is_over_a_commit:
        bench.driver.remove(base)
