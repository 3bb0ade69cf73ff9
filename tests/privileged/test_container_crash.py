"""kill -9 of anything at any moment, full disks and interrupts: nothing leaks, nothing is lost, everything goes on.

What is killed: the command, the monitor, the runtime's program, the container's first process; and all of them, as
the machine's power does. When, is drawn by a seed that a failure names.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.places import (
    SECONDS,
    Place,
    busybox_layer,
    command_of,
    groups_of,
    make_layout,
    owned_directory,
    processes_of,
    wait_for,
)

from lamina.engine.containers import Seen, everything
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.runtime.container import ContainerDirectory, ContainerNotFound, ContainerRunning, Status
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.mounting import unmount
from lamina.snapshot.snapshotter import SnapshotKind

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("network")]

LEASES = Path("/run/lamina/network/leases")
ROUNDS = 20
# Longer than a command takes on an idle machine; on a busy one it is killed earlier in its course.
LONGEST = 0.45


@pytest.fixture(scope="module")
def layout() -> Iterator[Path]:
    with owned_directory(None) as path:
        path.chmod(0o755)
        yield make_layout(path / "layout", [busybox_layer()])


@pytest.fixture(params=["runc", "embedded"])
def place(request: pytest.FixtureRequest, layout: Path) -> Iterator[Place]:
    with owned_directory(None) as path:
        made = Place(path / "root", runtime=request.param)
        made.say("load", "-q", "-i", layout)
        try:
            yield made
        finally:
            made.clear()


@contextlib.contextmanager
def opened(place: Place) -> Iterator[Engine]:
    flags = {"data-root": str(place.root), "storage-driver": place.driver, "default-runtime": place.runtime}
    with Engine.open(settings=Settings.load({}, flags=flags)) as engine:
        yield engine


class Crash:
    """One killing after another in one state directory, where a container that nobody touches runs all the time."""

    def __init__(self, place: Place, engine: Engine, seed: str) -> None:
        self.place = place
        self.engine = engine
        self.seed = seed
        self.chance = random.Random(seed)
        self.number = 0
        # What is on this network is ours: other tests may use bridges too.
        self.subnet = "10.213.77"
        place.say("network", "create", "--subnet", f"{self.subnet}.0/24", "crash")
        self.bridge = json.loads(place.say("network", "inspect", "crash"))[0]["Options"]["com.docker.network.bridge.name"]
        keeper = ("run", "-d", "--name", "keeper", "--network", "crash", "base:1", "sh", "-c", "echo mine >/mine; sleep 600")
        self.keeper = place.say(*keeper).strip()
        wait_for(lambda: engine.execute("keeper", ["cat", "/mine"]).stdout == b"mine\n")
        self.keeper_pid = engine.container("keeper").state.pid
        self.known = {self.keeper}
        self.before = self.residue()
        self.bystanders = processes_of(place.root).keys()

    def residue(self) -> dict[str, object]:
        """What is there of containers, in all places where one leaves something if it leaves something."""
        root = self.place.root
        return {
            "processes": processes_of(root),
            "mounts": [mount.target for mount in mounts() if str(root) in str(mount.target)],
            "groups": sorted(path for name in self.known for path in groups_of(name)),
            "directories": os.listdir(root / "containers"),
            "snapshots": [info.key for info in self.engine.driver.walk() if info.kind is not SnapshotKind.COMMITTED],
            "layers": sorted(os.listdir(root / "snapshots" / self.place.driver)),
            "ingests": os.listdir(root / "ingest"),
            "links": os.listdir(f"/sys/class/net/{self.bridge}/brif"),
            "rules": self.rules(),
            "leases": sorted(path.name for path in LEASES.iterdir() if str(root) in path.read_text()),
        }

    def rules(self) -> list[str]:
        commands = (["iptables-save"], ["nft", "list", "ruleset"])
        said = [subprocess.run(command, capture_output=True, text=True, check=False).stdout for command in commands]
        # Without what they counted: a packet may pass at any time.
        lines = (re.sub(r"counter packets \d+ bytes \d+|\[\d+:\d+\]", "", line) for text in said for line in text.splitlines())
        return sorted(line for line in lines if f"{self.subnet}." in line)

    def round(self) -> None:
        self.number += 1
        act = self.chance.choice(ACTS)
        try:
            act(self)
            self.look()
        except BaseException as error:
            error.add_note(f"seed {self.seed!r}, round {self.number}: {act.__name__}")
            raise

    # -- killing

    def kill_during(self, *words: str, whom: Callable[[subprocess.Popen[str]], int | None], after: float = 0.1) -> None:
        """Runs a command, and kills whom ``whom`` finds, a little later."""
        process = self.place.start(*words)
        victim = None
        while victim is None and process.poll() is None:
            victim = whom(process)
        time.sleep(self.chance.uniform(0.0, after))
        with contextlib.suppress(ProcessLookupError):
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=2)
        process.kill()
        process.communicate()

    def kill_command(self, *words: str) -> None:
        self.kill_during(*words, whom=lambda process: process.pid, after=LONGEST)

    def monitor(self, command: int) -> int | None:
        return process_with(lambda pid: is_monitor(pid, self.place.root), {command, *self.bystanders})

    def runc(self, command: int) -> int | None:
        def is_runc(pid: int) -> bool:
            words = command_of(pid)
            return str(self.place.root) in words and "runc" in words.split(" ")[0]
        return process_with(is_runc, {command, *self.bystanders})

    def options(self) -> list[str]:
        network = self.chance.choice(["none", "none", "crash"])
        return [f"--network={network}", *(["--rm"] if self.chance.random() < 0.3 else [])]

    def make(self, *command: str) -> str:
        return self.place.say("create", *self.options(), "--name", "one", "base:1", *command).strip()

    def run(self, *command: str) -> str:
        return self.place.say("run", "-d", *self.options(), "--name", "one", "base:1", *command).strip()

    # -- looking

    def look(self) -> None:
        """Whatever is said of the containers is true, and each goes on, or away."""
        wait_for(self.is_told_truly)
        assert self.engine.container("keeper").state.pid == self.keeper_pid
        for seen in list(everything(self.engine)):
            if seen.container.id != self.keeper:
                self.go_on(seen)
        with contextlib.suppress(AssertionError):
            wait_for(self.is_tidy, 5)
        assert self.residue() == self.before

    def is_told_truly(self) -> bool:
        """A monitor takes a moment to write down what it saw."""
        found = list(everything(self.engine))
        self.known |= {seen.container.id for seen in found}
        return all(self.is_true(seen) for seen in found)

    def is_tidy(self) -> bool:
        """A process that was killed takes a moment to let go of what it holds."""
        self.engine.prune()
        return self.residue() == self.before

    def is_true(self, seen: Seen) -> bool:
        directory = ContainerDirectory(self.place.root, seen.container.id)
        is_quiet = seen.state.is_live or not directory.is_attended()  # neither starting nor ending
        return seen.state.is_process_alive is seen.state.is_live and is_quiet

    def go_on(self, seen: Seen) -> None:
        name = seen.container.id
        layers = {info.key for info in self.engine.driver.walk()}
        is_whole = seen.container.snapshot in layers  # what is half removed can only be removed
        if is_whole and not seen.state.is_live and self.chance.random() < 0.5:
            self.place.say("start", *([] if "600" in seen.container.argv[-1] else ["-a"]), name)
        with contextlib.suppress(ContainerNotFound):  # --rm
            self.engine.remove_container(name, force=True)


def process_with(is_wanted: Callable[[int], bool], apart_from: Collection[int]) -> int | None:
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid not in apart_from and is_wanted(pid):
            return pid
    return None


# -- what is killed


def creating(crash: Crash) -> None:
    crash.kill_command("create", *crash.options(), "base:1", "true")


def starting(crash: Crash) -> None:
    crash.kill_command("start", crash.make("true"))


def running(crash: Crash) -> None:
    crash.kill_command("run", *crash.options(), "base:1", "sh", "-c", "echo x >/x; sleep 0.1")


def removing(crash: Crash) -> None:
    crash.make("sh", "-c", "for n in a b c d e; do mkdir -p /$n; echo x >/$n/x; done")
    crash.place.say("start", "-a", "one")
    if "one" in crash.place.say("ps", "-a"):
        crash.kill_command("rm", "one")


def removing_by_force(crash: Crash) -> None:
    crash.run("sleep", "600")
    crash.kill_command("rm", "-f", "one")


def committing(crash: Crash) -> None:
    crash.run("sleep", "600")
    crash.kill_command("commit", "one", "made:1")


def monitor_starting(crash: Crash) -> None:
    name = crash.make("true")
    crash.kill_during("start", name, whom=lambda process: crash.monitor(process.pid))


def monitor_running(crash: Crash) -> None:
    name = crash.run("sh", "-c", crash.chance.choice(["sleep 600", "sleep 0.2"]))
    monitor = crash.engine.container(name).state.monitor
    time.sleep(crash.chance.uniform(0.0, 0.25))
    with contextlib.suppress(ProcessLookupError):
        os.kill(monitor, signal.SIGKILL)


def monitor_ending(crash: Crash) -> None:
    name = crash.run("sleep", "600")
    state = crash.engine.container(name).state
    os.kill(state.pid, signal.SIGKILL)
    time.sleep(crash.chance.uniform(0.0, 0.05))
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.monitor, signal.SIGKILL)


def runtime(crash: Crash) -> None:
    name = crash.make("true")
    crash.kill_during("start", name, whom=lambda process: crash.runc(process.pid), after=0.03)


def first_process(crash: Crash) -> None:
    name = crash.run("sleep", "600")
    os.kill(crash.engine.container(name).state.pid, signal.SIGKILL)


def everything_of_one(crash: Crash) -> None:
    """As the machine's power does, if not for the kernel's own things."""
    crash.kill_during("run", "-d", *crash.options(), "base:1", "sleep", "600", whom=lambda process: process.pid, after=LONGEST)
    for pid in processes_of(crash.place.root).keys() - crash.bystanders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


ACTS = (
    creating, starting, running, removing, removing_by_force, committing, monitor_starting, monitor_running,
    monitor_ending, runtime, first_process, everything_of_one,
)


def test_killed_at_any_moment(place: Place) -> None:
    seed = f"{place.runtime} 7"
    with opened(place) as engine:
        crash = Crash(place, engine, seed)
        try:
            for _ in range(ROUNDS):
                crash.round()
        finally:
            place.clear()
            place.say("network", "rm", "crash")


@pytest.fixture
def ordinary(
    request: pytest.FixtureRequest, layout: Path, ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser
) -> Iterator[Place]:
    user, runtime = {"ranges": (ordinary_user, "runc"), "single": (user_without_ranges, "embedded")}[request.param]
    with owned_directory(user) as path:
        made = Place(path / "root", user, runtime=runtime)
        made.say("load", "-q", "-i", layout)
        try:
            yield made
        finally:
            made.clear()


@pytest.mark.parametrize("ordinary", ["ranges", "single"], indirect=True)
def test_killed_at_any_moment_where_no_control_group_finds_the_processes(ordinary: Place) -> None:
    """An ordinary user's container has no group here: what it is made of must be found in other ways."""
    seed = f"{ordinary.runtime} 11"
    chance = random.Random(seed)
    home = ordinary.root / "containers"
    for number in range(6):
        name = ordinary.say("create", "--network", "none", "base:1", "sleep", "600").strip()
        process = ordinary.start("start", name)
        victim = None
        while victim is None and process.poll() is None:
            victim = process_with(lambda pid: is_monitor(pid, ordinary.root), {process.pid})
        time.sleep(chance.uniform(0.0, 0.25))
        with contextlib.suppress(ProcessLookupError):
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
        process.communicate()
        said = ordinary.say("ps", "-a", "--format", "{{.Status}}")
        assert said.startswith(("Up", "Created", "Exited (255)")), f"{seed}, round {number}: {said}"
        if said.startswith("Created"):
            ordinary.say("start", name)
        ordinary.say("rm", "-f", name)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not processes_of(ordinary.root), 5)
        assert (processes_of(ordinary.root), list(home.iterdir())) == ({}, []), f"{seed}, round {number}"


