"""Other people's tools, each in a directory of its own, with none of the machine's settings."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Debian's, wherever else a developer has others: the versions that the expectations were measured with.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 120  # seconds; only a hung process ever takes that long


def program(name: str) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    assert found, f"{name} is not installed: tests/run installs what the tests need"
    return found


def run(*arguments: str | Path, stdin: Any = subprocess.DEVNULL, **options: Any) -> str:
    """Standard output, stripped. A failure carries the command and what it said on standard error."""
    done = subprocess.run(
        [str(argument) for argument in arguments], stdin=stdin, capture_output=True, timeout=PATIENCE,
        check=False, **options,
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{said}"
    return done.stdout.decode(errors="replace").strip()


def unmount_below(directory: Path) -> None:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True):
        subprocess.run([program("umount"), "--lazy", point], check=False)


@contextlib.contextmanager
def daemon(
    arguments: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own group; at the end the whole group is gone, whatever it thinks of SIGTERM."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(argument) for argument in arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, env=environment or {**os.environ, "PATH": SYSTEM_PATH},
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(what: str, log: Path, process: subprocess.Popen[bytes], ready: Callable[[], Any]) -> Any:
    """Polls ``ready`` until it gives something true; the log is part of the failure."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := ready():
            return found
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"{what} did not start:\n{log.read_text(errors='replace')[-4000:]}")


@dataclass(frozen=True)
class Docker:
    """A docker client with a daemon of its own."""

    socket: Path

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        environment = {"PATH": SYSTEM_PATH, "HOME": str(self.socket.parent), "DOCKER_BUILDKIT": "0"}
        return run(program("docker"), "-H", f"unix://{self.socket}", *arguments, env=environment, **options)

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("image", "inspect", name))
        return dict(found)

    def forget(self, *names: str) -> None:
        self("image", "rm", "--force", *names)


@dataclass(frozen=True)
class Podman:
    """Podman with a store of its own, and nothing of the machine's."""

    home: Path

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        environment = {"PATH": SYSTEM_PATH, "HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}
        return run(
            program("podman"), "--root", self.home / "root", "--runroot", self.home / "run",
            "--tmpdir", self.home / "libpod", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", *arguments, env=environment, **options,
        )

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("image", "inspect", name))
        return dict(found)

    @contextlib.contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        point = Path(self("image", "mount", name))
        try:
            yield point
        finally:
            self("image", "unmount", "--force", name)

    def forget(self, *names: str) -> None:
        self("image", "rm", "--force", *names)


@dataclass(frozen=True)
class Skopeo:
    tmp: Path

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        environment = {"PATH": SYSTEM_PATH, "HOME": str(self.tmp), "TMPDIR": str(self.tmp)}
        return run(program("skopeo"), "--insecure-policy", *arguments, env=environment, **options)

    def copy(self, source: str, target: str, *options: str) -> None:
        """Without TLS at either end; nothing is compressed or converted unless ``options`` say so."""
        ends = [f"--{end}-tls-verify=false" for end, name in (("src", source), ("dest", target))
                if name.startswith("docker:")]
        self("copy", "--quiet", *ends, *options, source, target)

    def manifest(self, source: str) -> bytes:
        tls = ["--tls-verify=false"] if source.startswith("docker:") else []
        environment = {"PATH": SYSTEM_PATH, "HOME": str(self.tmp), "TMPDIR": str(self.tmp)}
        return subprocess.run(
            [program("skopeo"), "--insecure-policy", "inspect", "--raw", *tls, source],
            check=True, capture_output=True, timeout=PATIENCE, env=environment,
        ).stdout


@dataclass(frozen=True)
class Umoci:
    home: Path
    count: list[int] = field(default_factory=lambda: [0])

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        return run(program("umoci"), *arguments, env={"PATH": SYSTEM_PATH, "HOME": str(self.home)}, **options)

    @contextlib.contextmanager
    def unpacked(self, image: str) -> Iterator[Path]:
        """The root filesystem of ``LAYOUT:TAG``, as root unpacks it."""
        self.count[0] += 1
        bundle = self.home / str(self.count[0])
        try:
            self("unpack", "--image", image, bundle)
            yield bundle / "rootfs"
        finally:
            shutil.rmtree(bundle, ignore_errors=True)


@dataclass(frozen=True)
class Lamina:
    """The command itself, with a state directory of its own."""

    root: Path

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        return run(*self.command(*arguments), env=self.environment, **options)

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "lamina", "--root", str(self.root), *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the machine's settings; a home of its own."""
        home = self.root.parent / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": SYSTEM_PATH, "HOME": str(home)}

    def failing(self, *arguments: str | Path, **options: Any) -> tuple[int, str]:
        """For what must fail: its exit code, and what it said on standard error."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=PATIENCE, check=False, **options,
        )
        assert done.returncode != 0, f"{arguments} went well: {done.stdout.decode()}"
        return done.returncode, done.stderr.decode()

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", name))
        return dict(found)

    @contextlib.contextmanager
    def serving(self, *options: str) -> Iterator[str]:
        """``127.0.0.1:port`` while the block runs."""
        log = self.root.parent / f"serve-{time.monotonic_ns()}.log"
        with daemon(self.command("serve", "--port", "0", *options), log, self.environment) as process:
            def address() -> str:
                found = re.search(r"http://(127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
                return found.group(1) if found else ""

            yield wait_for("lamina serve", log, process, address)
