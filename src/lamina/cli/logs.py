"""What containers said: logs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.runtime.logs import LogLine

_PAUSE = 0.1


def _arguments(parser: VerbParser) -> None:
    parser.positional("name", "CONTAINER", "a name, an ID, or the beginning of an ID")
    parser.flag("-f", "--follow", about="go on until the container ends")
    parser.value("-n", "--tail", metavar="NUMBER", default="all", about="only the last lines")
    parser.flag("-t", "--timestamps", about="when each line was written")
    parser.value("--since", metavar="TIME", default="",
                 about="2026-11-25T10:00:00Z, or 10m for ten minutes ago")
    parser.value("--until", metavar="TIME", default="", about="the same, for the end")
    parser.flag("--details", about="accepted for docker's sake")


def _logs(arguments: Arguments, session: Session) -> None:
    tail = _tail(arguments.tail)
    since, until = (_moment(text, session.clock()) for text in (arguments.since, arguments.until))

    def wanted(line: LogLine) -> bool:
        return (not since or line.time >= since) and (not until or line.time <= until)

    with session.engine() as engine:
        seen = engine.container(arguments.name)
        is_terminal = seen.container.options.has_terminal
        with engine.log(arguments.name) as log:
            lines: Iterator[LogLine] = filter(wanted, log.read())
            if tail is not None:
                lines = iter(deque(lines, maxlen=tail))
            for line in lines:
                _show(session, line, has_time=arguments.timestamps, is_terminal=is_terminal)
            if arguments.follow:
                def show_wanted(line: LogLine) -> None:
                    if wanted(line):
                        _show(session, line, has_time=arguments.timestamps, is_terminal=is_terminal)

                def is_live() -> bool:
                    return engine.container(arguments.name).state.is_live

                _follow(session, log.more, is_live, show_wanted)


def _follow(
    session: Session, more: Callable[[], list[LogLine]], is_live: Callable[[], bool],
    act: Callable[[LogLine], object],
) -> None:
    """One more look after the end: the last lines are written before the end is noted."""
    goes_on = True
    while goes_on:
        lines = more()
        if not lines:
            goes_on = is_live()
            lines = more() if not goes_on else []
        for line in lines:
            act(line)
        session.flush()
        session.stderr.flush()
        if goes_on and not lines:
            time.sleep(_PAUSE)


def _show(session: Session, line: LogLine, *, has_time: bool, is_terminal: bool) -> None:
    """Just as it was written: what a container says is for its reader to interpret, as with docker."""
    text = f"{line.time} {line.text}" if has_time else line.text
    if line.stream == "stderr" and not is_terminal:
        session.flush()
        session.stderr.write(text)
    else:
        session.write(text)


def _tail(text: str) -> int | None:
    if text in ("all", "-1"):
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--tail: expected a number or 'all', got {text!r}")
    return int(text) if len(text) < 16 else None


def _moment(text: str, now: float) -> str:
    """As the log spells times, so that texts can be compared."""
    if not text:
        return ""
    from lamina.cli.quantity import parse_time
    from lamina.cli.runoptions import read_time

    seconds: float | None
    try:
        is_number = text.isascii() and text.isdigit() and len(text) < 12
        seconds = float(text) if is_number else now - (read_time(text, "--since") or 0.0)
    except UsageError:
        seconds = parse_time(text)
    if seconds is None:
        raise UsageError(
            f"--since and --until: expected a time such as 2026-11-25T10:00:00Z or 10m, got {text!r}"
        )
    seconds = max(0.0, seconds)
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1e9):09d}Z"


LOGS = Verb(
    _logs, usage="[OPTIONS] CONTAINER",
    about="Prints what a container's command wrote; what it wrote to standard error goes there.",
    arguments=_arguments,
    examples=("lamina logs web", "lamina logs -f --tail 20 web", "lamina logs --since 10m -t web"),
)
