"""kill -9 of a build at any moment, interrupts, and full disks: nothing leaks, and everything goes on.

What is killed: the builder, the monitor of its RUN, or both. When, is drawn by a seed that a failure names.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.builds import Yard, finish
from tests.privileged.hostile import Grounds, ground, grounds  # noqa: F401 - fixtures
from tests.privileged.places import command_of, groups_of, processes_of, wait_for

from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.snapshotter import SnapshotKind

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("network")]

ROUNDS = 4
LONGEST = 2.5
SECONDS = 30
GROUNDS = ("root-runc", "root-embedded", "mapped-embedded", "single-embedded")
TEXT = (
    "FROM plain AS a\nCOPY d /d\nRUN --network=none --mount=type=cache,target=/c echo 1 >/a; sleep 0.2\n"
    "FROM plain AS b\nRUN --mount=type=secret,id=s --mount=source=d,target=/m,rw cat /m/f; echo 2 >/b; sleep 0.2\n"
    "FROM plain\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    "RUN --network=none --mount=type=tmpfs,target=/t --mount=from=a,target=/o cat /o/a /b\n"
)
SLEEPS = "FROM plain\nUSER app\nRUN --mount=type=cache,target=/c --mount=source=d,target=/m echo runs; sleep 611\n"
FILES = {"d/f": "1\n" * 5000}


def residue(yard: Yard) -> dict[str, object]:
    """What is there of builds, in all places where one leaves something if it leaves something."""
    root = yard.root
    containers = root / "containers"
    flags = {"data-root": str(root)}
    with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
        snapshots = [info.key for info in engine.driver.walk() if info.kind is not SnapshotKind.COMMITTED]
        leases = engine.store.state.rows("SELECT purpose FROM leases WHERE purpose = 'build'")
    return {
        "processes": processes_of(root),
        "mounts": [str(mount.target) for mount in mounts() if str(root) in str(mount.target)],
        "directories": os.listdir(containers) if containers.exists() else [],
        "snapshots": snapshots,
        "leases": leases,
        "ingests": os.listdir(root / "ingest"),
        "groups": [group for name in os.listdir(containers) for group in groups_of(name)] if containers.exists() else [],
    }


def nothing() -> dict[str, object]:
    names = ("processes", "mounts", "directories", "snapshots", "leases", "ingests", "groups")
    return {name: {} if name == "processes" else [] for name in names}


def insist_clean(yard: Yard) -> None:
    """Processes go by themselves; the rest goes with the next ``prune``.

    A monitor that was only just started is nobody's yet that one could see: it shows itself a little later.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        wait_for(lambda: not processes_of(yard.root))
        yard.ground.lamina("prune", "-f")
        left = residue(yard)
        if left == nothing() or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert left == nothing()
    assert yard.ground.lamina("check").returncode == 0


def output_of(process: subprocess.Popen[str]) -> None:
    """Waits for the first words of a command."""
    assert process.stdout is not None
    assert any('"output"' in line for line in process.stdout), finish(process, None)


def monitors_of(yard: Yard, builder: int) -> list[int]:
    """Whoever holds something of the state directory, and is not the builder."""
    found = []
    for pid in processes_of(yard.root):
        with contextlib.suppress(ProcessLookupError):
            if builder not in (pid, os.getpgid(pid)):
                found.append(pid)
    return found


@pytest.fixture(params=GROUNDS)
def yard(request: pytest.FixtureRequest, grounds: Grounds) -> Yard:  # noqa: F811 - the fixture
    return Yard(grounds.of(request.param))


