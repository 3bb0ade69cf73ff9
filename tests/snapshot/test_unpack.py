"""The unpacker: layers in the background, committed as a stack, or nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.content.arrival import Arrival
from lamina.events import Action, Event
from lamina.layer.compress import Compression
from lamina.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from lamina.oci.digest import Digest
from lamina.snapshot.layers import DiffIDMismatch, LayerNotFound
from lamina.snapshot.unpack import SMALL, LayerMissing, Unpacker
from lamina.testing.bench import Bench
from lamina.testing.images import MadeLayer, file, hardlink, make_layer


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench("vfs", tmp_path / "root")
    yield bench
    bench.close()


def layer(name: str, size: int = 100) -> MadeLayer:
    return make_layer([file(f"{name}{number}", os.urandom(size)) for number in range(5)])


def whole(bench: Bench, made: MadeLayer) -> Arrival:
    bench.store.put_bytes(made.descriptor.media_type, made.blob)
    return bench.store.arrived(made.descriptor)


def test_small_and_large_layers(bench: Bench) -> None:
    layers = [layer("small"), layer("large", SMALL), layer("medium", 150_000)]
    events: list[Event] = []
    with Unpacker(bench.layers, bench.driver, workers=2, report=events.append) as unpacker:
        for made in layers:
            unpacker.submit(made.descriptor, made.diff_id, whole(bench, made))
        received = unpacker.finish([made.diff_id for made in layers])
    assert [(item.blob, item.diff_id, item.tar_size) for item in received] == [
        (made.descriptor.digest, made.diff_id, len(made.tar)) for made in layers
    ]
    assert received[1].content_size == 5 * SMALL
    assert received[1].entries == 5
    extracting = [event for event in events if event.action is Action.EXTRACTING]
    assert {event.subject for event in extracting} == {layers[1].descriptor.digest}
    assert all(0 < (event.current or 0) <= layers[1].descriptor.size for event in extracting)
    assert len(list(bench.driver.walk())) == 1


def test_the_second_time_there_is_nothing_to_do(bench: Bench) -> None:
    made = layer("a")
    for expected in (1, 0):
        with Unpacker(bench.layers, bench.driver) as unpacker:
            unpacker.submit(made.descriptor, made.diff_id, whole(bench, made))
            assert len(unpacker.finish([made.diff_id])) == expected
            assert unpacker._lanes == [] or expected == 1


def test_two_blobs_of_one_layer_are_both_known(bench: Bench) -> None:
    """The same tar, compressed twice: one is unpacked, both blobs are learnt."""
    made = layer("a")
    other = MadeLayer(tar=made.tar, compression=Compression.ZSTD)
    with Unpacker(bench.layers, bench.driver) as unpacker:
        for each in (made, other):
            unpacker.submit(each.descriptor, each.diff_id, whole(bench, each))
        received = unpacker.finish([made.diff_id])
    assert {item.blob for item in received} == {made.descriptor.digest, other.descriptor.digest}


def test_a_layer_that_was_not_submitted(bench: Bench) -> None:
    with Unpacker(bench.layers, bench.driver) as unpacker, pytest.raises(LayerMissing):
        unpacker.finish([layer("a").diff_id])


def test_an_image_without_layers(bench: Bench) -> None:
    with Unpacker(bench.layers, bench.driver) as unpacker:
        assert unpacker.finish([]) == ()


@pytest.mark.parametrize("size", [100, SMALL])
def test_the_first_error_is_raised_and_nothing_committed(bench: Bench, size: int) -> None:
    good, bad = layer("good"), layer("bad", size)
    with Unpacker(bench.layers, bench.driver, workers=1) as unpacker:
        unpacker.submit(good.descriptor, good.diff_id, whole(bench, good))
        unpacker.submit(bad.descriptor, Digest.of(b"lie"), whole(bench, bad))
        with pytest.raises(DiffIDMismatch):
            unpacker.finish([good.diff_id, Digest.of(b"lie")])
        with pytest.raises(DiffIDMismatch):
            unpacker.submit(bad.descriptor, bad.diff_id, whole(bench, bad))
    assert list(bench.driver.walk()) == []
    assert list(bench.layers.walk()) == [good.diff_id]
    assert list(bench.layers.leftovers()) == []


def test_a_stack_that_cannot_be_is_not_committed(bench: Bench) -> None:
    base, broken = layer("base"), make_layer([hardlink("b", "nowhere")])
    with Unpacker(bench.layers, bench.driver) as unpacker:
        for made in (base, broken):
            unpacker.submit(made.descriptor, made.diff_id, whole(bench, made))
        with pytest.raises(ValueError, match="nowhere"):
            unpacker.finish([base.diff_id, broken.diff_id])
    assert list(bench.driver.walk()) == []
    assert bench.driver.sweep() == 0


def test_an_arrival_that_never_comes_does_not_keep_the_program(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.touch()
    with open(path, "rb") as opened:
        descriptor = Descriptor(media_type=OCI_LAYER_GZIP, digest=Digest.of(b""), size=10)
        arrival = Arrival(descriptor, opened.fileno())
    unpacker = Unpacker(bench.layers, bench.driver)
    unpacker.submit(descriptor, Digest.of(b"x"), arrival)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "unpack")
    arrival.fail(InterruptedError("given up"))
    unpacker.close()


def test_many_submitters(bench: Bench) -> None:
    layers = [layer(f"l{number}") for number in range(12)]
    with Unpacker(bench.layers, bench.driver, workers=3) as unpacker:
        def submit(mine: list[MadeLayer]) -> None:
            for made in mine:
                unpacker.submit(made.descriptor, made.diff_id, whole(bench, made))

        threads = [threading.Thread(target=submit, args=(layers[start:],)) for start in range(0, 12, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(unpacker.finish([made.diff_id for made in layers])) == 12


def test_a_layer_kept_by_the_driver_must_be_there(bench: Bench) -> None:
    made = layer("a")
    with pytest.raises(LayerNotFound):
        bench.driver.commit_layers([made.diff_id])
