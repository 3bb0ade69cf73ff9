"""A driver's own directories, while others sweep and take away what is empty."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lamina.snapshot import directories
from lamina.snapshot.directories import Directories, locked_home


def made(home: Path) -> Directories:
    return Directories(home, shutil.rmtree)


def before_the_lock(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> None:
    """``act`` runs once, when a new directory has its name and nobody has locked it."""
    real: Callable[[Path], AbstractContextManager[bool]] = directories.locked
    acts = [act]

    @contextmanager
    def locked(path: Path) -> Iterator[bool]:
        if acts:
            acts.pop()(path)
        with real(path) as is_ours:
            yield is_ours

    monkeypatch.setattr(directories, "locked", locked)


def test_a_home_that_is_taken_away_at_that_moment_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a migration that has moved everything out of it."""
    home, real, times = tmp_path / "home", directories.make_directory, []

    def make(path: Path) -> None:
        real(path)
        if len(times) < 2:
            times.append(1)
            path.rmdir()

    monkeypatch.setattr(directories, "make_directory", make)
    with made(home).new() as path:
        assert path.is_dir()
    with locked_home(home):
        assert path.is_dir()


def test_one_that_is_swept_before_it_is_locked_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, swept = tmp_path / "home", []

    def sweep(path: Path) -> None:
        swept.append(path)
        made(home).sweep(lambda: ())

    before_the_lock(monkeypatch, sweep)
    with made(home).new() as path:
        assert not swept[0].exists()
        assert path.is_dir()
        assert made(home).sweep(lambda: ()) == 0
        assert path.is_dir()


def test_one_that_somebody_looks_at_before_it_is_locked_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, held = tmp_path / "home", []

    def hold(path: Path) -> None:
        held.append(os.open(path, os.O_RDONLY))
        fcntl.flock(held[0], fcntl.LOCK_EX)

    before_the_lock(monkeypatch, hold)
    with made(home).new() as path:
        os.close(held[0])
        assert made(home).sweep(lambda: ()) == 0, "it is locked"
    assert [path] == list(home.iterdir())


def test_a_lock_is_on_the_home_that_is_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    has_it, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        with locked_home(home):
            has_it.set()
            may_end.wait(20)

    with locked_home(home):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not has_it.wait(0.2)
        home.rmdir()
    try:
        assert has_it.wait(20)
        descriptor = os.open(home, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    finally:
        may_end.set()
        waiting.join()
