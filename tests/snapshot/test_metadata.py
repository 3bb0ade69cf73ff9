"""The rows behind snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.snapshot.metadata import SnapshotTable
from lamina.snapshot.snapshotter import SnapshotExists, SnapshotInUse, SnapshotKind, SnapshotNotFound

LAYER = Digest.of(b"layer")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state.sqlite")
    yield state
    state.close()


@pytest.fixture
def table(state: State) -> SnapshotTable:
    return SnapshotTable(state, "driver", clock=lambda: 5.0)


def test_a_lineage_is_topmost_first(table: SnapshotTable) -> None:
    table.add("a", SnapshotKind.COMMITTED, diff_id=LAYER, data={"n": 1})
    table.add("b", SnapshotKind.COMMITTED, parent="a")
    table.add("c", SnapshotKind.ACTIVE, parent="b")
    assert [row.info.key for row in table.lineage("b")] == ["b", "a"]
    assert table.lineage("") == []
    assert table.get("a").info.diff_id == LAYER
    assert table.get("a").data == {"n": 1}
    assert table.get("b").info.diff_id is None
    assert table.get("b").info.created == 5.0
    with pytest.raises(SnapshotNotFound):
        table.lineage("c")


def test_a_parent_must_be_committed(table: SnapshotTable) -> None:
    table.add("active", SnapshotKind.ACTIVE)
    for parent in ("active", "nobody"):
        with pytest.raises(SnapshotNotFound, match=parent):
            table.add("x", SnapshotKind.VIEW, parent=parent)
    assert table.find("x") is None


def test_a_parent_is_not_removed(table: SnapshotTable) -> None:
    table.add("a", SnapshotKind.COMMITTED)
    table.add("b", SnapshotKind.VIEW, parent="a")
    with pytest.raises(SnapshotInUse, match="1 snapshots"):
        table.remove("a")
    table.remove("b")
    assert table.remove("a").info.key == "a"


def test_commit_is_all_or_nothing(table: SnapshotTable) -> None:
    table.add("base", SnapshotKind.COMMITTED)
    table.add("key", SnapshotKind.ACTIVE, parent="base", data={"id": "1"})
    with pytest.raises(SnapshotExists):
        table.commit("base", "key", {})
    assert table.get("key").info.kind is SnapshotKind.ACTIVE
    table.commit("name", "key", {"id": "1"})
    assert table.find("key") is None
    assert table.get("name").info.parent == "base"


def test_a_layer_is_put_again_with_news(table: SnapshotTable) -> None:
    table.put_layer("chain", "", LAYER, {"layer": "one"})
    table.put_layer("chain", "", LAYER, {"layer": "two"})
    assert table.get("chain").data == {"layer": "two"}
    with pytest.raises(SnapshotExists):
        table.put_layer("chain", "", Digest.of(b"another"), {})


def test_drivers_do_not_see_each_other(state: State, table: SnapshotTable) -> None:
    other = SnapshotTable(state, "other")
    table.add("same", SnapshotKind.ACTIVE)
    other.add("same", SnapshotKind.COMMITTED)
    assert [row.info.kind for row in table.walk()] == [SnapshotKind.ACTIVE]
    other.remove("same")
    assert table.find("same") is not None


@pytest.mark.parametrize("key", ["", "a\0b", "line\nline", "x" * 513])
def test_keys_are_checked(table: SnapshotTable, key: str) -> None:
    with pytest.raises(InvalidInput):
        table.add(key, SnapshotKind.ACTIVE)


def test_a_missing_snapshot_is_named(table: SnapshotTable) -> None:
    with pytest.raises(SnapshotNotFound, match=r"^nobody: driver has no such snapshot$"):
        table.get("nobody")
    with pytest.raises(SnapshotNotFound, match=r"^nobody: driver has no such active or view snapshot$"):
        table.get("nobody", SnapshotKind.ACTIVE, SnapshotKind.VIEW)
