"""Builds with RUN by the command: what one sees of their commands, of those that fail, and of those one stops."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.places import (
    Place,
    based,
    busybox_layer,
    make_layout,
    owned_directory,
    processes_of,
    wait_for,
)

pytestmark = pytest.mark.privileged

SHOUTING = "FROM base:1\nRUN printf '\\033[31mred\\033[0m \\033]0;title\\007\\n'; echo err >&2; printf end\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with based(tmp_path / "root", "embedded") as made:
        yield made


def context(tmp_path: Path, dockerfile: str) -> Path:
    (tmp_path / "context").mkdir(exist_ok=True)
    (tmp_path / "context" / "Dockerfile").write_text(dockerfile)
    return tmp_path / "context"


def test_what_a_command_writes(place: Place, tmp_path: Path) -> None:
    done = place.run("build", "-t", "app", context(tmp_path, SHOUTING))
    assert (done.returncode, done.stdout) == (0, "")
    said = [re.sub(r"^#2 [\d.]+ ", "", line) for line in done.stderr.splitlines()]
    assert {"\x1b[31mred\x1b[0m \\x1b]0;title\\x07", "err", "end"} <= set(said)
    assert said[:2] == ["#1 [stage-0 1] FROM base:1", "#1 DONE 0.0s"]


def test_json_keeps_the_bytes(place: Place, tmp_path: Path) -> None:
    done = place.run("build", "--progress=rawjson", context(tmp_path, SHOUTING))
    logs = [log for line in done.stderr.splitlines() for log in json.loads(line).get("logs", [])]
    assert {log["stream"] for log in logs} == {1, 2}


@pytest.mark.parametrize("progress", ["plain", "quiet"])
def test_a_command_that_fails(place: Place, tmp_path: Path, progress: str) -> None:
    dockerfile = "FROM base:1\nRUN for i in $(seq 30); do echo line $i; done; echo bad >&2; \\\n  exit 3\nWORKDIR /x\n"
    done = place.run("build", f"--progress={progress}", context(tmp_path, dockerfile))
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    begin = lines.index("-" * 20)
    assert lines[begin + 1 : begin + 20] == [f"line {number}" for number in range(12, 31)]
    assert lines[begin + 20 : begin + 23] == ["bad", "-" * 20, "Dockerfile:2"]
    assert lines[begin + 23].strip() == "1 | FROM base:1"
    assert [line[:4] for line in lines[begin + 24 : begin + 27]] == [">>> ", "    ", ">>> "]
    assert lines[-1].startswith("lamina: RUN for i in")
    assert lines[-1].endswith("ended with exit code 3")
    assert ("#2 ERROR" in done.stderr) == (progress == "plain")


def test_a_missing_program_is_a_failed_build(place: Place, tmp_path: Path) -> None:
    """127 would say that a command of the user's own was not found."""
    done = place.run("build", context(tmp_path, 'FROM base:1\nRUN ["/no/such"]\n'))
    assert done.returncode == 1
    assert ">>> 2 | RUN" in done.stderr


def test_a_trigger_of_a_base_has_no_line_here(place: Place, tmp_path: Path) -> None:
    place.run("build", "-q", "-t", "base:2", context(tmp_path, "FROM base:1\nONBUILD RUN exit 4\n"))
    done = place.run("build", context(tmp_path, "FROM base:2\nRUN true\n"))
    assert done.returncode == 1
    assert ">>>" not in done.stderr
    assert done.stderr.endswith("lamina: RUN exit 4: ended with exit code 4\n")


def test_steps_that_another_one_ends(place: Place, tmp_path: Path) -> None:
    """Two stages at once, of which one waits for the other to be at it before it fails."""
    wait = "--mount=type=cache,target=/c"
    dockerfile = (
        f"FROM base:1 AS a\nRUN {wait} touch /c/begun; sleep 1000\n"
        f"FROM base:1 AS b\nRUN {wait} until test -e /c/begun; do sleep 0.1; done; exit 5\n"
        "FROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
    )
    done = place.run("build", context(tmp_path, dockerfile))
    assert done.returncode == 1
    assert set(re.findall(r"^#\d+ (ERROR|CANCELED|DONE)", done.stderr, re.MULTILINE)) == {"DONE", "ERROR", "CANCELED"}
    assert len(re.findall(r"^#\d+ CANCELED$", done.stderr, re.MULTILINE)) == 1
    assert "ended with exit code 5" in done.stderr


