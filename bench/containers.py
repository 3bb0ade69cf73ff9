"""Times containers: run, exec, create, diff and commit, beside docker, podman and runc alone.

    python -m bench.containers --rounds 10 --into docs/performance.md

Runs as root. Every engine imports the same tar onto a filesystem of its own, and then all take turns, act
by act and round after round, so that a busy moment of the machine falls on each of them.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import IMAGE, SLEEP, Contender, Contending, contenders, memory_of, processes
from bench.fixtures import default_cache
from bench.meter import CommandFailed, tail
from bench.room import Command, NotHere, furnished
from bench.scratch import disk_used, enter_private_namespaces
from bench.subject import compile_modules
from bench.table import give_out

ENGINES = ("lamina runc", "lamina embedded", "podman", "docker", "runc")
API = "lamina API"
_DISK = 2 << 30
_CHUNK = 1 << 20
# act, peer -> at most this times the peer's
_LIMITS = {
    ("run", "podman"): 0.6, ("run, no network", "podman"): 0.6, ("create", "docker"): 1.0,
    ("diff", "podman"): 1.0, ("commit", "podman"): 1.0,
}
_API_LIMIT = 0.1
ACTS = ("run", "run, no network", "exec", "create", "diff", "commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    rounds: int = 10
    creates: int = 100
    files: int = 10_000
    touched: int = 1_000
    sleepers: int = 5


def write_image(path: Path, files: int) -> None:
    """busybox, and so many files of a kilobyte in directories of a hundred."""
    busybox = Path("/bin/busybox").read_bytes()
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "root", "proc", "sys", "dev", "tmp"):
            _add_directory(tar, name)
        _add_file(tar, "bin/busybox", busybox, 0o755)
        for name in ("sh", "true", "sleep", "touch", "seq"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add_file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        _add_file(tar, "etc/group", b"root:x:0:\n", 0o644)
        for number in range(files):
            if number % 100 == 0:
                _add_directory(tar, f"data{number // 100}")
            _add_file(tar, f"data{number // 100}/{number}", f"{number:1023}\n".encode(), 0o644)


def _add_directory(tar: tarfile.TarFile, name: str) -> None:
    directory = tarfile.TarInfo(name)
    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(directory)


def _add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    file = tarfile.TarInfo(name)
    file.size, file.mode = len(data), mode
    tar.addfile(file, io.BytesIO(data))


def touching(count: int) -> list[str]:
    """Every one of the first ``count`` files of the image is written to."""
    return ["sh", "-c", f"for n in $(seq 0 {count - 1}); do echo more >>/data$((n / 100))/$n; done"]


# ---------------------------------------------------------------- measuring


class Bench:
    """Figures by act and engine: a list of ``wall`` and ``cpu`` seconds each."""

    def __init__(self, plan: Plan, engines: Mapping[str, Contending]) -> None:
        self.plan = plan
        self.engines = engines
        self.figures: dict[str, dict[str, list[dict[str, float]]]] = {act: {} for act in ACTS}
        self.costs: dict[str, dict[str, float]] = {}

    def measure(self) -> None:
        self._short_acts()
        self._changes()
        for name, engine in self.engines.items():
            say(f"{name}: what containers cost")
            self.costs[name] = self._cost(name, engine)

    def _short_acts(self) -> None:
        for engine in self.engines.values():
            engine.start("awake", SLEEP)
        for number in range(self.plan.rounds + 1):
            say(f"round {number}")
            for name, engine in self.engines.items():
                for act, command in (
                    ("run", engine.run(has_network=True)), ("run, no network", engine.run(has_network=False)),
                    ("exec", engine.execute("awake")),
                ):
                    self._take(act, name, engine, [command] if command else [], keeps=number > 0)
        for engine in self.engines.values():
            engine.remove("awake")

    def _changes(self) -> None:
        """A container that ended after it had written to files of the image."""
        for number in range(max(1, min(3, self.plan.rounds))):
            for name, engine in self.engines.items():
                if engine.diff("") is None:
                    continue
                container = f"changed-{number}"
                engine.start(container, touching(self.plan.touched))
                engine.finish(container)
                commit = engine.commit(container, f"changed:{number}")
                for act, command in (("diff", engine.diff(container)), ("commit", commit)):
                    self._take(act, name, engine, [command] if command else [])
                engine.remove(container)

    def _cost(self, name: str, engine: Contending) -> dict[str, float]:
        """Of ``create`` seconds and bytes of disk; of running bytes of memory, the container's left out."""
        found: dict[str, float] = {}
        create = engine.create()
        if create is not None:
            before = disk_used(engine.room.disk)
            self._take("create", name, engine, [create] * self.plan.creates)
            found["disk"] = (disk_used(engine.room.disk) - before) / self.plan.creates
        names = [f"asleep-{number}" for number in range(self.plan.sleepers)]
        before_them = processes()
        for each in names:
            engine.start(each, SLEEP)
        time.sleep(1.0)
        found["memory"] = memory_of(processes() - before_them) / len(names)
        for each in names:
            engine.remove(each)
        return found

    def _take(
        self, act: str, name: str, engine: Contending, commands: Sequence[Command], *, keeps: bool = True
    ) -> None:
        if not commands:
            return
        group, room = engine.room.group, engine.room
        cpu, start = group.cpu(), time.monotonic()
        for command in commands:
            process = group.start(command, output=room.log, env=room.env)
            if process.wait():
                said = f"exit status {process.returncode}\n{tail(room.log)}"
                raise CommandFailed(f"{' '.join(command)}: {said}")
        wall = time.monotonic() - start
        time.sleep(0.1)  # what it does when it has answered is its work too
        if keeps:
            taken = {"wall": wall, "cpu": group.cpu() - cpu}
            self.figures[act].setdefault(name, []).append(taken)


