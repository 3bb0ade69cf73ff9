"""Reading the command line, answering for errors, exit codes."""

from __future__ import annotations

import errno
import io
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fakes import Command, digest

from lamina.cli.session import OutputClosed, Session
from lamina.errors import Denied, IntegrityError, NotFound, Unavailable


def noted(error: BaseException, *notes: str) -> BaseException:
    for note in notes:
        error.add_note(note)
    return error


# -- finding the verb


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",)])
def test_nothing_asked_is_answered_with_the_overview(command: Command, words: tuple[str, ...]) -> None:
    result = command(*words)
    assert (result.code, result.err) == (0, "")
    assert "Images in and out:" in result.out
    assert "lamina demo" in result.out


@pytest.mark.parametrize(("words", "sentence"), [
    (("imges",), "lamina: there is no verb 'imges'; did you mean images?"),
    (("system", "dff"), "lamina: there is no verb 'system dff'; did you mean df?"),
    (("xyzzy",), "lamina: there is no verb 'xyzzy'"),
    (("images", "--al"), "lamina: images: unknown option --al; did you mean --all?"),
    (("--rot", "x", "images"), "lamina: unknown option --rot; did you mean --root?"),
    (("rmi",), "lamina: rmi needs IMAGE"),
    (("tag", "a"), "lamina: tag needs TARGET[:TAG]"),
    (("tag", "a", "b", "c"), "lamina: tag: did not expect 'c'"),
    (("pull", "--platform"), "lamina: --platform: expected one argument"),
    (("ls", "a", "--layer", "x"), "lamina: --layer: expected a whole number, got 'x'"),
    (("images", "--no-trunc=perhaps"), "lamina: --no-trunc: expected true or false, got 'perhaps'"),
    (("images", "--filter", "dangling"), "lamina: --filter: expected KEY=VALUE, got 'dangling'"),
    (("help", "nothing"), "lamina: there is no verb 'nothing'"),
])
def test_a_line_that_cannot_be_read_says_why_and_tries_nothing(
    command: Command, words: tuple[str, ...], sentence: str
) -> None:
    result = command(*words, images=())
    assert result.code == 125
    assert result.out == ""
    assert result.err.splitlines()[0] == sentence
    assert result.asked == []


def test_options_may_stand_before_and_after_arguments(command: Command) -> None:
    for words in (("images", "-q", "redis"), ("images", "redis", "-q"), ("image", "ls", "redis", "--quiet")):
        result = command(*words, images=())
        assert result.asked == [("images", (), {"names": ["redis"], "filters": {}})], words


@pytest.mark.parametrize(("word", "is_whole"), [
    ("--no-trunc", True), ("--no-trunc=true", True), ("--no-trunc=false", False),
])
def test_flags_take_values_as_in_go(command: Command, word: str, is_whole: bool) -> None:
    from tests.cli.test_images import summary

    result = command("images", "-q", word, images=(summary(),))
    assert (len(result.out.strip()) > 12) is is_whole


def test_two_dashes_end_the_options(command: Command) -> None:
    result = command("rmi", "--", "-f", remove=NotFound("-f: no such image"))
    assert result.asked == [("remove", ("-f",), {"force": False, "prune": True})]


def test_global_options_work_before_and_after_the_verb(command: Command, tmp_path: Path) -> None:
    for words in (("--root", str(tmp_path / "r"), "images"), ("images", f"--root={tmp_path / 'r'}")):
        result = command(*words, images=())
        assert result.engines[0].root == tmp_path / "r"


def test_storage_options_reach_the_settings(command: Command) -> None:
    result = command("--storage-driver", "vfs", "--storage-opt", "a=b", "--storage-opt", "c=d", "images", images=())
    settings = result.engines[0].settings
    assert settings.storage_driver == "vfs"
    assert settings.storage_opts == ("a=b", "c=d")
    assert settings.origins["storage-driver"] == "flag --storage-driver"


