"""run, create, start, attach and exec with an engine that answers: what is asked of it, and what people see."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from tests.cli.fakes import Command, value

from lamina.errors import Conflict
from lamina.runtime.container import ContainerNotRunning, ContainerState, Status
from lamina.runtime.frames import Kind, frame
from lamina.runtime.options import ContainerOptions
from lamina.runtime.runtime import CommandNotExecutable, CommandNotFound

ID = "c0ffee" + "0" * 58


def made(**options: Any) -> SimpleNamespace:
    return value(id=ID, name="web", options=ContainerOptions(**options))


def seen(status: Status = Status.CREATED, **options: Any) -> SimpleNamespace:
    return value(container=made(**options), state=ContainerState(status=status, exit_code=9))


def ending(code: int = 0, *, error: str = "", output: bytes = b"", notes: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A start whose container says something and ends."""

    def start(_name: str, *, client: socket.socket | None = None, console: object = None) -> SimpleNamespace:
        if client is not None:
            client.sendall(frame(Kind.OUTPUT, output) if output else b"")
            client.sendall(frame(Kind.EXIT, json.dumps({"code": code, "error": error}).encode()))
            client.close()
        return value(notes=notes, pid=1)

    return start


def dying(_name: str, *, client: socket.socket, console: object = None) -> SimpleNamespace:
    client.close()
    return value(notes=(), pid=1)


def run(command: Command, *words: str, **answers: Any) -> Any:
    return command("run", "--pull", "never", *words, **{"create": made(), "start": ending(), **answers})


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 137, 255])
def test_the_exit_code_is_the_commands(command: Command, code: int) -> None:
    assert run(command, "app", start=ending(code)).code == code


