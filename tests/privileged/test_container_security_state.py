"""What is inside a container, or beside it, attacks its monitor, its state, its terminal and whoever looks at it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import socket
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.hostile import PYTHON, Ground, Grounds, Item, attacker, ground, grounds, rooted, tree_of
from tests.privileged.test_container_security import contents, target, wait_for

from lamina.content.lease import boot_id, process_start
from lamina.engine.engine import Engine
from lamina.runtime.frames import Kind, frame
from lamina.runtime.options import ContainerOptions

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("hostile-state")]

__all__ = ["ground", "grounds", "rooted", "target"]


@pytest.fixture
def embedded(grounds: Grounds) -> Ground:
    """Where what is tested is the same for each runner."""
    return grounds.of("root-embedded")


# -- whiteouts (SECURITY 32)


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_what_looks_like_a_whiteout_hides_nothing(driver: str, grounds: Grounds, tmp_path: Path) -> None:
    """A container with CAP_MKNOD makes the device that overlayfs means by "removed", and OCI's names for it."""
    ground = Ground(None, "embedded", tmp_path)
    (tmp_path / "state").mkdir(mode=0o700)
    ground.lamina("--storage-driver", driver, "import", "-c", 'CMD ["sh"]', "-", "plain", data=tree_of({}))
    base = ("--storage-driver", driver)
    run = (*base, "run", "--network", "none", "--runtime", "embedded")
    code = r"""
    os.remove("/marker")
    attempt("node", lambda: os.mknod("/marker", stat.S_IFCHR, 0))
    attempt("node of a directory", lambda: os.mknod("/etc/new", stat.S_IFCHR, 0))
    """
    done = ground.lamina(*run, "--name", "nodes", *PYTHON, "plain", *attacker(code))
    # overlayfs itself forbids it; a plain copy of the image is any filesystem.
    assert done.stdout.count("EPERM" if driver == "overlay2" else "done") == 2, done
    done = ground.lamina(*base, "commit", "nodes", "nodes", code=None)
    if driver == "vfs":
        assert "overlayfs would take for a whiteout" in done.stderr, done
    else:
        assert done.returncode == 0, done
        names = ground.lamina(*run, "--rm", "nodes", "ls", "/", "/etc").stdout.split()
        assert {"bin", "passwd", "group", "tmp"} <= set(names)
    code = r"""
    for name in (".wh.passwd", ".wh..wh..opq", ".wh."):
        open("/etc/" + name, "w").close()
    """
    ground.lamina(*run, "--name", "names", *PYTHON, "plain", *attacker(code))
    done = ground.lamina(*base, "commit", "names", "names", code=None)
    assert done.returncode != 0, done
    assert "would remove another file" in done.stderr, done
    ground.lamina(*base, "rm", "-f", "nodes", "names")


# -- the host's files (SECURITY 29, 69)


def test_programs_in_the_state_are_out_of_an_ordinary_users_reach(
    ground: Ground, user_without_ranges: OrdinaryUser
) -> None:
    """CVE-2021-41091: a set-uid program in an image would be one for everybody on the machine."""
    ground.image("setuid", {"bin/suid": Item(b"#!/bin/sh\n", 0o4755)})
    with ground.running("-v", "named:/data", image="setuid") as number:
        for path in (ground.root, ground.root / "snapshots", ground.root / "containers", ground.root / "volumes",
                     ground.root / "containers" / number):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        found = [path for path in ground.root.rglob("suid") if path.lstat().st_mode & stat.S_ISUID]
        other = user_without_ranges if ground.user is None or ground.user.uid != user_without_ranges.uid else None
        if other is not None:
            assert not any(other.can("stat", path) for path in (*found, ground.root / "containers" / number / "rootfs"))
    ground.lamina("volume", "rm", "named")


