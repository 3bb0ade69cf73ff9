"""A small engine that answers from what it was given and remembers what it was asked."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from lamina.cli.dispatch import main
from lamina.cli.session import Session
from lamina.engine.settings import Settings
from lamina.events import Event, Report
from lamina.runtime.container import ContainerNotFound

NOW = 1_720_000_000.0  # 2024-07-03T09:46:40Z


# What verbs ask that take a container, an image, or more, by the same name.
NOTHING_HERE = {
    verb: ContainerNotFound("x: no such container")
    for verb in ("container", "container_changes", "inspect_container", "inspect_network", "inspect_volume")
}


class FakeEngine:
    """``answers`` maps a verb to a value, to an exception to raise, or to a function of its arguments.

    ``events`` are reported before the answer is given.
    """

    def __init__(self, answers: dict[str, Any], events: list[Event], settings: Settings, report: Report) -> None:
        self.answers = {**NOTHING_HERE, "dropped_blobs": (), **answers}
        self.events = events
        self.settings = settings
        self.report = report
        self.root = settings.root
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.is_closed = True

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        answers = object.__getattribute__(self, "answers")
        if verb not in answers:
            raise AttributeError(verb)

        def answer(*positional: Any, **named: Any) -> Any:
            self.asked.append((verb, positional, named))
            for event in self.events:
                self.report(event)
            value = answers[verb]
            if isinstance(value, BaseException):
                raise value
            return value(*positional, **named) if callable(value) else value

        return answer


class Terminal(io.TextIOWrapper):
    """A text stream over memory that may say that it is a terminal."""

    def __init__(self, content: bytes = b"", *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", errors="backslashreplace", newline="",
                         write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def bytes(self) -> bytes:
        self.flush()
        value = self.buffer.getvalue()  # type: ignore[attr-defined]
        assert isinstance(value, bytes)
        return value


@dataclass
class Result:
    code: int
    out: str
    err: str
    raw: bytes
    engines: list[FakeEngine]

    @property
    def asked(self) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
        return [call for engine in self.engines for call in engine.asked]

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Command:
    """Runs command lines on a fake engine, or a real one, in an environment of its own."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    is_terminal: bool = False
    input: bytes = b""
    is_keyboard: bool = False
    is_real: bool = False

    def __call__(self, *words: str, **answers: Any) -> Result:
        engines: list[FakeEngine] = []

        def open_engine(settings: Settings, report: Report) -> Any:
            engines.append(FakeEngine(answers, self.events, settings, report))
            return engines[-1]

        out, err = Terminal(is_terminal=self.is_terminal), Terminal(is_terminal=self.is_terminal)
        session = Session(
            stdin=Terminal(self.input, is_terminal=self.is_keyboard), stdout=out, stderr=err,
            environ={"HOME": str(self.home), "LAMINA_ROOT": str(self.home / "root"), **self.environ},
            clock=lambda: NOW, open_engine=None if self.is_real else open_engine,
        )
        code = main(words, session)
        return Result(code, out.bytes.decode(errors="replace"), err.bytes.decode(), out.bytes, engines)


def value(**fields: Any) -> SimpleNamespace:
    """A stand-in for a value of the engine's."""
    return SimpleNamespace(**fields)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64