def test_a_command_ends_with_its_builder(yard: Yard) -> None:
    process = yard.start(SLEEPS, FILES, no_cache=True)
    output_of(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    insist_clean(yard)


def test_a_monitor_that_is_killed_fails_the_step(yard: Yard) -> None:
    process = yard.start(SLEEPS, FILES, no_cache=True)
    output_of(process)
    for pid in monitors_of(yard, process.pid):
        with contextlib.suppress(ProcessLookupError):
            if "611" not in command_of(pid):
                os.kill(pid, signal.SIGKILL)
    outcome = finish(process, 1)
    assert "monitor" in outcome.error
    insist_clean(yard)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_of_it(yard: Yard, number: signal.Signals) -> None:
    process = yard.start(SLEEPS, FILES, no_cache=True)
    output_of(process)
    process.send_signal(number)
    assert finish(process, None).code in (130, -signal.SIGTERM)
    if number is signal.SIGINT:
        wait_for(lambda: not processes_of(yard.root))
        assert residue(yard) == nothing()
    insist_clean(yard)


def test_an_interrupt_of_stages_at_once(yard: Yard) -> None:
    text = "".join(f"FROM plain AS s{n}\nRUN --network=none echo runs; sleep 611\n" for n in range(3))
    process = yard.start(text + "FROM plain\n" + "".join(f"COPY --from=s{n} / /{n}\n" for n in range(3)), no_cache=True, workers=3)
    output_of(process)
    process.send_signal(signal.SIGINT)
    finish(process, 130)
    wait_for(lambda: not processes_of(yard.root))
    assert residue(yard) == nothing()


def test_a_stage_that_fails_ends_the_others(yard: Yard) -> None:
    text = "FROM plain AS a\nRUN --network=none sleep 611\nFROM plain AS b\nRUN --network=none sleep 1; exit 7\n"
    outcome = yard.build(f"{text}FROM plain\nCOPY --from=a / /a\nCOPY --from=b / /b\n", no_cache=True, code=1, workers=2)
    assert "exit code 7" in outcome.error
    assert residue(yard) == nothing()


def kill_at(yard: Yard, process: subprocess.Popen[str], deadline: float, *, is_monitor_first: bool) -> None:
    """The builder at a moment; perhaps the first monitors that are seen before that."""
    while time.monotonic() < deadline and process.poll() is None:
        found = monitors_of(yard, process.pid) if is_monitor_first else []
        for pid in found[:2]:
            is_monitor_first = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("seed", ["sugar", "plum"])
def test_kills_at_any_moment(yard: Yard, seed: str) -> None:
    chance = random.Random(f"{seed} {yard.ground.runtime} {yard.ground.user}")
    for number in range(ROUNDS):
        process = yard.start(TEXT, FILES, no_cache=True, workers=2, secrets=["id=s,src=/etc/hostname"])
        kill_at(yard, process, time.monotonic() + chance.uniform(0.0, LONGEST), is_monitor_first=chance.random() < 0.4)
        try:
            insist_clean(yard)
        except BaseException as error:
            error.add_note(f"seed {seed}, round {number}")
            raise
    assert yard.build(TEXT, FILES, workers=2, secrets=["id=s,src=/etc/hostname"]).output.endswith("1\n2\n")


# -- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(140 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-b", "4096", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def fill(path: Path, leave: int) -> None:
    free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    with (path / "filler").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free - leave)


@pytest.mark.parametrize("text", [
    "COPY big /big", "ADD big.tar /big/", "RUN --network=none head -c 60000000 /dev/zero >/big",
    "RUN --network=none --mount=source=big,target=/m true",
    "RUN --network=none head -c 15000000 /dev/urandom >/big\nRUN --network=none cp /big /two",
])
def test_a_full_disk(small_disk: Path, grounds: Grounds, text: str) -> None:  # noqa: F811 - the fixture
    import dataclasses
    import io
    import tarfile

    from tests.privileged.hostile import tree_of

    home = small_disk / "home"
    home.mkdir()
    ground = dataclasses.replace(grounds.of("root-embedded"), home=home, images=set())  # noqa: F811
    ground.lamina("import", "-", "plain:latest", data=tree_of({}))
    yard = Yard(ground)
    fill(small_disk, leave=25 << 20)
    data = os.urandom(50 << 20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("big")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    outside = small_disk.parent / "context"
    outside.mkdir()
    (outside / "Dockerfile").write_text(f"FROM plain\n{text}\n")
    (outside / "big").write_bytes(data)
    (outside / "big.tar").write_bytes(buffer.getvalue())
    before = ground.lamina("images", "-aq").stdout
    outcome = yard.build("", context=outside, code=1)
    assert "space" in outcome.error or "exit code" in outcome.error
    assert ground.lamina("images", "-aq").stdout == before
    assert residue(yard) == nothing()
    (small_disk / "filler").unlink()
    ground.lamina("prune", "-f")
    assert yard.build("FROM plain\nRUN --network=none echo on\n").output == "on\n"
