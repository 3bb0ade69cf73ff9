"""Lines of progress: docker's words, one a change of state, whatever order workers report in."""

from __future__ import annotations

import threading

import pytest
from tests.cli.fakes import Command, Terminal, digest, value

from lamina.cli.live import LiveProgress, drawn
from lamina.cli.progress import RANK, PlainProgress, line
from lamina.events import Action, Event, silent

A, B = digest("a"), digest("b")
PULL = [
    Event(action=Action.PULLING, subject="latest", detail="library/redis"),
    Event(action=Action.EXISTS, subject=B),
    Event(action=Action.PULLING_LAYER, subject=A),
    Event(action=Action.WAITING, subject=A),
    Event(action=Action.DOWNLOADING, subject=A, current=1, total=9),
    Event(action=Action.EXTRACTING, subject=A, current=1, total=9),
    Event(action=Action.DOWNLOADING, subject=A, current=9, total=9),
    Event(action=Action.VERIFYING, subject=A),
    Event(action=Action.DOWNLOADED, subject=A),
    Event(action=Action.EXTRACTING, subject=A, current=9, total=9),
    Event(action=Action.PULLED, subject=A),
]
IN_ORDER = [event for event in PULL if event.action is not Action.EXTRACTING or event.current == 9]


def plain(events: list[Event]) -> list[str]:
    out = Terminal()
    progress = PlainProgress(out)
    for event in events:
        progress(event)
    return out.bytes.decode().splitlines()


def test_a_pull_in_plain_lines() -> None:
    assert plain(IN_ORDER) == [
        "latest: Pulling from library/redis",
        "bbbbbbbbbbbb: Already exists",
        "aaaaaaaaaaaa: Pulling fs layer",
        "aaaaaaaaaaaa: Waiting",
        "aaaaaaaaaaaa: Downloading",
        "aaaaaaaaaaaa: Verifying Checksum",
        "aaaaaaaaaaaa: Download complete",
        "aaaaaaaaaaaa: Extracting",
        "aaaaaaaaaaaa: Pull complete",
    ]


def test_a_layer_never_goes_back() -> None:
    lines = plain(PULL)
    assert lines[4:] == [
        "aaaaaaaaaaaa: Downloading",
        "aaaaaaaaaaaa: Extracting",
        "aaaaaaaaaaaa: Pull complete",
    ]


def test_a_retry_is_shown_and_what_follows_it_again() -> None:
    lines = plain([
        Event(action=Action.DOWNLOADING, subject=A),
        Event(action=Action.RETRYING, subject=A, detail="in 2 s: connection reset"),
        Event(action=Action.DOWNLOADING, subject=A),
    ])
    assert lines == [
        "aaaaaaaaaaaa: Downloading",
        "aaaaaaaaaaaa: Retrying (in 2 s: connection reset)",
        "aaaaaaaaaaaa: Downloading",
    ]


def test_a_push() -> None:
    assert plain([
        Event(action=Action.PUSHING_TO, subject="7", detail="registry.test/app"),
        Event(action=Action.PREPARING, subject=A),
        Event(action=Action.PUSHING, subject=A, current=1, total=2),
        Event(action=Action.PUSHED, subject=A),
        Event(action=Action.MOUNTED, subject=B, detail="library/redis"),
        Event(action=Action.PUSH_EXISTS, subject=digest("c")),
    ]) == [
        "The push refers to repository [registry.test/app]",
        "aaaaaaaaaaaa: Preparing",
        "aaaaaaaaaaaa: Pushing",
        "aaaaaaaaaaaa: Pushed",
        "bbbbbbbbbbbb: Mounted from library/redis",
        "cccccccccccc: Layer already exists",
    ]


def test_every_action_has_words_and_a_place() -> None:
    for action in Action:
        event = Event(action=action, subject=A, detail="d")
        assert line(event)
        assert action in RANK or action in (
            Action.PULLING, Action.PUSHING_TO, Action.NOTE, Action.RETRYING
        ), f"{action.name} would never be shown"


