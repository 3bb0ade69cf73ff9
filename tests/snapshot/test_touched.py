"""Comparing where somebody knows of changes: what shows, when that is enough, and what a message can hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lamina.layer.root import Ownership
from lamina.snapshot import changes
from lamina.snapshot.changes import Difference
from lamina.snapshot.hands import MAX_MESSAGE
from lamina.snapshot.snapshotter import Mount
from lamina.snapshot.touched import NarrowedRoot, Touched, is_closed


def root(path: Path, *paths: str, trees: tuple[str, ...] = ()) -> NarrowedRoot:
    return NarrowedRoot(path, owner=Ownership.IGNORE, touched=Touched(paths=paths, trees=trees))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/b/c", "a/d", "e/f"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text(name)
        (tmp_path / name / "y").write_text(name)
    return tmp_path


def shown(found: NarrowedRoot) -> list[str]:
    paths, waiting = [], [""]
    while waiting:
        above = waiting.pop()
        for name in found.names(above):
            path = f"{above}/{name}" if above else name
            paths.append(path)
            if os.path.isdir(f"/proc/self/fd/{found.directories.top}/{path}"):
                waiting.append(path)
    return sorted(paths)


def test_what_shows(tree: Path) -> None:
    for paths, trees, expected in (
        ((), (), []),
        (("",), (), []),
        (("a/b/c/x", "gone", "e/f/x/below a file"), (), ["a", "a/b", "a/b/c", "a/b/c/x", "e", "e/f", "e/f/x"]),
        (("a/d",), (), ["a", "a/d"]),
        ((), ("a/d",), ["a", "a/d", "a/d/x", "a/d/y"]),
        (("e",), ("a/b",), ["a", "a/b", "a/b/c", "a/b/c/x", "a/b/c/y", "e"]),
    ):
        with root(tree, *paths, trees=trees) as found:
            assert shown(found) == expected
    with root(tree, trees=("",)) as found:
        assert len(shown(found)) == 12


def test_all_names_of_a_file_or_none(tree: Path) -> None:
    os.link(tree / "a/d/x", tree / "e/f/link")
    for paths, trees, expected in (
        (("a/d/x",), (), False), (("a/d/x", "e/f/link"), (), True), (("a/d/y",), (), True),
        ((), ("a",), False), (("e/f/link",), ("a",), True), ((), ("a", "e"), True),
    ):
        with root(tree, *paths, trees=trees) as found:
            assert is_closed(found) is expected


def difference(upper: Path, lower: Path, touched: Touched | None) -> Difference:
    sides = [(Mount(type="bind", source=str(path)),) for path in (upper, lower)]
    return Difference(upper=sides[0], lower=sides[1], keeps_owners=False, touched=touched)


def found(of: Difference) -> list[tuple[str, str]]:
    with changes._changes(of, {}) as each:
        return [(change.kind.value, change.path) for change in each]


def test_names_that_are_missing_lead_to_the_whole(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for side in (lower, upper):
        side.mkdir()
        (side / "one").write_text("1")
        os.link(side / "one", side / "two")
        (side / "three").write_text("3")
    (upper / "one").write_text("22")
    (upper / "three").write_text("changed, and nobody said so")
    os.utime(upper, ns=(1, 1))
    os.utime(lower, ns=(1, 1))
    everything = [("C", "one"), ("C", "three"), ("C", "two")]
    assert found(difference(upper, lower, None)) == everything
    assert found(difference(upper, lower, Touched(paths=("one",)))) == everything
    assert found(difference(upper, lower, Touched(paths=("one", "two")))) == [("C", "one"), ("C", "two")]


def test_it_goes_through_json_as_far_as_a_message_can_hold_it(tmp_path: Path) -> None:
    small = difference(tmp_path, tmp_path, Touched(paths=("a\udcff", "b/c"), trees=("d",)))
    assert Difference.from_json(json.loads(json.dumps(small.to_json()))) == small
    for touched in (
        Touched(paths=tuple(f"{number:0100}" for number in range(2000))), Touched(trees=("\udcff" * 20_000,)),
    ):
        large = difference(tmp_path, tmp_path, touched)
        text = json.dumps(large.to_json())
        assert len(text) < MAX_MESSAGE
        assert Difference.from_json(json.loads(text)) == difference(tmp_path, tmp_path, None)
