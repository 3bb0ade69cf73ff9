"""runc and crun by their command line: a stand-in program answers as they do."""

from __future__ import annotations

import errno
import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lamina.runtime.embedded import _not_run
from lamina.runtime.oci import OciRuntime, _complaint, _failure
from lamina.runtime.runtime import CommandNotExecutable, CommandNotFound, Made, RuntimeFailed, Stdio

RUNC = "OCI runtime: exec failed: "


@pytest.mark.parametrize(("complaint", "kind", "sentence"), [
    ('exec: "nope": executable file not found in $PATH', CommandNotFound, "nope: not found in the container"),
    ('unable to start container process: exec: "/nope": stat /nope: no such file or directory', CommandNotFound,
     "/nope: not found in the container"),
    ("executable file `nope` not found in $PATH: No such file or directory", CommandNotFound,
     "nope: not found in the container"),
    ("open executable: No such file or directory", CommandNotFound, "not found in the container"),
    ("open executable: Operation not permitted", CommandNotExecutable, "the command: cannot be run"),
    ('exec: "/etc": permission denied', CommandNotExecutable, "/etc: cannot be run in the container: permission denied"),
    ('exec: "/etc": is a directory', CommandNotExecutable, "/etc: cannot be run in the container"),
    ("exec /bin/x: exec format error", CommandNotExecutable, "exec format error"),
    ("container_linux.go: mkdir /x: no such file or directory", RuntimeFailed, "runc create: container_linux.go"),
    ("permission denied", RuntimeFailed, "runc create: permission denied"),
    ("", RuntimeFailed, "runc create: ended with code 9"),
])
def test_failures_are_told_apart(complaint: str, kind: type[Exception], sentence: str) -> None:
    error = _failure("runc", "create", complaint, 9)
    assert type(error) is kind
    assert sentence in str(error)


@pytest.mark.parametrize(("name", "sentence"), [
    ("nope", "nope: not found in the container"),
    ("-it", "-it: not found in the container; options stand before the image's or container's name"),
    ("a b", "a b: not found in the container; a command and its arguments are words of their own, or `sh -c '...'`"),
])
def test_what_looks_like_something_else_is_said_to(name: str, sentence: str) -> None:
    assert str(_failure("runc", "exec", f'exec: "{name}": executable file not found in $PATH', 1)) == sentence
    assert str(_not_run(errno.ENOENT, name)) == sentence


@pytest.mark.parametrize(("kind", "code"), [(CommandNotFound, 127), (CommandNotExecutable, 126)])
def test_exit_codes_are_dockers(kind: Any, code: int) -> None:
    assert kind.exit_code == code


@pytest.mark.parametrize(("lines", "complaint"), [
    ([], ""),
    (['{"level":"error","msg":"first"}', '{"level":"error","msg":"last"}'], "last"),
    (['{"level":"error","msg":"the reason"}', '{"level":"warning","msg":"by the way"}'], "the reason"),
    (['{"msg":"crun has no level","time":"x"}'], "crun has no level"),
    (["not json at all"], "not json at all"),
    (['{"level":"error","msg":"before"}', "[]", "torn {"], "before"),
])
def test_the_last_error_of_the_log_is_the_reason(tmp_path: Path, lines: list[str], complaint: str) -> None:
    (tmp_path / "log").write_text("\n".join(lines))
    assert _complaint(tmp_path / "log") == complaint


def test_without_a_log_there_is_no_reason(tmp_path: Path) -> None:
    assert _complaint(tmp_path / "log") == ""


# -- a program that does as runc does

STANDIN = textwrap.dedent("""\
    #!/usr/bin/env python3
    import json, os, socket, sys, pathlib
    words = sys.argv[1:]
    with open("calls", "a") as file:
        file.write(json.dumps(words) + "\\n")
    option = lambda name: words[words.index(name) + 1] if name in words else ""
    plan = json.loads(pathlib.Path("plan").read_text())
    if plan.get("fails"):
        pathlib.Path(option("--log")).write_text(json.dumps({"level": "error", "msg": plan["fails"]}) + "\\n")
        sys.exit(1)
    pathlib.Path(option("--root")).mkdir(exist_ok=True)
    if option("--process"):
        pathlib.Path("process").write_text(pathlib.Path(option("--process")).read_text())
    if option("--pid-file"):
        pathlib.Path(option("--pid-file")).write_text("4711")
    if option("--console-socket"):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(option("--console-socket"))
            descriptors = [os.open("terminal", os.O_RDWR)] if plan.get("terminal", True) else []
            socket.send_fds(wire, [b"/dev/ptmx"], descriptors)
    print("said", flush=True)
    """)
