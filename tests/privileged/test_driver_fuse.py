"""The driver fuse-overlayfs: what every driver does, and that its program lives as long as the mount does."""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.life import live, make_base
from tests.privileged.places import Place, owned_directory, wait_for

from lamina.snapshot import syscalls
from lamina.snapshot.mountinfo import mounted_on
from lamina.snapshot.mounting import MountFailed, can_mount, mount_all, mounted, open_mount, unmount
from lamina.snapshot.snapshotter import Mount
from lamina.testing.bench import Bench
from lamina.testing.conformance import CASES
from lamina.testing.images import directory, file

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("fuse")]
DRIVER = "fuse-overlayfs"


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[None]:
    """Open to everybody, as udev makes it."""
    path = Path("/dev/fuse")
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o666)
    yield
    path.chmod(before)


def programs(root: Path) -> list[int]:
    """Those that serve a mount of something below ``root``."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() != DRIVER:
                continue
            links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
            if any(link.startswith(str(root)) for link in links):
                found.append(int(pid))
    return found


# -- the mount itself


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "place").mkdir()
    yield tmp_path / "place"
    assert mounted_on(tmp_path / "place") is None
    wait_for(lambda: not programs(tmp_path))


def overlay(top: Path, *, is_written: bool = True) -> Mount:
    for name in ("low", "lower: odd, name", "upper", "work"):
        (top / name).mkdir(exist_ok=True)
    (top / "low" / "file").write_text("low")
    layers = tuple(Mount(type="bind", source=str(top / name)) for name in ("lower: odd, name", "low"))
    options = (f"upperdir={top / 'upper'}", f"workdir={top / 'work'}") if is_written else ("ro",)
    return Mount(type="fuse.fuse-overlayfs", source=str(top), options=options, layers=layers)


def test_a_mount_and_its_program(place: Path, tmp_path: Path) -> None:
    with mounted([overlay(tmp_path)], place, also=("nosuid", "nodev")) as path:
        assert len(programs(tmp_path)) == 1
        (path / "file").write_text("mine")
        assert (tmp_path / "upper" / "file").read_text() == "mine"
        line = mounted_on(path)
        assert line is not None
        assert (line.type, line.source) == ("fuse.fuse-overlayfs", str(tmp_path))
        assert {"nosuid", "nodev"} <= set(line.options)
    assert (tmp_path / "low" / "file").read_text() == "low"
    wait_for(lambda: not programs(tmp_path))


def test_what_is_written_is_there_before_it_is_closed(place: Path, tmp_path: Path) -> None:
    with mounted([overlay(tmp_path)], place) as path, open(path / "new", "wb", buffering=0) as file:
        file.write(b"x" * 5000)
        assert (tmp_path / "upper" / "new").read_bytes() == b"x" * 5000


def test_what_was_written_through_a_mapping(place: Path, tmp_path: Path) -> None:
    """By a process that ended without a word about it."""
    with mounted([overlay(tmp_path)], place) as path:
        child = os.fork()
        if child == 0:
            with open(path / "new", "w+b") as file:
                file.truncate(8192)
                mapped = mmap.mmap(file.fileno(), 8192)
            mapped[:5] = b"hello"
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "upper" / "new").read_bytes()[:5] == b"hello"


def test_read_only(place: Path, tmp_path: Path) -> None:
    with mounted([overlay(tmp_path, is_written=False)], place) as path:
        assert (path / "file").read_text() == "low"
        with pytest.raises(OSError, match="Read-only"):
            (path / "file").write_text("mine")


def test_a_mount_that_is_attached_nowhere_goes_with_its_descriptor(place: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        found = open_mount(overlay(tmp_path, is_written=False), stack)
        assert Path(f"/proc/self/fd/{found}/file").read_text() == "low"
        assert programs(tmp_path)
    wait_for(lambda: not programs(tmp_path))


def test_the_mount_outlives_who_made_it(place: Path, tmp_path: Path) -> None:
    """As `lamina mount` does: the program is no child of the command's."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            mount_all([overlay(tmp_path)], place)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (place / "file").read_text() == "low"
    unmount(place)
    wait_for(lambda: not programs(tmp_path))