def is_monitor(pid: int, root: Path) -> bool:
    with contextlib.suppress(OSError):
        held = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        return os.getsid(pid) != os.getsid(0) and f"{root}/containers/" in "".join(held)
    return False


def test_a_container_without_its_monitor_is_not_started_twice(place: Place) -> None:
    name = place.say("run", "-d", "--network", "none", "base:1", "sleep", "600").strip()
    with opened(place) as engine:
        state = engine.container(name).state
        os.kill(state.monitor, signal.SIGKILL)
        wait_for(lambda: engine.container(name).state.is_unattended)
        with pytest.raises(ContainerRunning, match="running, though its monitor was killed"):
            engine.start(name)
        assert engine.container(name).state.pid == state.pid
        assert place.say("exec", name, "echo", "alive") == "alive\n"
        engine.stop(name, seconds=0)
        assert (engine.container(name).state.status, engine.container(name).state.exit_code) == (Status.EXITED, 255)
        engine.start(name)
        engine.remove_container(name, force=True)


def test_after_the_machine_was_started_anew(place: Place) -> None:
    """Everything that ran has ended, and nothing that has its numbers now is touched."""
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        names = [place.say("create", *more, "base:1", "true").strip() for more in ([], ["--rm"], [])]
        for name, text in zip(names, (True, True, False), strict=True):
            state = {
                "status": "running", "pid": bystander.pid, "pid_started": 1, "boot": "of another run",
                "monitor": bystander.pid, "started": 1.0, "runtime": place.runtime, "cgroup": f"lamina/{name}",
            }
            directory = place.root / "containers" / name
            # The last one's was being written when the power went.
            (directory / "state.json").write_text(json.dumps(state) if text else "")
            (directory / "begun").write_text(json.dumps({**state, "cgroup": ""}))
        listed = place.lines("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Status}}")
        assert sorted(line.split(" ")[0] for line in listed) == sorted([names[0], names[2]])
        assert all(" Exited (255) " in line for line in listed), listed
        assert "the machine was started anew" in place.say("inspect", "--format", "{{.State.Error}}", names[0])
        for name in (names[0], names[2]):
            assert place.say("start", "-a", name) == ""
            place.say("rm", name)
        assert place.ids() == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_container_that_is_half_removed_can_be_removed(place: Place) -> None:
    for number, gone in enumerate((["lock"], ["lock", "rootfs"], ["snapshot"], ["lock", "rootfs", "snapshot", "."])):
        name = place.say("create", "base:1", "true").strip()
        directory = place.root / "containers" / name
        for each in gone:
            if each == "snapshot":
                with opened(place) as engine:
                    engine.driver.remove(f"container-{name}")
            elif each == "lock":
                (directory / each).unlink()
            else:
                (directory / each).rmdir()
        assert len(place.ids()) == 1, number
        if gone == ["snapshot"]:
            assert place.run("start", name).stderr.count("its layer is gone, as when `rm` was killed") == 1
        place.say("rm", name)
        assert (place.ids(), os.listdir(place.root / "containers")) == ([], []), number


