"""What zfs complains of, in the words of both that there are; and how a state directory knows its own datasets."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lamina.errors import LaminaError
from lamina.snapshot.drivers import options_of, read_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.namespace import current_identity
from lamina.snapshot.snapshotter import DriverUnavailable
from lamina.snapshot.zfs import program
from lamina.snapshot.zfs.datasets import Datasets
from lamina.snapshot.zfs.driver import parent_of

COMPLAINTS: list[tuple[str, type[LaminaError], str]] = [
    ("cannot destroy 'tank/a': dataset is busy\n", program.DatasetBusy, "tank/a: zfs verb: dataset is busy"),
    ("cannot mount 'tank/a': filesystem already mounted\n", program.DatasetBusy,
     "tank/a: zfs verb: filesystem already mounted"),
    ("cannot mount 'tank/a': mountpoint or dataset is busy\n", program.DatasetBusy,
     "tank/a: zfs verb: mountpoint or dataset is busy"),
    ("cannot unmount '/a': pool or dataset is busy\n", program.DatasetBusy, "tank/a: zfs verb: pool or dataset is busy"),
    ("cannot open 'tank/a': dataset does not exist\n", program.DatasetNotFound, "tank/a: zfs verb: dataset does not exist"),
    ("cannot create 'tank/a': no such pool 'tank'\n", program.ZfsFailed, "tank/a: zfs verb: no such pool 'tank'"),
    ("cannot create snapshot 'tank/a@s': dataset already exists\n", program.DatasetExists,
     "tank/a: zfs verb: dataset already exists"),
    ("cannot destroy 'tank/a': filesystem has children\nuse '-r' to destroy the following datasets:\ntank/a@s\n",
     program.DatasetInUse, "tank/a: zfs verb: filesystem has children"),
    ("cannot destroy 'tank/a': filesystem has dependent clones\nuse '-R' to destroy …\ntank/b\n",
     program.DatasetInUse, "tank/a: zfs verb: filesystem has dependent clones"),
    ("cannot create 'tank/a': out of space\n", program.PoolFull, "tank/a: the pool has no space left: "),
    ("cannot set property for 'tank/a': size is less than current used or reserved space\n", program.DatasetFuller,
     "tank/a: there is more in it than that already"),
    ("connect: Connection refused\nPlease make sure that the zfs-fuse daemon is running.\ninternal error: …\n",
     program.ZfsUnreachable, "tank/a: zfs does not answer: start zfs-fuse or load the module"),
    ("The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load them.\n",
     program.ZfsUnreachable, "tank/a: zfs does not answer: "),
    ("/dev/zfs and /proc/self/mounts are required.\n", program.ZfsUnreachable, "tank/a: zfs does not answer: "),
    ("permission denied\n", program.ZfsFailed, "tank/a: zfs verb: permission denied"),
    ("", program.ZfsFailed, "tank/a: zfs verb: failed, and does not say why"),
]


@pytest.mark.parametrize(("complaint", "kind", "begin"), COMPLAINTS)
def test_what_a_complaint_means(complaint: str, kind: type[LaminaError], begin: str) -> None:
    error = program.explained("verb", "tank/a", complaint)
    assert type(error) is kind
    assert str(error).startswith(begin)
    assert "\n" not in str(error)


def test_a_program_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "_PROGRAM", str(tmp_path / "zfs"))
    with pytest.raises(DriverUnavailable, match=r"the program zfs is missing \(Debian: zfsutils-linux, or zfs-fuse\)"):
        program.exists("tank/a")


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where a pool is suspended."""
    slow = tmp_path / "zfs"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setattr(program, "_PROGRAM", str(slow))
    monkeypatch.setattr(program, "_SECONDS", 0.1)
    with pytest.raises(program.ZfsUnreachable, match=r"tank/a: zfs get .*zpool status"):
        program.exists("tank/a")


def test_where_datasets_are_made(tmp_path: Path) -> None:
    options = options_of("zfs", read_options(["zfs.fsname=tank/lamina/"]))
    assert parent_of(tmp_path, options) == "tank/lamina"
    with pytest.raises(DriverUnavailable, match=r"zfs\.fsname=POOL/DATASET"):
        parent_of(tmp_path, {})


def test_an_identity_is_made_once(tmp_path: Path) -> None:
    """However many begin at once."""
    hands = Hands(current_identity())
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(Datasets(tmp_path / "zfs", hands, lambda: "").identity()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert [path.name for path in (tmp_path / "zfs").iterdir()] == ["root-id"]
    assert Datasets(tmp_path / "other", hands, lambda: "").identity() not in found
    hands.close()


def test_nothing_is_asked_where_nothing_was_made(tmp_path: Path) -> None:
    """A machine without zfs is swept as any other."""
    hands = Hands(current_identity())
    datasets = Datasets(tmp_path / "zfs", hands, lambda: "tank/none")
    assert datasets.sweep(set) == 0
    assert list(datasets.leftovers(set)) == []
    assert list(tmp_path.iterdir()) == []
    hands.close()