def test_output_is_shown_as_it_comes(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    run(command, "app", start=ending(output=b"hello\n"))
    assert capfd.readouterr().out == "hello\n"


def test_detached_prints_the_id(command: Command) -> None:
    result = run(command, "-d", "app", start=ending(notes=("--memory was not applied",)))
    assert (result.code, result.lines, result.err) == (0, [ID], "--memory was not applied\n")
    assert result.asked[-1] == ("start", (ID,), {"console": None})


def test_trouble_at_the_end_is_told(command: Command) -> None:
    result = run(command, "app", start=ending(1, error="its network could not be undone"))
    assert (result.code, result.err) == (1, "lamina: its network could not be undone\n")


@pytest.mark.parametrize(("error", "code"), [
    (CommandNotFound("nope: not found in the container"), 127),
    (CommandNotExecutable("/etc: cannot be run in the container"), 126),
    (Conflict("web: in use"), 125),
])
def test_a_command_that_could_not_be_run_has_dockers_codes(command: Command, error: Exception, code: int) -> None:
    result = run(command, "app", start=error)
    assert (result.code, result.err) == (code, f"lamina: {error}\n")


def test_rm_of_one_that_never_ran_removes_it(command: Command) -> None:
    answers = {"create": made(is_removed_at_exit=True), "start": Conflict("x"), "remove_container": None}
    assert run(command, "--rm", "app", **answers).asked[-1] == ("remove_container", (ID,), {"with_volumes": True})
    kept = run(command, "app", start=Conflict("x"))
    assert "remove_container" not in [verb for verb, _, _ in kept.asked]


def test_a_monitor_that_died_leaves_the_code_to_the_state(command: Command) -> None:
    result = run(command, "app", start=dying, container=seen(Status.EXITED))
    assert (result.code, result.err) == (9, "")
    result = run(command, "app", start=dying, container=seen(Status.RUNNING))
    assert result.code == 125
    assert "its monitor was killed; the container goes on without one" in result.err


def test_an_image_that_is_missing_is_an_error_of_ours(command: Command) -> None:
    command.is_real = True
    result = command("run", "--pull", "never", "app", "ls")
    assert (result.code, result.out) == (125, "")
    assert result.err.startswith("lamina: app: no such image")


@pytest.mark.parametrize(("words", "complaint"), [
    (["-d", "-a", "stdout", "app"], "--detach and --attach exclude each other"),
    (["-a", "stdfoo", "app"], "--attach: expected stdin, stdout or stderr, got 'stdfoo'"),
    (["-it", "app"], "--tty: standard input is no terminal"),
    (["--detach-keys", "xx", "app"], "--detach-keys: expected keys such as ctrl-p,ctrl-q"),
    (["--dteach", "app"], "run: unknown option --dteach; did you mean --detach?"),
])
def test_words_that_make_no_sense(command: Command, words: list[str], complaint: str) -> None:
    result = run(command, *words, remove_container=None)
    assert result.code == 125
    assert result.err.startswith(f"lamina: {complaint}")


def test_a_cidfile_is_written_once(command: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "cid")
    assert run(command, "-d", "--cidfile", path, "app").code == 0
    assert Path(path).read_text() == ID
    result = run(command, "-d", "--cidfile", path, "app")
    assert (result.code, result.asked) == (125, [])
    assert "there is such a file" in result.err


def test_a_cidfile_that_cannot_be_written_leaves_no_container(command: Command, tmp_path: Path) -> None:
    result = run(command, "--cidfile", str(tmp_path / "no" / "cid"), "app", remove_container=None)
    assert result.code == 125
    assert [verb for verb, _, _ in result.asked] == ["create", "remove_container"]


def test_attach_chooses_streams(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    run(command, "-a", "STDERR", "app", start=ending(output=b"unseen\n"))
    assert capfd.readouterr().out == ""


# -- start and attach


def test_start_prints_names_and_goes_on_after_a_failure(command: Command) -> None:
    def start(name: str) -> SimpleNamespace:
        if name == "bad":
            raise CommandNotFound("nope: not found in the container")
        return value(notes=())

    result = command("start", "a", "bad", "b", container=seen(), start=start)
    assert (result.code, result.lines, result.err) == (1, ["a", "b"], "lamina: nope: not found in the container\n")


def test_start_of_one_that_runs_is_fine(command: Command) -> None:
    result = command("start", "web", container=seen(Status.RUNNING))
    assert (result.code, result.lines) == (0, ["web"])


def test_start_attached_has_the_commands_code(command: Command) -> None:
    assert command("start", "-a", "web", container=seen(), start=ending(4)).code == 4
    assert "one container at a time" in command("start", "-a", "x", "y").err


def test_start_attached_to_one_that_runs_attaches(command: Command) -> None:
    def attach(_name: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.sendall(frame(Kind.EXIT, b'{"code": 6, "error": ""}'))
        theirs.close()
        return ours

    assert command("start", "-a", "web", container=seen(Status.RUNNING), attach=attach).code == 6
    assert command("attach", "web", container=seen(Status.RUNNING), attach=attach).code == 6


def test_attach_needs_a_container_that_runs(command: Command) -> None:
    result = command("attach", "web", container=seen(), attach=ContainerNotRunning("web: not running"))
    assert (result.code, result.err) == (1, "lamina: web: not running\n")


# -- exec


class Inside:
    """A container that was entered: remembers what is started in it."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.started: list[tuple[Any, dict[str, int]]] = []

    def joined(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def start(self, options: Any, **streams: int) -> SimpleNamespace:
        self.started.append((options, streams))
        return value(pid=1, wait=lambda: self.code, send=lambda _number: None)


@pytest.mark.parametrize("code", [0, 3, 126, 127, 137])
def test_exec_has_the_commands_code(command: Command, code: int) -> None:
    assert command("exec", "web", "ls", enter=Inside(code)).code == code


def test_exec_passes_everything_on(command: Command) -> None:
    inside = Inside()
    command.environ["GIVEN"] = "1"
    result = command("exec", "-i", "-eA=b", "-e", "GIVEN", "-u", "app", "-w/srv", "--privileged", "web", "ls", "-l", "-u",
                     enter=inside)
    assert result.code == 0
    ((options, streams),) = inside.started
    assert (options.command, options.environment) == (("ls", "-l", "-u"), ("A=b", "GIVEN=1"))
    assert (options.user, options.working_directory, options.is_privileged) == ("app", "/srv", True)
    assert streams == {"stdin": 0, "stdout": 1, "stderr": 2}


def test_exec_without_interactive_has_no_input(command: Command) -> None:
    inside = Inside()
    command("exec", "web", "ls", enter=inside)
    assert inside.started[0][1]["stdin"] == -1


def test_exec_detached_does_not_wait(command: Command) -> None:
    inside = Inside(9)
    result = command("exec", "-d", "web", "sleep", "1", enter=inside)
    assert (result.code, result.out) == (0, "")
    assert inside.started[0][1] == {"stdin": -1, "stdout": -1, "stderr": -1}


@pytest.mark.parametrize(("words", "complaint"), [
    (["web"], "exec: which command?"), ([], "exec needs CONTAINER"), (["-it", "web", "sh"], "--tty: standard input is no terminal"),
])
def test_exec_that_makes_no_sense(command: Command, words: list[str], complaint: str) -> None:
    result = command("exec", *words, enter=Inside())
    assert (result.code, result.err.startswith(f"lamina: {complaint}")) == (125, True)


def test_exec_in_one_that_does_not_run(command: Command) -> None:
    result = command("exec", "web", "ls", enter=ContainerNotRunning("web: not running; `lamina start web` starts it"))
    assert (result.code, result.err) == (125, "lamina: web: not running; `lamina start web` starts it\n")
