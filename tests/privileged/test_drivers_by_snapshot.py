"""The contract fits drivers that stack by snapshot: here, one that copies, which real ones do faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lamina.content.state import State
from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot import copying, drivers
from lamina.snapshot.copying import CopyingSnapshotter
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.stacking import commit_by_snapshot
from lamina.testing.bench import Bench
from lamina.testing.conformance import CASES
from lamina.testing.images import file

pytestmark = pytest.mark.privileged

# Hundreds of whole copies, and processes that would have to find this driver installed.
LEFT_OUT = {"five_hundred_layers", "a_hundred_and_thirty_layers", "two_processes_receive_one_layer",
            "killed_in_the_middle"}


class BySnapshot(CopyingSnapshotter):
    def __init__(self, state: State, layers: LayerStore, hands: Hands, _options: Mapping[str, str]) -> None:
        super().__init__(state, layers, hands)
        self.layers = layers

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        return commit_by_snapshot(self, self.layers, diff_ids)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    point = EntryPoint("bysnapshot", f"{__name__}:BySnapshot", "lamina.storage_drivers")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: BySnapshot)
    monkeypatch.setattr(drivers, "entry_points", lambda: [point])
    monkeypatch.setattr(BySnapshot, "name", "bysnapshot")
    monkeypatch.setattr(copying, "NAME", "bysnapshot")
    bench = Bench("bysnapshot", tmp_path / "root")
    yield bench
    bench.close()


@pytest.mark.parametrize("name", sorted(CASES.keys() - LEFT_OUT))
def test_case(bench: Bench, name: str) -> None:
    CASES[name](bench)


def test_each_prefix_is_a_snapshot(bench: Bench) -> None:
    diff_ids = bench.receive([file("a")], [file("b")], [file("c")])
    bench.driver.commit_layers(diff_ids)
    found = {info.key: (info.parent, info.diff_id) for info in bench.driver.walk()}
    one, two, three = chain_ids(diff_ids)
    assert found == {one: ("", diff_ids[0]), two: (one, diff_ids[1]), three: (two, diff_ids[2])}
    before = [bench.driver.stat(name) for name in found]
    bench.driver.commit_layers(diff_ids[:2])
    assert [bench.driver.stat(name) for name in found] == before


def test_a_layer_that_cannot_be_applied_leaves_nothing(bench: Bench) -> None:
    from lamina.testing.images import hardlink

    diff_ids = bench.receive([file("a")], [hardlink("b", "nowhere")])
    with pytest.raises(ValueError, match="nowhere"):
        bench.driver.commit_layers(diff_ids)
    assert [info.key for info in bench.driver.walk()] == [diff_ids[0]]
    assert bench.driver.sweep() == 0
    assert sorted(path.name for path in (bench.root / "snapshots").iterdir()) == ["bysnapshot", "driver.json"]
