"""Progress as docker shows it: a line per layer that changes in place on a terminal, or a line per change.

Workers report from several threads, and unpacking begins while bytes still arrive, so states come out of
order. A layer only ever moves forward here: a state that is behind the one shown is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from lamina.cli.session import output_failure
from lamina.cli.terminal import is_terminal, visible
from lamina.events import Action, Event, Report, silent

if TYPE_CHECKING:
    from lamina.cli.session import Session

# How far a layer is. RETRYING stands outside: it is always shown, and what comes after it again.
_ORDER = (
    (Action.PULLING_LAYER, Action.PREPARING, Action.LOADING, Action.MOVING, Action.MEASURING),
    (Action.WAITING,),
    (Action.DOWNLOADING, Action.PUSHING, Action.SQUASHING, Action.SEARCHING),
    (Action.VERIFYING,),
    (Action.DOWNLOADED,),
    (Action.EXTRACTING,),
    (Action.PULLED, Action.EXISTS, Action.PUSHED, Action.MOUNTED, Action.PUSH_EXISTS, Action.LOADED,
     Action.SQUASHED, Action.SEARCHED, Action.MOVED, Action.MEASURED),
)
RANK = {action: rank for rank, actions in enumerate(_ORDER) for action in actions}
# Shown once, as they come; their subjects are not layers.
_SENTENCES = (Action.PULLING, Action.PUSHING_TO, Action.NOTE)
_RETRIED = RANK[Action.WAITING]


class Steps:
    """How far each layer is. Tells whether an event is news."""

    def __init__(self) -> None:
        self._rank: dict[str, int] = {}

    def advances(self, event: Event) -> bool:
        if event.action is Action.RETRYING:
            self._rank[event.subject] = _RETRIED
            return True
        rank = RANK.get(event.action, -1)
        if rank <= self._rank.get(event.subject, -1):
            return False
        self._rank[event.subject] = rank
        return True


class PlainProgress:
    """One line for each change of state, and none for bytes."""

    def __init__(self, stream: TextIO, notes: Report = silent) -> None:
        self._stream = stream
        self._notes = notes
        self._steps = Steps()
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.action is Action.NOTE:
                self._notes(event)
            elif event.action in _SENTENCES or self._steps.advances(event):
                self._write(line(event))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except OSError as error:
            raise output_failure(error) from None


def line(event: Event) -> str:
    """The words of an event, without how far it is."""
    if event.action is Action.PULLING:
        return f"{visible(event.subject)}: Pulling from {visible(event.detail)}"
    if event.action is Action.PUSHING_TO:
        return f"The push refers to repository [{visible(event.detail)}]"
    if event.action is Action.NOTE:
        return visible(event.detail)
    text = f"{short(event.subject)}: {event.action}"
    if event.action is Action.MOUNTED:
        return f"{text} {visible(event.detail)}"
    return f"{text} ({visible(event.detail)})" if event.action is Action.RETRYING else text


def short(subject: str) -> str:
    """Twelve digits of a digest; anything else as it is."""
    algorithm, mark, encoded = subject.partition(":")
    return encoded[:12] if mark and algorithm.isalnum() and len(encoded) >= 32 else visible(subject)


@contextmanager
def shown(session: Session, stream: TextIO) -> Iterator[Report]:
    """A report function that draws on ``stream``: in place if somebody looks at it."""

    def note(event: Event) -> None:
        session.note(f"note: {visible(event.detail or event.subject)}")

    if session.is_quiet:
        yield silent
    elif draws_in_place(session, stream):
        from lamina.cli.live import LiveProgress

        with LiveProgress(stream, note) as progress:
            yield progress
    else:
        yield PlainProgress(stream, note)


def draws_in_place(session: Session, stream: TextIO) -> bool:
    """Only on a terminal that can move its cursor, and not in a CI job, whose log keeps every frame."""
    return (
        is_terminal(stream)
        and session.environ.get("TERM", "") not in ("", "dumb")
        and not session.environ.get("CI")
    )
