"""The same container commands given to lamina, docker and podman, and what each of them answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.compat.peers import PATIENCE

_Found = TypeVar("_Found")

# What `run` and `create` are given in addition. No bridge, since dockerd is started without one; and podman
# raises limits that root of a container may not raise, unless it is told others.
_ADDED: Mapping[str, tuple[str, ...]] = {
    "lamina": ("--network", "none"),
    "docker": ("--network", "none"),
    "podman": ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"),
}


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    error: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass(frozen=True)
class Peer:
    """``command`` is the program with its global options; ``environment`` is all that it sees."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]

    def __call__(self, *arguments: str | Path, stdin: str = "") -> Answer:
        done = subprocess.run(
            self.argv(*arguments), input=stdin.encode(), capture_output=True, timeout=PATIENCE, check=False,
            env=dict(self.environment),
        )
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def argv(self, *arguments: str | Path) -> list[str]:
        given = [str(argument) for argument in arguments]
        if given[0] in ("run", "create"):
            given[1:1] = _ADDED[self.name]
        if given[0] == "commit" and self.name == "podman":
            given[1:1] = ("--format", "docker")  # its own form has no place for a message
        return [*self.command, *given]

    def good(self, *arguments: str | Path, stdin: str = "") -> str:
        answer = self(*arguments, stdin=stdin)
        assert answer.code == 0, f"{self.name} {arguments}: exit {answer.code}\n{answer.out}{answer.error}"
        return answer.out

    @contextlib.contextmanager
    def terminal(self, *arguments: str | Path, size: tuple[int, int] = (24, 80)) -> Iterator[Terminal]:
        """The command on a terminal of ``size`` (rows, columns); killed at the end."""
        argv = self.argv(*arguments)
        process, master = pty.fork()
        if process == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            os.execve(argv[0], argv, dict(self.environment))
        terminal = Terminal(self.name, process, master)
        try:
            yield terminal
        finally:
            terminal.hang_up()


@dataclass
class Terminal:
    """Our end of a pseudoterminal: what a person sees and types."""

    name: str
    process: int
    master: int
    seen: str = ""
    _mark: int = field(default=0)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, seconds: float = 20) -> None:
        """Reads on until ``text`` appears, and starts anew behind it."""
        end = time.monotonic() + seconds
        while (found := self.seen.find(text, self._mark)) < 0:
            alive = self._read(0.2)
            if not alive or time.monotonic() > end:
                raise AssertionError(f"{self.name}: {text!r} did not appear in {self.seen[self._mark:]!r}")
        self._mark = found + len(text)

    def ended(self, seconds: float = 20) -> int:
        """The exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.02)
            pid, status = os.waitpid(self.process, os.WNOHANG)
            if pid:
                self.process = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"{self.name}: still running, and showed {self.seen[self._mark:]!r}")

    def hang_up(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.master)

    def _read(self, seconds: float) -> bool:
        """False when nobody has the other side open any more."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


@dataclass(frozen=True)
class Case:
    """A command line for all three. Those in ``others`` are known to answer otherwise, and must do so still.

    ``@`` in it is a directory of each one's own.
    """

    line: str
    others: tuple[str, ...] = ()
    stdin: str = ""


@dataclass(frozen=True)
class Peers:
    """``ours`` first. ``scratch`` has a directory for each, by name."""

    ours: Peer
    docker: Peer
    podman: Peer
    scratch: Path

    @property
    def all(self) -> tuple[Peer, ...]:
        return (self.ours, self.docker, self.podman)

    def each(self, ask: Callable[[Peer], _Found]) -> dict[str, _Found]:
        """The same of all three, at the same time."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            answers = list(pool.map(ask, self.all))
        return {peer.name: answer for peer, answer in zip(self.all, answers, strict=True)}

    def say(self, line: str, stdin: str = "") -> dict[str, Answer]:
        def ask(peer: Peer) -> Answer:
            own = str(self.scratch / peer.name)
            return peer(*(word.replace("@", own) for word in shlex.split(line)), stdin=stdin)

        return self.each(ask)

    def compare(
        self, cases: Sequence[Case | str], seen: Callable[[Answer], object] = lambda answer: (answer.code, answer.out)
    ) -> None:
        """All cases are tried; the failure lists those in which somebody surprises."""
        wrong = []
        for each in cases:
            case = Case(each) if isinstance(each, str) else each
            answers = self.say(case.line, case.stdin)
            expected = seen(answers["lamina"])
            for name in ("docker", "podman"):
                if (seen(answers[name]) == expected) is (name in case.others):
                    verdict = "agrees by now with" if name in case.others else "differs from"
                    ours, theirs = answers["lamina"], answers[name]
                    wrong.append(f"{case.line}\n  {name} {verdict} us\n    ours   {ours}\n    theirs {theirs}")
        assert not wrong, "\n".join(wrong)


def code_only(answer: Answer) -> object:
    return answer.code


def is_failure(answer: Answer) -> object:
    """Which code a command has for its own failures is each one's own; that it fails is not."""
    return (answer.code != 0, answer.out)


def sorted_environment(answer: Answer) -> object:
    """Podman has two variables more: they say that it was podman, and which terminal there is when there is none."""
    return answer.code, sorted(set(answer.lines) - {"container=podman", "TERM=xterm"})