def test_words_from_a_registry_are_made_visible() -> None:
    assert plain([Event(action=Action.PULLING, subject="a\x1b[2J", detail="b\u202e")]) == [
        "a\\x1b[2J: Pulling from b\\u202e"
    ]


def test_many_threads_write_whole_lines() -> None:
    out = Terminal()
    progress = PlainProgress(out)

    def work(number: int) -> None:
        subject = "sha256:" + f"{number:012x}" + "0" * 52
        for action in (Action.PULLING_LAYER, Action.DOWNLOADING, Action.PULLED):
            progress(Event(action=action, subject=subject))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = out.bytes.decode().splitlines()
    assert len(lines) == 24
    assert len(set(lines)) == 24


# -- on a terminal


@pytest.mark.parametrize(("event", "current", "total", "expected"), [
    (Event(action=Action.PULLING_LAYER, subject=A), 0, 0, "aaaaaaaaaaaa: Pulling fs layer"),
    (Event(action=Action.DOWNLOADING, subject=A), 0, 100, "aaaaaaaaaaaa: Downloading"),
    (Event(action=Action.DOWNLOADING, subject=A), 5000, 0, "aaaaaaaaaaaa: Downloading  5kB"),
    (Event(action=Action.DOWNLOADING, subject=A), 25_000_000, 100_000_000,
     "aaaaaaaaaaaa: Downloading [=======>" + " " * 27 + "]  25MB/100MB"),
    (Event(action=Action.EXTRACTING, subject=A), 100, 100,
     "aaaaaaaaaaaa: Extracting [" + "=" * 37 + "]  100B/100B"),
])
def test_a_drawn_line_fits(event: Event, current: int, total: int, expected: str) -> None:
    assert drawn(event, current, total, 76) == expected
    assert len(drawn(event, current, total, 76)) <= 76


def test_a_narrow_terminal_gets_no_bar() -> None:
    event = Event(action=Action.DOWNLOADING, subject=A)
    assert drawn(event, 25_000_000, 100_000_000, 48) == "aaaaaaaaaaaa: Downloading  25MB/100MB"


def test_in_place_the_last_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal(is_terminal=True)
    notes: list[Event] = []
    with LiveProgress(out, notes.append) as progress:
        for event in [*PULL, Event(action=Action.NOTE, subject="x", detail="a note")]:
            progress(event)
    text = out.bytes.decode()
    assert "latest: Pulling from library/redis" in text
    assert "bbbbbbbbbbbb: Already exists" in text
    assert text.rstrip("\x1b[?25h\r\n").endswith("aaaaaaaaaaaa: Pull complete")
    assert [note.detail for note in notes] == ["a note"]


def test_in_place_nothing_leaves_no_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal(is_terminal=True)
    with LiveProgress(out, silent):
        pass
    assert out.bytes == b""


def test_in_place_several_images_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal(is_terminal=True)
    with LiveProgress(out, silent) as progress:
        for tag in ("1", "2"):
            progress(Event(action=Action.PULLING, subject=tag, detail="app"))
            progress(Event(action=Action.PULLED, subject=A))
    text = out.bytes.decode()
    assert text.index("1: Pulling from app") < text.index("2: Pulling from app")
    assert text.count("aaaaaaaaaaaa: Pull complete") >= 2


# -- which of the two


def pulled() -> tuple[object, ...]:
    return (value(reference="docker.io/library/redis:latest", digest=digest("d"), image_id=digest("e"), is_new=True),)


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {}, {"TERM": "xterm", "CI": "true"}])
def test_plain_lines_where_the_cursor_cannot_move(command: Command, environ: dict[str, str]) -> None:
    command.is_terminal, command.environ, command.events = True, environ, PULL
    result = command("pull", "redis:latest", pull=pulled())
    assert "aaaaaaaaaaaa: Downloading\n" in result.out
    assert "\x1b" not in result.out
