"""Files of people's: whole or not there, never in the place of what is no file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lamina.content.wholefile import whole_file


def test_it_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with whole_file(path) as out:
        out.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), whole_file(path) as out:
        out.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_symlink_is_followed_and_the_umask_holds(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "link") as out:
            out.write(b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"1"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with whole_file(tmp_path / "pipe") as out:
        out.write(b"through")
    reader.join()
    assert found == [b"through"]
    assert (tmp_path / "pipe").is_fifo()


def test_errors_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "nowhere" / "out"):
        pass
    assert caught.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(OSError, match="No space") as full, whole_file(Path("/dev/full")) as out:
        out.write(b"x" * 100_000)
    assert full.value.filename == "/dev/full"
    other = OSError(5, "another's")
    with pytest.raises(OSError, match="another's") as passed, whole_file(tmp_path / "out"):
        raise other
    assert passed.value.filename is None
