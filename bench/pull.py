"""Times cold pulls, second pulls and pulls of a sibling image, for lamina and the engines beside it.

    python -m bench.pull --images big --rounds 3 --output results.json

Runs as root.  Every engine in turn, round after round (A B C, A B C): each pull from the same registry
on loopback into a filesystem made for it.  An engine that fails is reported and the others go on.  What
is measured and what is not is told in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.fixtures import Contents, default_cache, fixture
from bench.meter import Account, CommandFailed, Sample
from bench.origin import Origin, serving
from bench.peers import Containerd, Docker, Podman, Umoci
from bench.recipes import PAIRS
from bench.room import Engine, NotHere, Room, Session, furnished
from bench.scratch import (
    disk_used,
    enter_private_namespaces,
    level_caches,
    runtime_directory,
    settle,
)
from bench.subject import Lamina, ordinary_user
from bench.table import markdown

_REPEATS = 3  # short acts are timed so often in each round
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One round of one engine; sizes in bytes, times in seconds."""

    cold: Sample
    settle: float  # after the cold pull, until all of it is on the disk
    disk: int
    again: tuple[Sample, ...]
    sibling: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is the same for every trial."""

    scratch: Path
    disk_size: int
    drops_caches: bool


def engines(*, python: str, account: Account, containerd: str) -> dict[str, Engine]:
    """All that are known, in the order of the table; which of them are here, `version` tells."""
    known: list[Engine] = [
        Lamina(name="lamina erofs", driver="erofs", python=python),
        Lamina(name="lamina overlay2", driver="overlay2", python=python),
        Lamina(name="lamina rootless", driver="overlay2", python=python, account=account),
        Lamina(name="lamina vfs", driver="vfs", python=python),
        Containerd(snapshotter="erofs", directory=containerd),
        Containerd(directory=containerd),
        Docker(),
        Podman(),
        Umoci(),
    ]
    return {engine.name: engine for engine in known}


def trial(engine: Engine, origin: Origin, conditions: Conditions, *, looks: bool) -> Trial:
    """One round; with `looks`, what was pulled is compared with what the image holds. CommandFailed."""
    scratch, size = conditions.scratch, conditions.disk_size
    with furnished(scratch, size, engine.account) as room, engine.open(room) as session:
        image, sibling = origin.fixture.image, origin.fixture.sibling
        level_caches(
            {*origin.blob_files(image), *origin.blob_files(sibling)}, drop=conditions.drops_caches
        )
        room.ask(session.idle())
        cold = _timed(room, session.pull(origin.reference(image)))
        settled = settle(room.disk)
        disk = disk_used(session.state)
        again = tuple(_timed(room, session.again(origin.reference(image))) for _ in range(_REPEATS))
        other = _timed(room, session.pull(origin.reference(sibling)))
        if looks:
            _look(session, origin.reference(image), image.contents)
            _look(session, origin.reference(sibling), sibling.contents)
        return Trial(cold=cold, settle=settled, disk=disk, again=again, sibling=other)


def _timed(room: Room, commands: Sequence[Sequence[str]]) -> Sample:
    return room.group.measure(commands, output=room.log, env=room.env, account=room.account)


def _look(session: Session, reference: str, expected: Contents) -> None:
    found = session.contents(reference)
    if found != expected:
        raise CommandFailed(f"{reference}: holds {found}, expected {expected}")


# ---------------------------------------------------------------- the whole run


def _machine(python: str, scratch: Path) -> dict[str, Any]:
    """In general terms: what a reader needs to place the figures, and nothing that names the machine."""
    asked = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    find = ["findmnt", "-no", "FSTYPE", "-T", str(scratch)]
    below = subprocess.run(find, capture_output=True, text=True, check=True).stdout.split()[-1]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": version,
        "below": below,  # what the timed filesystems lie on
    }


def _present(wanted: Sequence[Engine]) -> tuple[list[Engine], dict[str, str]]:
    """Those that can run here, and for every one its version or why it cannot."""
    here, versions = [], {}
    for engine in wanted:
        try:
            versions[engine.name] = engine.version()
            here.append(engine)
        except NotHere as reason:
            versions[engine.name] = f"left out: {reason}"
        print(f"{engine.name}: {versions[engine.name]}", flush=True)
    return here, versions


def _measure(
    origin: Origin, present: Sequence[Engine], conditions: Conditions, rounds: int
) -> Iterator[tuple[str, Trial | str]]:
    """Trials in the order they were run; a text instead is why an engine is not tried again."""
    failed: set[str] = set()
    for number in range(rounds):
        for engine in present:
            if engine.name in failed:
                continue
            try:
                done = trial(engine, origin, conditions, looks=number == 0)
            except (CommandFailed, OSError) as error:
                failed.add(engine.name)
                print(f"{origin.fixture.image.name} {engine.name}: failed: {error}", flush=True)
                yield engine.name, str(error)
                continue
            wall, cpu = done.cold.wall, done.cold.cpu
            progress = f"{origin.fixture.image.name} {number + 1}/{rounds} {engine.name}"
            print(f"{progress}: {wall:.2f} s, {cpu:.2f} CPU s", flush=True)
            yield engine.name, done


def run(options: argparse.Namespace, wanted: Sequence[Engine]) -> dict[str, Any]:
    scratch = options.scratch or options.cache / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    present, versions = _present(wanted)
    document: dict[str, Any] = {
        "machine": _machine(options.python, scratch),
        "rounds": options.rounds,
        "engines": versions,
        "images": {},
    }
    conditions = Conditions(
        scratch=scratch,
        disk_size=int(options.disk_size * _GIB),
        drops_caches=not options.keep_caches,
    )
    for name in options.images:
        pair = fixture(options.cache, name)
        rows: dict[str, dict[str, Any]] = {engine.name: {"trials": []} for engine in present}
        document["images"][name] = {"image": asdict(pair.image), "engines": rows}
        with runtime_directory() as place, serving(pair, place) as origin:
            for engine, done in _measure(origin, present, conditions, options.rounds):
                if isinstance(done, Trial):
                    rows[engine]["trials"].append(asdict(done))
                else:
                    rows[engine]["error"] = done
                options.output.write_text(json.dumps(document, indent=1))
    return document


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.pull", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where images are kept (7 GB)")
    parser.add_argument("--scratch", type=Path, help="where the timed filesystems are made; in the cache")
    parser.add_argument("--disk-size", type=float, default=16, metavar="GIB", help="of each (sparse)")
    parser.add_argument("--images", type=_words, default=["big"], help=f"of {','.join(PAIRS)}")
    parser.add_argument("--engines", type=_words, help="names, separated by commas; all but lamina vfs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that lamina runs under")
    parser.add_argument("--user", default="nobody", help="the ordinary user of the rootless runs")
    parser.add_argument("--containerd", default="", metavar="DIR", help="a containerd not in PATH")
    parser.add_argument("--keep-caches", action="store_true", help="do not drop the machine's caches")
    parser.add_argument("--output", type=Path, default=Path("pull.json"))
    return parser.parse_args(words)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def main() -> None:
    options = _options(sys.argv[1:])
    known = engines(python=options.python, account=ordinary_user(options.user), containerd=options.containerd)
    names = options.engines or [name for name in known if name != "lamina vfs"]
    strangers = {*names} - known.keys() | {*options.images} - PAIRS.keys()
    if strangers:
        raise SystemExit(f"unknown: {', '.join(sorted(strangers))}; engines are {', '.join(known)}")
    enter_private_namespaces()
    print(markdown(run(options, [known[name] for name in names])))


if __name__ == "__main__":
    main()
