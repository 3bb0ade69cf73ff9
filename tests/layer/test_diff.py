"""Comparing trees: which entries come out, and in which words."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest

from lamina.layer.apply import apply
from lamina.layer.diff import diff
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.root import DirectoryRoot, MemoryRoot


def file(path: str, data: bytes = b"", **more: int) -> Entry:
    return Entry(path, size=len(data), open=lambda: io.BytesIO(data), **more)


def directory(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


def tree(*entries: Entry) -> MemoryRoot:
    root = MemoryRoot()
    apply(entries, root)
    return root


def changes(lower: MemoryRoot, upper: MemoryRoot) -> list[tuple[str, str]]:
    return [(entry.path, entry.kind.name) for entry in diff(lower, upper)]


BASE = (directory("a"), file("a/x", b"1"), file("a/y", b"2"), directory("b"), file("b/z", b"3"))


def test_nothing_changed() -> None:
    assert changes(tree(*BASE), tree(*BASE)) == []


def test_added_changed_removed() -> None:
    upper = tree(directory("a"), file("a/x", b"9"), file("a/y", b"2"), file("c", b"4"))
    assert changes(tree(*BASE), upper) == [("a/x", "FILE"), (".wh.b", "FILE"), ("c", "FILE")]


def test_attributes_alone() -> None:
    upper = tree(directory("a"), file("a/x", b"1", mode=0o600), file("a/y", b"2", mtime=1), directory("b"), file("b/z", b"3"))
    assert changes(tree(*BASE), upper) == [("a/x", "FILE"), ("a/y", "FILE")]


def test_content_alone() -> None:
    """Same size, same times: only the bytes differ."""
    assert changes(tree(file("a", b"1")), tree(file("a", b"2"))) == [("a", "FILE")]


def test_a_directory_that_became_a_file_and_back() -> None:
    lower, upper = tree(directory("a"), file("a/x")), tree(file("a"))
    assert changes(lower, upper) == [("a", "FILE")]
    assert changes(upper, lower) == [("a", "DIRECTORY"), ("a/x", "FILE")]


def test_below_a_symlink_that_was() -> None:
    """The lower tree has ``a/x`` only through a symlink: that is another file."""
    lower = tree(directory("b"), file("b/x", b"1"), Entry("a", Kind.SYMLINK, linkname="b"))
    upper = tree(directory("b"), file("b/x", b"1"), directory("a"), file("a/x", b"1"))
    assert changes(lower, upper) == [("a", "DIRECTORY"), ("a/x", "FILE")]


def test_a_new_name_takes_the_others_along() -> None:
    lower = tree(file("a", b"1"), Entry("b", Kind.HARDLINK, linkname="a"))
    upper = tree(file("a", b"1"), Entry("b", Kind.HARDLINK, linkname="a"), Entry("c", Kind.HARDLINK, linkname="a"))
    found = list(diff(lower, upper))
    assert [(entry.path, entry.kind, entry.linkname) for entry in found] == [
        ("a", Kind.FILE, ""), ("b", Kind.HARDLINK, "a"), ("c", Kind.HARDLINK, "a")]


def test_a_lost_name_leaves_the_others_alone() -> None:
    lower = tree(file("a", b"1"), Entry("b", Kind.HARDLINK, linkname="a"), Entry("c", Kind.HARDLINK, linkname="a"))
    upper = tree(file("a", b"1"), Entry("b", Kind.HARDLINK, linkname="a"))
    assert changes(lower, upper) == [(".wh.c", "FILE")]


def test_names_that_parted() -> None:
    lower = tree(file("a", b"1"), Entry("b", Kind.HARDLINK, linkname="a"))
    assert changes(lower, tree(file("a", b"1"), file("b", b"1"))) == [("b", "FILE")]


def test_names_that_met() -> None:
    upper = tree(file("a", b"1"), Entry("b", Kind.HARDLINK, linkname="a"))
    assert changes(tree(file("a", b"1"), file("b", b"1")), upper) == [("a", "FILE"), ("b", "HARDLINK")]


def test_root() -> None:
    (entry,) = diff(tree(), tree(Entry("", Kind.DIRECTORY, 0o700)))
    assert (entry.path, entry.mode) == ("", 0o700)


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq", "d/.wh.x"])
def test_names_that_would_remove_others(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with DirectoryRoot(tmp_path) as upper, pytest.raises(InvalidLayer, match="would remove"):
        list(diff(MemoryRoot(), upper))


def test_sockets_stay_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    (tmp_path / "upper").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("upper/s")
        with DirectoryRoot("upper") as upper:
            assert [entry.path for entry in diff(MemoryRoot(), upper)] == [""]
            assert [entry.path for entry in diff(tree(file("s")), upper)] == ["", ".wh.s"]
