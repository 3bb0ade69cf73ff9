"""The progress of a build on a terminal: what is done above, what runs below it, drawn with rich.

Only running steps are drawn in place. So a build of a hundred steps is no higher than the screen, and what
is done can be read and scrolled to afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lamina.build.report import Stage, StepEvent
from lamina.cli.buildprogress import Step, harmless, whole_build
from lamina.cli.terminal import visible
from lamina.values import dataclass, field

_FRAMES = 8  # a second
_MOST_LINES = 6  # of a running step's output
_MARKS = {
    Stage.CACHED: ("✔ CACHED", "CACHED"), Stage.DONE: ("✔", "DONE"), Stage.FAILED: ("✘", "ERROR"),
    Stage.CANCELLED: ("✘ CANCELED", "CANCELED"),
}
_STYLES = {Stage.CACHED: "blue", Stage.DONE: "green", Stage.FAILED: "red", Stage.CANCELLED: "yellow"}


@dataclass(slots=True)
class _Running:
    step: Step
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_LINES))


class LiveSteps:
    """Steps that never ended, because the build was killed, are gone from the screen in the end."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
        self._column = 0 if _can_write(stream, "✔✘│") else 1
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._running: dict[int, _Running] = {}
        self._done = 0
        self._live = Live(
            get_renderable=self._frame, console=self._console, refresh_per_second=_FRAMES, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )

    def draw(self, event: StepEvent, step: Step | None) -> None:
        if step is None:
            self._print(Text(whole_build(event)))
            return
        self._take(event, step)
        self._live.start()  # which it does once
        if step.is_ended:
            self._print(self._finished(event, step))
            self._live.refresh()

    def close(self) -> None:
        with self._lock:
            self._running.clear()
        self._live.stop()

    def _take(self, event: StepEvent, step: Step) -> None:
        with self._lock:
            if event.stage is Stage.BEGUN:
                self._running[step.number] = _Running(step)
            elif event.stage is Stage.OUTPUT:
                if step.number in self._running:
                    lines = map(harmless, step.taken(event))
                    self._running[step.number].lines.extend(line for line in lines if line.strip())
            else:
                self._running.pop(step.number, None)
                self._done += 1

    def _finished(self, event: StepEvent, step: Step) -> Text:
        text = Text.assemble(
            (f" {_MARKS[event.stage][self._column]} ", _STYLES[event.stage]), visible(step.title),
        )
        after = "" if event.stage is Stage.CACHED else f"{event.seconds:.1f}s"
        line = self._line(text, after)
        if step.reason:
            line.append(f"\n   not cached: {visible(step.reason)}", "dim")
        return line

    def _frame(self) -> Text:
        now = time.monotonic()
        with self._lock:
            running = list(self._running.values())[: max(1, self._console.height - 2)]
            texts = [Text(f"[+] Building {now - self._began:.1f}s ({self._done} done)")] if running else []
            room = max(1, (self._console.height - 2) // max(1, len(running)) - 1)
            for each in running:
                texts += self._about(each, now, room)
        frame = Text("\n").join(texts)
        frame.no_wrap, frame.overflow = True, "crop"
        return frame

    def _about(self, each: _Running, now: float, room: int) -> Iterator[Text]:
        """A running step, in one line and at most so many more."""
        step = each.step
        yield self._line(Text(f" … {visible(step.title)}"), f"{now - step.began:.1f}s")
        if step.reason and not each.lines:
            yield Text(f"   not cached: {visible(step.reason)}", "dim")
        bar = "|" if self._column else "│"
        yield from (Text(f"   {bar} {line}", "dim") for line in list(each.lines)[-room:])

    def _line(self, text: Text, after: str) -> Text:
        """``after`` stands at the right, and is never what is cut off."""
        width = self._console.width - len(after) - 2
        text.truncate(width, overflow="ellipsis", pad=bool(after))
        text.append(f" {after}" if after else "")
        return text

    def _print(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, overflow="crop")


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
