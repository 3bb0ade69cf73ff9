"""Times what a person waits for at every command: start-up, and the cheap questions with 500 tags.

    python -m bench.startup
    python -m bench.startup --peers      # as root: the same questions to dockerd and podman

`lamina version` and `lamina images` are compared with the same interpreter doing nothing, which is what
any Python program costs; with `--peers`, `images`, `inspect` and `history` with the other engines.  All
commands take turns, so that a busy moment of the machine falls on each of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.fixtures import Fixture, default_cache, fixture
from bench.meter import CommandFailed
from bench.origin import serving
from bench.peers import Docker, Podman
from bench.room import Command, NotHere, Room, furnished
from bench.scratch import enter_private_namespaces, runtime_directory
from bench.subject import ENTRY, compile_modules, imports
from bench.table import give_out

TAGS = 500
_DISK = 1 << 30
_QUESTIONS = ("images", "inspect", "history")
_NOTHING = "python -c pass"
_LIMIT = 2.5  # times the interpreter doing nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A command to be timed: the words, and the environment they are run in."""

    name: str
    words: Sequence[str]
    env: Mapping[str, str]


class _Session(Protocol):
    client: list[str]

    def pull(self, reference: str) -> Sequence[Command]: ...


class _Peer(Protocol):
    """An engine whose command line asks the questions that docker's asks."""

    @property
    def name(self) -> str: ...
    def version(self) -> str: ...
    def open(self, room: Room) -> AbstractContextManager[_Session]: ...


def _run(command: Timed) -> float:
    start = time.monotonic()
    ended = subprocess.run(
        command.words, env=dict(command.env), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    wall = time.monotonic() - start
    if ended.returncode:
        raise CommandFailed(f"{' '.join(command.words)}: {ended.stderr.decode(errors='replace')}")
    return wall


def measure(commands: Sequence[Timed], rounds: int) -> dict[str, list[float]]:
    """Wall seconds of every command, all of them once a round; the first round warms and is not kept."""
    walls: dict[str, list[float]] = {command.name: [] for command in commands}
    for number in range(rounds + 1):
        for command in commands:
            wall = _run(command)
            if number:
                walls[command.name].append(wall)
    return walls


# ---------------------------------------------------------------- what is asked


def lamina_commands(python: str, root: Path, loaded: Fixture, tags: int) -> list[Timed]:
    """Fills the state directory `root` with one image under many names; gives what can be asked then."""
    from lamina import Engine

    with Engine.open(root) as engine:
        name = engine.load(loaded.layout)[0]
        for number in range(tags):
            engine.tag(name, f"bench:{number}")
    compile_modules(python)
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", **imports(python)}
    lamina = [python, "-c", ENTRY, "--root", str(root)]
    questions = [[question, *_subject(question, "bench:1")] for question in _QUESTIONS]
    return [
        Timed(name=_NOTHING, words=[python, "-c", "pass"], env=env),
        Timed(name="lamina version", words=[*lamina, "version"], env=env),
        *(Timed(name=f"lamina {words[0]}", words=[*lamina, *words], env=env) for words in questions),
    ]


def _subject(question: str, name: str) -> list[str]:
    return [] if question == "images" else [name]


@contextmanager
def peer_commands(loaded: Fixture, scratch: Path, tags: int) -> Iterator[list[Timed]]:
    """The same questions to the peers that are installed, for as long as their daemons run."""
    fillers: list[tuple[_Peer, Callable[[Room, list[str], str, int], None]]] = [
        (Docker(), _fill_docker),
        (Podman(), _fill_podman),
    ]
    commands: list[Timed] = []
    with ExitStack() as stack:
        origin = stack.enter_context(serving(loaded, stack.enter_context(runtime_directory())))
        for engine, fill in fillers:
            try:
                engine.version()
            except NotHere as reason:
                print(f"{engine.name}: left out: {reason}", file=sys.stderr)
                continue
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))
            room = stack.enter_context(furnished(Path(place), _DISK))
            session = stack.enter_context(engine.open(room))
            reference = origin.reference(loaded.image)
            for words in session.pull(reference):
                room.ask(words)
            fill(room, session.client, reference, tags)
            for question in _QUESTIONS:
                words = [*session.client, question, *_subject(question, reference)]
                commands.append(Timed(name=f"{engine.name} {question}", words=words, env=room.env))
        yield commands


def _fill_docker(room: Room, client: list[str], reference: str, tags: int) -> None:
    for number in range(tags):
        room.ask([*client, "tag", reference, f"bench:{number}"])


def _fill_podman(room: Room, client: list[str], reference: str, tags: int) -> None:
    room.ask([*client, "tag", reference, *(f"bench:{number}" for number in range(tags))])


# ---------------------------------------------------------------- what is shown


def markdown(walls: Mapping[str, Sequence[float]]) -> str:
    """Ratios to the interpreter doing nothing, then to each peer that was asked."""
    middle = {name: median(values) for name, values in walls.items()}
    nothing = middle[_NOTHING]
    lines = [
        "| command | median | least | to `python -c pass` | at most |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, value in middle.items():
        limit = f"{_LIMIT}" if name in {"lamina version", "lamina images"} else ""
        least = min(walls[name])
        lines.append(
            f"| {name} | {value * 1e3:.0f} ms | {least * 1e3:.0f} ms | {value / nothing:.2f} | {limit} |"
        )
    for peer in ("docker", "podman"):
        for question in _QUESTIONS:
            if (asked := f"{peer} {question}") in middle:
                ratio = middle[f"lamina {question}"] / middle[asked]
                lines.append(f"| lamina {question} / {asked} | | | {ratio:.2f} | |")
    return "\n".join([*lines, ""])


def run(options: argparse.Namespace) -> dict[str, Any]:
    loaded = fixture(options.cache, "tiny", say=lambda text: print(text, file=sys.stderr))
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        commands = lamina_commands(options.python, Path(place) / "root", loaded, options.tags)
        if options.peers:
            scratch = options.cache / "scratch"
            scratch.mkdir(parents=True, exist_ok=True)
            commands += stack.enter_context(peer_commands(loaded, scratch, options.tags))
        return {"tags": options.tags, "walls": measure(commands, options.rounds)}


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tags", type=int, default=TAGS)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that lamina runs under")
    parser.add_argument("--peers", action="store_true", help="ask dockerd and podman too; needs root")
    parser.add_argument("--output", type=Path, help="keep all figures as JSON")
    parser.add_argument("--into", type=Path, help="a Markdown file with the two comments")
    return parser.parse_args(words)


def main() -> None:
    options = _options(sys.argv[1:])
    if options.peers:
        enter_private_namespaces()
    document = run(options)
    give_out(options, "startup", markdown(document["walls"]), document)


if __name__ == "__main__":
    main()