def test_a_chosen_settings_file(command: Command, tmp_path: Path) -> None:
    chosen = tmp_path / "mine.json"
    chosen.write_text('{"max-concurrent-downloads": 9}')
    result = command("--config-file", str(chosen), "images", images=())
    assert result.engines[0].settings.max_concurrent_downloads == 9


def test_a_wrong_settings_file_is_one_sentence(command: Command, tmp_path: Path) -> None:
    chosen = tmp_path / "mine.json"
    chosen.write_text('{"storage-drvier": "vfs"}')
    result = command("--config-file", str(chosen), "images")
    assert result.code == 1
    assert result.err == f"lamina: {chosen}: unknown key 'storage-drvier'; did you mean storage-driver?\n"


@pytest.mark.parametrize("words", [("--version",), ("-v",), ("version", "--short")])
def test_version(command: Command, words: tuple[str, ...]) -> None:
    import lamina

    assert command(*words).out == f"lamina version {lamina.__version__}\n"


def test_version_names_the_interpreter(command: Command) -> None:
    import platform

    assert command("version", "--format", "{{.Python}}").out == f"{platform.python_version()} (cpython)\n"


# -- errors


def os_error(number: int, *rest: Any) -> OSError:
    import os

    return OSError(number, os.strerror(number), *rest)


@pytest.mark.parametrize(("error", "sentence", "code"), [
    (NotFound("redis:9: no such image"), "lamina: redis:9: no such image", 1),
    (Denied(), "lamina: denied", 1),
    (os_error(errno.ENOSPC, "ingest/x"), "lamina: ingest/x: no space left; `lamina system df` shows", 1),
    (os_error(errno.ENOSPC, "/s/x.tar"), "lamina: /s/x.tar: no space left on device\n", 1),
    (os_error(errno.EDQUOT), "lamina: the state directory: the disk quota is used up", 1),
    (os_error(errno.EROFS), "lamina: the state directory: the filesystem is read-only", 1),
    (os_error(errno.EACCES, b"/s/\xff"), "lamina: /s/\\xff: permission denied\n", 1),
    (os_error(errno.ENOSPC), "lamina: the state directory: no space left", 1),
    (os_error(errno.ENOENT, "a.tar"), "lamina: a.tar: no such file or directory", 1),
    (os_error(errno.EMFILE), "lamina: the state directory: too many open files; raise the limit", 1),
    (OSError("strange"), "lamina: strange", 1),
    (sqlite3.OperationalError("attempt to write a readonly database"), "lamina: state.sqlite: the filesystem is", 1),
    (sqlite3.OperationalError("database or disk is full"), "lamina: state.sqlite: no space left", 1),
    (sqlite3.OperationalError("unable to open database file"), "lamina: state.sqlite: cannot be opened", 1),
    (sqlite3.OperationalError("disk I/O error"), "lamina: state.sqlite: disk I/O error; is the disk full", 1),
    (sqlite3.OperationalError("database is locked"), "lamina: state.sqlite: another lamina keeps it locked", 1),
    (sqlite3.DatabaseError("file is not a database"), "lamina: state.sqlite: damaged", 1),
    (MemoryError(), "lamina: not enough memory", 1),
    (KeyError("x"), "lamina: unexpected KeyError: 'x' (this is a fault in lamina; --debug shows where)", 125),
    (ZeroDivisionError(), "lamina: unexpected ZeroDivisionError (this is a fault", 125),
])
def test_an_error_is_one_sentence(command: Command, error: BaseException, sentence: str, code: int) -> None:
    result = command("images", images=error)
    assert result.code == code
    assert result.out == ""
    assert result.err.startswith(sentence)
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err


def test_advice_about_the_state_directory_is_for_what_is_in_it(command: Command) -> None:
    error = os_error(errno.EACCES, str(command.home / "root" / "state.sqlite"))
    assert "or choose a place of your own with --root" in command("layers", "app", layers=error).err


def test_notes_follow_the_sentence(command: Command) -> None:
    error = noted(Unavailable("registry.test: no answer"), "while pulling a", "with \x1b[2J")
    result = command("images", images=error)
    assert result.err == (
        "lamina: registry.test: no answer\n        while pulling a\n        with \\x1b[2J\n"
    )


