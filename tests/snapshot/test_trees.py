"""Trees on disk: copies like the original, and removal of whatever is there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lamina.snapshot import trees
from lamina.snapshot.trees import copy_range, copy_tree, measure, remove_tree
from lamina.testing.model import differences, read_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "d" / "e").mkdir(parents=True)
    (top / "d" / "f").write_bytes(os.urandom(300_000))
    os.link(top / "d" / "f", top / "second name")
    os.link(top / "d" / "f", top / "d" / "e" / "third")
    os.symlink("/etc/passwd", top / "link")
    os.mkfifo(top / "pipe", 0o620)
    os.setxattr(top / "d" / "f", "user.x", b"\0y")
    os.setxattr(top / "d", "user.d", b"z")
    (top / os.fsdecode(b"no \xff text")).write_text("x")
    (top / "empty").touch(mode=0o4711)
    (top / "d" / "f").chmod(0o640)
    for path in (top / "d" / "f", top / "d", top):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    os.utime(top / "link", ns=(1, 2), follow_symlinks=False)
    (top / "d").chmod(0o2751)
    return top


def test_a_copy_is_the_same(tree: Path, tmp_path: Path) -> None:
    before = read_tree(tree)
    copy_tree(tree, tmp_path / "copy")
    assert differences(before, read_tree(tmp_path / "copy")) == []
    assert differences(before, read_tree(tree)) == []


def test_a_copy_is_private(tree: Path, tmp_path: Path) -> None:
    copy_tree(tree, tmp_path / "copy")
    (tmp_path / "copy" / "d" / "f").write_bytes(b"changed")
    assert (tree / "d" / "f").stat().st_size == 300_000


def test_a_copy_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    os.symlink(tmp_path / "outside", tmp_path / "tree" / "away")
    copy_tree(tmp_path / "tree", tmp_path / "copy")
    assert (tmp_path / "copy" / "away").is_symlink()
    remove_tree(tmp_path / "copy")
    assert (tmp_path / "outside" / "secret").exists()


def test_a_copy_does_not_overwrite(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(FileExistsError):
        copy_tree(tree, tmp_path / "copy")


def test_ranges_between_files(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)) * 100)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    assert copy_range(source, 10, target, 500) == 500
    assert copy_range(source, 25_500, target, 500) == 100
    assert (tmp_path / "target").read_bytes() == (bytes(range(256)) * 3)[10:510] + bytes(range(156, 256))
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("number", ["EXDEV", "EOPNOTSUPP", "EINVAL"])
def test_ranges_where_the_kernel_declines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    import errno

    def declined(*_arguments: object) -> int:
        raise OSError(getattr(errno, number), "declined")

    monkeypatch.setattr(trees.os, "copy_file_range", declined)
    data = os.urandom(100_000)
    (tmp_path / "source").write_bytes(data)
    with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb") as target:
        trees.copy_data(source.fileno(), target.fileno(), len(data))
    assert (tmp_path / "target").read_bytes() == data


def test_inodes_are_counted_once(tree: Path) -> None:
    usage = measure(tree)
    assert usage.inodes == len({(tree / path).lstat().st_ino for path in read_tree(tree)})
    assert 300_000 <= usage.size < 500_000


def test_removing(tree: Path, tmp_path: Path) -> None:
    remove_tree(tree)
    assert os.listdir(tmp_path) == []
    remove_tree(tree)  # what is not there is fine


def test_removing_what_shuts_its_owner_out(tmp_path: Path) -> None:
    for number, mode in enumerate((0, 0o444, 0o555, 0o111, 0o600)):
        inner = tmp_path / "tree" / str(number) / "inner"
        inner.mkdir(parents=True)
        (inner / "f").write_text("x")
        inner.chmod(mode)
        inner.parent.chmod(mode)
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_depth_beyond_every_path(tmp_path: Path) -> None:
    """A stranger's layer may nest deeper than PATH_MAX, and than the descriptors a process may have."""
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 10, dir_fd=here)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("last", dir_fd=here)
    os.close(here)
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_removing_something_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.symlink("/nonexistent", tmp_path / "link")
    remove_tree(tmp_path / "file")
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == []


def test_linking_falls_back_to_copying(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    directory = os.open(tree / "d", os.O_RDONLY)
    trees.link_or_copy(directory, "f", tmp_path / "linked")
    assert os.path.samefile(tmp_path / "linked", tree / "d" / "f")

    def declined(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMLINK, "too many")

    monkeypatch.setattr(trees.os, "link", declined)
    trees.link_or_copy(directory, "f", tmp_path / "copied")
    os.close(directory)
    copied = (tmp_path / "copied").stat()
    assert copied.st_nlink == 1
    assert stat.S_IMODE(copied.st_mode) == 0o640
    assert (tmp_path / "copied").read_bytes() == (tree / "d" / "f").read_bytes()
    assert os.getxattr(tmp_path / "copied", "user.x") == b"\0y"
