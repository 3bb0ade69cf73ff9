"""Cases about snapshots alone: prepare, view, commit, remove, and what they cost."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from lamina.snapshot.snapshotter import SnapshotExists, SnapshotInUse, SnapshotKind, SnapshotNotFound
from lamina.testing.bench import Bench, case, insist_raises
from lamina.testing.model import differences, read_tree


@case
def prepare_over_nothing(bench: Bench) -> None:
    mounts = bench.driver.prepare("one")
    with bench.mounted(mounts) as path:
        assert os.listdir(path) == []
        (path / "hello").write_text("you")
    with bench.mounted(bench.driver.mounts("one")) as path:
        assert (path / "hello").read_text() == "you"
    assert list(mounts) == list(bench.driver.mounts("one"))


@case
def commit_keeps_what_was_written(bench: Bench) -> None:
    def write(path: Path) -> None:
        (path / "d").mkdir(mode=0o750)
        (path / "d" / "f").write_bytes(b"data")
        os.symlink("nowhere", path / "d" / "l")
        os.link(path / "d" / "f", path / "g")
        os.chmod(path / "g", 0o640)

    bench.write_snapshot("base", "", write)
    found = bench.read("base")
    assert found["d"].kind == "d"
    assert found["d"].mode == 0o750
    assert found["d/f"].what == b"data"
    assert found["d/f"] is found["g"]
    assert found["g"].mode == 0o640
    assert found["d/l"].what == "nowhere"
    info = bench.driver.stat("base")
    assert info.kind is SnapshotKind.COMMITTED
    assert info.parent == ""
    assert info.diff_id is None


@case
def commit_is_final(bench: Bench) -> None:
    bench.driver.prepare("key")
    bench.driver.commit("name", "key")
    insist_raises(SnapshotNotFound, lambda: bench.driver.mounts("key"))
    insist_raises(SnapshotNotFound, lambda: bench.driver.stat("key"))
    insist_raises(SnapshotNotFound, lambda: bench.driver.mounts("name"))
    insist_raises(SnapshotNotFound, lambda: bench.driver.commit("again", "name"))


@case
def writing_leaves_the_parent_alone(bench: Bench) -> None:
    def write(path: Path) -> None:
        for name in ("changed", "removed", "moved", "attributes"):
            (path / name).write_text(name)
        (path / "d" / "inner").mkdir(parents=True)
        (path / "d" / "inner" / "f").write_text("lower")

    bench.write_snapshot("base", "", write)
    before = bench.read("base")
    with bench.mounted(bench.driver.prepare("child", "base")) as path:
        (path / "changed").write_text("more than before")
        (path / "removed").unlink()
        os.rename(path / "moved", path / "moved away")
        os.chmod(path / "attributes", 0o600)
        shutil.rmtree(path / "d")
        (path / "d").mkdir()
        (path / "d" / "new").write_text("x")
        after = read_tree(path)
    assert not differences(before, bench.read("base"))
    assert {name for name in after if name} == {"changed", "moved away", "attributes", "d", "d/new"}
    assert after["changed"].what == b"more than before"


@case
def changes_stack(bench: Bench) -> None:
    bench.write_snapshot("one", "", lambda path: [(path / name).write_text(name) for name in "abc"])

    def second(path: Path) -> None:
        (path / "a").unlink()
        (path / "b").write_text("B")

    bench.write_snapshot("two", "one", second)

    def third(path: Path) -> None:
        assert not (path / "a").exists()
        (path / "a").mkdir()
        (path / "a" / "x").write_text("X")
        (path / "c").unlink()

    bench.write_snapshot("three", "two", third)
    found = bench.read("three")
    assert {name for name in found if name} == {"a", "a/x", "b"}
    assert found["b"].what == b"B"
    assert {name for name in bench.read("two") if name} == {"b", "c"}
    assert {name for name in bench.read("one") if name} == {"a", "b", "c"}
    assert bench.driver.stat("three").parent == "two"


@case
def a_removed_directory_stays_empty_when_made_again(bench: Bench) -> None:
    def write(path: Path) -> None:
        (path / "d").mkdir()
        (path / "d" / "old").write_text("x")

    bench.write_snapshot("one", "", write)

    def replace(path: Path) -> None:
        shutil.rmtree(path / "d")
        (path / "d").mkdir()

    bench.write_snapshot("two", "one", replace)
    assert {name for name in bench.read("two") if name} == {"d"}


@case
def a_view_changes_nothing(bench: Bench) -> None:
    bench.write_snapshot("base", "", lambda path: (path / "f").write_text("as it was"))
    before = bench.read("base")
    with bench.viewed("base") as path, contextlib.suppress(OSError):
        (path / "f").write_text("changed")
    with bench.viewed("base") as path, contextlib.suppress(OSError):
        (path / "new").write_text("new")
    assert not differences(before, bench.read("base"))


@case
def a_view_of_nothing_is_empty(bench: Bench) -> None:
    with bench.mounted(bench.driver.view("nothing")) as path:
        assert os.listdir(path) == []
    assert bench.driver.stat("nothing").kind is SnapshotKind.VIEW
    bench.driver.remove("nothing")


@case
def removed_is_gone(bench: Bench) -> None:
    with bench.mounted(bench.driver.prepare("key")) as path:
        (path / "f").write_bytes(b"x" * 100_000)
    bench.driver.remove("key")
    insist_raises(SnapshotNotFound, lambda: bench.driver.stat("key"))
    insist_raises(SnapshotNotFound, lambda: bench.driver.remove("key"))
    assert bench.driver.sweep() == 0
    bench.driver.prepare("key")


@case
def what_others_are_based_on_stays(bench: Bench) -> None:
    bench.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
    bench.driver.prepare("child", "base")
    insist_raises(SnapshotInUse, lambda: bench.driver.remove("base"))
    bench.driver.remove("child")
    bench.driver.view("look", "base")
    insist_raises(SnapshotInUse, lambda: bench.driver.remove("base"))
    bench.driver.remove("look")
    bench.driver.remove("base")


@case
def what_is_mounted_stays(bench: Bench) -> None:
    if not bench.driver.identity.may_mount:
        return
    bench.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
    with bench.mounted(bench.driver.prepare("child", "base")) as path:
        insist_raises(SnapshotInUse, lambda: bench.driver.remove("child"))
        insist_raises(SnapshotInUse, lambda: bench.driver.commit("new", "child"))
        (path / "g").write_text("still works")
    bench.driver.remove("child")


@case
def names_are_taken_once(bench: Bench) -> None:
    bench.driver.prepare("a")
    bench.driver.prepare("b")
    insist_raises(SnapshotExists, lambda: bench.driver.prepare("a"))
    insist_raises(SnapshotExists, lambda: bench.driver.view("a"))
    bench.driver.commit("base", "a")
    insist_raises(SnapshotExists, lambda: bench.driver.commit("base", "b"))
    insist_raises(SnapshotExists, lambda: bench.driver.prepare("base"))
    assert bench.driver.stat("b").kind is SnapshotKind.ACTIVE


@case
def only_committed_snapshots_are_parents(bench: Bench) -> None:
    bench.driver.prepare("active")
    for parent in ("active", "unknown"):
        insist_raises(SnapshotNotFound, lambda parent=parent: bench.driver.prepare("x", parent))  # type: ignore[misc]  # a default argument
        insist_raises(SnapshotNotFound, lambda parent=parent: bench.driver.view("x", parent))  # type: ignore[misc]  # as above
    insist_raises(SnapshotNotFound, lambda: bench.driver.stat("x"))
    bench.driver.view("view")
    insist_raises(SnapshotNotFound, lambda: bench.driver.commit("name", "view"))
    assert bench.driver.sweep() == 0


@case
def keys_are_never_paths(bench: Bench) -> None:
    for key in ("../../escape", "a/b", "/etc", ".", "x" * 200, "name with spaces"):
        with bench.mounted(bench.driver.prepare(key)) as path:
            (path / "f").write_text("x")
        bench.driver.remove(key)
    assert not (bench.root.parent / "escape").exists()
    for key in ("", "a\nb", "\0", "x" * 100_000):
        insist_raises(ValueError, lambda key=key: bench.driver.prepare(key))  # type: ignore[misc]  # a default argument


@case
def walk_lists_everything(bench: Bench) -> None:
    assert list(bench.driver.walk()) == []
    bench.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
    bench.driver.prepare("active", "base")
    bench.driver.view("view", "base")
    found = {info.key: info for info in bench.driver.walk()}
    assert {key: (info.kind.value, info.parent) for key, info in found.items()} == {
        "base": ("committed", ""), "active": ("active", "base"), "view": ("view", "base"),
    }
    assert all(found[key] == bench.driver.stat(key) for key in found)
    assert all(info.created > 0 for info in found.values())


@case
def usage_counts_what_is_new(bench: Bench) -> None:
    bench.write_snapshot("base", "", lambda path: (path / "f").write_bytes(b"x" * 200_000))
    assert bench.driver.usage("base").size >= 200_000
    with bench.mounted(bench.driver.prepare("active", "base")) as path:
        empty = bench.driver.usage("active")
        (path / "g").write_bytes(os.urandom(300_000))
        os.sync()
        full = bench.driver.usage("active")
    assert 300_000 <= full.size - empty.size < 500_000
    assert full.inodes == empty.inodes + 1
    bench.driver.view("view", "base")
    assert bench.driver.usage("view").size < 1_000_000
