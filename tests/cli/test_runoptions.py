"""docker's flags for a new container: how a command line is read, and into which value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fakes import Command, Result, value

from lamina.cli.arguments import UsageError
from lamina.cli.runoptions import read_bytes, read_time
from lamina.runtime.options import ContainerOptions

MB = 1 << 20


def create(command: Command, *words: str) -> Result:
    return command("create", "--pull", "never", *words, create=value(id="c" * 64))


def options(command: Command, *words: str) -> ContainerOptions:
    result = create(command, *words)
    assert (result.code, result.err) == (0, "")
    ((_, _, named),) = result.asked
    found = named["options"]
    assert isinstance(found, ContainerOptions)
    return found


@pytest.mark.parametrize(("words", "expected"), [
    (["app"], {}),
    (["app", "ls", "-l", "--help", "-e", "X"], {"command": ("ls", "-l", "--help", "-e", "X")}),
    (["-it", "app", "sh"], {"is_interactive": True, "has_terminal": True, "command": ("sh",)}),
    (["-ite", "A=b", "app"], {"is_interactive": True, "has_terminal": True, "environment": ("A=b",)}),
    (["-p80:80", "-eA=b", "-eC=d=e", "app"], {"publish": ("80:80",), "environment": ("A=b", "C=d=e")}),
    (["-e-x=1", "app"], {"environment": ("-x=1",)}),
    (["--env=A=", "app"], {"environment": ("A=",)}),
    (["-h", "host", "app", "-h"], {"hostname": "host", "command": ("-h",)}),
    (["-hhost", "app"], {"hostname": "host"}),
    (["--", "app", "--", "-x"], {"command": ("--", "-x")}),
    (["app", "--", "-x"], {"command": ("--", "-x")}),
    (["-i=true", "-t=false", "app"], {"is_interactive": True}),
    (["--init=false", "--read-only=1", "app"], {"is_read_only": True}),
    (["--entrypoint", "", "app", "x"], {"entrypoint": ("",), "command": ("x",)}),
    (["--entrypoint=/init", "app"], {"entrypoint": ("/init",)}),
    (["-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "-c512", "app"],
     {"memory": 64 * MB, "memory_swap": -1, "cpus": 1.5, "cpu_shares": 512}),
    (["--pids-limit", "-1", "--oom-score-adj", "-500", "--oom-kill-disable", "app"],
     {"pids_limit": -1, "oom_score_adj": -500, "has_oom_kill": False}),
    (["-u", "1:2", "--group-add", "a", "--group-add", "b", "-w", "/x", "app"],
     {"user": "1:2", "groups": ("a", "b"), "working_directory": "/x"}),
    (["--rm", "--restart", "no", "--stop-signal", "INT", "--stop-timeout", "3", "app"],
     {"is_removed_at_exit": True, "stop_signal": "INT", "stop_timeout": 3}),
    (["--net", "host", "-P", "--expose", "80", "--add-host", "a:1.2.3.4", "--dns", "1.1.1.1", "app"],
     {"networks": ("host",), "publishes_all": True, "expose": ("80",), "hosts": ("a:1.2.3.4",), "dns": ("1.1.1.1",)}),
    (["--cap-add", "ALL", "--cap-drop=MKNOD", "--privileged", "--pid", "host", "app"],
     {"cap_add": ("ALL",), "cap_drop": ("MKNOD",), "is_privileged": True, "pid_mode": "host"}),
    (["--health-cmd", "true", "--health-interval", "1m30s", "--health-timeout", "500ms", "--health-retries", "2", "app"],
     {"health_command": "true", "health_interval": 90.0, "health_timeout": 0.5, "health_retries": 2}),
    (["--no-healthcheck", "app"], {"has_health_check": False}),
    (["-l", "a=b", "--label", "c", "app"], {"labels": ("a=b", "c")}),
    (["-v", "data:/data:ro", "--tmpfs", "/run", "--shm-size", "1g", "app"],
     {"volumes": ("data:/data:ro",), "tmpfs": ("/run",), "shm_size": 1 << 30}),
    (["--storage-opt", "size=10G", "app", "--storage-opt", "x"],
     {"storage": ("size=10G",), "command": ("--storage-opt", "x")}),
])
def test_flags(command: Command, words: list[str], expected: dict[str, Any]) -> None:
    assert options(command, *words) == ContainerOptions(**expected)


@pytest.mark.parametrize(("words", "complaint"), [
    ([], "create needs IMAGE"),
    (["--nme", "x", "app"], "create: unknown option --nme; did you mean --name?"),
    (["-z", "app"], "create: unknown option -z"),
    (["-itz", "app"], "create: unknown option -z"),
    (["-i=maybe", "app"], "-i: expected true or false, got 'maybe'"),
    (["--memory", "lots", "app"], "--memory: expected a size such as 512m or 1g, got 'lots'"),
    (["--memory", "-2", "app"], "--memory: expected a size"),
    (["--cpus", "two", "app"], "--cpus: expected a number of processors such as 1.5, got 'two'"),
    (["--cpus", "nan", "app"], "--cpus: expected a number of processors"),
    (["--cpus", "\N{ARABIC-INDIC DIGIT ONE}", "app"], "--cpus: expected a number of processors"),
    (["--gpus", "all", "app"], "create: unknown option --gpus\n"),
    (["--mem", "1g", "app"], "create: unknown option --mem; did you mean --memory?"),
    (["--stop-timeout", "1s", "app"], "--stop-timeout: expected a whole number, got '1s'"),
    (["--health-interval", "soon", "app"], "--health-interval: expected a time such as 30s or 1m30s, got 'soon'"),
    (["-e", "=x", "app"], "--env: expected NAME=VALUE or NAME, got '=x'"),
    (["--env-file", "/nowhere", "app"], "--env-file /nowhere: no such file or directory"),
    (["--pull", "often", "app"], "--pull: "),
    (["app", "--name"], None),
])
def test_words_that_cannot_be_read(command: Command, words: list[str], complaint: str | None) -> None:
    result = create(command, *words)
    if complaint is None:
        assert (result.code, result.err) == (0, "")
        return
    assert result.code == 125
    assert result.err.startswith(f"lamina: {complaint}")
    assert result.asked == []


def test_a_command_needs_no_options_of_ours(command: Command) -> None:
    """The command's ``--help`` is the command's."""
    assert options(command, "app", "--help").command == ("--help",)
    assert "Usage:" in create(command, "--help").out
    assert "Usage:" in create(command, "--rm", "--help", "app").out


def test_the_environment_of_the_caller_is_taken_by_name(command: Command) -> None:
    command.environ["GIVEN"] = "x=y"
    assert options(command, "-e", "GIVEN", "-e", "MISSING", "app").environment == ("GIVEN=x=y", "MISSING")


def test_variables_come_from_files_first(command: Command, tmp_path: Path) -> None:
    command.environ["GIVEN"] = "1"
    (tmp_path / "env").write_bytes(b"\xef\xbb\xbf# a comment\n\n  A=1 2\nGIVEN\nMISSING\nB=\xff\n")
    found = options(command, "-e", "A=over", "--env-file", str(tmp_path / "env"), "app")
    assert found.environment == ("A=1 2", "GIVEN=1", "B=\udcff", "A=over")


@pytest.mark.parametrize("line", ["=x", "A B=x", "A\tB"])
def test_a_file_with_a_bad_line_is_named(command: Command, tmp_path: Path, line: str) -> None:
    (tmp_path / "env").write_text(f"OK=1\n{line}\n")
    result = create(command, "--env-file", str(tmp_path / "env"), "app")
    assert result.code == 125
    assert f"--env-file {tmp_path}/env, line 2: expected NAME=VALUE" in result.err


def test_labels_of_files_need_no_value(command: Command, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a=1\nb\n")
    assert options(command, "--label-file", str(tmp_path / "labels"), "-l", "c=2", "app").labels == ("a=1", "b", "c=2")


def test_paths_are_those_of_the_caller(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = options(command, "-v", "./src:/src", "--security-opt", "seccomp=p.json", "app")
    assert found.volumes == (f"{tmp_path}/src:/src",)
    assert found.security == (f"seccomp={os.path.abspath('p.json')}",)
    assert options(command, "--security-opt", "seccomp=unconfined", "app").security == ("seccomp=unconfined",)


def test_name_pull_and_platform_are_the_engines_to_know(command: Command) -> None:
    ((_, positional, named),) = create(command, "--name", "web", "--platform", "linux/arm64", "app:1").asked
    assert positional == ("app:1",)
    assert (named["name"], str(named["platform"])) == ("web", "linux/arm64")


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("1", 1), ("1b", 1), ("1k", 1024), ("1K", 1024), ("1kb", 1024), ("1KiB", 1024), ("1.5m", 3 * MB // 2),
    (" 2 g ", 2 << 30), ("1t", 1 << 40), ("-1", -1),
])
def test_sizes(text: str, size: int) -> None:
    assert read_bytes(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "k", "-1k", "-2", "1x", "1.k", "1e3", "٣", "0x10", "9" * 5000])
def test_sizes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError):
        read_bytes(text, "--memory")


@pytest.mark.parametrize(("text", "seconds"), [
    ("0", 0), ("30", 30), ("30s", 30), ("1m30s", 90), ("1h", 3600), ("1.5h", 5400), ("500ms", 0.5), ("250us", 25e-5),
    ("250µs", 25e-5), ("10ns", 1e-8),
])
def test_times(text: str, seconds: float) -> None:
    assert read_time(text, "--health-interval") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1x", "1s ", "٣s", "9" * 5000, "9" * 400 + "s"])
def test_times_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--health-interval: expected a time"):
        read_time(text, "--health-interval")
