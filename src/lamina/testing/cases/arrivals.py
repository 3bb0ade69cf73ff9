"""Cases about layers on their way in, and on their way out: wrong ones, slow ones, and processes that die."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

from lamina.oci.config import chain_ids
from lamina.oci.digest import Digest
from lamina.snapshot.collect import drop_unused, release_layer
from lamina.snapshot.layers import DiffIDMismatch, LayerNotFound
from lamina.snapshot.snapshotter import SnapshotInUse, SnapshotNotFound
from lamina.snapshot.unpack import Unpacker
from lamina.testing.bench import Bench, Growing, case, insist_raises, leftovers
from lamina.testing.cases.layers import BASE
from lamina.testing.images import file, tar_of


@case
def wrong_bytes_leave_nothing(bench: Bench) -> None:
    tar = tar_of(BASE)
    wrong = Digest.of(b"something else")
    insist_raises(DiffIDMismatch, lambda: bench.receive_tar(tar, wrong))
    insist_raises(ValueError, lambda: bench.receive_tar(tar[:700], Digest.of(tar[:700])))
    assert list(bench.layers.walk()) == []
    assert leftovers(bench) == []


@case
def releasing_and_removing_layers(bench: Bench) -> None:
    base, one, two = bench.receive(BASE, [file("one", b"1")], [file("two", b"2")])
    first, second = bench.driver.commit_layers([base, one]), bench.driver.commit_layers([base, two])
    bench.driver.prepare("key", first)
    insist_raises(SnapshotInUse, lambda: release_layer(bench.driver, one))
    bench.driver.remove("key")
    release_layer(bench.driver, one)
    assert bench.layers.remove(one) > 0
    insist_raises(SnapshotNotFound, lambda: bench.driver.stat(first))
    assert "two" in bench.read(second)
    drop_unused(bench.driver, {second})
    assert "two" in bench.read(second)
    drop_unused(bench.driver, ())
    assert list(bench.driver.walk()) == []
    for diff_id in (base, two):
        bench.layers.remove(diff_id)
    assert list(bench.layers.walk()) == []
    assert list(bench.layers.usage()) == []
    assert "one" in bench.read(bench.stack(BASE, [file("one", b"1")]))


@case
def a_layer_that_is_missing(bench: Bench) -> None:
    """Whatever was known of it before it was removed."""
    base, top = bench.receive(BASE, [file("x", b"1")])
    name = bench.driver.commit_layers([base, top])
    release_layer(bench.driver, top)
    bench.layers.remove(top)
    insist_raises(LayerNotFound, lambda: bench.driver.commit_layers([base, top]))
    insist_raises(LayerNotFound, lambda: bench.driver.commit_layers([top]))
    insist_raises(SnapshotNotFound, lambda: bench.driver.stat(name))
    assert bench.driver.sweep() == 0


@case
def an_unpacker_follows_growing_files(bench: Bench) -> None:
    """Small and large layers, whole ones and ones that still arrive, the same one twice."""
    small = tar_of([file("small", b"s")])
    large = tar_of([file(f"large {number}", os.urandom(100_000)) for number in range(20)])
    arrivals = [Growing(bench, small), Growing(bench, large), Growing(bench, tar_of(BASE))]
    arrivals[2].grow_to_the_end()
    with Unpacker(bench.layers, bench.driver, workers=2) as unpacker:
        for arrival in (*arrivals, arrivals[0]):
            unpacker.submit(arrival.blob, arrival.diff_id, arrival.arrival)
        for arrival in arrivals:
            arrival.grow_to_the_end()
        received = unpacker.finish([arrival.diff_id for arrival in arrivals])
    assert {item.diff_id: item.tar_size for item in received} == {
        Digest.of(tar): len(tar) for tar in (small, large, tar_of(BASE))
    }
    found = bench.read(list(chain_ids([arrival.diff_id for arrival in arrivals]))[-1])
    assert "small" in found
    assert "large 19" in found
    assert "etc/passwd" in found
    with Unpacker(bench.layers, bench.driver) as unpacker:
        unpacker.submit(arrivals[0].blob, arrivals[0].diff_id, arrivals[0].arrival)
        assert list(unpacker.finish([arrivals[0].diff_id])) == []


@case
def a_failed_arrival_leaves_nothing(bench: Bench) -> None:
    large = tar_of([file(f"large {number}", os.urandom(100_000)) for number in range(20)])
    good = Growing(bench, tar_of(BASE))
    growing = Growing(bench, large)
    with Unpacker(bench.layers, bench.driver, workers=2) as unpacker:
        unpacker.submit(good.blob, good.diff_id, good.arrival)
        unpacker.submit(growing.blob, growing.diff_id, growing.arrival)
        good.grow_to_the_end()
        growing.grow(1_200_000)
        time.sleep(0.2)
        growing.arrival.fail(ConnectionError("cut off"))
        insist_raises(Exception, lambda: unpacker.finish([good.diff_id, growing.diff_id]))
    assert list(bench.driver.walk()) == []
    assert growing.diff_id not in list(bench.layers.walk())
    assert leftovers(bench) == []


@case
def closing_early_leaves_nothing(bench: Bench) -> None:
    growing = [
        Growing(bench, tar_of([file(f"{name}{number}", os.urandom(100_000)) for number in range(15)]))
        for name in "ab"
    ]
    unpacker = Unpacker(bench.layers, bench.driver, workers=2)
    for each in growing:
        unpacker.submit(each.blob, each.diff_id, each.arrival)
        each.grow(1_100_000)
    time.sleep(0.2)
    for each in growing:
        each.arrival.fail(InterruptedError())
    unpacker.close()
    assert list(bench.layers.walk()) == []
    assert leftovers(bench) == []


@case
def two_processes_receive_one_layer(bench: Bench) -> None:
    tar = tar_of([file(f"f{number}", os.urandom(20_000)) for number in range(100)])
    diff_id = Digest.of(tar)
    processes = [_receiver(bench, diff_id) for _ in range(3)]
    for process in processes:
        _feed(process, tar)
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert list(bench.layers.walk()) == [diff_id]
    assert len(bench.read(bench.driver.commit_layers([diff_id]))) == 101
    assert leftovers(bench) == []


@case
def killed_in_the_middle(bench: Bench) -> None:
    """kill -9 of a process that unpacks: nothing is visible, the rest is swept, the next attempt works."""
    tar = tar_of([file(f"f{number}", os.urandom(50_000)) for number in range(60)])
    diff_id = Digest.of(tar)
    process = _receiver(bench, diff_id)
    assert process.stdin is not None
    process.stdin.write(tar[: len(tar) // 2])
    process.stdin.flush()
    for _attempt in range(200):
        if leftovers(bench):
            break
        time.sleep(0.05)
    assert bench.layers.is_busy(diff_id)
    assert bench.layers.sweep() == 0, "what is being written was swept"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    assert list(bench.layers.walk()) == []
    assert not bench.layers.is_busy(diff_id)
    assert leftovers(bench) != []
    assert bench.layers.sweep() > 0
    assert leftovers(bench) == []
    bench.receive_tar(tar, diff_id)
    assert len(bench.read(bench.driver.commit_layers([diff_id]))) == 61


@case
def sweeping_spares_what_lives(bench: Bench) -> None:
    name = bench.stack(BASE)
    bench.write_snapshot("mine", name, lambda path: (path / "f").write_text("x"))
    with bench.mounted(bench.driver.prepare("active", "mine")) as path:
        (path / "g").write_text("y")
    orphan = bench.root / "snapshots" / bench.name / secrets.token_hex(16)
    orphan.mkdir(parents=True)
    (orphan / "junk").write_bytes(b"x" * 10_000)
    assert bench.driver.sweep() >= 10_000
    assert bench.layers.sweep() == 0
    assert not orphan.exists()
    with bench.mounted(bench.driver.mounts("active")) as path:
        assert (path / "f").read_text() == "x"
        assert (path / "g").read_text() == "y"
        assert (path / "sh").is_symlink()


@case
def many_threads_at_once(bench: Bench) -> None:
    name = bench.stack(BASE)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(3):
                bench.driver.prepare(f"key {number} {turn}", name)
                bench.driver.commit(f"name {number} {turn}", f"key {number} {turn}")
                bench.driver.remove(f"name {number} {turn}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [info.key for info in bench.driver.walk()] == [name]
    assert bench.driver.sweep() == 0


def _receiver(bench: Bench, diff_id: Digest) -> subprocess.Popen[bytes]:
    """Another process that receives a layer from its standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", "lamina.testing.conformance", bench.name, "--root", str(bench.root),
         "--receive", diff_id],
        stdin=subprocess.PIPE,
    )


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None

    def write() -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(data)

    threading.Thread(target=write, daemon=True).start()
