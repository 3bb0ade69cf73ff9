"""Times builds from a Dockerfile: cold, cached, with one file changed, and with four stages at once.

    python -m bench.build --rounds 5 --into docs/performance.md

Runs as root. Every builder imports the same tar onto a filesystem of its own, and then all take turns, act by
act and round after round. Each round has files that nobody has seen, so that a cold build finds nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.builders import STAGES, Builder, Contender, builders
from bench.containers import say, write_image
from bench.contenders import IMAGE
from bench.fixtures import default_cache
from bench.meter import CommandFailed
from bench.room import NotHere, furnished
from bench.scratch import enter_private_namespaces, level_caches
from bench.subject import compile_modules
from bench.table import give_out

COLD, CACHED, CHANGED, TOGETHER = "cold", "cached", "one file changed", f"{STAGES} stages"
ACTS = (COLD, CACHED, CHANGED, TOGETHER)
WITH_NETWORK = "cold, default network"  # for information: docker has none here
_NETWORKED = "lamina runc"
_RESULT = "app:1"
_DISK = 4 << 30
_SETTLING = 2.5  # seconds after which a digest of a file may be remembered: FAT's clock has steps of two
_LIMIT = 1.0  # times the fastest of the others
_LIMITED = (COLD, CACHED, CHANGED)
_MEMORY_LIMIT = 150e6
# A builder that loses a file fails here: the shell counts them.
_DOCKERFILE = """\
FROM {image}
ENV EDITION={edition}
WORKDIR /app
COPY packages /app/
RUN busybox mkdir /packages && for n in $(seq 200); do echo $n >/packages/$n; done
COPY src /app/src
RUN set -- src/*/* && test $# = {files} && echo $# >built
EXPOSE 8080
LABEL org.example.purpose=bench
CMD ["sh"]
"""
_STAGE = """\
FROM {image} AS stage{number}
ENV EDITION={edition}
COPY part{number} /part
RUN sleep {seconds}
RUN sleep {seconds} && busybox cp -r /part /made
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    rounds: int = 5
    files: int = 5_000
    seconds: float = 1.0  # each stage sleeps twice so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What is built: an application of many files, and four stages that know nothing of each other."""

    place: Path
    plan: Plan

    @property
    def application(self) -> Path:
        return self.place / "application"

    @property
    def stages(self) -> Path:
        return self.place / "stages"

    def write(self, edition: int) -> None:
        """Each file has other content than in any edition before, and each Dockerfile another second line.

        Without that line buildah would take its first edition's, and miss what stands on the newest one.
        """
        files = self.plan.files
        dockerfile = _DOCKERFILE.format(image=IMAGE, edition=edition, files=files)
        _write(self.application / "Dockerfile", dockerfile)
        _write(self.application / "packages", f"edition {edition}\n")
        for number in range(files):
            _write(self._source(number), _content(edition, number))
        self._write_stages(edition)

    def _write_stages(self, edition: int) -> None:
        numbers = range(STAGES)
        facts = {"image": IMAGE, "edition": edition, "seconds": self.plan.seconds}
        lines = [*(_STAGE.format(number=number, **facts) for number in numbers), f"FROM {IMAGE}\n"]
        lines += [f"COPY --from=stage{number} /made /made{number}\n" for number in numbers]
        _write(self.stages / "Dockerfile", "".join(lines))
        for number in range(max(STAGES, self.plan.files // 10)):
            _write(self.stages / f"part{number % STAGES}/{number}", _content(edition, number))

    def change(self, edition: int) -> None:
        _write(self._source(self.plan.files // 2), f"changed in edition {edition}\n")

    def _source(self, number: int) -> Path:
        return self.application / f"src/{number // 100}/{number}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _content(edition: int, number: int) -> str:
    """Half a kilobyte to eight, three on average."""
    line = f"edition {edition}, file {number}: as good as any other line of a source file\n"
    return line * ((512 << number % 5) // len(line))


# ---------------------------------------------------------------- measuring


class Bench:
    """Figures by act and builder: a list of samples each."""

    def __init__(self, plan: Plan, contenders: Mapping[str, Builder], contexts: Contexts) -> None:
        self.plan = plan
        self.builders = contenders
        self.contexts = contexts
        self.figures: dict[str, dict[str, list[dict[str, float]]]]
        self.figures = {act: {} for act in (*ACTS, WITH_NETWORK)}

    def measure(self) -> None:
        """The first round is for everything that is done but once, and not kept."""
        for number in range(self.plan.rounds + 1):
            say(f"round {number}")
            self._round(number, keeps=number > 0)

    def _round(self, number: int, *, keeps: bool) -> None:
        self.contexts.write(2 * number)
        time.sleep(_SETTLING)
        for act in (COLD, CACHED):
            self._all(act, self.contexts.application, keeps=keeps)
        self.contexts.change(number)
        self._all(CHANGED, self.contexts.application, keeps=keeps)
        self._all(TOGETHER, self.contexts.stages, keeps=keeps)
        if _NETWORKED in self.builders:
            self.contexts.write(2 * number + 1)
            time.sleep(_SETTLING)
            networked = self.builders[_NETWORKED]
            self._take(WITH_NETWORK, _NETWORKED, networked, self.contexts.application, keeps=keeps)

    def _all(self, act: str, context: Path, *, keeps: bool) -> None:
        for name, builder in self.builders.items():
            before = builder.identity(_RESULT) if act == CACHED else ""
            self._take(act, name, builder, context, keeps=keeps)
            if before and builder.identity(_RESULT) != before:
                raise CommandFailed(f"{name}: a build with nothing changed made another image")

    def _take(self, act: str, name: str, builder: Builder, context: Path, *, keeps: bool) -> None:
        level_caches((), drop=False)  # nobody pays for what another has left to be written
        network, is_cached = "" if act == WITH_NETWORK else "none", act in (CACHED, CHANGED)
        command = builder.build(context, _RESULT, network=network, is_cached=is_cached)
        sample = builder.room.group.measure([command], output=builder.room.log, env=builder.room.env)
        if keeps:
            self.figures[act].setdefault(name, []).append(asdict(sample))


@contextmanager
def opened(found: Sequence[Contender], scratch: Path, image: Path) -> Iterator[dict[str, Builder]]:
    with ExitStack() as stack:
        ready = {}
        for number, contender in enumerate(found):
            place = scratch / str(number)
            place.mkdir(exist_ok=True)
            stack.callback(place.rmdir)
            room = stack.enter_context(furnished(place, _DISK))
            say(f"{contender.name}: importing the base image")
            ready[contender.name] = stack.enter_context(contender.open(room, image))
        yield ready


def run(options: argparse.Namespace) -> dict[str, Any]:
    plan = Plan(rounds=options.rounds, files=options.files, seconds=options.seconds)
    compile_modules(options.python)
    found, versions = [], {}
    for contender in builders(options.builders.split(",") if options.builders else (), options.python):
        try:
            versions[contender.name] = contender.version()
            found.append(contender)
        except NotHere as reason:
            say(f"{contender.name}: left out: {reason}")
    scratch: Path = options.cache / "scratch-build"
    scratch.mkdir(parents=True, exist_ok=True)
    image = scratch / "image.tar"
    write_image(image, 0)
    contexts = Contexts(place=scratch / "contexts", plan=plan)
    try:
        with opened(found, scratch, image) as ready:
            bench = Bench(plan, ready, contexts)
            bench.measure()
    finally:
        image.unlink()
        subprocess.run(["rm", "-rf", contexts.place], check=True)
    return {
        "machine": {"cores": os.cpu_count(), "kernel": ".".join(platform.release().split(".")[:2]),
                    "python": platform.python_version()},
        "plan": asdict(plan), "versions": versions, "figures": bench.figures,
    }


# ---------------------------------------------------------------- what is shown


def markdown(document: Mapping[str, Any]) -> str:
    plan, machine, figures = document["plan"], document["machine"], _Figures(document)
    lines = ["| builder | " + " | ".join([*ACTS, "peak memory"]) + " |", "| --- " * (len(ACTS) + 2) + "|"]
    for name in document["versions"]:
        cells = [figures.cell(act, name) for act in ACTS]
        lines.append("| " + " | ".join([name, *cells, f"{figures.memory(name) / 1e6:.0f} MB"]) + " |")
    where = f"{machine['cores']} cores, Linux {machine['kernel']}, lamina under Python {machine['python']}"
    what = f"{plan['files']:,} files; each of {STAGES} stages sleeps for {2 * plan['seconds']:g} s"
    return "\n\n".join([
        f"{where}; {_rounds(plan['rounds'])}; {what}.",
        "; ".join(f"{name}: {version}" for name, version in document["versions"].items()) + ".",
        "\n".join(lines),
        *(f"{name}, {WITH_NETWORK}: {figures.cell(WITH_NETWORK, name)}."
          for name in document["figures"][WITH_NETWORK]),
        "\n".join(["| target | at most | measured |", "| --- | --- | --- |", *figures.targets()]),
    ]) + "\n"


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"medians of {count} rounds"


def _seconds(value: float) -> str:
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


class _Figures:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._names = list(document["versions"])
        self._figures = document["figures"]

    def value(self, act: str, name: str, what: str = "wall") -> float | None:
        taken = self._figures[act].get(name)
        return median(each[what] for each in taken) if taken else None

    def cell(self, act: str, name: str) -> str:
        wall, cpu = self.value(act, name), self.value(act, name, "cpu")
        return "" if wall is None or cpu is None else f"{_seconds(wall)} ({_seconds(cpu)})"

    def memory(self, name: str) -> float:
        """The highest that was ever seen."""
        taken = [each for act in ACTS for each in self._figures[act].get(name, ())]
        return max((each["peak_private"] for each in taken), default=0.0)

    def targets(self) -> Iterator[str]:
        ours = [name for name in self._names if name.startswith("lamina")]
        for act in _LIMITED:
            peers = {name: self.value(act, name) for name in self._names if name not in ours}
            walls = {name: wall for name, wall in peers.items() if wall}
            if not walls:
                continue
            best = min(walls, key=walls.__getitem__)
            for name in ours:
                wall = self.value(act, name)
                if wall is not None:
                    ratio = wall / walls[best]
                    what = f"{name}, {act} / the fastest ({best})"
                    yield f"| {what} | {_LIMIT:.2f} | {ratio:.2f}, {_verdict(ratio, _LIMIT)} |"
        for name in ours:
            peak = self.memory(name)
            shown = f"{peak / 1e6:.0f} MB, {_verdict(peak, _MEMORY_LIMIT)}"
            yield f"| {name}, peak memory | {_MEMORY_LIMIT / 1e6:.0f} MB | {shown} |"


def _verdict(measured: float, limit: float) -> str:
    return "met" if measured <= limit else "missed"


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.build", description=__doc__.partition("\n")[0])
    usual = Plan()
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--builders", help="names, separated by commas; all by default")
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--files", type=int, default=usual.files)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="that each stage sleeps twice")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that lamina runs under")
    parser.add_argument("--output", type=Path, help="keep all figures as JSON")
    parser.add_argument("--into", type=Path, help="a Markdown file with the two comments")
    return parser.parse_args(words)


def main() -> None:
    options = _options(sys.argv[1:])
    enter_private_namespaces(with_network=True)
    document = run(options)
    give_out(options, "build", markdown(document), document)


if __name__ == "__main__":
    main()
