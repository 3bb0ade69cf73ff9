"""Who builds in bench.build, and the command lines that make each of them do the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.contenders import IMAGE, LaminaContender
from bench.peers import Docker, DockerSession, Podman
from bench.room import Command, Room, first_line, program

STAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """A command line with docker's verbs, in a room that has the base image; ``flags`` are for each build."""

    room: Room
    client: Sequence[str]
    flags: Sequence[str] = ()
    verb: str = "build"

    def build(self, context: Path, name: str, *, network: str = "none", is_cached: bool = True) -> Command:
        more = [*["--network", network] * bool(network), *["--no-cache"] * (not is_cached)]
        return [*self.client, self.verb, *self.flags, *more, "-t", name, str(context)]

    def identity(self, name: str) -> str:
        """Of the image; not timed."""
        return self.room.ask([*self.client, "images", "--quiet", "--no-trunc", name]).strip()


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    def version(self) -> str:
        """One line; raises NotHere."""

    def open(self, room: Room, image: Path) -> AbstractContextManager[Builder]:
        """Imports the base image, which is a tar of a root filesystem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaminaBuilder:
    runtime: str
    python: str = sys.executable

    @property
    def name(self) -> str:
        return self._contender.name

    @property
    def _contender(self) -> LaminaContender:
        return LaminaContender(runtime=self.runtime, python=self.python)

    def version(self) -> str:
        return self._contender.version()

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Builder]:
        client = self._contender.client(room, image)
        yield Builder(room=room, client=client, flags=("--runtime", self.runtime))


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerBuilder:
    """The daemon's legacy builder, or the BuildKit that is in it."""

    has_buildkit: bool

    @property
    def name(self) -> str:
        return "BuildKit" if self.has_buildkit else "docker legacy"

    def version(self) -> str:
        return f"in {Docker().version()}" if self.has_buildkit else Docker().version()

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Builder]:
        with Docker().open(room) as session:
            assert isinstance(session, DockerSession)
            room.ask([*session.client, "import", str(image), IMAGE])
            choice = f"DOCKER_BUILDKIT={int(self.has_buildkit)}"
            yield Builder(room=room, client=["env", choice, *session.client])


# With runc, as everybody here, and as many stages at once as there are; without being told it is one.
_FLAGS = ("--layers", "--isolation", "oci", "--jobs", str(STAGES))


@dataclass(frozen=True, slots=True, kw_only=True)
class PodmanBuilder:
    name: str = "podman"

    def version(self) -> str:
        program("runc")
        return Podman().version()

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Builder]:
        with Podman().open(room) as session:
            client = [*session.client, "--runtime", program("runc")]
            room.ask([*client, "import", str(image), IMAGE])
            yield Builder(room=room, client=client, flags=_FLAGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildahBuilder:
    """On a store of podman's, which imports the base image for it."""

    name: str = "buildah"

    def version(self) -> str:
        program("runc")
        return first_line([program("buildah"), "--version"]).partition(" (")[0]

    @contextmanager
    def open(self, room: Room, image: Path) -> Iterator[Builder]:
        with Podman().open(room) as session:
            room.ask([*session.client, "import", str(image), IMAGE])
            places = [f"--root={session.state}", f"--runroot={room.run}/runroot", "--storage-driver=overlay"]
            client = [program("buildah"), *places]
            yield Builder(room=room, client=client, verb="bud", flags=("--runtime", program("runc"), *_FLAGS))


def builders(names: Sequence[str], python: str) -> list[Contender]:
    known: list[Contender] = [
        LaminaBuilder(runtime="runc", python=python), LaminaBuilder(runtime="embedded", python=python),
        DockerBuilder(has_buildkit=True), DockerBuilder(has_buildkit=False),
        BuildahBuilder(), PodmanBuilder(),
    ]
    by_name = {contender.name: contender for contender in known}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SystemExit(f"--builders: {', '.join(unknown)}: expected some of {', '.join(by_name)}")
    return [by_name[name] for name in names or by_name]
