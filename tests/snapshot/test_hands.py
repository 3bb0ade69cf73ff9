"""Worker processes: what they answer, how they fail, and what they read while it grows."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.content.arrival import Arrival, ArrivalFailed
from lamina.errors import NotFound
from lamina.oci.descriptor import OCI_LAYER, Descriptor
from lamina.oci.digest import Digest, InvalidDigest
from lamina.snapshot.hands import Hands, Worker, WorkerDied, empty_anyhow
from lamina.snapshot.layers import DiffIDMismatch, LayerStore, Wanted
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.snapshotter import Form, Reception
from lamina.testing.images import file, tar_of

# As if there were nothing to enter: the process is the same, the namespace is the caller's.
HERE = Identity(ownership=Ownership.KEPT)
TAR = tar_of([file("f", os.urandom(3_000_000))])
DIFF_ID = Digest.of(TAR)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(HERE)
    yield worker
    worker.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "layers").mkdir()
    return tmp_path


def arriving(root: Path, data: bytes, available: int) -> Arrival:
    path = root / "blob"
    path.write_bytes(data[:available])
    with open(path, "rb") as opened:
        descriptor = Descriptor(media_type=OCI_LAYER, digest=Digest.of(data), size=len(data))
        return Arrival(descriptor, opened.fileno(), available)


def receive(worker: Worker, root: Path, arrival: Arrival, diff_id: Digest = DIFF_ID, **more: object) -> object:
    wanted = Wanted(diff_id=diff_id, reception=Reception(form=Form.TAR))
    return worker.run("receive", {"root": str(root), "wanted": wanted.to_json()}, source=arrival, **more)


def test_one_job_after_another(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    size, inodes = worker.run("measure", {"path": str(tmp_path)})
    assert inodes == 2
    assert size >= 5000
    assert worker.run("nothing", {}) is None


def test_errors_come_back_as_they_were(worker: Worker, root: Path) -> None:
    with pytest.raises(FileNotFoundError) as system:
        worker.run("measure", {"path": str(root / "missing")})
    assert system.value.filename == str(root / "missing")
    arrival = arriving(root, TAR, len(TAR))
    arrival.finish()
    with pytest.raises(DiffIDMismatch, match=str(DIFF_ID)):
        receive(worker, root, arrival, Digest.of(b"another"))
    wanted = {"diff_id": "md5:0", "reception": {"form": "tar"}}
    with pytest.raises(InvalidDigest):
        worker.run("receive", {"root": str(root), "wanted": wanted}, source=arrival)
    with pytest.raises(RuntimeError, match="KeyError"):
        worker.run("no such job", {})
    with pytest.raises(NotFound):
        worker.run("settle", {"root": str(root), "diff_ids": [str(DIFF_ID)], "keys": {"0": "k"},
                              "alone": {"form": "tree", "key": "a"}})
    assert worker.run("nothing", {}) is None  # and it goes on


def test_a_stack_of_many_layers_fits_into_a_message(worker: Worker, root: Path) -> None:
    diff_ids = [str(Digest.of(b"%d" % number)) for number in range(2048)]
    with pytest.raises(NotFound):
        worker.run("compose", {"root": str(root), "diff_ids": diff_ids, "target": str(root / "x"),
                               "keeps_owners": False})


def test_a_file_is_followed_while_it_grows(worker: Worker, root: Path) -> None:
    arrival = arriving(root, TAR, 10)
    positions: list[int] = []

    def grow() -> None:
        with open(root / "blob", "r+b") as blob:
            for end in range(100_000, len(TAR) + 100_000, 100_000):
                blob.write(TAR[blob.tell():end])
                blob.flush()
                arrival.advance(min(end, len(TAR)))
        os.rename(root / "blob", root / "final")
        arrival.finish()

    thread = threading.Thread(target=grow)
    thread.start()
    receive(worker, root, arrival, progress=positions.append)
    thread.join()
    assert LayerStore(root).tar(DIFF_ID).read_bytes() == TAR


def test_a_failed_arrival_fails_the_job(worker: Worker, root: Path) -> None:
    arrival = arriving(root, TAR, 2_000_000)
    threading.Timer(0.1, lambda: arrival.fail(ConnectionError())).start()
    with pytest.raises(ArrivalFailed):
        receive(worker, root, arrival)
    assert not LayerStore(root).directory(DIFF_ID).exists() or os.listdir(LayerStore(root).directory(DIFF_ID)) == []
    assert worker.run("nothing", {}) is None


def test_wrong_bytes_are_noticed_before_the_rest_arrives(worker: Worker, root: Path) -> None:
    """Nobody downloads a gigabyte whose first megabyte is no layer."""
    data = b"no tar at all" * 100_000
    arrival = arriving(root, data, 1_200_000)
    over = threading.Event()

    def trickle() -> None:
        available = 1_200_000
        while not over.wait(0.02):
            available += 1
            arrival.advance(available)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises(ValueError, match="tar"):
            receive(worker, root, arrival)
    finally:
        over.set()
        thread.join()


def test_a_killed_worker_is_an_error(root: Path) -> None:
    worker = Worker(HERE)
    threading.Timer(0.2, lambda: os.kill(worker._process.pid, signal.SIGKILL)).start()
    arrival = arriving(root, TAR, 100_000)
    threading.Timer(0.5, lambda: arrival.fail(ConnectionError())).start()
    with pytest.raises((WorkerDied, ArrivalFailed)):
        receive(worker, root, arrival)
    with pytest.raises((WorkerDied, OSError)):
        worker.run("nothing", {})
    worker.close()


def test_ctrl_c_is_not_for_workers_not_even_while_they_start(capfd: pytest.CaptureFixture[str]) -> None:
    for delay in (0.0, 0.02, 0.04, 0.3):
        worker = Worker(HERE)
        time.sleep(delay)
        os.kill(worker._process.pid, signal.SIGINT)
        assert worker.run("nothing", {}) is None
        worker.close()
        assert worker._process.returncode == 0
    assert capfd.readouterr().err == ""


def test_hands_replace_a_dead_worker() -> None:
    hands = Hands(Identity(ownership=Ownership.KEPT, is_entered=False, is_initial=True))
    hands._worker = Worker(HERE)
    os.kill(hands._worker._process.pid, signal.SIGKILL)
    hands._worker._process.wait()
    with pytest.raises(WorkerDied):
        hands.run("nothing")
    assert hands._worker is None
    hands.close()


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    worker = Worker(HERE)
    worker.run("nothing", {})
    worker.close()
    assert worker._process.returncode == 0


def test_nothing_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` would: and the directory may be a stranger's."""
    for name in ("json", "lamina", "isal", "zstandard", "hashlib"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(77)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    worker = Worker(HERE)
    assert worker.run("nothing", {}) is None
    worker.close()


def test_hands_work_here_when_there_is_nothing_to_enter(tmp_path: Path) -> None:
    hands = Hands(HERE)
    assert hands.run("measure", path=str(tmp_path))[1] == 1
    assert hands._worker is None
    hands.close()


def test_trees_are_emptied_without_a_worker_where_that_works(tmp_path: Path) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    empty_anyhow(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
