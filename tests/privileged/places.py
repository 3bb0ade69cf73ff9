"""A state directory of some user, and lamina as that user types it; with a small real image to run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import OrdinaryUser, remove_when_idle

from lamina.content.local import LocalStore
from lamina.layer.entry import Entry
from lamina.oci.descriptor import Platform
from lamina.testing.images import directory, file, make_image, symlink

SECONDS = 60
APPLETS = (
    "cat", "chgrp", "chmod", "chown", "cp", "dd", "echo", "false", "find", "id", "ln", "ls", "mkdir", "mkfifo", "mv",
    "rm", "seq", "sh", "sleep", "sort", "stat", "touch", "true", "xargs",
)
# Busybox of Debian has no applet for attributes.
_PROGRAMS = ("setfattr", "getfattr")


@dataclass(frozen=True)
class Place:
    """``user`` is ``None`` for root."""

    root: Path
    user: OrdinaryUser | None = None
    driver: str = "overlay2"
    runtime: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *words: str | Path) -> list[str]:
        given = {
            "LAMINA_ROOT": str(self.root), "LAMINA_STORAGE_DRIVER": self.driver,
            **({"LAMINA_DEFAULT_RUNTIME": self.runtime} if self.runtime else {}), **self.environment,
        }
        if self.user is not None:
            return self.user.python("-m", "lamina", *words, **given)
        names = [f"{name}={value}" for name, value in given.items()]
        return ["env", *names, sys.executable, "-m", "lamina", *map(str, words)]

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *words: str | Path, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, **more,
        )

    def say(self, *words: str | Path) -> str:
        """What it prints, when it must succeed and have nothing to complain of."""
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), f"{words}: {done}"
        return done.stdout

    def lines(self, *words: str | Path) -> list[str]:
        return self.say(*words).split("\n")[:-1]

    def ids(self) -> list[str]:
        return self.lines("ps", "-aq", "--no-trunc")

    def usage(self) -> dict[str, dict[str, Any]]:
        """The rows of ``system df`` in bytes, as the API gives them."""
        code = (
            "import json, sys; from lamina.engine.engine import Engine\n"
            "from lamina.engine.settings import Settings\n"
            "from dataclasses import asdict\n"
            "with Engine.open(settings=Settings.load({}, flags={'data-root': sys.argv[1]})) as engine:\n"
            "    print(json.dumps({row.type: asdict(row) for row in engine.usage()}))"
        )
        command = self.user.python("-c", code, self.root) if self.user else [sys.executable, "-c", code, str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return found

    def clear(self) -> None:
        """Nothing goes on after the test, whatever it came to."""
        if (self.root / "state.sqlite").exists():
            names = self.run("ps", "-aq").stdout.split()
            if names:
                self.run("rm", "-f", *names)


def busybox_layer() -> list[Entry]:
    """Programs, and what they need, from this machine."""
    found: dict[str, Entry] = {}

    def put(path: str, source: str | None = None) -> None:
        parts = path.strip("/").split("/")
        for number in range(1, len(parts)):
            above = "/".join(parts[:number])
            found.setdefault(above, directory(above))
        data = Path(source or path).read_bytes()
        found[path.strip("/")] = file(path.strip("/"), data, mode=0o755)

    put("bin/busybox", shutil.which("busybox"))
    for name in APPLETS:
        found[f"bin/{name}"] = symlink(f"bin/{name}", "busybox")
    for name in _PROGRAMS:
        program = shutil.which(name)
        assert program is not None, f"{name} is missing: tests/run installs it"
        put(f"bin/{name}", program)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            put(library)
    found["etc"] = directory("etc")
    found["etc/passwd"] = file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")
    found["tmp"] = directory("tmp", mode=0o1777)
    return list(found.values())


def make_layout(path: Path, layers: Sequence[list[Entry]]) -> Path:
    """An image ``base:1`` of some layers, as a layout that every user may load."""
    store = LocalStore.create(path, platform=Platform(os="linux", architecture="amd64"))
    try:
        make_image(layers, execution={"Cmd": ["sh"], "Env": ["PATH=/bin"]}).put(store, "docker.io/library/base:1")
        store.write_index()
    finally:
        store.close()
    for above, _names, files in os.walk(path):
        os.chmod(above, 0o755)
        for name in files:
            os.chmod(os.path.join(above, name), 0o644)
    return path


@contextmanager
def based(root: Path, runtime: str) -> Iterator[Place]:
    """Root's place with the image ``base:1``, which is busybox; cleared at the end."""
    made = Place(root, runtime=runtime)
    with owned_directory(None) as path:
        made.say("load", "-q", "-i", make_layout(path / "layout", [busybox_layer()]))
    try:
        yield made
    finally:
        made.clear()


def disk_use(path: Path) -> int:
    """Bytes of all that is below a path, each file once."""
    seen: dict[tuple[int, int], int] = {}
    for above, names, files in os.walk(path):
        for name in (*names, *files, "."):
            status = os.lstat(os.path.join(above, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s: {condition}"
        time.sleep(0.01)


def processes_of(root: Path) -> dict[int, str]:
    """Processes that have something of a state directory open, or that run in a container of it."""
    found: dict[int, str] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid != os.getpid() and _belongs(pid, str(root)):
            found[pid] = command_of(pid)
    return found


def _belongs(pid: int, root: str) -> bool:
    place = f"/proc/{pid}"
    try:
        if any(_target(f"{place}/fd/{name}").startswith(root) for name in os.listdir(f"{place}/fd")):
            return True
        return root in Path(f"{place}/mountinfo").read_text(errors="replace")
    except OSError:
        return False


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def groups_of(container: str) -> list[Path]:
    """Control groups of a container, in every hierarchy."""
    top = Path("/sys/fs/cgroup")
    places = [top, *(path for path in top.iterdir() if path.is_dir())]
    return [path for place in places if (path := place / "lamina" / container).exists()]


@contextmanager
def owned_directory(user: OrdinaryUser | None) -> Iterator[Path]:
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="lamina-place-"))
    if user is not None:
        os.chown(path, user.uid, user.gid)
    try:
        yield path
    finally:
        remove_when_idle(path)

