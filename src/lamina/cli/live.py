"""Progress in place, drawn with rich. Imported only when standard output or error is a terminal."""

from __future__ import annotations

import threading
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lamina.cli.progress import Steps, line
from lamina.cli.quantity import human_size
from lamina.events import Action, Event, Report
from lamina.values import dataclass

_FRAMES = 10  # a second
_BAR = 50  # docker's width, given up on a narrow terminal
_MOVING = (Action.DOWNLOADING, Action.PUSHING, Action.EXTRACTING, Action.LOADING, Action.SQUASHING,
           Action.SEARCHING)


@dataclass(slots=True)
class _Line:
    """One layer's line: its state, and how far that state is."""

    event: Event
    current: int = 0
    total: int = 0


class LiveProgress:
    """A report function and a context manager; leaves the last state of every line on the screen.

    Nothing is drawn before there is a line: rich ends even an empty frame with a newline.
    """

    def __init__(self, stream: TextIO, notes: Report) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
        self._notes = notes
        self._lock = threading.Lock()
        self._steps = Steps()
        self._lines: dict[str, _Line] = {}
        self._live = self._new()

    def _new(self) -> Live:
        return Live(
            get_renderable=self._frame, console=self._console, refresh_per_second=_FRAMES,
            redirect_stdout=False, redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        # Lines that fell off a low screen while moving are shown in the end.
        self._live.vertical_overflow = "visible"
        self._live.stop()

    def __call__(self, event: Event) -> None:
        if event.action is Action.NOTE:
            self._notes(event)
        elif event.action in (Action.PULLING, Action.PUSHING_TO):
            self._heading(event)
        else:
            self._step(event)

    def _heading(self, event: Event) -> None:
        """The next image (of ``--all-tags``) begins below the finished lines of the one before."""
        with self._lock:
            finished, self._lines = self._lines, {}
            self._steps = Steps()
        for done in finished.values():
            self._console.print(Text(line(done.event)))
        self._console.print(Text(line(event)))

    def _step(self, event: Event) -> None:
        with self._lock:
            known = self._lines.setdefault(event.subject, _Line(event))
            if self._steps.advances(event):
                known.event, known.current, known.total = event, 0, 0
            if known.event.action is event.action:
                known.current = max(known.current, event.current or 0)
                known.total = event.total or known.total
        self._live.start()  # which it does once

    def _frame(self) -> Text:
        with self._lock:
            texts = [drawn(known.event, known.current, known.total, self._console.width)
                     for known in self._lines.values()]
        return Text("\n".join(texts), no_wrap=True, overflow="crop")


def drawn(event: Event, current: int, total: int, width: int) -> str:
    """``302e3ee49805: Downloading [=====>    ]  12.3MB/45.6MB``, as wide as there is room."""
    text = line(event)
    if event.action not in _MOVING or not current:
        return text
    if not total:
        return f"{text}  {human_size(current)}"
    amount = f"{human_size(min(current, total))}/{human_size(total)}"
    room = min(_BAR, width - len(text) - len(amount) - 6)
    if room < 8:
        return f"{text}  {amount}"
    filled = min(room, room * current // total)
    arrow = "=" * (filled - 1) + ">" if 0 < filled < room else "=" * filled
    return f"{text} [{arrow:<{room}}]  {amount}"
