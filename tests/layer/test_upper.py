"""Overlay upper directories read as layers: each of overlayfs' notes, and what no layer can say."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.root import MemoryRoot
from lamina.layer.upper import (
    Changed,
    ChangeKind,
    ContainerRoot,
    listed,
    sayable,
    tree_changes,
    upper_changes,
)

T = 1_600_000_000_123_456_789


class Trees:
    """A tree, and an upper directory over it, written as overlayfs would write them."""

    def __init__(self, home: Path) -> None:
        self.lower, self.upper = home / "lower", home / "upper"
        for top in (self.lower, self.upper):
            top.mkdir()

    def below(self, path: str, data: bytes | None = None) -> None:
        self._make(self.lower / path, data)

    def above(self, path: str, data: bytes | None = None) -> None:
        self._make(self.upper / path, data)

    def gone(self, path: str) -> None:
        (self.upper / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(self.upper / path, stat.S_IFCHR, 0)

    def seal(self, path: str, name: str = "user.overlay.opaque") -> None:
        os.setxattr(self.upper / path, name, b"y")

    def _make(self, path: Path, data: bytes | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(data)

    def changes(self, without: Mapping[str, str] = {}, *, has_lower: bool = True) -> list[Changed]:
        for top in (self.lower, self.upper):
            for path in [top, *top.rglob("*")]:
                os.utime(path, ns=(T, T), follow_symlinks=False)
        with ContainerRoot(self.upper) as upper, ContainerRoot(self.lower) as lower:
            found = upper_changes(upper, lower if has_lower else None, "user")
            return list(listed(found, upper, without))

    def lines(self, without: Mapping[str, str] = {}, *, has_lower: bool = True) -> list[str]:
        return [f"{each.kind} {each.path}" for each in self.changes(without, has_lower=has_lower)]


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


def test_a_whiteout_counts_where_there_is_something_to_hide(trees: Trees) -> None:
    trees.below("d/x", b"1")
    trees.gone("d/x")
    trees.gone("d/y")
    assert trees.lines() == ["C d", "D d/x"]


def test_what_was_only_copied_up_is_left_out(trees: Trees) -> None:
    for make in (trees.below, trees.above):
        make("d/same", b"1")
        make("d/e")
    assert trees.lines() == []


def test_same_size_and_times_and_other_bytes(trees: Trees) -> None:
    trees.below("d/x", b"1")
    trees.above("d/x", b"2")
    assert trees.lines() == ["C d", "C d/x"]


def test_every_directory_above_a_change_is_listed_once_and_before(trees: Trees) -> None:
    for name in ("x", "y"):
        trees.below(f"a/b/{name}", b"1")
        trees.above(f"a/b/{name}", b"22")
    assert trees.lines() == ["C a", "C a/b", "C a/b/x", "C a/b/y"]


def test_an_opaque_directory_removes_one_by_one(trees: Trees) -> None:
    for name in ("d/gone", "d/stays", "d/sub/in", "d/other/in"):
        trees.below(name, b"1")
    trees.above("d/stays", b"1")
    trees.above("d/sub/new", b"1")
    trees.gone("d/other")
    trees.seal("d")
    # What stays is as it was, and below `sub` nothing shows through either.
    assert trees.lines() == ["C d", "D d/gone", "D d/other", "C d/sub", "D d/sub/in", "A d/sub/new"]
    assert not [each for each in trees.changes() if each.entry.is_opaque]


def test_the_mark_of_another_namespace_is_only_an_xattr(trees: Trees) -> None:
    """In a container whose overlay keeps its marks in ``trusted``, anybody can set the other."""
    trees.below("d/x", b"1")
    trees.above("d")
    os.setxattr(trees.upper / "d", "user.overlay.opaque", b"y")
    with ContainerRoot(trees.upper) as upper, ContainerRoot(trees.lower) as lower:
        found = [each for each in upper_changes(upper, lower, "trusted") if each.path]
    assert [each.kind for each in found if each.path != "d"] == []
    assert all(not each.entry.xattrs for each in found)


def test_a_copied_file_lost_its_links_below(trees: Trees) -> None:
    trees.below("a", b"1")
    os.link(trees.lower / "a", trees.lower / "b")
    trees.above("a", b"1")
    assert trees.lines() == ["C a"]


def test_names_outside_of_the_tree_below_are_nobodys_business(trees: Trees, tmp_path: Path) -> None:
    """A layer's directory for another stack shares its files' inodes."""
    trees.below("d/a", b"1")
    trees.below("d/b", b"1")
    for name in ("a", "b"):
        os.link(trees.lower / "d" / name, tmp_path / name)
    trees.above("d/a", b"1")
    trees.above("d/b", b"2")
    assert trees.lines() == ["C d", "C d/b"]


def test_links_are_made_to_the_first_name(trees: Trees) -> None:
    trees.above("a", b"1")
    trees.above("d")
    os.link(trees.upper / "a", trees.upper / "d/b")
    entries = {each.path: each.entry for each in trees.changes()}
    assert (entries["d/b"].kind, entries["d/b"].linkname, entries["d/b"].size) == (Kind.HARDLINK, "a", 0)


def test_a_socket_is_nothing_and_hides_what_was_there(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.below("s", b"1")
    monkeypatch.chdir(trees.upper)
    for name in ("s", "new"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    assert trees.lines() == ["D s"]


def test_a_directory_in_the_place_of_a_file_and_back(trees: Trees) -> None:
    trees.below("a", b"1")
    trees.below("b/x", b"1")
    trees.above("a/x", b"1")
    trees.above("b", b"1")
    assert trees.lines() == ["C a", "A a/x", "C b"]


def test_without_anything_below_all_is_new(trees: Trees) -> None:
    trees.above("d/x", b"1")
    assert trees.lines(has_lower=False) == ["C ", "A d", "A d/x"]


def test_in_the_order_of_directories(trees: Trees) -> None:
    """Not of texts, in which ``-`` comes before the slash."""
    for name in ("e/x", "e-f", "e.d/y"):
        trees.above(name, b"1")
    assert trees.lines() == ["A e", "A e/x", "A e-f", "A e.d", "A e.d/y"]


def test_places_for_mounts_are_left_out_while_they_are_empty(trees: Trees) -> None:
    stubs = {"run": "directory", "run/here": "directory", "hosts": "file", "was": "directory"}
    for name, data in (("run/here", None), ("hosts", b""), ("was/used", b"1")):
        trees.above(name, data)
    assert trees.lines(stubs) == ["A was", "A was/used"]
    trees.above("hosts", b"1")
    trees.above("run/here/x", b"")
    assert trees.lines(stubs) == ["A hosts", "A run", "A run/here", "A run/here/x", "A was", "A was/used"]


def test_a_place_that_became_something_else_is_a_change(trees: Trees) -> None:
    (trees.upper / "hosts").symlink_to("x")
    trees.above("proc", b"")
    assert trees.lines({"hosts": "file", "proc": "directory"}) == ["A hosts", "A proc"]


def added(path: str, **more: object) -> Changed:
    return Changed(ChangeKind.ADDED, path, Entry(path, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq", "d/.wh.x", ".wh."])
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK])
def test_names_that_would_remove_other_files_are_refused(name: str, kind: Kind) -> None:
    with pytest.raises(InvalidLayer, match="remove"):
        sayable(added(name, kind=kind))


def test_a_device_that_would_be_a_whiteout_is_refused() -> None:
    with pytest.raises(InvalidLayer, match="0:0"):
        sayable(added("d/x", kind=Kind.CHAR))
    assert sayable(added("d/x", kind=Kind.CHAR, major=1, minor=3)).major == 1


@pytest.mark.parametrize("name", [".wh.x", "n" * 252])
def test_what_no_whiteout_can_name_must_stay(name: str) -> None:
    with pytest.raises(InvalidLayer, match="whiteout"):
        sayable(Changed(ChangeKind.DELETED, name, Entry(f".wh.{name}")))


def test_comparing_knows_what_is_new() -> None:
    lower, upper = MemoryRoot(), MemoryRoot()

    def make(root: MemoryRoot, path: str, kind: Kind) -> None:
        root.make(path, Entry(path, kind), lambda _write: None)

    make(lower, "a", Kind.FILE)
    make(upper, "a", Kind.DIRECTORY)
    make(upper, "a/b", Kind.FILE)
    make(lower, "c", Kind.FIFO)
    make(upper, "d", Kind.FIFO)
    found = [f"{each.kind} {each.path}" for each in tree_changes(upper, lower)]
    assert found == ["C a", "A a/b", "D c", "A d"]