def create_by_api(image: Path, root: Path, count: int) -> float:
    """Seconds for so many containers in one process that has the library loaded."""
    from lamina import Engine

    with Engine.open(root) as engine:
        with image.open("rb") as stream:
            engine.import_image(stream, IMAGE)
        engine.create(IMAGE, options=_options())
        start = time.monotonic()
        for _ in range(count):
            engine.create(IMAGE, options=_options())
        return time.monotonic() - start


def _options() -> Any:
    from lamina.runtime.options import ContainerOptions

    return ContainerOptions(command=("true",), networks=("none",))


@contextmanager
def opened(found: Sequence[Contender], scratch: Path, image: Path) -> Iterator[dict[str, Contending]]:
    with ExitStack() as stack:
        engines = {}
        for number, contender in enumerate(found):
            place = scratch / str(number)
            place.mkdir(exist_ok=True)
            stack.callback(place.rmdir)
            room = stack.enter_context(furnished(place, _DISK))
            say(f"{contender.name}: importing the image")
            engines[contender.name] = stack.enter_context(contender.open(room, image))
        yield engines


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, Any]:
    plan = Plan(rounds=options.rounds, creates=options.creates, files=options.files, touched=options.touched,
                sleepers=options.sleepers)
    compile_modules(options.python)
    found, versions = [], {}
    for contender in contenders(options.engines.split(","), options.python):
        try:
            versions[contender.name] = contender.version()
            found.append(contender)
        except NotHere as reason:
            say(f"{contender.name}: left out: {reason}")
    scratch: Path = options.cache / "scratch-containers"
    scratch.mkdir(parents=True, exist_ok=True)
    image = scratch / "image.tar"
    write_image(image, plan.files)
    try:
        with opened(found, scratch, image) as engines:
            bench = Bench(plan, engines)
            bench.measure()
        with ExitStack() as stack:
            room = stack.enter_context(furnished(scratch, _DISK))
            seconds = create_by_api(image, room.disk / "lamina", plan.creates)
    finally:
        image.unlink()
    return {
        "machine": {"cores": os.cpu_count(), "kernel": ".".join(platform.release().split(".")[:2]),
                    "python": platform.python_version()},
        "plan": asdict(plan),
        "versions": versions, "figures": bench.figures, "costs": bench.costs, "api": seconds,
    }


