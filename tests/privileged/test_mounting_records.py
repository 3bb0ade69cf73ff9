"""Mounted images remembered: found again by later commands, and honest when they are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lamina.snapshot import syscalls
from lamina.snapshot.mountinfo import mounted_on
from lamina.snapshot.mounting import MountBusy, unmount
from lamina.snapshot.mounts import MountRecord, MountRecords, NotMounted, Standing, mount_namespace
from lamina.snapshot.snapshotter import Mount, SnapshotInUse
from lamina.testing.bench import Bench
from lamina.testing.images import file

pytestmark = pytest.mark.privileged


@pytest.fixture(params=["overlay2", "erofs", "vfs"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(request.param, tmp_path / "root")
    yield bench
    records = MountRecords(bench.root)
    for record in records.walk():
        if records.standing(record) is Standing.MOUNTED:
            records.unmount(bench.driver, record)
    bench.close()
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in lines if str(tmp_path) in line] == []


@pytest.fixture
def name(bench: Bench) -> str:
    return bench.stack([file("a", b"1")], [file("b", b"2")])


def rewritten(root: Path, record: MountRecord, **changes: object) -> None:
    path = root / "snapshots" / "mounts" / f"{record.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_mount_look_unmount(bench: Bench, name: str) -> None:
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    assert (Path(made.target) / "b").read_text() == "2"
    line = mounted_on(Path(made.target))
    assert line is not None
    assert {"ro", "nodev", "nosuid"} <= set(line.options)
    assert list(MountRecords(bench.root).walk()) == [made]
    assert records.standing(made) is Standing.MOUNTED
    with pytest.raises(SnapshotInUse):
        bench.driver.remove(name)
    records.unmount(bench.driver, made)
    assert not Path(made.target).exists()
    assert list(records.walk()) == []
    bench.driver.remove(name)


def test_a_place_of_the_callers(bench: Bench, name: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, place, label="image", now=5.0)
    assert (place / "a").exists()
    records.unmount(bench.driver, made)
    assert list(place.iterdir()) == []


def test_another_process_unmounts(bench: Bench, name: str) -> None:
    made = MountRecords(bench.root).mount(bench.driver, name, None, label="image", now=5.0)
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from lamina.snapshot.mounts import MountRecords
        from lamina.testing.bench import Bench
        bench = Bench(sys.argv[2], Path(sys.argv[1]))
        records = MountRecords(bench.root)
        for record in records.walk():
            records.unmount(bench.driver, record)
        bench.close()
    """)
    subprocess.run([sys.executable, "-c", code, bench.root, bench.name], check=True)
    assert mounted_on(Path(made.target)) is None
    assert list(MountRecords(bench.root).walk()) == []


def test_busy_stays(bench: Bench, name: str) -> None:
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    with open(Path(made.target) / "a", "rb"), pytest.raises(MountBusy):
        records.unmount(bench.driver, made)
    assert list(records.walk()) == [made]
    assert records.standing(made) is Standing.MOUNTED


def test_what_is_just_being_mounted_is_not_gone(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = MountRecords(bench.root)
    view = bench.driver.view

    def disturbed(key: str, parent: str = "") -> Sequence[Mount]:
        mounts = view(key, parent)
        assert MountRecords(bench.root).forget_gone(bench.driver) == 0
        return mounts

    monkeypatch.setattr(bench.driver, "view", disturbed)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    assert records.standing(made) is Standing.MOUNTED
    with pytest.raises(SnapshotInUse):
        bench.driver.remove(name)


def test_unmounted_behind_our_back(bench: Bench, name: str) -> None:
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    unmount(Path(made.target))
    assert records.standing(made) is Standing.GONE
    assert records.forget_gone(bench.driver) == 1
    assert list(records.walk()) == []
    bench.driver.remove(name)


def test_something_else_mounted_there_is_left_alone(bench: Bench, name: str) -> None:
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    unmount(Path(made.target))
    syscalls.mount("tmpfs", made.target, "tmpfs", 0)
    try:
        assert records.standing(made) is Standing.GONE
        records.unmount(bench.driver, made)
        line = mounted_on(Path(made.target))
        assert line is not None
        assert line.type == "tmpfs"
    finally:
        unmount(Path(made.target))


def test_after_the_machine_started_again(bench: Bench, name: str) -> None:
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    unmount(Path(made.target))
    rewritten(bench.root, made, boot="another")
    (again,) = records.walk()
    assert records.standing(again) is Standing.GONE
    records.unmount(bench.driver, again)
    assert list(records.walk()) == []


def test_in_another_namespace(bench: Bench, name: str) -> None:
    """Alive as long as a process is in there; its mount is not ours to take."""
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from lamina.snapshot.mounts import MountRecords
        from lamina.snapshot.namespace import current_identity, enter_user_namespace
        from lamina.testing.bench import Bench
        enter_user_namespace(current_identity())
        bench = Bench(sys.argv[2], Path(sys.argv[1]))
        MountRecords(bench.root).mount(bench.driver, sys.argv[3], None, label="inside", now=5.0)
        print("mounted", flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code, bench.root, bench.name, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        records = MountRecords(bench.root)
        (record,) = records.walk()
        assert list(Path(record.target).iterdir()) == []
        assert records.standing(record) is Standing.ELSEWHERE
        with pytest.raises(NotMounted, match="another mount namespace"):
            records.unmount(bench.driver, record)
        assert records.forget_gone(bench.driver) == 0
    assert records.standing(record) is Standing.GONE
    assert records.forget_gone(bench.driver) == 1


def test_no_namespace_takes_the_name_of_one_that_is_gone() -> None:
    names = []
    for _ in range(20):
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            names.append(mount_namespace(str(process.pid)))
        assert mount_namespace(str(process.pid)) == ""
    assert len(set(names)) == 20


def test_a_mount_that_fails_leaves_nothing(bench: Bench, name: str, tmp_path: Path) -> None:
    records = MountRecords(bench.root)
    with pytest.raises(FileNotFoundError):
        records.mount(bench.driver, name, tmp_path / "missing", label="image", now=5.0)
    assert list(records.walk()) == []
    bench.driver.remove(name)


def test_records_that_are_no_records(bench: Bench, name: str) -> None:
    records = MountRecords(bench.root)
    made = records.mount(bench.driver, name, None, label="image", now=5.0)
    for number, text in enumerate(("", "{", "[]", "{}", '{"id": "x"}')):
        (bench.root / "snapshots" / "mounts" / f"{number}.json").write_text(text)
    assert list(records.walk()) == [made]
    assert os.stat(bench.root / "snapshots" / "mounts" / f"{made.id}.json").st_mode & 0o777 == 0o600