def test_a_state_directory_that_others_can_change_is_not_run_from(
    tmp_path: Path, user_without_ranges: OrdinaryUser
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    ground = Ground(None, "embedded", shared)
    ground.image("plain")
    ground.root.chmod(0o777)
    assert "everybody may" in ground.run("true", code=125).stderr
    ground.root.chmod(0o700)
    assert ground.run("true").returncode == 0
    os.chown(ground.root, user_without_ranges.uid, -1)
    assert "belongs to the user" in ground.run("true", code=125).stderr
    os.chown(ground.root, 0, 0)


def test_symlinks_in_a_containers_directory_are_not_followed(embedded: Ground, target: Path) -> None:
    """CVE-2026-53489: a log, or a lock, that is somebody else's file."""
    number = embedded.lamina("create", "--runtime", "embedded", "--network", "none", "plain", "echo", "out").stdout.strip()
    directory = embedded.root / "containers" / number
    for name in ("log", "config.json", "hosts", "hostname", "resolv.conf", "lock", "attach"):
        path = directory / name
        kept = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        path.symlink_to(target / "file")
        done = embedded.lamina("start", "-a", number, code=None)
        assert name == "attach" or done.returncode != 0, (name, done)
        assert contents(target) == {"file": "host"}, name
        if name == "log":
            assert "host" not in embedded.lamina("logs", number, code=None).stdout
        path.unlink(missing_ok=True)
        if kept is not None:
            path.write_bytes(kept)
    assert embedded.lamina("start", "-a", number).stdout == "out\n"
    embedded.lamina("rm", number)


# -- numbers of processes (SECURITY 68)


def test_a_process_that_has_a_containers_number_now_is_left_alone(embedded: Ground) -> None:
    number = embedded.lamina("create", "--runtime", "embedded", "--network", "none", "plain").stdout.strip()
    victim = subprocess.Popen(["sleep", "600"])
    try:
        started = process_start(victim.pid) or 0
        directory = embedded.root / "containers" / number
        state = {
            "status": "running", "pid": victim.pid, "pid_started": started - 1, "boot": boot_id(), "monitor": victim.pid,
            "started": 1.0, "runtime": "embedded", "cgroup": "",
        }
        for boot, began, is_held in ((boot_id(), started - 1, False), ("another", started, False),
                                     (boot_id(), started - 1, True)):
            text = json.dumps({**state, "boot": boot, "pid_started": began})
            with contextlib.ExitStack() as stack:
                if is_held:
                    lock = os.open(directory / "lock", os.O_RDWR)
                    stack.callback(os.close, lock)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                verbs: tuple[tuple[str, ...], ...] = (("kill", number), ("exec", number, "true"))
                if not is_held:
                    verbs += (("stop", "-t", "1", number), ("cp", f"{number}:/etc/passwd", "/dev/null"), ("ps", "-a"))
                for words in verbs:
                    (directory / "state.json").write_text(text)
                    done = embedded.lamina(*words, code=None, seconds=40)
                    if words[0] in ("kill", "exec"):
                        assert done.returncode != 0, (words, done)
                    assert victim.poll() is None, words
                    assert Path(f"/proc/{victim.pid}/status").read_text().splitlines()[2].startswith("State:\tS"), words
        embedded.lamina("rm", "-f", number)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


# -- the terminal (SECURITY 66)

TYPE = r"""
import fcntl
def push(descriptor):
    for byte in b"touch /tmp/pwned\n":
        fcntl.ioctl(descriptor, 0x5412, bytes([byte]))  # TIOCSTI
for name in ("/dev/tty", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/dev/console"):
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        continue
    attempt("push " + name, lambda: push(descriptor))
    try:
        found["terminal " + name] = os.stat(descriptor).st_rdev if os.isatty(descriptor) else 0
    except OSError:
        pass
print(json.dumps(found), flush=True)
time.sleep(0.3)
"""


@pytest.mark.parametrize("words", [("run", "--rm", "-it"), ("exec", "-it"), ("exec", "-i"), ("exec",)])
def test_nothing_can_be_typed_into_the_users_terminal(words: tuple[str, ...], ground: Ground) -> None:
    with contextlib.ExitStack() as stack:
        if words[0] == "run":
            command = ground.command(*words, "--network", "none", "--runtime", ground.runtime, *PYTHON, "plain",
                                     *attacker(TYPE))
        else:
            number = stack.enter_context(ground.running(*PYTHON))
            command = ground.command(*words, number, *attacker(TYPE))
        master, slave = pty.openpty()
        stack.callback(os.close, master)
        own = os.fstat(slave)
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        text = b""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (process.poll() is None or select.select([master], [], [], 0)[0]):
            if select.select([master], [], [], 0.1)[0]:
                text += os.read(master, 65536)
        assert process.wait(10) == 0, text
        # What was typed into it would wait here for the user's shell.
        left = fcntl.ioctl(slave, 0x541B, bytes(4))  # FIONREAD
        os.close(slave)
        assert struct.unpack("i", left) == (0,)
        found = json.loads(next(line for line in text.decode().splitlines() if line.startswith("{")))
        if "-it" not in words:
            # Without -t no terminal is in there at all, least of all the user's.
            assert not any(value for name, value in found.items() if name.startswith("terminal")), found
        else:
            host_pts = os.stat("/dev/pts").st_dev
            assert own.st_dev == host_pts


# -- sockets (SECURITY 65)


def test_the_hosts_abstract_sockets_are_not_the_containers(embedded: Ground) -> None:
    """CVE-2020-15257: a daemon that listens there is talked to by the root of any container."""
    name = f"lamina-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen(1)
        code = f"""
        import socket
        attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect("\\0{name}"))
        found["listed"] = sum("@" in line for line in open("/proc/net/unix"))
        """
        assert embedded.attack(code) == {"connect": "ECONNREFUSED", "listed": 0}


def test_no_socket_of_ours_is_abstract(ground: Ground) -> None:
    def abstract() -> set[str]:
        return {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line.split()[-1]}

    before = abstract()
    with ground.running("-t") as number:
        ground.exec(number, "true")
        assert not {name for name in abstract() - before if "lamina" in name or number[:12] in name}


# -- the monitor


def connect(ground: Ground, number: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    place = os.open(ground.root / "containers" / number, os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{place}/attach")
    finally:
        os.close(place)
    return connection


def test_garbage_on_the_attach_socket_is_nobodys_end(embedded: Ground) -> None:
    import random

    chance = random.Random(7)
    with embedded.running("-i", "--", "cat") as number:
        monitor = embedded.state(number)["monitor"]
        held = []
        for turn in range(150):
            connection = connect(embedded, number) if turn < 50 else held[turn % 50]
            kind = chance.randrange(256)
            data = [
                struct.pack("!BI", kind, 0xFFFFFFFF), chance.randbytes(200), struct.pack("!BI", 0, 1 << 20) + b"x" * 50,
                frame(Kind.RESIZE, b"abc"), frame(Kind.EXIT, b"{}"), frame(Kind.RESIZE, struct.pack("!HH", 65535, 65535)),
            ][turn % 6]
            with contextlib.suppress(OSError):
                connection.sendall(data)
            held.append(connection)
        for connection in held:
            connection.close()
        # Many more than the monitor has descriptors for; those that it does not take wait, and cost nothing.
        crowd = []
        for _turn in range(1100):
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            place = os.open(embedded.root / "containers" / number, os.O_PATH)
            with contextlib.suppress(BlockingIOError):
                connection.connect(f"/proc/self/fd/{place}/attach")
            os.close(place)
            crowd.append(connection)
        before = cpu_ticks(monitor)
        time.sleep(0.5)
        assert cpu_ticks(monitor) - before < 20, "it spins"
        assert len(os.listdir(f"/proc/{monitor}/fd")) < 200
        for connection in crowd:
            connection.close()
        with connect(embedded, number) as connection:
            connection.settimeout(20)
            connection.sendall(frame(Kind.INPUT, b"still there\n"))
            text = b""
            while b"still there\n" not in text:
                received = connection.recv(65536)
                assert received, text
                text += received


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_input_and_output_that_nobody_takes_is_not_heaped_up(embedded: Ground) -> None:
    """A client that sends for ever to a container that reads nothing, and one that reads nothing of a flood."""
    for command in (("sleep", "600"), ("yes", "y" * 100)):
        with embedded.running("-i", "--log-driver", "none", "--", *command) as number:
            monitor = embedded.state(number)["monitor"]
            with connect(embedded, number) as connection:
                connection.settimeout(0.5)
                sent = 0
                with contextlib.suppress(TimeoutError):
                    while sent < 64 << 20:
                        connection.sendall(frame(Kind.INPUT, b"x" * (1 << 16)))
                        sent += 1 << 16
                assert sent < 8 << 20
                assert resident(monitor) < 80 << 20
                began = time.monotonic()
                embedded.lamina("rm", "-f", number)
                assert time.monotonic() - began < 15


def test_a_fork_bomb_ends_at_its_limit(rooted: Ground) -> None:
    code = r"""
    children = 0
    try:
        while children < 500:
            if os.fork() == 0:
                time.sleep(60)
            children += 1
    except OSError as error:
        found["stopped"] = errno.errorcode[error.errno]
    found["children"] = children
    """
    found = rooted.attack(code, "--pids-limit", "40")
    assert found["stopped"] == "EAGAIN"
    assert found["children"] <= 40


def test_killing_everything_inside_kills_nothing_outside(ground: Ground) -> None:
    with ground.running(*PYTHON) as number:
        monitor = ground.state(number)["monitor"]
        done = ground.exec(number, "sh", "-c", "kill -9 -1; sleep 0.1; true", code=None)
        assert "unexpected" not in done.stderr
        time.sleep(0.2)
        assert Path(f"/proc/{monitor}").exists()
        assert ground.exec(number, "cat", "/marker").stdout == "container"


def test_a_flood_into_a_log_stays_in_its_limit(embedded: Ground) -> None:
    for has_terminal in (False, True):
        flags = ("-t",) if has_terminal else ()
        with embedded.running(*flags, "--log-opt", "max-size=64k", "--log-opt", "max-file=2", "--", "sh", "-c",
                              "head -c 3000000 /dev/zero; yes | head -n 200000; echo end; sleep 600") as number:
            logs = embedded.root / "containers" / number
            wait_for(lambda: has_ended(logs / "log"), 30)  # noqa: B023 - waited for here
            assert sum(each.stat().st_size for each in logs.glob("log*")) < 400 << 10


def has_ended(log: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # while it is turned over
        return '"end' in log.read_text()
    return False


# -- entering what is about to end, or stands still


def test_entering_a_container_that_ends_or_stands_still_is_told(rooted: Ground) -> None:
    with rooted.running() as number:
        rooted.lamina("pause", number)
        assert "paused" in rooted.exec(number, "true", code=125).stderr
        rooted.lamina("unpause", number)
        stopper = threading.Thread(target=lambda: rooted.lamina("stop", "-t", "0", number))
        stopper.start()
        codes = []
        for _turn in range(6):
            done = rooted.exec(number, "true", code=None, seconds=30)
            codes.append(done.returncode)
            assert done.returncode in (0, 125, 137), done
        stopper.join()
        assert "not running" in rooted.exec(number, "true", code=125).stderr


# -- volumes that are swapped


def test_a_part_of_a_volume_that_is_swapped_for_a_symlink_meanwhile_is_no_way_out(rooted: Ground, target: Path) -> None:
    """CVE-2023-0778, CVE-2021-30465: one container swaps a directory of the volume for a symlink to the host's."""
    code = f"""
    os.makedirs("/v/part", exist_ok=True)
    open("/v/part/file", "w").write("volume")
    os.symlink("{target}", "/v/trap")
    print("ready", flush=True)
    while True:
        libc.renameat2(-100, b"/v/part", -100, b"/v/trap", 2)
    """
    with rooted.running("-v", "swapped:/v", *PYTHON, "--", *attacker(code)) as number:
        wait_for(lambda: "ready" in rooted.lamina("logs", number).stdout)
        answers = set()
        for _turn in range(6):
            done = rooted.lamina("run", "--rm", "--network", "none", "--runtime", rooted.runtime, "--mount",
                                 "type=volume,src=swapped,dst=/d,volume-subpath=part", "plain", "cat", "/d/file", code=None)
            answers.add(done.stdout)
        assert answers <= {"volume", ""}
    rooted.lamina("volume", "rm", "swapped")


# -- profiles, names and environments


@pytest.mark.parametrize("text", [
    "", "[]", "null", '{"defaultAction": 1}', '{"syscalls": [{"names": "x"}]}', "[" * 100_000, '{"a": ' * 50_000,
    '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "NOPE"}]}', "\udcff\udcfe",
    '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 99}]}]}',
], ids=lambda text: f"{len(text)} bytes")
def test_a_hostile_seccomp_profile_is_refused_with_a_sentence(text: str, embedded: Ground, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = embedded.run("--security-opt", f"seccomp={profile}", "--", "true", code=125)
    assert done.stderr.startswith("lamina: seccomp="), done


ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\u202e"


def test_labels_and_names_do_not_reach_a_terminal_as_they_are(embedded: Ground) -> None:
    image = embedded.image("escapes", {}, f"LABEL a={json.dumps('x')}")
    with embedded.running("--label", f"evil={ESCAPES}", "-e", f"EVIL={ESCAPES}", "--", "sh", "-c",
                          f"sleep 600; : '{ESCAPES}'", image=image) as number:
        for words in (("ps", "--no-trunc"), ("ps", "--format", "table {{.Labels}}"), ("inspect", number),
                      ("ps", "--format", "json"), ("top", number)):
            done = embedded.lamina(*words)
            assert not set(done.stdout) & set("\x1b\x07\r\u202e"), (words, done.stdout)
    done = embedded.run("--name", ESCAPES, "--", "true", code=125)
    assert not set(done.stderr) & set("\x1b\x07\r\u202e"), done


@pytest.mark.parametrize("name", ["root-runc", "root-embedded", "single-embedded"])
def test_strange_environments_arrive_or_are_refused(name: str, grounds: Grounds) -> None:
    ground = grounds.of(name)
    lines = "a\nb=c\n"
    done = ground.run("-e", f"LINES={lines}", "-e", "LATIN=\udcff\udcfe", "--label", f"l={lines}", "--", "sh", "-c",
                      'echo "$LINES"; env | grep LATIN')
    assert done.stdout.startswith("a\nb=c\n")
    many = ground.home / "many"
    many.write_text("".join(f"NAME_{number}={'x' * 60}\n" for number in range(10_000)))
    many.chmod(0o644)
    assert ground.run("--env-file", str(many), "--", "sh", "-c", "env | grep -c NAME_").stdout.strip() == "10000"
    many.write_text("ONE=" + "x" * 200_000 + "\n")
    done = ground.run("--env-file", str(many), "--", "true", code=None)
    assert done.returncode == (1 if ground.runtime == "runc" else 126), done
    assert "too long" in done.stderr.lower(), done
    many.write_bytes(b"NUL=a\0b\n")
    done = ground.run("--env-file", str(many), "--", "true", code=None)
    assert done.returncode in (125, 126), done
    assert "NUL" in done.stderr or "null" in done.stderr.lower(), done


def test_a_large_environment_is_no_hindrance_to_the_api(embedded: Ground) -> None:
    with Engine.open(embedded.root) as engine:
        many = tuple(f"NAME_{number}={'x' * 60}" for number in range(5_000))
        container = engine.create("plain", options=ContainerOptions(
            command=("sleep", "600"), environment=many, networks=("none",), runtime="embedded",
        ))
        try:
            engine.start(container.id)
            done = engine.execute(container.id, ("sh", "-c", "env | grep -c NAME_"))
            assert done.stdout.strip() == b"5000"
        finally:
            engine.remove_container(container.id, force=True)
