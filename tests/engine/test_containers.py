"""Containers that are there: found, described, renamed, limited, removed; and what a dead monitor left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lamina.content.lease import boot_id, process_start
from lamina.engine import containers, removing, starting
from lamina.engine.engine import Engine
from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.runtime.container import (
    RESTART,
    Container,
    ContainerDirectory,
    ContainerNotFound,
    ContainerNotRunning,
    ContainerRunning,
    ContainerState,
    NameInUse,
    Status,
)
from lamina.runtime.options import ContainerOptions
from lamina.runtime.records import ContainerTable
from lamina.runtime.volumes import VolumeStore
from lamina.testing.images import tar_of


@pytest.fixture
def image(engine: Engine) -> Engine:
    engine.import_image(io.BytesIO(tar_of({"file": b"x" * 5000})), "app:1",
                        changes=['CMD ["sleep"]', "LABEL tier=web", "VOLUME /data", "EXPOSE 80"])
    return engine


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"]) as child:
        yield child
        child.kill()


def make(engine: Engine, name: str, **options: Any) -> Container:
    return engine.create("app:1", options=ContainerOptions(**options), name=name)


def directory(engine: Engine, container: Container) -> ContainerDirectory:
    return ContainerDirectory(engine.root, container.id)


def run(engine: Engine, container: Container, pid: int, **changes: Any) -> None:
    """As if a monitor had started it: only the lock tells that there is none."""
    directory(engine, container).write_state(ContainerState(**{
        "status": Status.RUNNING, "pid": pid, "pid_started": process_start(pid) or 0, "boot": boot_id(),
        "started": time.time(), **changes,
    }))


class Monitor:
    """Holds the lock, and writes the end down when the process has gone, as a monitor does."""

    def __init__(self, engine: Engine, container: Container, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory(engine, container)
        self.lock = self.directory.lock()
        run(engine, container, process.pid)
        self.process = process
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        code = self.process.wait()
        self.directory.write_state(ContainerState(
            status=Status.EXITED, exit_code=128 - code if code < 0 else code, finished=time.time(),
        ))
        os.close(self.lock)


@pytest.fixture
def attended(image: Engine, process: subprocess.Popen[bytes]) -> Iterator[Container]:
    made = make(image, "web")
    monitor = Monitor(image, made, process)
    yield made
    process.kill()
    monitor.thread.join()


# -- finding and listing


def test_found_by_what_docker_takes(image: Engine) -> None:
    made = make(image, "web")
    for text in ("web", "/web", made.id, made.id[:5]):
        assert image.container(text).container.id == made.id
    with pytest.raises(ContainerNotFound):
        image.container("nope")


def names(engine: Engine, **asked: Any) -> list[str]:
    filters = {key.replace("_", "-"): value for key, value in asked.pop("filters", {}).items()}
    return [each.name for each in engine.containers(filters=filters, **asked)]


def test_listing(image: Engine, attended: Container) -> None:
    make(image, "job", labels=("a=1",))
    assert names(image) == ["web"]
    assert sorted(names(image, shows_all=True)) == ["job", "web"]
    assert names(image, limit=1) == ["job"]


@pytest.mark.parametrize(("filters", "expected"), [
    ({"name": ["jo"]}, {"job"}), ({"name": ["jo", "we"]}, {"job", "web"}), ({"label": ["tier=web"]}, {"job", "web"}),
    ({"label": ["tier", "a=1"]}, {"job"}), ({"label": ["a=2"]}, set()), ({"status": ["created"]}, {"job"}),
    ({"status": ["running"]}, {"web"}), ({"since": ["web"]}, {"job"}), ({"before": ["job"]}, {"web"}),
    ({"ancestor": ["app:1"]}, {"job", "web"}), ({"ancestor": ["other"]}, set()), ({"health": ["none"]}, {"job", "web"}),
    ({"network": ["default"]}, {"job", "web"}), ({"volume": ["/data"]}, {"job", "web"}), ({"exited": ["0"]}, set()),
])
def test_filters(image: Engine, attended: Container, filters: dict[str, list[str]], expected: set[str]) -> None:
    make(image, "job", labels=("a=1",))
    assert set(names(image, shows_all=True, filters=filters)) == expected


@pytest.mark.parametrize("filters", [{"colour": ["red"]}, {"status": ["sleeping"]}])
def test_filters_that_there_are_not(image: Engine, filters: dict[str, list[str]]) -> None:
    make(image, "web")
    with pytest.raises(InvalidInput):
        names(image, shows_all=True, filters=filters)


def test_inspect_has_dockers_fields(image: Engine, attended: Container) -> None:
    document = image.inspect_container("web")
    assert (document["Id"], document["Name"], document["Path"], document["Args"]) == (attended.id, "/web", "sleep", [])
    assert document["State"]["Running"] is True
    assert document["State"]["Pid"] > 0
    assert document["Config"]["Labels"] == {"tier": "web"}
    assert document["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert document["Mounts"][0]["Destination"] == "/data"


def test_sizes_are_of_the_containers_own_layer(image: Engine) -> None:
    make(image, "web")
    (summary,) = image.containers(shows_all=True, has_sizes=True)
    assert summary.size is not None
    assert summary.size < 5000 + 4096 * 3 or image.driver.name == "vfs"


# -- ending


def test_stop_of_one_that_does_not_run_is_fine(image: Engine) -> None:
    make(image, "web")
    image.stop("web")


def test_stop_sends_its_signal_and_waits(image: Engine, attended: Container) -> None:
    image.stop("web", seconds=10)
    assert image.container("web").state.exit_code == 128 + signal.SIGTERM
    assert (directory(image, attended).path / "stopping").exists()


def test_stop_kills_what_does_not_listen(image: Engine) -> None:
    made = make(image, "deaf")
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        monitor = Monitor(image, made, child)
        image.stop("deaf", seconds=0)
        monitor.thread.join()
    assert image.container("deaf").state.exit_code == 137


def test_kill_needs_one_that_runs(image: Engine) -> None:
    make(image, "web")
    with pytest.raises(ContainerNotRunning, match="web: not running, so there is nothing to kill"):
        image.kill("web")


def test_kill_with_another_signal_only_sends_it(image: Engine, attended: Container, process: subprocess.Popen[bytes]) -> None:
    image.kill("web", signal.SIGURG)
    assert process.poll() is None
    assert not (directory(image, attended).path / "stopping").exists()
    image.kill("web")
    assert image.container("web").state.exit_code == 137


def test_wait_gives_the_code(image: Engine, attended: Container, process: subprocess.Popen[bytes]) -> None:
    threading.Timer(0.1, process.terminate).start()
    assert image.wait("web") == 143
    assert image.wait("web") == 143


def test_wait_for_one_that_was_never_started_does_not_wait(image: Engine) -> None:
    make(image, "web")
    assert image.wait("web") == 0


# -- after a monitor died


def test_a_dead_monitor_is_cleaned_up_after(image: Engine, process: subprocess.Popen[bytes]) -> None:
    made = make(image, "web")
    run(image, made, process.pid)
    assert image.container("web").state.is_unattended
    process.kill()
    process.wait()
    state = image.container("web").state
    assert (state.status, state.exit_code, state.is_unattended, state.pid) == (Status.EXITED, 255, False, 0)
    assert state.finished
    assert directory(image, made).read_state() == state


def test_one_that_was_to_go_goes(image: Engine, process: subprocess.Popen[bytes]) -> None:
    made = make(image, "web", is_removed_at_exit=True)
    run(image, made, process.pid)
    process.kill()
    process.wait()
    assert names(image, shows_all=True) == []
    assert not directory(image, made).path.exists()
    assert list(VolumeStore(image.root).walk()) == []


def test_stop_works_without_a_monitor(image: Engine, process: subprocess.Popen[bytes]) -> None:
    run(image, make(image, "web"), process.pid)
    threading.Thread(target=process.wait).start()
    image.stop("web", seconds=10)
    assert image.container("web").state.status is Status.EXITED


def test_another_process_with_the_number_is_never_touched(image: Engine, process: subprocess.Popen[bytes]) -> None:
    run(image, make(image, "web"), process.pid, pid_started=1)
    image.stop("web", seconds=0)
    with pytest.raises(ContainerNotRunning):
        image.kill("web")
    image.remove_container("web", force=True)
    assert process.poll() is None


# -- changing


def test_rename(image: Engine) -> None:
    made, _ = make(image, "web"), make(image, "cache")
    image.rename("web", "/front")
    assert image.container("front").container.id == made.id
    with pytest.raises(NameInUse):
        image.rename("front", "cache")
    with pytest.raises(InvalidInput):
        image.rename("front", "-x")


class Meanwhile(Mapping[str, Any]):
    """Changes; while they are read, somebody does something else."""

    def __init__(self, changes: dict[str, Any], act: Callable[[], object]) -> None:
        self._changes, self._act = changes, act

    def __getitem__(self, name: str) -> Any:
        return self._changes[name]

    def __len__(self) -> int:
        return len(self._changes)

    def __iter__(self) -> Iterator[str]:
        act, self._act = self._act, bool
        act()
        return iter(self._changes)


def test_an_update_does_not_undo_a_rename(image: Engine) -> None:
    made = make(image, "one")
    changes = Meanwhile({"restart": "always"}, lambda: containers.rename(image, made.id, "two"))
    containers.update(image, "one", changes)
    found = ContainerTable(image.store.state).find(made.id)
    assert (found.name, found.options.restart) == ("two", "always")


def test_a_start_of_one_that_is_gone(image: Engine) -> None:
    made, half = make(image, "one"), make(image, "two")
    ContainerTable(image.store.state).remove(made.id)
    with pytest.raises(ContainerNotFound, match=r"^one: removed meanwhile$"):
        starting.start(image, made)
    directory(image, half).discard()
    with pytest.raises(ContainerNotFound, match=r"^two: its directory is gone, .*`lamina rm two` ends that$"):
        starting.start(image, half)


def test_update_of_one_that_does_not_run(image: Engine) -> None:
    make(image, "web")
    assert image.update("web", {"memory": 64 << 20, "restart": "always"}) == ()
    found = image.container("web").container.options
    assert (found.memory, found.restart) == (64 << 20, "always")
    for changes in ({"restart": "sometimes"}, {"memory": 1}, {"cpus": 0.0001}):
        with pytest.raises(InvalidInput):
            image.update("web", changes)
    assert image.container("web").container.options == found


def told(engine: Engine, container: Container) -> str:
    """What its monitor would read: it does not look at rows."""
    return (directory(engine, container).path / RESTART).read_text()


def test_a_monitor_is_told_of_another_restart_policy(image: Engine, attended: Container) -> None:
    image.update("web", {"restart": "on-failure:3"})
    assert told(image, attended) == "on-failure:3"
    image.update("web", {"restart": "no"})
    assert told(image, attended) == "no"
    assert [name for name in os.listdir(directory(image, attended).path) if name.startswith(".")] == []


def test_a_monitor_is_told_of_nothing_else(image: Engine) -> None:
    made = make(image, "web", restart="always")
    image.update("web", {"memory": 64 << 20})
    assert not (directory(image, made).path / RESTART).exists()


def test_of_two_updates_the_monitor_is_told_what_the_row_says(image: Engine) -> None:
    made = make(image, "web")
    with Engine.open(image.root) as other, ThreadPoolExecutor(2) as pool:
        for number in range(1, 11):
            wanted = (image, f"on-failure:{number}"), (other, f"on-failure:{number + 50}")
            for done in [pool.submit(engine.update, "web", {"restart": policy}) for engine, policy in wanted]:
                done.result()
            assert told(image, made) == image.container("web").container.options.restart


def test_a_container_that_goes_by_itself_gets_no_restart_policy(image: Engine) -> None:
    made = make(image, "web", is_removed_at_exit=True)
    with pytest.raises(InvalidInput, match=r"^--rm and --restart exclude each other: .* cannot be started$"):
        image.update("web", {"restart": "always"})
    assert image.container("web").container.options == made.options
    assert not (directory(image, made).path / RESTART).exists()
    image.update("web", {"restart": "no", "memory": 64 << 20})
    assert image.container("web").container.options.memory == 64 << 20


def test_an_update_of_one_whose_directory_is_gone(image: Engine) -> None:
    directory(image, make(image, "web")).discard()
    image.update("web", {"restart": "always"})
    assert image.container("web").container.options.restart == "always"


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_pausing_needs_one_that_runs(image: Engine, verb: str) -> None:
    make(image, "web")
    with pytest.raises(ContainerNotRunning, match=f"nothing to {verb}"):
        getattr(image, verb)("web")


def test_pausing_needs_a_group(image: Engine, attended: Container) -> None:
    with pytest.raises(Unsupported, match="web: it has no control group"):
        image.pause("web")
    assert image.container("web").state.status is Status.RUNNING
    with pytest.raises(Conflict, match="web: not paused"):
        image.unpause("web")


# -- removing


def test_rm(image: Engine) -> None:
    made = make(image, "web")
    image.remove_container("web")
    assert names(image, shows_all=True) == []
    assert not directory(image, made).path.exists()
    assert not [info for info in image.driver.walk() if info.key == made.snapshot]
    assert [volume.name for volume in VolumeStore(image.root).walk()] == list(made.anonymous)
    with pytest.raises(ContainerNotFound):
        image.remove_container("web")


def test_rm_takes_anonymous_volumes_if_asked(image: Engine) -> None:
    make(image, "web", volumes=("named:/named",))
    image.remove_container("web", with_volumes=True)
    assert [volume.name for volume in VolumeStore(image.root).walk()] == ["named"]


def test_a_borrowed_volume_stays(image: Engine) -> None:
    first = make(image, "first")
    make(image, "second", volumes_from=("first",))
    image.remove_container("first", with_volumes=True)
    assert set(first.anonymous) <= {volume.name for volume in VolumeStore(image.root).walk()}


def test_rm_of_one_that_runs_must_be_forced(image: Engine, attended: Container, process: subprocess.Popen[bytes]) -> None:
    with pytest.raises(ContainerRunning, match="web: running; stop it first, or use --force"):
        image.remove_container("web")
    image.remove_container("web", force=True)
    assert process.poll() == -signal.SIGKILL
    assert names(image, shows_all=True) == []


def test_a_missing_source_of_a_bind_mount_makes_no_container_and_no_volume(image: Engine) -> None:
    with pytest.raises(NotFound, match="/missing/x: no such file or directory on the host, to mount on /x; make it"):
        make(image, "web", mounts=("type=bind,src=/missing/x,dst=/x",), volumes=("/anonymous",))
    assert (list(ContainerTable(image.store.state).walk()), list(VolumeStore(image.root).walk())) == ([], [])


def test_rm_of_half_a_container(image: Engine) -> None:
    """Its directory is gone already, as after a kill -9 in the middle of an rm."""
    import shutil

    made = make(image, "web")
    shutil.rmtree(directory(image, made).path)
    image.remove_container("web")
    assert names(image, shows_all=True) == []


def test_prune(image: Engine, attended: Container) -> None:
    old, new = make(image, "old"), make(image, "new", labels=("keep",))
    removed, freed = image.prune_containers({"label!": ["keep"]})
    assert (set(removed), freed > 0) == ({old.id}, True)
    assert set(names(image, shows_all=True)) == {"web", "new"}
    assert image.prune_containers({"until": ["1h"]}) == ((), 0)
    assert image.prune_containers({})[0] == (new.id,)
    with pytest.raises(InvalidInput, match="colour: not a filter of container prune"):
        image.prune_containers({"colour": ["red"]})


def test_a_container_whose_driver_is_gone_stops_nobody(image: Engine) -> None:
    kept, other = make(image, "kept"), make(image, "other")
    with image.store.state.transaction() as connection:
        connection.execute("UPDATE snapshots SET driver = 'gone' WHERE key = ?", (kept.snapshot,))
        connection.execute("UPDATE containers SET document = json_set(document, '$.driver', 'gone') WHERE id = ?", (kept.id,))
    rows = {row.type: row for row in image.usage()}
    assert rows["Containers"].total == 2
    assert image.prune_containers({})[0] == (other.id,)
    assert set(names(image, shows_all=True)) == {"kept"}
    with pytest.raises(Unsupported, match="storage driver gone: no such driver"):
        image.remove_container("kept")


def test_what_never_came_to_be_is_swept(image: Engine) -> None:
    kept, stray = make(image, "web"), ContainerDirectory(image.root, "f" * 64)
    stray.make()
    (stray.path / "log").write_bytes(b"x" * 10_000)
    busy = ContainerDirectory(image.root, "e" * 64)
    busy.make()
    with busy.locked():
        assert removing.sweep_directories(image) >= 10_000
    assert set(os.listdir(image.root / "containers")) == {kept.id, "e" * 64}
    removing.sweep_directories(image)
    assert os.listdir(image.root / "containers") == [kept.id]
    assert ContainerTable(image.store.state).get(kept.id) is not None


def test_check_names_a_container_without_its_layer(image: Engine) -> None:
    whole, broken = make(image, "whole"), make(image, "broken")
    assert [found for found in image.check() if "container" in found.subject] == []
    image.driver.remove(broken.snapshot)
    (found,) = [found for found in image.check() if "container" in found.subject]
    assert (found.subject, found.repaired) == ("container broken", False)
    image.remove_container("broken")
    assert [found for found in image.check() if "container" in found.subject] == []
    assert image.container("whole").container.id == whole.id
