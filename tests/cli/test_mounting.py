"""mount and umount as far as they need no privilege, and how commands are run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.cli.fakes import Command, digest, value

from lamina.cli.mounting import CommandNotRun, run_command
from lamina.errors import Conflict, Denied

MOUNTS = (value(name="redis:7", id=digest("a"), driver="overlay2", path=Path("/m/1\x1b")),)


def test_mount_prints_where(command: Command) -> None:
    result = command("mount", "redis:7", mount=Path("/m/1"))
    assert (result.code, result.out) == (0, "/m/1\n")


def test_mount_alone_lists(command: Command) -> None:
    assert command("mount", mounts=MOUNTS).lines == [
        "IMAGE     IMAGE ID       DRIVER     PATH",
        "redis:7   aaaaaaaaaaaa   overlay2   /m/1\\x1b",
    ]
    assert json.loads(command("mount", "--format", "json", mounts=MOUNTS).out)["Path"] == "/m/1\x1b"


def test_a_mount_that_fails_is_a_failed_command(command: Command) -> None:
    assert command("mount", "redis:7", mount=Conflict("redis:7: busy")).code == 1


def test_an_ordinary_user_is_told_of_namespaces(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = command("mount", "redis:7", mount=Denied("mount: not permitted"))
    assert result.code == 1
    assert "`lamina mount redis:7 -- COMMAND`, or `lamina unshare` first" in result.err


def test_a_command_needs_an_image(command: Command) -> None:
    result = command("mount", "--", "ls")
    assert (result.code, result.engines) == (125, [])
    assert "which image" in result.err


def test_umount(command: Command) -> None:
    result = command("umount", "redis:7", "/m/1", unmount=None)
    assert (result.code, result.lines) == (0, ["redis:7", "/m/1"])
    assert [call[1] for call in result.asked] == [("redis:7",), ("/m/1",)]
    result = command("unmount", "--all", mounts=MOUNTS, unmount=None)
    assert result.asked[-1] == ("unmount", ("/m/1\x1b",), {})
    assert command("umount").code == 125
    assert command("umount", "--all", "x").code == 125


@pytest.mark.parametrize(("script", "code"), [
    ("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ('test "$A" = b', 0),
])
def test_a_commands_exit_code_is_ours(script: str, code: int) -> None:
    assert run_command(["/bin/sh", "-c", script], {"A": "b"}) == code


@pytest.mark.parametrize(("name", "code"), [("/nowhere/x", 127), ("/dev/null/x", 127), ("/etc/passwd", 126), ("/", 126)])
def test_a_command_that_cannot_be_run(name: str, code: int) -> None:
    with pytest.raises(CommandNotRun) as caught:
        run_command([name], {})
    assert caught.value.exit_code == code
    assert str(caught.value).startswith(f"{name}: ")


def test_a_command_that_is_nowhere_though_a_directory_of_the_path_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(subprocess, "Popen", closed)
    (tmp_path / "there").touch()
    for name, code in ("nowhere", 127), ("there", 126):
        with pytest.raises(CommandNotRun) as caught:
            run_command([name], {"PATH": str(tmp_path)})
        assert caught.value.exit_code == code


def test_ctrl_c_is_the_commands_business() -> None:
    """The signal reaches both; the command may live on, and lamina waits for it."""
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(5)); time.sleep(60)"

    def interrupt_then_terminate() -> None:
        # One after the other: two at once may reach two threads, and only the first wakes the right one.
        for number in (signal.SIGINT, signal.SIGTERM):
            time.sleep(0.4)
            os.kill(os.getpid(), number)

    threading.Thread(target=interrupt_then_terminate).start()
    before = signal.getsignal(signal.SIGINT)
    assert run_command([sys.executable, "-c", code], dict(os.environ)) in (5, 143)
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_commands_own_signals_are_as_usual() -> None:
    code = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)"
    assert run_command([sys.executable, "-c", code], dict(os.environ)) == 0
