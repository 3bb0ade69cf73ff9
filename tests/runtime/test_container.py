"""The record of a container, its directory, its lock, and what is true of it when nobody looks after it any more."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.made import container

from lamina.content.lease import boot_id, process_start
from lamina.runtime.container import (
    UNKNOWN_EXIT,
    Container,
    ContainerDirectory,
    ContainerRunning,
    ContainerState,
    Status,
    observe,
)
from lamina.runtime.options import ContainerOptions


@pytest.fixture
def directory(tmp_path: Path) -> ContainerDirectory:
    made = ContainerDirectory(tmp_path, "c0ffee" + "0" * 58)
    made.make()
    return made


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"]) as child:
        yield child
        child.kill()


def running(pid: int, **changes: Any) -> ContainerState:
    started = process_start(pid) or 0
    return ContainerState(**{
        "status": Status.RUNNING, "pid": pid, "pid_started": started, "boot": boot_id(), "started": 1.0, **changes,
    })


# -- the record


def test_a_record_survives_json() -> None:
    made = container(
        ContainerOptions(user="app", command=("a", "b")), volumes=("data",), anonymous=("data",),
        mounts=({"kind": "volume", "source": "data", "target": "/data"},),
    )
    assert Container.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(("execution", "argv"), [
    ({"Entrypoint": ["/init"], "Cmd": ["a", "b"]}, ("/init", "a", "b")),
    ({"Entrypoint": None, "Cmd": ["a"]}, ("a",)),
    ({"Entrypoint": ["/init"], "Cmd": None}, ("/init",)),
    ({}, ()),
])
def test_the_command_is_entrypoint_and_cmd(execution: dict[str, Any], argv: tuple[str, ...]) -> None:
    assert container(execution=execution).argv == argv


def test_what_the_image_leaves_open_has_dockers_default() -> None:
    assert container(execution={"StopSignal": "SIGQUIT"}).stop_signal == "SIGQUIT"
    assert container(execution={}).stop_signal == "SIGTERM"
    assert container(execution={"Labels": None}).labels == {}


# -- the directory


def test_a_directory_is_its_owners_alone(directory: ContainerDirectory) -> None:
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert directory.path.parent.stat().st_mode & 0o777 == 0o700
    assert (directory.path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_directory_is_made_once(directory: ContainerDirectory) -> None:
    with pytest.raises(FileExistsError):
        directory.make()


def test_a_container_that_never_ran_was_created(directory: ContainerDirectory) -> None:
    assert directory.read_state() == ContainerState()
    assert observe(directory).status is Status.CREATED


@pytest.mark.parametrize("write", ["write_state", "settle_state"])
def test_a_state_is_read_as_it_was_written(directory: ContainerDirectory, write: str) -> None:
    state = ContainerState(
        status=Status.EXITED, exit_code=3, error="x", finished=2.5, health={"status": "healthy"}, network={"ports": []},
    )
    getattr(directory, write)(state)
    assert directory.read_state() == state
    assert sorted(os.listdir(directory.path)) == ["lock", "rootfs", "state.json"]


def test_words_of_a_newer_state_are_left_out(directory: ContainerDirectory) -> None:
    (directory.path / "state.json").write_text('{"status": "exited", "exit_code": 4, "mood": "fine"}')
    assert directory.read_state() == ContainerState(status=Status.EXITED, exit_code=4)


# -- the lock


def test_a_lock_is_held_by_one(directory: ContainerDirectory) -> None:
    assert not directory.is_attended()
    with directory.locked():
        assert directory.is_attended()
        with pytest.raises(ContainerRunning, match=r"^c0ffee000000: running, or being started or removed"):
            directory.lock()
    assert not directory.is_attended()


def test_looking_takes_nobodys_lock(directory: ContainerDirectory) -> None:
    descriptor = os.open(directory.path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        assert not directory.is_attended()
    finally:
        os.close(descriptor)


def test_patience_waits_for_a_monitor_that_is_about_to_end(directory: ContainerDirectory) -> None:
    descriptor = directory.lock()
    directory.write_state(ContainerState(status=Status.EXITED))
    threading.Timer(0.1, os.close, [descriptor]).start()
    before = time.monotonic()
    with directory.locked(10.0):
        assert 0.05 < time.monotonic() - before < 5.0


def test_patience_does_not_wait_for_a_container_that_runs(directory: ContainerDirectory) -> None:
    before = time.monotonic()
    with directory.locked():
        directory.write_state(running(os.getpid()))
        with pytest.raises(ContainerRunning):
            directory.lock(10.0)
    assert time.monotonic() - before < 5.0


def test_patience_outlasts_who_only_looks(directory: ContainerDirectory) -> None:
    """Where a monitor was killed the state still says that it runs."""
    directory.write_state(running(os.getpid()))
    descriptor = os.open(directory.path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [descriptor]).start()
    with directory.locked(10.0):
        pass


def test_a_state_that_cannot_be_written_leaves_nothing(directory: ContainerDirectory) -> None:
    (directory.path / "state.json").mkdir()
    before = sorted(os.listdir(directory.path))
    with pytest.raises(IsADirectoryError):
        directory.write_state(ContainerState())
    assert sorted(os.listdir(directory.path)) == before


def test_patience_ends(directory: ContainerDirectory) -> None:
    with directory.locked():
        before = time.monotonic()
        with pytest.raises(ContainerRunning):
            directory.lock(0.1)
        assert time.monotonic() - before >= 0.1


def test_a_lock_that_is_a_symlink_is_refused(directory: ContainerDirectory, tmp_path: Path) -> None:
    (directory.path / "lock").unlink()
    (directory.path / "lock").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").touch()
    with pytest.raises(OSError, match="symbolic links"):
        directory.lock()


def test_a_failed_lock_leaves_no_descriptor_open(directory: ContainerDirectory) -> None:
    with directory.locked():
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(ContainerRunning):
                directory.lock()
        assert len(os.listdir("/proc/self/fd")) == before


# -- what is true


def test_a_state_is_believed_while_its_monitor_lives(directory: ContainerDirectory) -> None:
    gone = running(1, pid_started=1)
    with directory.locked():
        directory.write_state(gone)
        assert observe(directory) == gone


def test_an_end_is_believed_for_good(directory: ContainerDirectory) -> None:
    ended = ContainerState(status=Status.EXITED, exit_code=7)
    directory.write_state(ended)
    assert observe(directory) == ended


def test_a_container_whose_monitor_died_still_runs(
    directory: ContainerDirectory, process: subprocess.Popen[bytes]
) -> None:
    directory.write_state(running(process.pid))
    seen = observe(directory)
    assert (seen.status, seen.is_unattended, seen.pid) == (Status.RUNNING, True, process.pid)


def test_a_container_that_died_with_its_monitor_has_ended(
    directory: ContainerDirectory, process: subprocess.Popen[bytes]
) -> None:
    state = running(process.pid)
    directory.write_state(state)
    process.kill()
    process.wait()
    seen = observe(directory)
    assert (seen.status, seen.exit_code, seen.is_unattended) == (Status.EXITED, UNKNOWN_EXIT, True)
    assert seen.error == "nobody saw how it ended: its monitor was killed"


def test_another_process_with_its_number_is_not_it(
    directory: ContainerDirectory, process: subprocess.Popen[bytes]
) -> None:
    state = running(process.pid)
    directory.write_state(running(process.pid, pid_started=state.pid_started - 1))
    assert observe(directory).status is Status.EXITED


def test_nothing_of_another_boot_is_alive(
    directory: ContainerDirectory, process: subprocess.Popen[bytes]
) -> None:
    directory.write_state(running(process.pid, boot="another"))
    seen = observe(directory)
    assert (seen.status, seen.error) == (Status.EXITED, "nobody saw how it ended: the machine was started anew")


def test_a_monitor_that_died_before_its_process_began(directory: ContainerDirectory) -> None:
    directory.write_state(ContainerState(status=Status.RESTARTING, boot=boot_id()))
    assert observe(directory).status is Status.EXITED


@pytest.mark.parametrize(("status", "is_live"), [
    (Status.CREATED, False), (Status.RUNNING, True), (Status.PAUSED, True), (Status.RESTARTING, True), (Status.EXITED, False),
])
def test_what_counts_as_running(status: Status, is_live: bool) -> None:
    assert ContainerState(status=status).is_live is is_live
