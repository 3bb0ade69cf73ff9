"""Who runs containers in bench.containers, and the command lines that make each of them do the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.peers import Docker, DockerSession, Podman
from bench.room import Command, NotHere, Room, first_line, program
from bench.subject import ENTRY, Lamina, imports

IMAGE = "bench:1"
SLEEP = ("sleep", "100000")


class Contending(Protocol):
    """An engine that has the image. ``None``: it has no such thing."""

    room: Room

    def run(self, *, has_network: bool) -> Command | None:
        """`true` in a new container, which is gone afterwards."""

    def execute(self, name: str) -> Command | None: ...

    def create(self) -> Command | None: ...

    def start(self, name: str, words: Sequence[str]) -> None:
        """In the background; not timed."""

    def finish(self, name: str) -> None:
        """Waits for its end; not timed."""

    def diff(self, name: str, /) -> Command | None: ...

    def commit(self, name: str, image: str, /) -> Command | None: ...

    def remove(self, name: str) -> None: ...


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    def version(self) -> str:
        """One line; raises NotHere."""

    def open(self, room: Room, image: Path) -> AbstractContextManager[Contending]:
        """Imports the image, which is a tar of a root filesystem."""


@dataclass(slots=True, kw_only=True)
class DockerLike:
    """A command line with docker's verbs; ``flags`` are for each new container."""

    room: Room
    client: Sequence[str]
    flags: Sequence[str] = ()
    at_once: Sequence[str] = ()  # what makes ``rm -f`` not ask the container to end first
    has_bridge: bool = True

    def run(self, *, has_network: bool) -> Command | None:
        if has_network and not self.has_bridge:
            return None
        network = [] if has_network else ["--network", "none"]
        return [*self.client, "run", "--rm", *network, *self.flags, IMAGE, "true"]

    def execute(self, name: str) -> Command | None:
        return [*self.client, "exec", name, "true"]

    def create(self) -> Command | None:
        return [*self.client, "create", "--network", "none", *self.flags, IMAGE, "true"]

    def start(self, name: str, words: Sequence[str]) -> None:
        new = ["run", "-d", "--name", name, "--network", "none", *self.flags, IMAGE]
        self.room.ask([*self.client, *new, *words])

    def finish(self, name: str) -> None:
        code = self.room.ask([*self.client, "wait", name]).strip()
        if code != "0":
            raise SystemExit(f"{self.client[0]}: {name}: exit code {code}")

    def diff(self, name: str) -> Command | None:
        return [*self.client, "diff", name]

    def commit(self, name: str, image: str) -> Command | None:
        return [*self.client, "commit", name, image]

    def remove(self, name: str) -> None:
        self.room.ask([*self.client, "rm", "-f", *self.at_once, name])


@dataclass(frozen=True, slots=True, kw_only=True)
class LaminaContender:
    runtime: str
    python: str = sys.executable

    @property
    def name(self) -> str:
        return f"lamina {self.runtime}"

    def version(self) -> str:
        if self.runtime != "embedded":
            program(self.runtime)
        return Lamina(name=self.name, driver="", python=self.python).version()

    def client(self, room: Room, image: Path) -> Command:
        """The command line of one that has imported the image."""
        env = [f"{name}={value}" for name, value in imports(self.python).items()]
        lamina = [self.python, "-c", ENTRY, "--root", str(room.disk / "lamina")]
        client = [*["env", *env] * bool(env), *lamina]
        room.ask([*client, "import", str(image), IMAGE])
        return client

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Contending]:
        yield DockerLike(room=room, client=self.client(room, image), flags=("--runtime", self.runtime))


@dataclass(frozen=True, slots=True, kw_only=True)
class PodmanContender:
    """With runc, as everybody here. Limits are said, since podman would raise its own above what it may."""

    name: str = "podman"

    def version(self) -> str:
        program("runc")
        return Podman().version()

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Contending]:
        with Podman().open(room) as session:
            client = [*session.client, "--runtime", program("runc")]
            room.ask([*client, "import", str(image), IMAGE])
            limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
            yield DockerLike(room=room, client=client, flags=limits, at_once=("--time", "0"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerContender:
    """The daemon without a bridge of its own."""

    name: str = "docker"

    def version(self) -> str:
        return Docker().version()

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Contending]:
        with Docker().open(room) as session:
            assert isinstance(session, DockerSession)
            room.ask([*session.client, "import", str(image), IMAGE])
            yield DockerLike(room=room, client=session.client, has_bridge=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuncContender:
    """The runtime alone, on a directory that is unpacked already: no image, no layer, no log, no record."""

    name: str = "runc"

    def version(self) -> str:
        return first_line([program("runc"), "--version"])

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Contending]:
        bundle = room.disk / "bundle"
        (bundle / "rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-xf", image, "-C", bundle / "rootfs"], check=True)
        subprocess.run([program("runc"), "spec"], cwd=bundle, check=True)
        yield _Runc(room=room, bundle=bundle)


@dataclass(slots=True, kw_only=True)
class _Runc:
    room: Room
    bundle: Path

    def _run(self, name: str, words: Sequence[str], *flags: str) -> Command:
        settings = self.bundle / "config.json"
        document = json.loads(settings.read_text())
        document["process"] |= {"terminal": False, "args": list(words)}
        settings.write_text(json.dumps(document))
        return [*self._client(), "run", "--bundle", str(self.bundle), *flags, name]

    def _client(self) -> Command:
        return [program("runc"), "--root", str(self.room.run / "runc")]

    def run(self, *, has_network: bool) -> Command | None:
        return None if has_network else self._run("bench-true", ["true"])

    def execute(self, name: str) -> Command | None:
        return [*self._client(), "exec", name, "true"]

    def create(self) -> Command | None:
        return None

    def start(self, name: str, words: Sequence[str]) -> None:
        nothing = subprocess.DEVNULL  # the container keeps what it is given
        command = self._run(name, words, "--detach")
        subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, env=self.room.env, check=True)

    def finish(self, name: str) -> None:
        raise NotHere(f"runc: keeps no exit code of {name}")

    def diff(self, _name: str) -> Command | None:
        return None

    def commit(self, _name: str, _image: str) -> Command | None:
        return None

    def remove(self, name: str) -> None:
        self.room.ask([*self._client(), "delete", "--force", name])


def contenders(names: Sequence[str], python: str) -> list[Contender]:
    known: dict[str, Contender] = {
        "lamina runc": LaminaContender(runtime="runc", python=python),
        "lamina embedded": LaminaContender(runtime="embedded", python=python),
        "podman": PodmanContender(), "docker": DockerContender(), "runc": RuncContender(),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"--engines: {', '.join(unknown)}: expected some of {', '.join(known)}")
    return [known[name] for name in names]


def processes() -> set[int]:
    """In a process namespace of our own these are the engines' and their containers'."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def memory_of(found: set[int]) -> int:
    """Bytes of processes but sleeping containers; pages that several share are divided among them."""
    total = 0
    for pid in found:
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == SLEEP[0]:
                continue
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total
