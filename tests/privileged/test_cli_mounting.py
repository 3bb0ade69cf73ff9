"""mount, umount and unshare through the command, as root and as users without privilege."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser

from lamina.cli.samples import publish
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.snapshot.mounts import mount_namespace

pytestmark = pytest.mark.privileged
APP = "demo/app:1"
LOOK = 'ls "$LAMINA_MOUNT/files" && head -c 6 "$LAMINA_MOUNT/files/file-6"'
SEEN = "file-1\nfile-2\nfile-3\nfile-4\nfile-5\nfile-6\nFile 7"


def put_samples(root: Path) -> None:
    with Engine.open(settings=Settings.load({}, flags={"data-root": str(root)})) as engine:
        publish(engine.store, "demo", engine.platform)


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={"PATH": os.environ["PATH"], "HOME": "/root", **more}, capture_output=True,
                          text=True, check=False)


def mounts_below(root: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line]


@pytest.fixture(params=["", "overlay2", "vfs"])
def lamina(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    put_samples(tmp_path / "root")
    driver = ["--storage-driver", request.param] if request.param else []
    return [sys.executable, "-m", "lamina", "--root", str(tmp_path / "root"), *driver]


def test_mount_list_umount(lamina: list[str], tmp_path: Path) -> None:
    done = run([*lamina, "mount", APP])
    assert (done.returncode, done.stderr) == (0, "")
    place = Path(done.stdout.rstrip("\n"))
    assert (place / "files" / "file-6").read_text() == "File 7: the updated version of File 6\n"
    assert run([*lamina, "mount", APP]).stdout == done.stdout
    assert str(place) in run([*lamina, "mount"]).stdout
    refused = run([*lamina, "rmi", APP])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "mounted" in refused.stderr
    assert run([*lamina, "umount", APP]).returncode == 0
    assert run([*lamina, "mount"]).stdout.count("\n") == 1
    assert mounts_below(tmp_path) == []


def test_a_command_sees_the_mount_and_nobody_else_does(lamina: list[str], tmp_path: Path) -> None:
    done = run([*lamina, "mount", APP, "--", "sh", "-c", f"{LOOK}; exit 7"])
    assert (done.returncode, done.stdout) == (7, SEEN), done.stderr
    assert mounts_below(tmp_path) == []
    assert run([*lamina, "mount"]).stdout.count("\n") == 1


def test_kill_leaves_no_mount(lamina: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen([*lamina, "mount", APP, "--", "sh", "-c", "echo $$; exec sleep 60"],
                               stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as out:
        namespace = mount_namespace(out.readline().rstrip())
        assert namespace
        process.kill()
        process.wait()
        assert mounts_below(tmp_path) == []
        os.killpg(process.pid, signal.SIGKILL)  # the command itself
        assert out.read() == ""
    while namespace in {mount_namespace(path.name) for path in Path("/proc").glob("[0-9]*")}:
        time.sleep(0.01)  # killed processes close their files first, and leave their namespaces later
    assert run([*lamina, "rmi", APP]).returncode == 0


@pytest.mark.parametrize(("command", "code"), [(["/nowhere"], 127), (["/etc/passwd"], 126)])
def test_a_command_that_cannot_be_run(lamina: list[str], command: list[str], code: int) -> None:
    assert run([*lamina, "mount", APP, "--", *command]).returncode == code
    assert run([*lamina, "mount", "nothing", "--", *command]).returncode == 125


# -- without root


@pytest.fixture(params=["lamina-test", "lamina-nosub"])
def user(request: pytest.FixtureRequest, ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser) -> OrdinaryUser:
    return ordinary_user if request.param == ordinary_user.name else user_without_ranges


@pytest.fixture
def home(user: OrdinaryUser) -> Iterator[Path]:
    """A directory that the user can reach: pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="lamina-cli-"))
    os.chown(directory, user.uid, user.gid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def rootless(user: OrdinaryUser, home: Path) -> list[str]:
    command = user.python("-m", "lamina", "demo", "--keep", str(home / "keep"), TMPDIR=str(home))
    done = run(command)
    assert done.returncode == 0, done.stderr
    return user.python("-m", "lamina", "--root", str(home / "keep" / "state"), TMPDIR=str(home))


def app_of(lamina: list[str]) -> str:
    listed = run([*lamina, "images", "--format", "{{.Repository}}:{{.Tag}}"]).stdout.split()
    return next(name for name in listed if name.endswith("/app:1"))


def test_an_ordinary_user_mounts_for_a_command(rootless: list[str], home: Path) -> None:
    done = run([*rootless, "mount", app_of(rootless), "--", "sh", "-c", f"{LOOK}; exit 7"])
    assert (done.returncode, done.stdout) == (7, SEEN), done.stderr
    assert mounts_below(home) == []


def test_an_ordinary_user_mounts_inside_unshare(rootless: list[str], home: Path) -> None:
    lamina = " ".join(rootless[rootless.index("-m") - 1 :])
    script = f"id -u; m=$({lamina} mount {app_of(rootless)}) && LAMINA_MOUNT=$m && {LOOK}; exit 5"
    done = run([*rootless, "unshare", "sh", "-c", script])
    assert (done.returncode, done.stdout) == (5, f"0\n{SEEN}"), done.stderr
    assert mounts_below(home) == []


def test_unshare_keeps_the_users_state_directory(user: OrdinaryUser, home: Path) -> None:
    command = user.python("-m", "lamina", "unshare", "sh", "-c", "echo $LAMINA_ROOT; exec /nowhere", HOME=str(home))
    done = run(command)
    assert done.stdout == f"{home}/.local/share/lamina\n"
    assert done.returncode == 127
    missing = run(user.python("-m", "lamina", "unshare", "/nowhere", HOME=str(home)))
    assert (missing.returncode, missing.stderr) == (127, "lamina: /nowhere: command not found\n")
