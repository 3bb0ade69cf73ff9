"""One run of the command: its streams, its environment, and the engine when a verb asks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from lamina.cli.terminal import is_terminal, visible, visible_lines
from lamina.errors import LaminaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, TextIO

    from lamina.engine.engine import Engine
    from lamina.engine.settings import Settings
    from lamina.events import Report

OpenEngine = Callable[["Settings", "Report"], "Engine"]


class OutputClosed(Exception):
    """Standard output has no reader any more, as in ``lamina images | head -1``."""


class Refused(LaminaError):
    """Something a door will not do, such as writing an archive to a terminal."""


class Session:
    """``flags`` are settings given on the command line, by key; ``trouble`` is the exit code for failures.

    Nothing is opened before it is needed.
    """

    def __init__(
        self,
        *,
        stdin: TextIO,
        stdout: TextIO,
        stderr: TextIO,
        environ: Mapping[str, str],
        clock: Callable[[], float],
        open_engine: OpenEngine | None = None,
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.environ = environ
        self.clock = clock
        self.flags: dict[str, Any] = {}
        self.config_file = ""
        self.is_quiet = False
        self.is_debug = False
        self.has_hints = True
        self.trouble = 1
        self._open_engine = open_engine or _open_engine
        self._settings: Settings | None = None

    @classmethod
    def of_process(cls) -> Session:
        import time

        for stream in (sys.stdout, sys.stderr):
            # A name that this terminal's encoding lacks is shown as an escape, not as a crash.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        return cls(stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ, clock=time.time)

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            from pathlib import Path

            from lamina.engine.settings import Settings

            file = Path(self.config_file) if self.config_file else None
            self._settings = Settings.load(self.environ, flags=self.flags, file=file)
        return self._settings

    @property
    def known_root(self) -> str:
        """The state directory, or ``""`` before somebody asked for settings."""
        return str(self._settings.root) if self._settings is not None else ""

    def engine(self, report: Report | None = None) -> Engine:
        """The caller closes it (it is a context manager)."""
        from lamina.events import silent

        return self._open_engine(self.settings, report or silent)

    def print(self, text: str) -> None:
        """A line of results. Whatever an image or a stranger said in it must be made visible before."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        try:
            self.stdout.write(text)
        except OSError as error:
            raise output_failure(error) from None

    def note(self, text: str) -> None:
        """A line for people, beside the results; a quiet session has none."""
        if not self.is_quiet:
            self.stderr.write(visible_lines(text) + "\n")

    def hint(self, text: str) -> None:
        """A note for somebody who is looking at the results right now, and not for scripts and logs."""
        if self.has_hints and is_terminal(self.stdout) and is_terminal(self.stderr):
            self.note(text)

    def agrees(self, what: str) -> bool:
        """Asks before something is removed for good; ``what`` names it."""
        self.stderr.write(f"WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ")
        self.stderr.flush()
        return self.stdin.readline().strip().lower() in ("y", "yes")

    def complain(self, text: str) -> None:
        self.stderr.write(f"lamina: {visible(text)}\n")

    def flush(self) -> None:
        try:
            self.stdout.flush()
        except OSError as error:
            raise output_failure(error) from None

    def input_bytes(self) -> BinaryIO:
        return self.stdin.buffer

    def output_bytes(self) -> BinaryIO:
        self.flush()
        output: Any = _Output(self.stdout.buffer)
        return output  # type: ignore[no-any-return]


class _Output:
    """Standard output as bytes, whose closing by its reader can be told from a lost connection."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, chunk: bytes | memoryview) -> int:
        try:
            return self._stream.write(chunk)
        except OSError as error:
            raise output_failure(error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise output_failure(error) from None

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Standard output is not ours to close."""


def output_failure(error: OSError) -> Exception:
    """What a failure to write results is to the rest of the command."""
    if isinstance(error, BrokenPipeError):
        return OutputClosed()
    error.filename = "standard output"
    return error


def _open_engine(settings: Settings, report: Report) -> Engine:
    from lamina.engine.engine import Engine

    return Engine.open(settings=settings, report=report)
