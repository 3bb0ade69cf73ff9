"""Which snapshots nobody needs, and in which order they go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.content.state import State
from lamina.oci.digest import Digest
from lamina.snapshot.collect import drop_unused, release_layer, snapshots_of_layer, unused_snapshots
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import SnapshotTable
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.overlay import open_driver
from lamina.snapshot.snapshotter import SnapshotInUse, Snapshotter

A, B, C = (Digest.of(name.encode()) for name in "abc")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state.sqlite")
    yield state
    state.close()


@pytest.fixture
def driver(tmp_path: Path, state: State) -> Snapshotter:
    """a - ab - abc, and ac beside them; a snapshot of somebody's own on ab."""
    (tmp_path / "layers" / "sha256").mkdir(parents=True)
    driver = open_driver(state, LayerStore(tmp_path), Hands(Identity(ownership=Ownership.KEPT)), {})
    table = SnapshotTable(state, "overlay2")
    for name, parent, layer in (("a", "", A), ("ab", "a", B), ("abc", "ab", C), ("ac", "a", C)):
        table.put_layer(name, parent, layer, {"layer": "kept-trusted"})
    return driver


def names(driver: Snapshotter) -> set[str]:
    return {info.key for info in driver.walk()}


def test_children_come_first(driver: Snapshotter) -> None:
    found = [info.key for info in snapshots_of_layer(driver, A)]
    assert set(found) == {"a", "ab", "abc", "ac"}
    assert found.index("abc") < found.index("ab") < found.index("a")
    assert {info.key for info in snapshots_of_layer(driver, C)} == {"abc", "ac"}


def test_releasing_a_layer(driver: Snapshotter) -> None:
    release_layer(driver, B)
    assert names(driver) == {"a", "ac"}
    release_layer(driver, A)
    assert names(driver) == set()


def test_what_somebody_works_on_is_not_released(driver: Snapshotter) -> None:
    driver.view("look", "ab")
    for layer in (A, B):
        with pytest.raises(SnapshotInUse, match="look"):
            release_layer(driver, layer)
    release_layer(driver, C)
    assert names(driver) == {"a", "ab", "look"}


def test_unused_ones(driver: Snapshotter) -> None:
    assert [info.key for info, _size in unused_snapshots(driver, {"abc", "ac"})] == []
    assert {info.key for info, _size in unused_snapshots(driver, {"abc"})} == {"ac"}
    assert {info.key for info, _size in unused_snapshots(driver, {"a"})} == {"ab", "abc", "ac"}
    driver.view("look", "ab")
    assert {info.key for info, _size in unused_snapshots(driver, set())} == {"abc", "ac"}
    drop_unused(driver, set())
    assert names(driver) == {"a", "ab", "look"}
    driver.remove("look")
    drop_unused(driver, set())
    assert names(driver) == set()