# ---------------------------------------------------------------- what is shown


def markdown(document: Mapping[str, Any]) -> str:
    plan, machine = document["plan"], document["machine"]
    figures = _Figures(document)
    head = ["engine", "run", "run, no network", "exec", f"{plan['creates']} creates",
            f"diff of {plan['touched']:,}", f"commit of {plan['touched']:,}", "memory", "disk"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for engine in document["versions"]:
        cells = [figures.cell(act, engine) for act in ACTS]
        lines.append("| " + " | ".join([engine, *cells, *figures.costs(engine)]) + " |")
    lines.append(f"| {API} | | | | {_seconds(document['api'])} | | | | |")
    where = f"{machine['cores']} cores, Linux {machine['kernel']}, lamina under Python {machine['python']}"
    return "\n\n".join([
        f"{where}; medians of {plan['rounds']} rounds; an image of {plan['files']:,} files.",
        "; ".join(f"{name}: {version}" for name, version in document["versions"].items()) + ".",
        "\n".join(lines),
        "\n".join(["| target | at most | measured |", "| --- | --- | --- |", *figures.targets()]),
    ]) + "\n"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.1f} s"


class _Figures:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def value(self, act: str, engine: str, what: str = "wall") -> float | None:
        taken = self._document["figures"][act].get(engine)
        return median(each[what] for each in taken) if taken else None

    def cell(self, act: str, engine: str) -> str:
        wall, cpu = self.value(act, engine), self.value(act, engine, "cpu")
        return "" if wall is None or cpu is None else f"{_seconds(wall)} ({_seconds(cpu)})"

    def costs(self, engine: str) -> list[str]:
        found = self._document["costs"].get(engine, {})
        sizes: list[tuple[str, Callable[[float], str]]] = [
            ("memory", lambda size: f"{size / 1e6:.1f} MB"), ("disk", lambda size: f"{size / 1e3:.0f} kB"),
        ]
        return [show(found[name]) if name in found else "" for name, show in sizes]

    def targets(self) -> Iterator[str]:
        for (act, peer), limit in _LIMITS.items():
            theirs = self.value(act, peer)
            for engine in self._document["versions"]:
                ours = self.value(act, engine)
                if engine.startswith("lamina") and ours is not None and theirs:
                    yield _verdict(f"{engine}, {act} / {peer}", limit, ours / theirs)
        docker = self.value("create", "docker")
        if docker:
            yield _verdict(f"{API}, create / docker", _API_LIMIT, self._document["api"] / docker)


def _verdict(what: str, limit: float, ratio: float) -> str:
    return f"| {what} | {limit:.2f} | {ratio:.2f}, {'met' if ratio <= limit else 'missed'} |"


def _options_of(words: Sequence[str]) -> argparse.Namespace:
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.containers", description=about)
    usual = Plan()
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--creates", type=int, default=usual.creates)
    parser.add_argument("--files", type=int, default=usual.files)
    parser.add_argument("--touched", type=int, default=usual.touched)
    parser.add_argument("--sleepers", type=int, default=usual.sleepers)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that lamina runs under")
    parser.add_argument("--output", type=Path, help="keep all figures as JSON")
    parser.add_argument("--into", type=Path, help="a Markdown file with the two comments")
    return parser.parse_args(words)


def main() -> None:
    options = _options_of(sys.argv[1:])
    enter_private_namespaces(with_network=True)
    document = run(options)
    give_out(options, "containers", markdown(document), document)


if __name__ == "__main__":
    main()