def test_the_end_of_a_namespace_is_the_end_of_the_program(place: Path, tmp_path: Path) -> None:
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            mount_all([overlay(tmp_path)], place)
            os.write(tell, (place / "file").read_bytes())
            signal.pause()
        os._exit(1)
    assert os.read(heard, 10) == b"low"
    os.close(heard)
    os.close(tell)
    assert programs(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not programs(tmp_path))


def test_a_program_that_was_killed_says_so(place: Path, tmp_path: Path) -> None:
    with mounted([overlay(tmp_path)], place) as path:
        (pid,) = programs(tmp_path)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not programs(tmp_path))
        with pytest.raises(OSError, match=r"not connected|abort"):
            (path / "file").read_text()


def test_what_goes_wrong_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = overlay(tmp_path)
    broken = Mount(type=whole.type, source=whole.source, layers=whole.layers, options=(
        f"upperdir={tmp_path / 'upper'}", f"workdir={tmp_path / 'low' / 'file'}",
    ))
    with pytest.raises((MountFailed, NotADirectoryError)):
        mount_all([broken], place)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MountFailed, match="install the package fuse-overlayfs"):
        mount_all([whole], place)
    assert "no such program" in can_mount(whole)


# -- the driver


# The highest stack takes ten seconds, and is the same for everybody: root's will do.
_QUICK = [name for name in CASES if name != "five_hundred_layers"]
CASES_OF = {"root": list(CASES), "ranges": _QUICK, "one id": _QUICK}


@pytest.fixture(scope="module")
def problems(
    ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser
) -> Callable[[str], dict[str, str]]:
    """All cases of one user in one process, when the first is asked for; each test then looks at its own."""
    users = {"root": None, "ranges": ordinary_user, "one id": user_without_ranges}
    return functools.cache(lambda who: conformance(users[who], CASES_OF[who]))


def conformance(user: OrdinaryUser | None, names: list[str]) -> dict[str, str]:
    with owned_directory(user) as directory:
        directory.chmod(0o755)
        chosen = [word for name in names for word in ("--case", name)]
        words = ("-m", "lamina.testing.conformance", DRIVER, "--root", str(directory), "--json", *chosen)
        command = [sys.executable, *words] if user is None else user.python(*words)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = {line["case"]: line["problem"] for line in map(json.loads, done.stdout.splitlines())}
        assert list(found) == names, done.stderr
        wait_for(lambda: not programs(directory))
        assert list(directory.iterdir()) == []
        return found


@pytest.mark.parametrize(("who", "name"), [(who, name) for who, names in CASES_OF.items() for name in names])
def test_case(problems: Callable[[str], dict[str, str]], who: str, name: str) -> None:
    assert problems(who)[name] == ""


@pytest.fixture(params=["root-runc", "ranges-embedded"])
def home(request: pytest.FixtureRequest, ordinary_user: OrdinaryUser) -> Iterator[Place]:
    who, _, runtime = request.param.partition("-")
    user = None if who == "root" else ordinary_user
    with owned_directory(user) as path:
        made = Place(path / "root", user, DRIVER, runtime)
        try:
            yield made
        finally:
            made.clear()
            wait_for(lambda: not programs(path))


def test_a_life(home: Place, tmp_path: Path) -> None:
    with owned_directory(None) as path:
        path.chmod(0o755)
        context = home.root.parent / "context"
        context.mkdir()
        context.chmod(0o755)
        live(home, make_base(path / "layout"), context)
    assert "1 " not in home.say("mount")
    wait_for(lambda: not programs(home.root))


@pytest.fixture
def base() -> Iterator[Place]:
    with owned_directory(None) as path:
        made = Place(path / "root", None, DRIVER, "embedded")
        made.say("load", "-q", "-i", make_base(path / "layout"))
        try:
            yield made
        finally:
            made.clear()
            wait_for(lambda: not programs(path))


def monitor_of(place: Place) -> int:
    (state,) = (place.root / "containers").glob("*/state.json")
    found: int = json.loads(state.read_bytes())["monitor"]
    return found


def written(place: Place) -> int:
    return sum(path.stat().st_size for path in place.root.glob("snapshots/*/*/upper/tmp/grows"))


