"""Which driver a state directory gets, and keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.snapshot import drivers, probing
from lamina.snapshot.copying import CopyingSnapshotter
from lamina.snapshot.drivers import ORDER, read_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.namespace import Identity, Ownership, unprivileged_identity
from lamina.snapshot.probing import choose, probe, reopen
from lamina.snapshot.snapshotter import DriverUnavailable


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    for name in ("layers", "snapshots"):
        (tmp_path / name).mkdir()
    state = State(tmp_path / "state.sqlite")
    yield state
    state.close()


def chosen(root: Path, state: State, wanted: str | None = None) -> str:
    driver = choose(root, state, LayerStore(root), wanted=wanted)
    driver.close()
    return driver.name


def test_the_first_choice_is_remembered(tmp_path: Path, state: State) -> None:
    first = chosen(tmp_path, state)
    assert first in ORDER
    assert json.loads((tmp_path / "snapshots" / "driver.json").read_text())["driver"] == first
    assert chosen(tmp_path, state) == first


def test_asking_for_another_once_changes_nothing(tmp_path: Path, state: State) -> None:
    first = chosen(tmp_path, state)
    assert chosen(tmp_path, state, "vfs") == "vfs"
    assert chosen(tmp_path, state) == first


def test_what_was_asked_for_first_stays(tmp_path: Path, state: State) -> None:
    assert chosen(tmp_path, state, "vfs") == "vfs"
    assert chosen(tmp_path, state) == "vfs"


def test_what_something_was_made_with_is_not_tried_again(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chosen(tmp_path, state)

    def fail(*_: object) -> None:
        raise AssertionError("tried")

    monkeypatch.setattr(probing, "_candidate", fail)
    monkeypatch.setattr(probing, "settled_identity", fail)
    assert chosen(tmp_path, state, first) == first
    for name in ("overlay2", "vfs"):
        driver = reopen(tmp_path, state, LayerStore(tmp_path), name)
        driver.close()
        assert driver.name == name


def test_what_something_was_made_with_is_tried_where_nothing_was_chosen(tmp_path: Path, state: State) -> None:
    driver = reopen(tmp_path, state, LayerStore(tmp_path), "vfs")
    driver.close()
    assert json.loads((tmp_path / "snapshots" / "driver.json").read_text())["driver"] == "vfs"


def test_other_names(tmp_path: Path, state: State) -> None:
    assert chosen(tmp_path, state, "copy") == "vfs"


def test_unknown_drivers_are_named(tmp_path: Path, state: State) -> None:
    with pytest.raises(DriverUnavailable, match=r"aufs.*erofs, overlay2,.* vfs"):
        chosen(tmp_path, state, "aufs")
    assert not (tmp_path / "snapshots" / "driver.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"driver": "vfs"}'])
def test_a_damaged_choice_is_made_again(tmp_path: Path, state: State, text: str) -> None:
    (tmp_path / "snapshots" / "driver.json").write_text(text)
    assert chosen(tmp_path, state) in ORDER


def test_probing_explains_and_leaves_nothing(tmp_path: Path, state: State) -> None:
    found = probe(tmp_path)
    assert [candidate.name for candidate in found[: len(ORDER)]] == list(ORDER)
    assert all(candidate.reason for candidate in found)
    assert found[-1].is_usable or len(found) > len(ORDER)
    assert os.listdir(tmp_path / "snapshots") == []


def test_root_without_its_rights_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    root = Hands(Identity(ownership=Ownership.KEPT, may_mount=False))
    anybody = Hands(unprivileged_identity())
    for name in ("overlay2", "erofs"):
        assert probing._candidate(name, tmp_path, root, {}).reason.startswith("needs CAP_SYS_ADMIN, which root lacks here")
        assert probing._candidate(name, tmp_path, anybody, {}).reason.startswith("needs root")


class Odd(CopyingSnapshotter):
    name = "odd"

    def __init__(self, state: State, layers: LayerStore, hands: Hands, options: dict[str, str]) -> None:
        super().__init__(state, layers, hands)
        self.options = options

    @staticmethod
    def try_driver(root: Path, hands: Hands, options: dict[str, str]) -> str:
        return "" if (root / "odd").exists() else "no file called odd"


def test_other_peoples_drivers(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("odd", f"{__name__}:Odd", "lamina.storage_drivers")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: Odd)
    monkeypatch.setattr(drivers, "entry_points", lambda: [point])
    with pytest.raises(DriverUnavailable, match="no file called odd"):
        chosen(tmp_path, state, "odd")
    (tmp_path / "odd").touch()
    assert chosen(tmp_path, state, "odd") == "odd"
    assert [candidate.is_usable for candidate in probe(tmp_path) if candidate.name == "odd"] == [True]


def test_options_reach_the_driver_and_stay(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("odd", f"{__name__}:Odd", "lamina.storage_drivers")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: Odd)
    monkeypatch.setattr(drivers, "entry_points", lambda: [point])
    (tmp_path / "odd").touch()

    def options(*texts: str) -> dict[str, str]:
        driver = choose(tmp_path, state, LayerStore(tmp_path), wanted="odd", options=read_options(texts))
        driver.close()
        assert isinstance(driver, Odd)
        return driver.options

    assert options("odd.place=here", "other.place=there") == {"place": "here"}
    assert options() == {"place": "here"}
    assert options("odd.more=x") == {"place": "here", "more": "x"}
    again = reopen(tmp_path, state, LayerStore(tmp_path), "odd")
    again.close()
    assert isinstance(again, Odd)
    assert again.options == {"place": "here", "more": "x"}


@pytest.mark.parametrize("text", ["size=1", "overlay2.nonsense=1", "vfs", "vfs.=1", "=", "vfs.size"])
def test_bad_options(text: str) -> None:
    with pytest.raises(InvalidInput, match="storage option"):
        read_options([text])