def test_a_cause_is_told(command: Command) -> None:
    error = Unavailable("sha256:1: did not arrive")
    error.__cause__ = IntegrityError("sha256:1: expected 2 bytes, got 1")
    assert command("images", images=error).err.splitlines()[1] == (
        "        because of sha256:1: expected 2 bytes, got 1"
    )


def test_errors_found_together_are_told_together(command: Command) -> None:
    group = ExceptionGroup("two", [NotFound("a: no such blob"), ExceptionGroup("in", [Denied("b: no")])])
    result = command("images", images=group)
    assert result.err == "lamina: a: no such blob\nlamina: b: no\n"
    assert result.code == 1


def test_debug_shows_where(command: Command) -> None:
    result = command("--debug", "images", images=KeyError("x\x1b"))
    assert "Traceback" in result.err
    assert "fakes.py" in result.err
    assert "\x1b" not in result.err


def test_an_error_text_cannot_steer_the_terminal(command: Command) -> None:
    result = command("images", images=NotFound("evil\x1b]0;owned\x07\nlamina: all is well"))
    assert result.err == "lamina: evil\\x1b]0;owned\\x07\\nlamina: all is well\n"


def test_a_password_in_a_url_is_not_repeated(command: Command) -> None:
    error = noted(Unavailable("https://me:hunter2@r.test/v2/: no answer"), "by http://me:hunter2@proxy:3128")
    for words in (("images",), ("--debug", "images")):
        err = command(*words, images=error).err
        assert "https://me:***@r.test/v2/: no answer" in err
        assert "http://me:***@proxy:3128" in err
        assert "hunter2" not in err


def test_interrupted_is_130(command: Command) -> None:
    result = command("images", images=noted(KeyboardInterrupt(), "the rest is kept"))
    assert result.code == 130
    assert result.err == "\nlamina: interrupted; the rest is kept\n"


def test_what_was_found_before_a_failure_comes_first(command: Command) -> None:
    def inspect(name: str) -> dict[str, Any]:
        if name == "b":
            raise NotFound("b: no such image")
        return {"Id": digest("a")}

    result = command("inspect", "-f", "{{.Id}}", "a", "b", inspect=inspect)
    assert (result.code, result.out) == (1, digest("a") + "\n")
    assert result.err.startswith("lamina: b: no such image\n")


# -- output that fails


class Broken(io.TextIOWrapper):
    def __init__(self, error: OSError) -> None:
        super().__init__(io.BytesIO())
        self.error = error

    def write(self, _text: str) -> int:
        raise self.error


def session_writing_to(stream: io.TextIOWrapper, err: io.TextIOWrapper) -> Session:
    return Session(stdin=io.TextIOWrapper(io.BytesIO()), stdout=stream, stderr=err, environ={}, clock=lambda: 0.0)


def test_a_reader_that_left_is_no_error() -> None:
    from lamina.cli.dispatch import main

    err = io.TextIOWrapper(io.BytesIO(), write_through=True)
    session = session_writing_to(Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")), err)
    assert main(["version"], session) == 141
    assert err.buffer.getvalue() == b""  # type: ignore[attr-defined]


def test_a_full_output_is_named() -> None:
    from lamina.cli.dispatch import main

    err = io.TextIOWrapper(io.BytesIO(), write_through=True)
    session = session_writing_to(Broken(os_error(errno.ENOSPC)), err)
    assert main(["version"], session) == 1
    assert err.buffer.getvalue() == b"lamina: standard output: no space left on device\n"  # type: ignore[attr-defined]


def test_a_lost_connection_is_not_taken_for_a_reader_that_left(command: Command) -> None:
    result = command("images", images=BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (result.code, result.err) == (1, "lamina: Broken pipe\n")


def test_bytes_to_a_reader_that_left() -> None:
    class Gone(io.BytesIO):
        def write(self, _chunk: Any) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    session = session_writing_to(io.TextIOWrapper(Gone()), io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(OutputClosed):
        session.output_bytes().write(b"x")
