"""save, load, import, export: where the bytes come from and go to, and what a terminal is spared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tests.cli.fakes import Command, digest

from lamina.errors import InvalidInput


def write(_names: object, out: BinaryIO, **_options: object) -> None:
    out.write(b"archive \xff")


def read(source: BinaryIO, *_: Any, **__: Any) -> tuple[str, ...]:
    return (source.read().decode(),)


@pytest.mark.parametrize(("words", "verb"), [(("save", "a", "b"), "save"), (("export", "a"), "export")])
class TestOut:
    def test_to_a_file(self, command: Command, tmp_path: Path, words: tuple[str, ...], verb: str) -> None:
        target = tmp_path / "out.tar"
        result = command(*words, "-o", str(target), **{verb: write})
        assert (result.code, result.out, result.err) == (0, "", "")
        assert target.read_bytes() == b"archive \xff"
        umask = os.umask(0)
        os.umask(umask)
        assert target.stat().st_mode & 0o777 == 0o666 & ~umask
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tar"]

    @pytest.mark.parametrize("output", [(), ("-o", "-")])
    def test_to_standard_output(
        self, command: Command, words: tuple[str, ...], verb: str, output: tuple[str, ...]
    ) -> None:
        assert command(*words, *output, **{verb: write}).raw == b"archive \xff"

    def test_not_to_a_terminal(self, command: Command, words: tuple[str, ...], verb: str) -> None:
        command.is_terminal = True
        result = command(*words, **{verb: write})
        assert (result.code, result.raw, result.asked) == (1, b"", [])
        assert result.err == f"lamina: {verb}: an archive is not for a terminal; use -o FILE, or redirect the output\n"

    def test_a_failure_leaves_what_was_there(
        self, command: Command, tmp_path: Path, words: tuple[str, ...], verb: str
    ) -> None:
        target = tmp_path / "out.tar"
        target.write_bytes(b"before")

        def fail(_names: object, out: BinaryIO, **_options: object) -> None:
            out.write(b"half")
            raise InvalidInput("a: broken")

        assert command(*words, "-o", str(target), **{verb: fail}).code == 1
        assert target.read_bytes() == b"before"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tar"]

    def test_to_a_device(self, command: Command, words: tuple[str, ...], verb: str) -> None:
        assert command(*words, "-o", "/dev/null", **{verb: write}).code == 0
        assert not os.path.isfile("/dev/null")

    def test_to_a_full_device(self, command: Command, words: tuple[str, ...], verb: str) -> None:
        result = command(*words, "-o", "/dev/full", **{verb: write})
        assert result.code == 1
        assert result.err == "lamina: /dev/full: no space left on device\n"

    def test_to_a_file_that_cannot_grow(
        self, command: Command, tmp_path: Path, words: tuple[str, ...], verb: str
    ) -> None:
        """Advice for a full state directory would not help here."""
        import resource
        import signal

        target = tmp_path / "out.tar"
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
        try:
            result = command(*words, "-o", str(target), **{verb: write})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert (result.code, result.err) == (1, f"lamina: {target}: file too large\n")
        assert list(tmp_path.iterdir()) == []

    def test_to_a_directory_that_is_not_there(self, command: Command, words: tuple[str, ...], verb: str) -> None:
        result = command(*words, "-o", "/nowhere/out.tar", **{verb: write})
        assert (result.code, result.err) == (1, "lamina: /nowhere: no such file or directory\n")


def test_save_passes_names_and_format(command: Command) -> None:
    result = command("save", "a", "b", "--format", "oci-archive", save=write)
    assert result.asked[0][1][0] == ["a", "b"]
    assert result.asked[0][2] == {"form": "oci-archive"}
    assert command("save", "a", "--format", "zip", save=write).code == 125


def test_load_from_a_file_and_from_standard_input(command: Command, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"redis:7")
    assert command("load", "-i", str(archive), load=read).out == "Loaded image: redis:7\n"
    command.input = digest("a").encode()
    assert command("load", load=read).out == f"Loaded image ID: {digest('a')}\n"
    assert command("load", "-i", "-", load=read).code == 0


def test_load_from_a_directory(command: Command, tmp_path: Path) -> None:
    result = command("load", "-i", str(tmp_path), load=("a:1",))
    assert result.asked[0][1] == (tmp_path,)


def test_load_does_not_wait_for_a_keyboard(command: Command) -> None:
    command.is_keyboard = True
    result = command("load", load=read)
    assert (result.code, result.engines) == (1, [])
    assert result.err == "lamina: load: nothing to read from a terminal; give -i FILE, or redirect the input\n"


def test_load_of_a_file_that_is_not_there(command: Command) -> None:
    result = command("load", "-i", "/nowhere.tar", load=read)
    assert (result.code, result.err) == (1, "lamina: /nowhere.tar: no such file or directory\n")


@pytest.mark.parametrize("words", [("load", "-i", "http://a.b/c.tar"), ("import", "https://a.b/c.tar", "d")])
def test_a_url_is_no_file(command: Command, words: tuple[str, ...]) -> None:
    result = command(*words)
    assert (result.code, result.asked) == (1, [])
    assert f"`curl -L URL | lamina {words[0]} ...`" in result.err


def test_import(command: Command, tmp_path: Path) -> None:
    root = tmp_path / "root.tar"
    root.write_bytes(b"tar")
    seen = []

    def take(source: BinaryIO, *_: Any, **__: Any) -> str:
        seen.append(source.read())
        return digest("a")

    result = command("import", "-c", 'CMD ["sh"]', "-c", "USER 1", "-m", "mine", "--platform", "arm64", str(root), "me:1",
                     import_image=take)
    assert (result.code, result.out, seen) == (0, digest("a") + "\n", [b"tar"])
    _, (_, name), options = result.asked[0]
    assert name == "me:1"
    assert options["changes"] == ['CMD ["sh"]', "USER 1"]
    assert options["message"] == "mine"
    assert str(options["platform"]) == "linux/arm64"
    assert options["created"] is None


def test_import_from_standard_input_honours_source_date_epoch(command: Command) -> None:
    command.environ = {"SOURCE_DATE_EPOCH": "1714564800"}
    result = command("import", "-", import_image=digest("a"))
    assert result.asked[0][1][1] is None
    assert result.asked[0][2]["created"] == "2024-05-01T12:00:00Z"


def test_import_of_a_directory(command: Command, tmp_path: Path) -> None:
    result = command("import", str(tmp_path), import_image=digest("a"))
    assert (result.code, result.asked) == (1, [])
    assert "is a directory; expected a tar" in result.err