def test_a_container_whose_monitor_was_killed_keeps_its_files(base: Place) -> None:
    loop = "while true; do cat /data/kept >>/tmp/grows; sleep 0.05; done"
    base.say("run", "-d", "--name", "one", "--network", "none", "base:1", "sh", "-c", loop)
    monitor = monitor_of(base)
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{monitor}").exists())
    size = written(base)
    wait_for(lambda: written(base) > size)
    assert len(programs(base.root)) == 1
    base.say("rm", "-f", "one")
    wait_for(lambda: not programs(base.root))
    assert list((base.root / "snapshots" / DRIVER).glob("*/upper")) == []


def test_a_container_whose_program_was_killed(base: Place) -> None:
    """Its files are gone for it; what it wrote is not, and the next start has a program of its own."""
    base.say("run", "-d", "--name", "one", "--network", "none", "base:1", "sh", "-c", "echo x >/new; sleep 1000")
    wait_for(lambda: list(base.root.glob("snapshots/*/*/upper/new")))
    (pid,) = programs(base.root)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not programs(base.root))
    assert base.lines("diff", "one") == ["A /new"]
    base.say("kill", "one")
    assert base.run("start", "one").returncode == 0
    assert base.say("exec", "one", "cat", "/new") == "x\n"
    base.say("rm", "-f", "one")
    wait_for(lambda: not programs(base.root))


def test_an_interrupt_ends_all(base: Place) -> None:
    script = "trap 'exit 3' INT; echo ready; while true; do sleep 0.05; done"
    process = base.start("run", "--rm", "--network", "none", "base:1", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert programs(base.root)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 3
    process.communicate()
    wait_for(lambda: not programs(base.root))
    assert base.ids() == []


def test_files_of_a_container_that_does_not_run(base: Place, tmp_path: Path) -> None:
    base.say("create", "--name", "one", "base:1")
    (tmp_path / "new").write_text("new")
    base.say("cp", "-q", tmp_path / "new", "one:/data/new")
    base.say("cp", "-q", "one:/data/new", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "new"
    assert base.lines("diff", "one") == ["C /data", "A /data/new"]
    wait_for(lambda: not programs(base.root))


def test_a_mounted_image(base: Place) -> None:
    path = Path(base.say("mount", "base:1").strip())
    assert (path / "data" / "kept").read_text() == "kept\n"
    assert (path / "bin" / "busybox").exists()
    assert len(programs(base.root)) == 1
    base.say("umount", "base:1")
    wait_for(lambda: not programs(base.root))


def test_an_image_cannot_steer_the_program(tmp_path: Path) -> None:
    bench = Bench(DRIVER, tmp_path / "state")
    mark = {"user.fuseoverlayfs.opaque": b"y", "user.kept": b"1"}
    name = bench.stack([directory("d"), file("d/x", b"1")], [directory("d", xattrs=mark)])
    found = bench.read(name)
    bench.close()
    assert "d/x" in found
    assert found["d"].xattrs == {"user.kept": b"1"}


def test_no_limit_of_size(base: Place) -> None:
    done = base.run("create", "--storage-opt", "size=1g", "base:1")
    assert (done.returncode, done.stderr) == (125, (
        "lamina: storage driver fuse-overlayfs: cannot limit what a container writes; "
        "overlay2 and erofs can on ext4 or xfs, and btrfs, zfs and devicemapper\n"
    ))
    assert base.ids() == []
    assert list((base.root / "snapshots" / DRIVER).glob("*/upper")) == []


def test_what_the_program_noted_is_found(base: Place) -> None:
    """Directories that hide those below, files that are gone, and names that were copied up for nothing."""
    script = (
        "cd /data; rm -r dir; mkdir dir; echo n >dir/new; rm gone; touch -r kept over; cat over >/dev/null;"
        " mv kept elsewhere; mkdir -p deep/er; ln mode deep/mode; chmod 600 away/old; chmod 644 away/old"
    )
    for driver in (DRIVER, "overlay2"):
        place = Place(base.root, None, driver, "embedded")
        place.say("create", "--name", driver, "--network", "none", "base:1", "sh", "-c", script)
        assert place.say("start", "-a", driver) == ""
    found, expected = (base.lines("diff", driver) for driver in (DRIVER, "overlay2"))
    # The program gives a directory another time when it copies a file into it; the kernel does not.
    assert sorted(set(found) - {"C /data/away"}) == sorted(expected)
    assert {"C /data/dir", "D /data/dir/a", "A /data/dir/new", "D /data/gone", "A /data/deep/mode"} <= set(found)
