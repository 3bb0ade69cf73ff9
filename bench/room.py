"""Where an engine works while it is measured, and what the harness asks of every engine.

An engine gets a room: a fresh filesystem for everything it writes, a runtime directory for sockets, and a
control group.  Programs that need a daemon have it running before the clock starts and counted while it
runs; the others start with every command, as their users see it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.fixtures import Contents
from bench.meter import Account, CommandFailed, Group, as_account, tail
from bench.scratch import fresh_filesystem, runtime_directory

Command = Sequence[str]

COUNT = Path(__file__).with_name("count.py")


class NotHere(Exception):
    """The engine is not installed, or cannot run on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where an engine works; everything below `disk` is on the filesystem that is measured."""

    disk: Path
    run: Path
    group: Group
    account: Account | None = None
    programs: str = ""  # a directory that goes before PATH

    @property
    def log(self) -> Path:
        return self.run / "log"

    @property
    def env(self) -> Mapping[str, str]:
        places = {"HOME": self.disk / "home", "TMPDIR": self.disk / "tmp", "XDG_RUNTIME_DIR": self.run}
        return {
            "PATH": os.pathsep.join([*[self.programs] * bool(self.programs), os.environ["PATH"]]),
            "LANG": "C.UTF-8",
            **{name: str(path) for name, path in places.items()},
        }

    @contextmanager
    def window(self) -> Iterator[Path]:
        """An empty directory to mount an image on, for as long as it is looked at."""
        path = self.run / "window"
        path.mkdir()
        yield path
        path.rmdir()

    def furnish(self) -> None:
        for path in (self.disk / "home", self.disk / "tmp", self.run):
            path.mkdir(exist_ok=True)
            if self.account is not None:
                os.chown(path, self.account.uid, self.account.gid)

    def ask(self, command: Command, **more: str) -> str:
        """Runs what is not measured, outside the group; gives its output."""
        run = subprocess.run(
            [*as_account(self.account), *command],
            env={**self.env, **more},
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise CommandFailed(f"{' '.join(command)}: exit status {run.returncode}\n{run.stderr}")
        return run.stdout


@contextmanager
def furnished(scratch: Path, size: int, account: Account | None = None) -> Iterator[Room]:
    """A room on a new filesystem of `size` bytes below `scratch`; nothing of it is left at the end."""
    with (
        fresh_filesystem(scratch, size, account) as disk,
        runtime_directory() as run,
        # Entered last, so left first: what still runs must end before the disk can be unmounted.
        Group.fresh() as group,
    ):
        room = Room(disk=disk, run=run, group=group, account=account)
        room.furnish()
        yield room


class Session(Protocol):
    """An engine that is ready for commands in its room."""

    state: Path

    def idle(self) -> Command:
        """A command that does nothing, so that the program is in memory when the clock starts."""

    def pull(self, reference: str) -> Sequence[Command]:
        """From the registry to something a container can start from."""

    def again(self, reference: str) -> Sequence[Command]:
        """The same pull when everything is there."""

    def contents(self, reference: str) -> Contents:
        """What a container would see; checked once and never timed."""


class Engine(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def account(self) -> Account | None: ...
    def version(self) -> str:
        """One line; raises NotHere."""

    def open(self, room: Room) -> AbstractContextManager[Session]: ...


def program(name: str, *places: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"], "/usr/sbin", "/sbin"]))
    if found is None:
        raise NotHere(f"{name}: not installed")
    return found


def first_line(command: Command) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise NotHere(f"{' '.join(command)}: exit status {run.returncode}: {run.stderr.strip()[-300:]}")
    return run.stdout.partition("\n")[0].strip()


def counted(text: str) -> Contents:
    return Contents(**json.loads(text))


def count_below(room: Room, root: Path | str) -> Contents:
    return counted(room.ask([sys.executable, str(COUNT), str(root)]))


@contextmanager
def daemon(room: Room, command: Command, ready: Command) -> Iterator[None]:
    """Runs `command` for the length of the block, which begins when `ready` succeeds."""
    process = room.group.start(command, output=room.log, env=room.env)
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise CommandFailed(f"{command[0]}: exit status {process.returncode}\n{tail(room.log)}")
            if subprocess.run(ready, env=room.env, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise CommandFailed(f"{command[0]}: not ready after 30 s\n{tail(room.log)}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
