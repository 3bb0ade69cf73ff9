"""Times flattening an image, for lamina and the squashers beside it.

    python -m bench.squash --rounds 3 --into docs/performance.md

Runs as root. Every squasher in turn, round after round: it pulls the image from a registry on loopback,
which is not timed, onto a filesystem made for it, and then makes one layer of all. The first round's
result is counted and compared with what the image holds: a squasher that loses a file fails.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.fixtures import Contents, default_cache, fixture
from bench.meter import CommandFailed, Sample
from bench.origin import Origin, serving
from bench.peers import Docker, DockerSession, Podman
from bench.recipes import PAIRS
from bench.room import Command, NotHere, Room, count_below, first_line, furnished, program
from bench.scratch import enter_private_namespaces, level_caches, runtime_directory, settle
from bench.subject import Lamina
from bench.table import give_out

FLAT = "localhost/flat:1"
_GIB = 1 << 30
_LIMITS = {"podman": 0.25, "docker-squash": 0.05}
# Layers in turn into one directory, with their whiteouts; then one tar of it, and its digest.
_BY_HAND = """\
set -e
mkdir "$0/root"
for blob in "$@"; do
    tar -tzf "$blob" | grep -E '(^|/)\\.wh\\.' >"$0/gone" || true
    while read -r path; do
        name=${path##*/.wh.}; rm -rf "$0/root/${path%/*}/${name#.wh.}"
    done <"$0/gone"
    tar -xzf "$blob" -C "$0/root" --numeric-owner --exclude='.wh.*'
done
tar -cf "$0/flat.tar" --numeric-owner -C "$0/root" .
sha256sum "$0/flat.tar" >"$0/flat.sha256"
"""


class Squashing(Protocol):
    """A squasher that has the image: what is timed, and what came of it."""

    def squash(self) -> Command: ...

    def contents(self) -> Contents: ...


class Squasher(Protocol):
    @property
    def name(self) -> str: ...

    def version(self) -> str:
        """One line; raises NotHere."""

    def ready(self, room: Room, origin: Origin) -> AbstractContextManager[Squashing]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A command, and where what it made is looked at."""

    command: Command
    look: Any

    def squash(self) -> Command:
        return self.command

    def contents(self) -> Contents:
        found: Contents = self.look()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LaminaSquash:
    driver: str

    @property
    def name(self) -> str:
        return f"lamina {self.driver}"

    def version(self) -> str:
        return Lamina(name=self.name, driver=self.driver).version()

    @contextmanager
    def ready(self, room: Room, origin: Origin) -> Iterator[Squashing]:
        with Lamina(name=self.name, driver=self.driver).open(room) as session:
            reference = origin.reference(origin.fixture.image)
            room.ask(session.pull(reference)[0])
            client = session.pull("")[0][:-2]  # without the verb and the name
            command = [*client, "squash", "--all", reference, "-t", FLAT]
            yield Made(command=command, look=lambda: session.contents(FLAT))


@dataclass(frozen=True, slots=True, kw_only=True)
class PodmanSquash:
    """``podman build --squash-all`` of a Containerfile that says FROM and nothing else."""

    name: str = "podman"

    def version(self) -> str:
        return Podman().version()

    @contextmanager
    def ready(self, room: Room, origin: Origin) -> Iterator[Squashing]:
        with Podman().open(room) as session:
            reference = origin.reference(origin.fixture.image)
            room.ask(session.pull(reference)[0])
            context = room.disk / "context"
            context.mkdir()
            (context / "Containerfile").write_text(f"FROM {reference}\n")
            build = ["build", "--pull=never", "--squash-all", "--tag", FLAT, str(context)]
            yield Made(command=[*session.client, *build], look=lambda: session.contents(FLAT))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildahSquash:
    """``buildah commit --squash`` of a container in which nothing was done; podman looks at the result."""

    name: str = "buildah"

    def version(self) -> str:
        return first_line([program("buildah"), "--version"])

    @contextmanager
    def ready(self, room: Room, origin: Origin) -> Iterator[Squashing]:
        with Podman().open(room) as session:
            reference = origin.reference(origin.fixture.image)
            room.ask(session.pull(reference)[0])
            places = [f"--root={session.state}", f"--runroot={room.run}/runroot", "--storage-driver=overlay"]
            client = [program("buildah"), *places]
            room.ask([*client, "from", "--pull-never", "--name=bench", reference])
            commit = ["commit", "--squash", "--quiet", "bench", FLAT]
            yield Made(command=[*client, *commit], look=lambda: session.contents(FLAT))


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSquash:
    """The squasher on PyPI, which asks a docker daemon for the image and gives it the result."""

    name: str = "docker-squash"
    path: str = ""

    def version(self) -> str:
        found = shutil.which(self.path or self.name)
        if found is None:
            raise NotHere("docker-squash: not installed")
        return f"docker-squash {first_line([found, '--version'])} with {Docker().version()}"

    @contextmanager
    def ready(self, room: Room, origin: Origin) -> Iterator[Squashing]:
        with Docker().open(room) as session:
            assert isinstance(session, DockerSession)
            reference = origin.reference(origin.fixture.image)
            room.ask(session.pull(reference)[0])
            command = ["env", f"DOCKER_HOST=unix://{room.run}/docker.sock", "DOCKER_TIMEOUT=900",
                       str(shutil.which(self.path or self.name)), "--tag", FLAT, reference]
            yield Made(command=command, look=lambda: session.contents(FLAT))


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """GNU tar: extract everything, and pack it again."""

    name: str = "GNU tar"

    def version(self) -> str:
        return first_line([program("tar"), "--version"])

    @contextmanager
    def ready(self, room: Room, origin: Origin) -> Iterator[Squashing]:
        image = origin.fixture.image
        _manifest, _config, *layers = origin.blob_files(image)
        blobs = [str(path) for path in layers]
        work = room.disk / "by-hand"
        work.mkdir()
        yield Made(
            command=["bash", "-c", _BY_HAND, str(work), *blobs],
            look=lambda: count_below(room, work / "root"),
        )


def squashers(docker_squash: str) -> dict[str, Squasher]:
    known: list[Squasher] = [
        LaminaSquash(driver="erofs"), LaminaSquash(driver="overlay2"), PodmanSquash(), BuildahSquash(),
        ByHand(), DockerSquash(path=docker_squash),
    ]
    return {squasher.name: squasher for squasher in known}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """``settle`` is what a sync takes afterwards."""

    sample: Sample
    settle: float


def trial(squasher: Squasher, origin: Origin, options: argparse.Namespace, *, looks: bool) -> Trial:
    with furnished(options.scratch, int(options.disk_size * _GIB)) as room:
        with squasher.ready(room, origin) as squashing:
            # Everybody has just pulled: what was pulled is in memory, as it is in a CI job.
            level_caches(origin.blob_files(origin.fixture.image), drop=False)
            sample = room.group.measure([squashing.squash()], output=room.log, env=room.env)
            settled = settle(room.disk)
            if looks:
                found, expected = squashing.contents(), origin.fixture.image.contents
                if found != expected:
                    raise CommandFailed(f"{squasher.name}: holds {found}, expected {expected}")
        return Trial(sample=sample, settle=settled)


def run(options: argparse.Namespace, wanted: Sequence[Squasher]) -> dict[str, Any]:
    options.scratch.mkdir(parents=True, exist_ok=True)
    pair = fixture(options.cache, options.image)
    rows: dict[str, dict[str, Any]] = {}
    with runtime_directory() as place, serving(pair, place) as origin:
        for number in range(options.rounds):
            for squasher in wanted:
                row = rows.setdefault(squasher.name, {"trials": []})
                if "left out" in row:
                    continue
                try:
                    row.setdefault("version", squasher.version())
                    done = trial(squasher, origin, options, looks=number == 0)
                except (NotHere, CommandFailed, OSError) as error:
                    row["left out"] = str(error)
                    print(f"{squasher.name}: left out: {error}", file=sys.stderr, flush=True)
                    continue
                row["trials"].append(asdict(done))
                print(f"{number + 1}/{options.rounds} {squasher.name}: {done.sample.wall:.2f} s",
                      file=sys.stderr, flush=True)
    return {"image": asdict(pair.image), "rounds": options.rounds, "squashers": rows}


# ---------------------------------------------------------------- what is shown


def markdown(document: Mapping[str, Any]) -> str:
    image = document["image"]
    rows = {name: row for name, row in document["squashers"].items() if row["trials"]}
    walls = {name: median(each["sample"]["wall"] for each in row["trials"]) for name, row in rows.items()}
    peers = {name: wall for name, wall in walls.items() if not name.startswith("lamina")}
    best = min(peers.values(), default=1.0)
    versions = "; ".join(f"{name}: {row['version']}" for name, row in rows.items())
    size = f"{image['uncompressed'] / 1e9:.2f} GB as tars, {image['entries']:,} entries"
    what = f"{image['layers']} layers of *{image['name']}* ({size}) into one"
    lines = [
        f"Medians of {document['rounds']} rounds; {what}.",
        "",
        f"{versions}.",
        "",
        "| squasher | time | and until on disk | CPU | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        trials = row["trials"]
        cpu = median(each["sample"]["cpu"] for each in trials)
        disk = median(each["sample"]["wall"] + each["settle"] for each in trials)
        memory = median(each["sample"]["peak_private"] for each in trials)
        wall = f"{walls[name] / best:.2f} ({walls[name]:.1f} s)"
        lines.append(f"| {name} | {wall} | {disk:.1f} s | {cpu:.1f} s | {memory / 1e6:.0f} MB |")
    lines += ["", "| target | at most | measured |", "| --- | --- | --- |"]
    for name in sorted(walls.keys() - peers.keys()):
        for peer, limit in _LIMITS.items():
            if peer in walls:
                ratio = walls[name] / walls[peer]
                verdict = "met" if ratio <= limit else "missed"
                lines.append(f"| {name} / {peer} | {limit:.2f} | {ratio:.3f}, {verdict} |")
    return "\n".join([*lines, ""])


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.squash", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--scratch", type=Path, help="where the filesystems are made; in the cache")
    parser.add_argument("--disk-size", type=float, default=24, metavar="GIB", help="of each (sparse)")
    parser.add_argument("--image", default="big", choices=sorted(PAIRS))
    parser.add_argument("--squashers", help="names, separated by commas; all by default")
    parser.add_argument("--docker-squash", default="", metavar="PROGRAM", help="where it is, if not in PATH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="keep all figures as JSON")
    parser.add_argument("--into", type=Path, help="a Markdown file with the two comments")
    return parser.parse_args(words)


def main() -> None:
    options = _options(sys.argv[1:])
    options.scratch = options.scratch or options.cache / "scratch"
    known = squashers(options.docker_squash)
    names = options.squashers.split(",") if options.squashers else list(known)
    strangers = {*names} - known.keys()
    if strangers:
        raise SystemExit(f"unknown: {', '.join(sorted(strangers))}; squashers are {', '.join(known)}")
    enter_private_namespaces()
    document = run(options, [known[name] for name in names])
    give_out(options, "squash", markdown(document), document)


if __name__ == "__main__":
    main()