# -- full disks


@pytest.fixture(params=[1024, 4096])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as stream:
        stream.truncate(40 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(request.param), image], check=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    unmount(mounted, lazily=True)


def fill(path: Path, leave: int) -> None:
    size = 0
    with (path / "filler").open("wb") as stream:
        for step in (1 << 20, 1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(stream.fileno(), size, step)
                    size += step
        stream.truncate(size - leave)


def test_a_full_disk(small_disk: Path, layout: Path) -> None:
    """One sentence, and nothing is lost: neither what was there, nor what a container has written."""
    place = Place(small_disk / "root", runtime="embedded")
    place.say("load", "-q", "-i", layout)
    place.say("run", "--name", "one", "--network", "none", "base:1", "sh", "-c", "echo mine >/mine; dd if=/dev/zero of=/big bs=1M count=8 2>&1 | cat >/dev/null")
    before = place.say("ps", "-a"), place.say("images"), place.say("diff", "one")
    for leave in (0, 4096, 16384, 65536, 1 << 20):
        fill(small_disk, leave)
        for words in (
            ["create", "base:1", "true"], ["run", "--network", "none", "base:1", "true"], ["commit", "one", "made:1"],
            ["start", "-a", "one"],
        ):
            done = place.run(*words)
            if done.returncode == 0:
                continue
            assert done.stderr.count("\n") == 1, (leave, words, done)
            assert "unexpected" not in done.stderr, (leave, words, done)
            assert "space" in done.stderr or "full" in done.stderr, (leave, words, done)
        (small_disk / "filler").unlink()
        for name in place.ids():
            if place.say("inspect", "--format", "{{.Name}}", name).strip("/\n") != "one":
                place.say("rm", name)
        if "made" in place.say("images"):
            place.say("rmi", "made:1")
    with opened(place) as engine:
        engine.prune()
    assert place.say("diff", "one") == before[2]
    assert place.run("check").stderr == "Everything is whole.\n"
    place.say("commit", "one", "made:1")
    assert place.say("run", "--rm", "--network", "none", "made:1", "cat", "/mine") == "mine\n"
    place.clear()


# -- interrupts


TRAPPING = ["sh", "-c", "trap 'exit 130' INT; sleep 600 & wait"]


def is_at_work(pid: int) -> bool:
    """Whether the command is past Python's own start, which ends by the signal itself."""
    with contextlib.suppress(OSError):
        return "sqlite3" in Path(f"/proc/{pid}/maps").read_text()
    return False


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
@pytest.mark.parametrize("words", [
    ["create", "base:1", "true"],
    ["run", "--network", "none", "base:1", *TRAPPING],
    ["commit", "one", "made:1"],
    ["cp", "one:/bin", "OUT"],
], ids=lambda words: words[0])
def test_an_interrupt_is_clean(place: Place, tmp_path: Path, words: list[str]) -> None:
    """A container that runs decides for itself what an interrupt is to it."""
    write = "for n in 1 2 3 4 5 6 7 8 9; do cp -r /bin /$n; done"
    one = place.say("create", "--network", "none", "base:1", "sh", "-c", write).strip()
    place.say("start", "-a", one)
    words = [{"one": one, "one:/bin": f"{one}:/bin", "OUT": str(tmp_path / "out")}.get(word, word) for word in words]
    chance = random.Random(f"{words[0]} 3")
    codes: list[int] = []
    while len(codes) < 5 or (130 not in codes and len(codes) < 40):
        process = place.start(*words)
        while process.poll() is None and not is_at_work(process.pid):
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.25))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=SECONDS)[1]
        codes.append(process.returncode)
        assert process.returncode in (0, 130), said
        assert "Traceback" not in said
        for name in place.ids():
            if name != one:
                place.say("rm", "-f", name)
        with opened(place) as engine:
            engine.prune()
        assert os.listdir(place.root / "ingest") == []
        assert os.listdir(place.root / "containers") == [one]
    assert 130 in codes