NOTHING = Stdio(-1, -1, -1)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As deep as a state directory may be: a socket's whole path would be too long for its name."""
    program = tmp_path / "standin"
    program.write_text(STANDIN)
    program.chmod(0o755)
    place = tmp_path / ("deep" * 20) / ("er" * 40)
    place.mkdir(parents=True)
    (place / "terminal").write_text("the terminal")
    (place / "plan").write_text("{}")
    write_config(place, terminal=False)
    return place


def write_config(bundle: Path, *, terminal: bool) -> None:
    (bundle / "config.json").write_text(json.dumps({"process": {"terminal": terminal, "args": ["sh"]}}))


def runtime(bundle: Path) -> OciRuntime:
    return OciRuntime(str(bundle.parent.parent / "standin"))


def calls(bundle: Path) -> list[list[str]]:
    """Without the options that come first in each."""
    return [json.loads(line)[6:] for line in (bundle / "calls").read_text().splitlines()]


def test_a_container_is_created_and_started(bundle: Path) -> None:
    assert runtime(bundle).create(bundle, "web", NOTHING) == Made(4711)
    runtime(bundle).start(bundle, "web")
    assert calls(bundle) == [["create", "--bundle", ".", "--pid-file", "pid", "web"], ["start", "web"]]


def test_its_streams_are_those_that_were_given(bundle: Path) -> None:
    heard, tell = os.pipe()
    runtime(bundle).create(bundle, "web", Stdio(-1, tell, -1))
    os.close(tell)
    with open(heard, "rb") as stream:
        assert stream.read() == b"said\n"


def test_a_terminal_comes_through_a_socket(bundle: Path) -> None:
    write_config(bundle, terminal=True)
    made = runtime(bundle).create(bundle, "web", NOTHING)
    assert made.pid == 4711
    assert not os.get_inheritable(made.terminal)
    with open(made.terminal, "rb") as terminal:
        assert terminal.read() == b"the terminal"
    assert not list(bundle.glob("*.sock"))


def test_a_runtime_that_sends_no_terminal_has_failed(bundle: Path) -> None:
    write_config(bundle, terminal=True)
    (bundle / "plan").write_text('{"terminal": false}')
    with pytest.raises(RuntimeFailed, match="the runtime sent no terminal"):
        runtime(bundle).create(bundle, "web", NOTHING)


def test_one_more_process_leaves_no_files(bundle: Path) -> None:
    before = {*os.listdir(bundle), "calls", "process", "runtime"}
    process = {"terminal": False, "args": ["id"]}
    assert runtime(bundle).execute(bundle, "web", process, 1, NOTHING) == Made(4711)
    assert json.loads((bundle / "process").read_text()) == process
    assert set(os.listdir(bundle)) == before
    (verb, detach, *_), = calls(bundle)
    assert (verb, detach) == ("exec", "--detach")


def test_what_failed_is_said_in_its_own_words(bundle: Path) -> None:
    (bundle / "plan").write_text(json.dumps({"fails": "the kernel would not"}))
    with pytest.raises(RuntimeFailed, match=r"^standin create: the kernel would not$"):
        runtime(bundle).create(bundle, "web", NOTHING)
    with pytest.raises(RuntimeFailed, match=r"^standin exec: "):
        runtime(bundle).execute(bundle, "web", {"terminal": False}, 1, NOTHING)
    assert not list(bundle.glob("exec-*"))


def test_removing_is_never_an_error(bundle: Path) -> None:
    runtime(bundle).create(bundle, "web", NOTHING)
    runtime(bundle).delete(bundle, "web")
    assert calls(bundle)[-1] == ["delete", "--force", "web"]
    assert not (bundle / "runtime").exists()
    (bundle / "plan").write_text(json.dumps({"fails": "no such container"}))
    runtime(bundle).delete(bundle, "web")
