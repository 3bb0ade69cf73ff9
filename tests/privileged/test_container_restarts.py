"""Containers that are started again and again: they can be stopped at any moment, and cost no more each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.privileged.places import Place, based, wait_for

from lamina.engine.containers import find, settle
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.runtime.cgroup import Cgroups
from lamina.runtime.container import ContainerDirectory, ContainerState, Status
from lamina.runtime.options import ContainerOptions
from lamina.snapshot.mounting import unmount

pytestmark = pytest.mark.privileged

# The pauses between the runs would double each time, up to a minute.
RESTLESS = """
import sys
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.runtime import restart
from lamina.runtime.options import ContainerOptions
restart.RestartPolicy.delay = lambda self, ran: float(sys.argv[2])
flags = {"data-root": sys.argv[1], "storage-driver": "overlay2", "default-runtime": sys.argv[3]}
with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
    options = ContainerOptions(command=("false",), networks=("none",), restart="always")
    container = engine.create("base:1", options=options)
    engine.start(container.id)
    print(container.id)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with based(tmp_path / "root", "embedded") as made:
        yield made


def state_of(place: Place, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.root / "containers" / name / "state.json").read_bytes())
    return found


def restless(place: Place, pause: float, runtime: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RESTLESS, place.root, str(pause), runtime], capture_output=True, text=True,
        check=False, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("words", [["stop"], ["rm", "-f"]], ids="-".join)
@pytest.mark.parametrize("pause", [0.0, 0.05, 60.0])
def test_one_that_restarts_is_stopped_at_any_moment(place: Place, words: list[str], pause: float) -> None:
    for number in range(4):
        name = restless(place, pause, "runc")
        time.sleep(0.2 + 0.03 * number)
        before = time.monotonic()
        place.say(*words, name)
        assert time.monotonic() - before < 15, number
        if words == ["stop"]:
            assert place.say("inspect", "--format", "{{.State.Status}}", name) == "exited\n"
            time.sleep(0.2)
            assert state_of(place, name)["status"] == "exited"
            place.say("rm", name)
    assert place.ids() == []


def test_restarts_leave_no_descriptor_open(place: Place) -> None:
    name = restless(place, 0.0, "embedded")
    wait_for(lambda: state_of(place, name)["restarts"] > 2)
    descriptors = f"/proc/{state_of(place, name)['monitor']}/fd"
    few = len(os.listdir(descriptors))
    wait_for(lambda: state_of(place, name)["restarts"] > 60)
    # A start has some of its own open for a moment, less than twenty.
    assert len(os.listdir(descriptors)) < few + 20


def test_a_health_check_that_closes_its_output_first_is_seen_to_end(place: Place) -> None:
    before = time.monotonic()
    name = place.say(
        "run", "-d", "--network", "none", "--health-cmd", "exec >&- 2>&-; sleep 0.3", "--health-interval", "1s",
        "base:1", "sleep", "600",
    ).strip()
    wait_for(lambda: state_of(place, name)["health"].get("status") == "healthy")
    assert time.monotonic() - before < 10


def test_the_next_run_is_not_paused(place: Place) -> None:
    name = place.say("run", "-d", "--network", "none", "--restart", "always", "base:1", "sleep", "600").strip()
    (place.root / "containers" / name / "paused").touch()
    os.kill(state_of(place, name)["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(place, name)["restarts"] == 1 and state_of(place, name)["status"] == "running")
    assert place.say("inspect", "--format", "{{.State.Status}}", name) == "running\n"


def test_what_a_killed_commit_left_frozen_goes_on(place: Place) -> None:
    name = place.say("run", "-d", "--network", "none", "base:1", "sleep", "600").strip()
    group = Cgroups.detect().at(state_of(place, name)["cgroup"])
    group.freeze()
    place.say("unpause", name)
    assert not group.is_frozen
    assert place.run("unpause", name).stderr.endswith(": not paused\n")


def test_a_full_disk_costs_the_log_and_not_the_container(place: Place, tmp_path: Path) -> None:
    script = "dd if=/dev/zero bs=15000 count=300 2>/dev/null; echo; echo done >/done; sleep 600"
    name = place.say("create", "--network", "none", "base:1", "sh", "-c", script).strip()
    small, log = tmp_path / "small", place.root / "containers" / name / "log"
    small.mkdir()
    log.touch()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        (small / "log").touch()
        subprocess.run(["mount", "--bind", small / "log", log], check=True)
        place.say("start", name)
        wait_for(lambda: place.run("exec", name, "cat", "/done").stdout == "done\n")
        assert 0 < (small / "log").stat().st_size <= 1 << 20
        assert (small / "log").read_bytes().endswith(b"}\n")
        place.say("stop", "-t", "0", name)
        assert state_of(place, name)["exit_code"] == 137
    finally:
        unmount(log, lazily=True)
        unmount(small, lazily=True)


def test_the_code_is_told_on_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", disk], check=True)
    try:
        with based(disk / "root", "embedded") as place:
            name = place.say("create", "--network", "none", "base:1", "sh", "-c", "sleep 2; exit 7").strip()
            with place.start("start", "-a", name) as attached:
                wait_for(lambda: find_status(place, name) == "running")
                with (disk / "filler").open("wb", buffering=0) as stream, pytest.raises(OSError, match="space"):
                    while True:
                        stream.write(bytes(4096))
                assert attached.wait(30) == 7
            (disk / "filler").unlink()
    finally:
        unmount(disk, lazily=True)


def find_status(place: Place, name: str) -> str:
    try:
        return str(state_of(place, name)["status"])
    except FileNotFoundError:
        return ""


def test_who_comes_late_to_clean_up_changes_nothing(place: Place) -> None:
    flags = {"data-root": str(place.root), "storage-driver": "overlay2"}
    with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
        container = engine.create("base:1", options=ContainerOptions(command=("true",)))
        directory = ContainerDirectory(place.root, container.id)
        directory.write_state(ContainerState(status=Status.EXITED, exit_code=3))
        stale = ContainerState(status=Status.EXITED, exit_code=255, is_unattended=True)
        assert settle(engine, container, stale).exit_code == 3
        assert find(engine, container.id).state.exit_code == 3


def test_another_policy_reaches_the_monitor(place: Place) -> None:
    name = place.say("run", "-d", "--network", "none", "--restart", "always", "base:1", "sleep", "600").strip()
    place.say("update", "--restart", "no", name)
    os.kill(state_of(place, name)["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(place, name)["status"] == "exited")
    assert state_of(place, name)["restarts"] == 0
    place.say("start", name)
    place.say("update", "--restart", "on-failure:1", name)
    os.kill(state_of(place, name)["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(place, name)["restarts"] == 1 and state_of(place, name)["status"] == "running")
    os.kill(state_of(place, name)["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(place, name)["status"] == "exited")


def test_the_health_of_a_paused_container_is_not_asked(place: Place) -> None:
    flags = ("--health-cmd", "true", "--health-interval", "100ms")
    name = place.say("run", "-d", "--network", "none", *flags, "base:1", "sleep", "600").strip()
    probes = lambda: state_of(place, name)["health"].get("probes", [])  # noqa: E731 - asked again and again
    wait_for(lambda: len(probes()) >= 2)
    place.say("pause", name)
    time.sleep(0.3)  # one that was at it
    before = probes()
    time.sleep(1.5)
    assert probes() == before
    place.say("unpause", name)
    wait_for(lambda: probes()[-1] != before[-1])
    assert all(probe["exit_code"] == 0 for probe in probes())
    place.say("rm", "-f", name)
