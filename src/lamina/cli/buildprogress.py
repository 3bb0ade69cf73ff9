"""The progress of a build: lines as BuildKit writes them, its JSON, or nothing but a record of the steps.

What commands write is a stranger's. On a terminal everything in it that could steer one is made visible; in
a pipe colours stay, for logs show them, and nothing else does.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from lamina.build.report import Stage, StepEvent
from lamina.cli.progress import Steps, line
from lamina.cli.session import output_failure
from lamina.cli.terminal import is_terminal, json_text, visible
from lamina.events import Action, Event
from lamina.values import dataclass, field

if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.session import Session

_COLOUR = re.compile("(\x1b\\[[0-9;:]*m)")
_LONGEST = 64 << 10  # bytes that wait for the end of their line
_FROM = "] FROM "
_ENDS = (Stage.CACHED, Stage.DONE, Stage.FAILED, Stage.CANCELLED)


@dataclass(slots=True, kw_only=True)
class Step:
    """``number`` is the one that is shown. ``lines`` have not ended yet: standard output's, and error's."""

    number: int
    title: str
    stage: Stage
    reason: str = ""
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    lines: dict[bool, bytes] = field(default_factory=dict)

    @property
    def is_ended(self) -> bool:
        return self.stage in _ENDS

    def taken(self, event: StepEvent) -> list[str]:
        """The lines that an output event completes."""
        waiting = self.lines.get(event.is_error, b"") + event.data
        *whole, rest = waiting.split(b"\n")
        if len(rest) > _LONGEST:
            whole, rest = [*whole, rest], b""
        self.lines[event.is_error] = rest
        return [_text(line) for line in whole]

    def rest(self) -> list[str]:
        """What was written last, and has no end of a line."""
        waiting, self.lines = self.lines, {}
        return [_text(line) for line in waiting.values() if line]


class Drawing(Protocol):
    """``draw`` is called for one event at a time; ``step`` is ``None`` for what concerns the whole build."""

    def draw(self, event: StepEvent, step: Step | None) -> None: ...

    def close(self) -> None: ...


class BuildProgress:
    """A report function that knows all steps afterwards; close it before anything else is written."""

    def __init__(self, drawing: Drawing) -> None:
        self.steps: list[Step] = []
        self._drawing = drawing
        self._current: dict[int, Step] = {}
        self._layers = Steps()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._drawing.close()

    def make_way(self) -> None:
        """The terminal is somebody else's for a while."""
        with self._lock:
            self._drawing.close()

    def __call__(self, event: StepEvent) -> None:
        with self._lock:
            self._draw(event, self._step(event) if event.number else None)

    def transfer(self, event: Event) -> None:
        """Layers that come and go: of a base image they are what its step has to say."""
        with self._lock:
            if event.action not in (Action.PULLING, Action.PUSHING_TO, Action.NOTE) and (
                not self._layers.advances(event)
            ):
                return
            text = line(event)
            running = [step for step in self.steps if not step.is_ended and _FROM in step.title]
            if not running:
                self._draw(StepEvent(number=0, stage=Stage.OUTPUT, title="", text=text), None)
                return
            step = running[-1]
            self._draw(StepEvent(
                number=step.number, stage=Stage.OUTPUT, title=step.title, data=f"{text}\n".encode(),
                seconds=time.monotonic() - step.began,
            ), step)

    def _draw(self, event: StepEvent, step: Step | None) -> None:
        try:
            self._drawing.draw(event, step)
        except OSError as error:
            raise output_failure(error) from None

    def _step(self, event: StepEvent) -> Step:
        step = self._current.get(event.number)
        if step is None or step.is_ended:
            step = Step(number=len(self.steps) + 1, title=event.title, stage=event.stage)
            self.steps.append(step)
            self._current[event.number] = step
        if event.stage in (Stage.BEGUN, *_ENDS):
            step.stage = event.stage
            step.reason = event.reason or step.reason
            step.seconds = event.seconds
        return step


class Silence:
    def draw(self, event: StepEvent, step: Step | None) -> None:
        pass

    def close(self) -> None:
        pass


