"""How the progress of a build is drawn: as lines, as JSON, and on a terminal that nothing may steer."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from tests.cli.fakes import Terminal, digest

from lamina.build.report import Stage, StepEvent
from lamina.cli.buildlive import LiveSteps
from lamina.cli.buildprogress import BuildProgress, JsonLines, PlainLines, last_lines
from lamina.events import Action, Event


def event(stage: Stage, data: bytes = b"", number: int = 1, **more: object) -> StepEvent:
    return StepEvent(number=number, stage=stage, title="[a 2/2] RUN x", data=data, **more)  # type: ignore[arg-type]


def plainly(*events: StepEvent, is_terminal: bool = False) -> list[str]:
    stream = Terminal(is_terminal=is_terminal)
    with BuildProgress(PlainLines(stream)) as progress:
        for each in events:
            progress(each)
    return stream.bytes.decode().splitlines()


def test_output_comes_line_by_line() -> None:
    assert plainly(
        event(Stage.BEGUN), event(Stage.OUTPUT, b"on", seconds=0.1), event(Stage.OUTPUT, b"e\ntwo\nth", seconds=0.5),
        event(Stage.OUTPUT, b"error\n", seconds=0.75, is_error=True), event(Stage.DONE, seconds=1.25),
    ) == [
        "#1 [a 2/2] RUN x", "#1 0.50 one", "#1 0.50 two", "#1 0.75 error", "#1 1.25 th", "#1 DONE 1.2s", "",
    ]


def test_what_another_step_ended_is_cancelled() -> None:
    lines = plainly(event(Stage.BEGUN), event(Stage.OUTPUT, b"half", seconds=0.1), event(Stage.CANCELLED, seconds=1.0))
    assert lines == ["#1 [a 2/2] RUN x", "#1 1.00 half", "#1 CANCELED", ""]
    assert "CANCELED" in lively(lambda progress: progress(event(Stage.CANCELLED)))
    stream = Terminal()
    with BuildProgress(JsonLines(stream, lambda: 0.5)) as progress:
        progress(event(Stage.CANCELLED))
    (vertex,) = json.loads(stream.bytes)["vertexes"]
    assert (vertex["error"], vertex["completed"]) == ("context canceled", "1970-01-01T00:00:00.500000Z")


def test_of_a_line_that_is_written_over_the_end_is_shown() -> None:
    assert plainly(event(Stage.OUTPUT, b"10%\r50%\r100%\r\ndone\r\n")) == ["#1 0.00 100%", "#1 0.00 done"]


def test_colours_pass_into_a_pipe_and_nothing_else_does() -> None:
    data = b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J\xff\n"
    assert plainly(event(Stage.OUTPUT, data)) == ["#1 0.00 \x1b[31mred\x1b[0m \\x1b]0;title\\x07\\x1b[2J\\xff"]
    assert plainly(event(Stage.OUTPUT, data), is_terminal=True) == ["#1 0.00 red \\x1b]0;title\\x07\\x1b[2J\\xff"]
    assert last_lines(data) == ["red \\x1b]0;title\\x07\\x1b[2J\\xff"]


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_nothing_steers_a_terminal(chunks: list[bytes]) -> None:
    lines = plainly(
        event(Stage.BEGUN), *(event(Stage.OUTPUT, chunk) for chunk in chunks), event(Stage.DONE), is_terminal=True,
    )
    assert all(line.isprintable() for line in lines)


@given(st.lists(st.binary(max_size=60)))
def test_however_output_is_cut_it_is_the_same(chunks: list[bytes]) -> None:
    def shown(pieces: list[bytes]) -> list[str]:
        return plainly(event(Stage.BEGUN), *(event(Stage.OUTPUT, one) for one in pieces), event(Stage.DONE))

    assert shown(chunks) == shown([b"".join(chunks)])


def test_a_line_without_an_end_does_not_wait_for_ever() -> None:
    assert len(plainly(*[event(Stage.OUTPUT, b"x" * 40_000)] * 4)) == 2


def test_a_note_is_no_step() -> None:
    assert plainly(StepEvent(number=0, stage=Stage.NOTE, title="", text="careful\x1b")) == ["note: careful\\x1b"]


def test_layers_of_a_base_are_told_with_its_step() -> None:
    stream = Terminal()
    with BuildProgress(PlainLines(stream)) as progress:
        progress(StepEvent(number=4, stage=Stage.BEGUN, title="[a 1] FROM redis"))
        progress.transfer(Event(action=Action.PULLING, subject="7", detail="library/redis"))
        for current in (1, 2, 3):
            progress.transfer(Event(action=Action.DOWNLOADING, subject=digest("a"), current=current, total=3))
        progress(StepEvent(number=4, stage=Stage.DONE, title="[a 1] FROM redis", seconds=1.0))
        progress.transfer(Event(action=Action.PUSHING_TO, subject="x", detail="registry.test/x"))
    assert [re.sub(r"\d+\.\d\d ", "0.00 ", line) for line in stream.bytes.decode().splitlines()] == [
        "#1 [a 1] FROM redis", "#1 0.00 7: Pulling from library/redis", "#1 0.00 aaaaaaaaaaaa: Downloading",
        "#1 DONE 1.0s", "", "The push refers to repository [registry.test/x]",
    ]


def lively(act: Callable[[BuildProgress], None]) -> str:
    stream = Terminal(is_terminal=True)
    with BuildProgress(LiveSteps(stream)) as progress:
        act(progress)
    return stream.bytes.decode()


def test_a_running_step_shows_its_last_lines() -> None:
    def act(progress: BuildProgress) -> None:
        progress(event(Stage.BEGUN, reason="a.py changed"))
        for number in range(30):
            progress(event(Stage.OUTPUT, f"line {number}\n".encode()))
        progress(event(Stage.BEGUN, number=2))
        progress(event(Stage.FAILED, number=2, text="no"))

    shown = lively(act)
    assert "line 29" in shown
    assert "line 20" not in shown.rpartition("line 29")[0].rpartition("[+] Building")[2]
    assert "✘" in shown


@given(st.binary(max_size=60))
def test_nothing_steers_a_live_terminal(data: bytes) -> None:
    def act(progress: BuildProgress) -> None:
        progress(event(Stage.BEGUN))
        progress(event(Stage.OUTPUT, b"\x1b]0;" + data + b"\n"))
        progress(event(Stage.DONE))

    assert "\x1b]" not in lively(act)


# -- JSON


def test_logs_in_json_are_bytes() -> None:
    stream = Terminal()
    with BuildProgress(JsonLines(stream, lambda: 0.5)) as progress:
        progress(event(Stage.OUTPUT, b"\xff\x1b", is_error=True))
        progress(event(Stage.FAILED, text="no"))
    log, vertex = map(json.loads, stream.bytes.decode().splitlines())
    assert base64.b64decode(log["logs"][0]["data"]) == b"\xff\x1b"
    assert log["logs"][0]["stream"] == 2
    assert log["logs"][0]["timestamp"] == "1970-01-01T00:00:00.500000Z"
    assert (vertex["vertexes"][0]["error"], vertex["vertexes"][0]["digest"]) == ("no", log["logs"][0]["vertex"])
