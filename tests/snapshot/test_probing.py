"""Which driver a state directory gets, and keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lamina.content.state import State
from lamina.engine.leaving import migrating_alone
from lamina.errors import InvalidInput
from lamina.snapshot import drivers, probing
from lamina.snapshot.choice import read_choice
from lamina.snapshot.copying import CopyingSnapshotter
from lamina.snapshot.drivers import ORDER, read_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.namespace import Identity, Ownership, unprivileged_identity
from lamina.snapshot.probing import _remember_options, choose, probe, remember, reopen
from lamina.snapshot.snapshotter import DriverUnavailable


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    for name in ("layers", "snapshots"):
        (tmp_path / name).mkdir()
    state = State(tmp_path / "state.sqlite")
    yield state
    state.close()


def chosen(root: Path, state: State, wanted: str | None = None, *options: str) -> str:
    driver = choose(root, state, LayerStore(root), wanted=wanted, options=read_options(options))
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


@pytest.mark.parametrize(("word", "advice"), [
    ("overlya2", "did you mean overlay2?"), ("Overlay3", "did you mean overlay2?"), ("brtfs", "did you mean btrfs?"),
    ("device-mapper", "did you mean devicemapper?"), ("fuse-overlay", "did you mean fuse-overlayfs?"),
])
def test_a_driver_that_was_misspelled(tmp_path: Path, state: State, word: str, advice: str) -> None:
    with pytest.raises(DriverUnavailable) as found:
        chosen(tmp_path, state, word)
    assert str(found.value).endswith(f"; {advice}")


def test_a_driver_of_others_is_suggested_too(tmp_path: Path, state: State, picky: None) -> None:
    with pytest.raises(DriverUnavailable, match=r"; did you mean odd\?"):
        chosen(tmp_path, state, "oddd")


def test_whether_somebody_named_it_is_remembered(tmp_path: Path, state: State) -> None:
    def is_wanted() -> bool:
        return bool(json.loads((tmp_path / "snapshots" / "driver.json").read_text())["wanted"])

    chosen(tmp_path, state)
    assert not is_wanted()
    (tmp_path / "snapshots" / "driver.json").unlink()
    chosen(tmp_path, state, "vfs")
    assert is_wanted()
    chosen(tmp_path, state)
    assert is_wanted()


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
    (tmp_path / "odd").unlink()
    assert options() == {"place": "here", "more": "x"}
    with pytest.raises(DriverUnavailable, match="no file called odd"):
        options("odd.more=y")
    assert options() == {"place": "here", "more": "x"}


class Picky(CopyingSnapshotter):
    name = "odd"

    def __init__(self, state: State, layers: LayerStore, hands: Hands, options: dict[str, str]) -> None:
        super().__init__(state, layers, hands)
        if options.get("size", "1") != "1":
            raise InvalidInput(f"odd.size: expected 1, got {options['size']!r}")

    @staticmethod
    def try_driver(root: Path, hands: Hands, options: dict[str, str]) -> str:
        if options.get("size", "1") != "1":
            raise InvalidInput("odd.size: expected 1")
        return ""


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("odd", f"{__name__}:Picky", "lamina.storage_drivers")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: Picky)
    monkeypatch.setattr(drivers, "entry_points", lambda: [point])


def remembered(root: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((root / "snapshots" / "driver.json").read_text())["options"]
    return found


def test_an_option_that_was_refused_is_not_in_the_way_afterwards(tmp_path: Path, state: State, picky: None) -> None:
    assert chosen(tmp_path, state, "odd", "odd.size=1") == "odd"
    for wanted in (None, "odd"):
        with pytest.raises(InvalidInput, match=r"odd\.size: expected 1, got '2'"):
            chosen(tmp_path, state, wanted, "odd.size=2")
    assert remembered(tmp_path) == {"odd.size": "1"}
    assert chosen(tmp_path, state) == "odd"


def test_options_of_a_driver_that_is_not_opened_are_not_remembered(tmp_path: Path, state: State, picky: None) -> None:
    for _ in range(2):
        assert chosen(tmp_path, state, "vfs", "odd.size=2", "overlay2.size=nonsense") == "vfs"
        assert remembered(tmp_path) == {}
    assert chosen(tmp_path, state, "odd", "odd.size=1") == "odd"
    assert remembered(tmp_path) == {"odd.size": "1"}


def test_an_empty_option_is_forgotten(tmp_path: Path, state: State, picky: None) -> None:
    assert chosen(tmp_path, state, "odd", "odd.size=1", "odd.more=x") == "odd"
    assert chosen(tmp_path, state, None, "odd.more=") == "odd"
    assert remembered(tmp_path) == {"odd.size": "1"}


def test_a_refused_option_is_a_reason_in_plain_words(tmp_path: Path, state: State, picky: None) -> None:
    (found,) = (each for each in probe(tmp_path, read_options(["odd.size=2"])) if each.name == "odd")
    assert (found.is_usable, found.reason) == (False, "odd.size: expected 1")


@pytest.mark.parametrize(("text", "advice"), [
    ("btrfs.min_spce=1g", "has min_space; did you mean min_space?"), ("zfs.fsnam=tank", "has fsname; did you mean fsname?"),
    ("dm.basesise=1g", "; did you mean basesize?"),
])
def test_an_option_that_was_misspelled(text: str, advice: str) -> None:
    with pytest.raises(InvalidInput) as found:
        read_options([text])
    assert str(found.value).endswith(advice)


@pytest.mark.parametrize(("text", "meant"), [
    ("btrf.min_space=1G", "btrfs"), ("overlya2.size=10G", "overlay2"), ("fuse_overlayf.mount_program=x", "fuse_overlayfs"),
    ("Overlay2.size=1G", "overlay2"), ("od.size=1", "odd"),
])
def test_a_driver_that_was_misspelled_in_an_option(picky: None, text: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=rf"no storage driver is called '\w+'; did you mean {meant}\?$"):
        read_options([text])


@pytest.mark.parametrize("text", ["odd.size=1", "dm.basesize=1G", "aufs.size=1", "plain.home=/mnt", "x.y=z"])
def test_an_option_of_a_driver_that_is_installed_or_like_no_other(picky: None, text: str) -> None:
    assert list(read_options([text]).values()) == [text.partition("=")[2]]


@pytest.mark.parametrize("text", ["size=1", "overlay2.nonsense=1", "vfs", "vfs.=1", "=", "vfs.size"])
def test_bad_options(text: str) -> None:
    with pytest.raises(InvalidInput, match="storage option"):
        read_options([text])


# -- several processes


def test_who_writes_down_options_takes_nothing_away(tmp_path: Path) -> None:
    """Not another's options, and not the driver that a migration has just made the choice."""
    remember(tmp_path, "vfs", unprivileged_identity())
    with ThreadPoolExecutor(9) as threads:
        done = [
            threads.submit(_remember_options, tmp_path, "vfs", {f"vfs.{name}{number}": "x"})
            for number in range(8) for name in "abcdefgh"
        ]
        done.append(threads.submit(remember, tmp_path, "overlay2", unprivileged_identity(), is_wanted=True))
        for each in done:
            each.result()
    choice = read_choice(tmp_path)
    assert choice is not None
    assert (choice["driver"], choice["wanted"], len(choice["options"])) == ("overlay2", True, 64)


def test_while_a_migration_holds_its_lock_options_are_written_down(tmp_path: Path, state: State, picky: None) -> None:
    assert chosen(tmp_path, state, "odd", "odd.size=1") == "odd"
    with migrating_alone(tmp_path):
        assert chosen(tmp_path, state, None, "odd.more=x") == "odd"
    assert remembered(tmp_path) == {"odd.size": "1", "odd.more": "x"}


@pytest.mark.parametrize("wanted", [None, "odd"])
def test_who_chose_first_has_chosen(
    tmp_path: Path, state: State, picky: None, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    """Also while another process was still trying drivers."""
    look = drivers.Driver.reason_against

    def trying(driver: drivers.Driver, root: Path, hands: Hands, options: drivers.Options) -> str:
        if read_choice(root) is None:
            remember(root, "vfs", unprivileged_identity())
        return look(driver, root, hands, options)

    monkeypatch.setattr(drivers.Driver, "reason_against", trying)
    assert chosen(tmp_path, state, wanted, "odd.size=1") == (wanted or "vfs")
    choice = read_choice(tmp_path)
    assert choice is not None
    assert choice["driver"] == "vfs"