class PlainLines:
    """``#5 [stage-0 2/4] RUN make``, and under the same number all that comes of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = harmless if is_terminal(stream) else coloured

    def draw(self, event: StepEvent, step: Step | None) -> None:
        lines = [whole_build(event)] if step is None else [
            f"#{step.number} {line}" if line else "" for line in self._lines(event, step)
        ]
        if lines:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()

    def close(self) -> None:
        pass

    def _lines(self, event: StepEvent, step: Step) -> Iterator[str]:
        if event.stage in (Stage.BEGUN, Stage.CACHED):
            yield visible(step.title)
        if event.stage is Stage.BEGUN and event.reason:
            yield f"not cached: {visible(event.reason)}"
        said = step.taken(event) if event.stage is Stage.OUTPUT else step.rest() if step.is_ended else []
        yield from (f"{event.seconds:.2f} {self._shown(line)}" for line in said)
        if step.is_ended:
            yield _ending(event)
            yield ""


def whole_build(event: StepEvent) -> str:
    text = visible(event.text)
    return f"note: {text.removeprefix('note: ')}" if event.stage is Stage.NOTE else text


def _ending(event: StepEvent) -> str:
    if event.stage is Stage.CACHED:
        return "CACHED"
    if event.stage is Stage.DONE:
        return f"DONE {event.seconds:.1f}s"
    if event.stage is Stage.CANCELLED:
        return "CANCELED"  # in BuildKit's spelling
    return f"ERROR: {visible(event.text)}"


class JsonLines:
    """BuildKit's ``SolveStatus`` (client/graph.go), one object a line: vertexes, logs, warnings.

    A vertex has no digest of its own here; the hash of its number stands for one.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._began: dict[int, str] = {}

    def draw(self, event: StepEvent, step: Step | None) -> None:
        now = _moment(self._clock())
        if step is None and event.stage is Stage.OUTPUT:
            data = _base64(f"{event.text}\n".encode("utf-8", "surrogateescape"))
            self._write({"logs": [{"vertex": _vertex(0), "stream": 1, "data": data, "timestamp": now}]})
        elif step is None:
            short = _base64(event.text.encode("utf-8", "surrogateescape"))
            self._write({"warnings": [{"vertex": _vertex(0), "level": 1, "short": short}]})
        elif event.stage is Stage.OUTPUT:
            self._write({"logs": [{
                "vertex": _vertex(step.number), "stream": 2 if event.is_error else 1,
                "data": _base64(event.data), "timestamp": now,
            }]})
        else:
            self._write({"vertexes": [self._described(event, step, now)]})

    def close(self) -> None:
        pass

    def _described(self, event: StepEvent, step: Step, now: str) -> dict[str, Any]:
        found = {
            "digest": _vertex(step.number), "name": step.title,
            "started": self._began.setdefault(step.number, now),
        }
        ended: dict[str, Any] = {"completed": now} if step.is_ended else {}
        if event.stage is Stage.CACHED:
            ended["cached"] = True
        if event.stage is Stage.FAILED:
            ended["error"] = event.text
        if event.stage is Stage.CANCELLED:
            ended["error"] = "context canceled"
        return {**found, **({"reason": step.reason} if step.reason else {}), **ended}

    def _write(self, document: dict[str, Any]) -> None:
        self._stream.write(json_text(document) + "\n")
        self._stream.flush()


def progress_of(kind: str, session: Session) -> BuildProgress:
    """``kind`` is one of ``plain``, ``tty``, ``quiet`` and ``rawjson``."""
    drawing: Drawing
    if kind == "tty":
        from lamina.cli.buildlive import LiveSteps

        drawing = LiveSteps(session.stderr)
    elif kind == "quiet":
        drawing = Silence()
    else:
        drawing = JsonLines(session.stderr) if kind == "rawjson" else PlainLines(session.stderr)
    return BuildProgress(drawing)


def harmless(line: str) -> str:
    """For a terminal: colours go, for they can hide what is written; tabs are blanks."""
    return visible(_COLOUR.sub("", line).expandtabs(8))


def coloured(line: str) -> str:
    """For a pipe: colours stay as they are."""
    parts = _COLOUR.split(line.expandtabs(8))
    return "".join(part if number % 2 else visible(part) for number, part in enumerate(parts))


def _text(line: bytes) -> str:
    """Without what a carriage return had written over."""
    shown = [part for part in line.decode("utf-8", "surrogateescape").split("\r") if part]
    return shown[-1] if shown else ""


def last_lines(data: bytes, count: int = 20) -> list[str]:
    """The end of a command's output, for people."""
    lines = data.rstrip(b"\n").split(b"\n")[-count:]
    return [harmless(_text(line)) for line in lines] if data.strip() else []


def _vertex(number: int) -> str:
    from lamina.oci.digest import Digest

    return str(Digest.of(f"step {number}".encode()))


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
