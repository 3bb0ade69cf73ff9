"""lamina as the subject of the measurement: with one storage driver, as root or as an ordinary user."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fixtures import Contents
from bench.meter import Account, as_account
from bench.room import COUNT, Command, NotHere, Room, Session, counted

ENTRY = "from lamina.cli.main import run; run()"  # what the console script does


def import_paths() -> tuple[str, ...]:
    """Where lamina and its libraries are imported from here, in order and without Python's own places."""
    others = {os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix)}
    here = str(Path(__file__).parents[1])
    return tuple(
        path
        for path in sys.path
        if os.path.isdir(path)
        and path != here
        and not any(os.path.realpath(path).startswith(f"{top}/") for top in others)
    )


def imports(python: str) -> dict[str, str]:
    """An interpreter other than this one finds lamina and its libraries where this one has them."""
    return {} if python == sys.executable else {"PYTHONPATH": os.pathsep.join(import_paths())}


def compile_modules(python: str) -> None:
    """Compiles lamina, as installing it does; an ordinary user could not write what it compiled itself."""
    import lamina

    subprocess.run([python, "-m", "compileall", "-q", *lamina.__path__], check=False, capture_output=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lamina:
    """lamina with one storage driver, as root or as an ordinary user, under a chosen interpreter."""

    name: str
    driver: str
    python: str = sys.executable
    account: Account | None = None

    def version(self) -> str:
        compile_modules(self.python)
        env = {"PATH": os.environ["PATH"], "HOME": "/", **imports(self.python)}
        command = [*as_account(self.account), self.python, "-c", ENTRY, "version", "--short"]
        run = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)
        if run.returncode:
            who = f" as {self.account.name}" if self.account else ""
            raise NotHere(f"{self.python}, lamina{who}: {run.stderr.strip()[-400:]}")
        return run.stdout.strip()

    @contextmanager
    def open(self, room: Room) -> Iterator[Session]:
        root = room.disk / "lamina"
        env = [f"{name}={value}" for name, value in imports(self.python).items()]
        client = ["env", *env] * bool(env) + [self.python, "-c", ENTRY]
        places = ["--root", str(root), "--storage-driver", self.driver]
        yield _LaminaSession(room=room, state=root, client=[*client, *places], python=self.python)


@dataclass(slots=True, kw_only=True)
class _LaminaSession:
    room: Room
    state: Path
    client: list[str]
    python: str

    def idle(self) -> Command:
        return [*self.client, "version"]

    def pull(self, reference: str) -> Sequence[Command]:
        return [[*self.client, "pull", reference]]

    def again(self, reference: str) -> Sequence[Command]:
        return self.pull(reference)

    def contents(self, reference: str) -> Contents:
        counting = [self.python, str(COUNT)]
        return counted(self.room.ask([*self.client, "mount", reference, "--", *counting]))


def ordinary_user(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
