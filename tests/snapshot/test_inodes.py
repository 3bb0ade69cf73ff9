"""Which paths two trees may differ at, from what is known of inodes. Drivers' own tests have real clones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.snapshot.inodes import touched_inodes
from lamina.snapshot.touched import Touched
from lamina.snapshot.trees import empty_and_remove


def inode(path: Path) -> int:
    return path.lstat().st_ino


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/b/f").write_text("1")
    (tmp_path / "g").write_text("2")
    (tmp_path / "c/link").symlink_to("../a")
    os.link(tmp_path / "g", tmp_path / "c/again")
    return tmp_path


def test_what_is_as_it_was_is_not_touched(tree: Path) -> None:
    assert touched_inodes(tree, tree, lambda _inode: False) == Touched()


def test_all_names_of_what_changed(tree: Path) -> None:
    changed = {inode(tree / "g"), inode(tree / "a/b"), inode(tree / "c/link")}
    assert touched_inodes(tree, tree, changed.__contains__) == Touched(paths=("a/b", "c/again", "c/link", "g"))


def test_each_name_is_asked_about_once(tree: Path) -> None:
    asked: list[int] = []

    def is_changed(number: int) -> bool:
        asked.append(number)
        return number == inode(tree / "a/b/f")

    assert touched_inodes(tree, tree, is_changed) == Touched(paths=("a/b/f",))
    assert len(asked) == 7


def test_what_is_another_file_is_a_tree(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No directory of a plain copy is the same one; a hard link is."""
    lower = tmp_path_factory.mktemp("lower")
    os.link(tree / "g", lower / "g")
    (lower / "a").mkdir()
    (lower / "gone").mkdir()
    found = touched_inodes(lower, tree, lambda _inode: False)
    assert found == Touched(trees=("a", "c", "gone"))


def test_a_kind_that_changed(tmp_path: Path) -> None:
    for side in ("lower", "upper"):
        (tmp_path / side).mkdir()
    (tmp_path / "lower/x").mkdir()
    (tmp_path / "upper/x").write_text("x")
    found = touched_inodes(tmp_path / "lower", tmp_path / "upper", lambda _inode: False)
    assert found == Touched(trees=("x",))


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_text("x")
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    asked: list[int] = []
    touched_inodes(tmp_path / "tree", tmp_path / "tree", lambda number: bool(asked.append(number)))
    assert asked == [inode(tmp_path / "tree/link")]


@given(names=st.lists(
    st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name and name.strip(b".")),
    unique=True, max_size=6,
))
def test_names_that_are_no_text(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    tree = tmp_path_factory.mktemp("names")
    for name in names:
        os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    found = touched_inodes(tree, tree, lambda _inode: True)
    assert sorted(map(os.fsencode, found.paths)) == sorted(names)


def test_more_levels_than_descriptors(tmp_path: Path) -> None:
    levels = 1500
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    deepest = os.stat("f", dir_fd=here).st_ino
    os.close(here)
    found = touched_inodes(tmp_path, tmp_path, lambda number: number == deepest)
    assert found.paths == ("d/" * levels + "f",)
    empty_and_remove(tmp_path / "d")  # by who can