def test_stopping_leaves_nothing(place: Place, tmp_path: Path) -> None:
    dockerfile = "FROM base:1 AS a\nRUN echo began; sleep 1000\nFROM base:1\nCOPY --from=a /etc /e\n"
    process = place.start("build", "-t", "app", context(tmp_path, dockerfile), start_new_session=True)
    assert process.stderr is not None
    try:
        said = ""
        while re.search(r"^#2 [\d.]+ began$", said, re.MULTILINE) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "#2 CANCELED" in rest
    assert rest.endswith("lamina: interrupted\n")
    wait_for(lambda: not processes_of(place.root))
    assert list((place.root / "containers").iterdir()) == []
    assert place.lines("images", "-q", "app") == []
    usage = place.usage()
    assert (usage["Leftovers"]["total"], usage["Build Cache"]["total"]) == (0, 0)


def test_a_terminal_is_drawn_on_and_never_steered(place: Place, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    place.environment["TERM"] = "xterm"
    place.environment["CI"] = ""
    process = subprocess.Popen(
        place.command("build", context(tmp_path, SHOUTING.replace("printf end", "sleep 1"))), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        drawn += chunk
    os.close(ours)
    assert process.wait(60) == 0
    text = drawn.decode()
    assert "│ red \\x1b]0;title\\x07" in text
    assert "\x1b]" not in text
    assert "✔" in text
    assert text.rstrip().endswith("cached)")


@pytest.fixture(params=["root", "ordinary"])
def somebody(request: pytest.FixtureRequest, ordinary_user: OrdinaryUser) -> Iterator[tuple[Place, Path]]:
    user = ordinary_user if request.param == "ordinary" else None
    with owned_directory(user) as path:
        made = Place(path / "root", user, runtime="embedded")
        made.say("load", "-q", "-i", make_layout(path / "layout", [busybox_layer()]))
        yield made, path
        made.clear()


def test_caches_of_commands_count_and_go(somebody: tuple[Place, Path]) -> None:
    """To whomever the files belong: a user's subordinates have them here, whom nobody else can act for."""
    place, path = somebody
    dockerfile = (
        "FROM base:1\nRUN --mount=type=cache,target=/c,uid=1000 "
        "head -c 200000 /dev/zero >/c/data; mkdir /c/d; touch /c/d/x; chown -R 1000:1001 /c/d; chmod 700 /c/d\n"
    )
    files = context(path, dockerfile)
    done = place.run("build", "-q", "-t", "app", files)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in place.lines("builder", "du", "--format", "json")]
    (row,) = [row for row in rows if row["CacheType"] == "exec.cachemount"]
    assert place.usage()["Build Cache"]["total"] == 2
    lines = place.lines("builder", "prune", "-f")
    assert row["ID"] in lines
    assert place.usage()["Build Cache"]["size"] == 0
    assert not any((place.root / "buildcaches").glob("*/*"))
    assert not any((place.root / "buildcaches").glob("*/.*"))
    assert place.run("build", files).returncode == 0


def typed(place: Place, words: list[str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """The command on a terminal: each answer is typed when its text has come since the one before."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp("env", place.command(*words))
    said, seen = "", 0
    try:
        while True:
            try:
                said += os.read(master, 1 << 16).decode(errors="replace")
            except OSError:  # EIO: nobody has the terminal any more
                break
            if answers and (found := said.find(answers[0][0], seen)) >= 0:
                seen = found + len(answers[0][0])
                os.write(master, answers.pop(0)[1].encode())
    finally:
        os.close(master)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def test_a_shell_in_what_a_failed_command_left(place: Place, tmp_path: Path) -> None:
    where = context(tmp_path, "FROM base:1\nENV A=b\nWORKDIR /w\nRUN echo left >here; exit 3\n")
    words = ["build", "--on-error", "shell", "--network", "none", str(where)]
    code, said = typed(place, words, [("# ", "cat here; echo $A$((40 + 2)); pwd\n"), ("/w", "exit 5\n")])
    assert code == 1
    assert "left" in said
    assert "b42" in said
    assert "ended with exit code 3" in said
    assert os.listdir(place.root / "containers") == []
    refused = place.run(*words)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (
        125, "lamina: --on-error shell: standard input is no terminal; leave it out, or run this in one"
    )
