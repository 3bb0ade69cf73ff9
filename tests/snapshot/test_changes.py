"""What a snapshot changed: through every way that leads to a driver, here and in a worker."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lamina.layer.entry import InvalidLayer
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tarstream import TarWriter, read_entries
from lamina.layer.upper import Changed, ContainerRoot, upper_changes
from lamina.oci.digest import Digest
from lamina.snapshot import changes
from lamina.snapshot.changes import Difference, TellsDifference, list_changes, write_layer
from lamina.snapshot.hands import Hands, Worker, WorkerDied
from lamina.snapshot.snapshotter import Mount, SnapshotNotFound
from lamina.testing.bench import Bench
from lamina.testing.images import directory, file


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("vfs", tmp_path / "root", may_mount=False)
    yield made
    made.close()


def changed(bench: Bench) -> None:
    """A snapshot ``key``."""
    base = bench.stack([directory("etc"), file("etc/gone"), file("same", b"1")])
    with bench.mounted(bench.driver.prepare("key", base)) as path:
        (path / "etc/gone").unlink()
        (path / "etc/new").write_bytes(b"n" * 70_000)
        (path / "etc/\udcff").write_bytes(b"")


LINES = ["C /etc", "D /etc/gone", "A /etc/new", "A /etc/\udcff"]


def lines(found: list[changes.Change]) -> list[str]:
    return [f"{each.kind} {each.path}" for each in found]


class Stranger:
    """A driver that knows mounts and no more."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        if name in ("hands", "difference"):
            raise AttributeError(name)
        return getattr(self._driver, name)


def test_a_driver_that_only_has_mounts(bench: Bench) -> None:
    changed(bench)
    stranger = Stranger(bench.driver)
    assert not isinstance(stranger, TellsDifference)
    before = {info.key for info in bench.driver.walk()}
    assert lines(list_changes(stranger, "key")) == lines(list_changes(bench.driver, "key")) == LINES  # type: ignore[arg-type]
    assert {info.key for info in bench.driver.walk()} == before


def test_only_active_snapshots_have_changes(bench: Bench) -> None:
    base = bench.stack([file("a")])
    with pytest.raises(SnapshotNotFound):
        list_changes(bench.driver, base)


def test_a_snapshot_that_goes_away_meanwhile_makes_no_smaller_layer(bench: Bench) -> None:
    base = bench.stack([directory("etc")])
    with bench.mounted(bench.driver.prepare("key", base)) as path:
        for number in range(300):
            (path / f"etc/{number}").write_bytes(b"n" * 1000)

    class Slow(io.BytesIO):
        """In the middle of which somebody else removes what is read."""

        def write(self, chunk: Any) -> int:
            if self.tell() > 50_000 and any(info.key == "key" for info in bench.driver.walk()):
                bench.driver.remove("key")
            return super().write(chunk)

    with pytest.raises(SnapshotNotFound, match=r"^key: removed, or moved to another"):
        write_layer(bench.driver, "key", Slow(), IndexBuilder(io.BytesIO()))


def layer_of(bench: Bench) -> tuple[bytes, bytes]:
    out, index = io.BytesIO(), io.BytesIO()
    builder = IndexBuilder(index)
    written = write_layer(bench.driver, "key", out, builder)
    assert (written.tar_size, written.entries) == (len(out.getvalue()), len(builder))
    builder.finish(Digest.of(out.getvalue()), written.tar_size)
    return out.getvalue(), index.getvalue()


@pytest.fixture
def in_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hands]:
    """The driver's, as if this process had to enter a namespace first; the worker needs none."""
    hands = Hands(replace(bench.driver.identity, is_entered=False))
    hands._worker = Worker(bench.driver.identity)
    yield hands
    hands.close()


def test_a_worker_writes_the_same_layer(
    bench: Bench, in_worker: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(bench)
    here, listed = layer_of(bench), lines(list_changes(bench.driver, "key"))
    monkeypatch.setattr(bench.driver, "_hands", in_worker)
    assert layer_of(bench) == here
    assert lines(list_changes(bench.driver, "key")) == listed == LINES
    assert LayerIndex.from_bytes(here[1]).is_self_contained


def test_what_goes_wrong_in_a_worker_is_raised_here(
    bench: Bench, in_worker: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(bench)
    with bench.mounted(bench.driver.mounts("key")) as path:
        (path / ".wh.x").write_bytes(b"")
    monkeypatch.setattr(bench.driver, "_hands", in_worker)
    for _ in range(2):  # and it is there for the next job
        with pytest.raises(InvalidLayer, match=r"\.wh\.x"):
            layer_of(bench)


def test_who_stops_reading_stops_the_job(
    bench: Bench, in_worker: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a disk that is full: there is more to come than a pipe holds."""
    changed(bench)
    with bench.mounted(bench.driver.mounts("key")) as path, open(path / "large", "wb") as large:
        large.truncate(64 << 20)
    monkeypatch.setattr(bench.driver, "_hands", in_worker)

    class Full(io.RawIOBase):
        def write(self, _chunk: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_layer(bench.driver, "key", Full(), IndexBuilder(io.BytesIO()))
    assert lines(list_changes(bench.driver, "key")) == [*LINES, "A /large"]


def test_a_worker_that_is_killed_is_said_to_be(
    bench: Bench, in_worker: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(bench)
    monkeypatch.setattr(bench.driver, "_hands", in_worker)
    assert in_worker._worker is not None
    in_worker._worker._process.kill()
    with pytest.raises(WorkerDied):
        layer_of(bench)


def test_a_difference_goes_through_json() -> None:
    layer = Mount(type="erofs", source="/a", options=("ro",))
    whole = Difference(
        upper=(Mount(type="bind", source="/u"),), lower=(Mount(type="overlay", source="o", layers=(layer, layer)),),
        namespace="user", is_root_plain=True, keeps_owners=False,
    )
    assert Difference.from_json(json.loads(json.dumps(whole.to_json()))) == whole


# -- a container that runs on


def write(found: list[Changed]) -> list[tuple[str, bytes]]:
    out = io.BytesIO()
    changes._write(iter(found), TarWriter(out), None)
    out.seek(0)
    return [(each.path, each.open().read() if each.open else b"") for each in read_entries(out) if each.path]


def test_files_that_shrink_grow_and_go_while_they_are_read(tmp_path: Path) -> None:
    for name in ("goes", "grows", "shrinks", "stays"):
        (tmp_path / name).write_bytes(b"1234")
    (tmp_path / "link").hardlink_to(tmp_path / "goes")
    with ContainerRoot(tmp_path) as root:
        found = list(upper_changes(root, None, ""))
        (tmp_path / "goes").unlink()
        (tmp_path / "grows").write_bytes(b"123456")
        (tmp_path / "shrinks").write_bytes(b"1")
        assert write(found) == [("grows", b"123456"), ("shrinks", b"1"), ("stays", b"1234")]


def test_what_a_header_promised_is_filled_up() -> None:
    whole = changes._Whole(io.BytesIO(b"12"))
    assert (whole.read(5), whole.read(3)) == (b"12", bytes(3))
