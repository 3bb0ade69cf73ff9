"""Work on trees of a driver that knows which inodes changed: what it finds is what comparing whole trees finds."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.privileged.test_driver_btrfs_difference import ACTS, Whole, act, fill, found, opened

from lamina.snapshot.changes import Difference, HoldsDifference
from lamina.snapshot.trees import empty_and_remove
from lamina.testing.bench import Bench


class Noting:
    """The driver; ``touched`` has what it knew each time."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.touched: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    @property
    def hands(self) -> Any:
        return self._driver.hands

    @contextlib.contextmanager
    def holding_difference(self, key: str) -> Iterator[Difference]:
        with self._driver.holding_difference(key) as difference:
            self.touched.append(difference.touched)
            yield difference


# -- more that is done to a tree


def write_by_memory(one: Path, _two: Path, number: int) -> None:
    with opened(one, os.O_RDWR, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[number % len(memory)] = 0x40 + number


def become_a_file(one: Path, _two: Path, number: int) -> None:
    empty_and_remove(one)
    one.write_bytes(b"%d" % number)


def make_anew(one: Path, _two: Path, number: int) -> None:
    """Often with the inode of what was there."""
    one.unlink()
    one.write_bytes(b"%d" % number)


def set_a_value(one: Path, _two: Path, number: int) -> None:
    os.setxattr(one, "user.one", bytes([number]) * number**3, follow_symlinks=False)


MORE = [
    *ACTS, write_by_memory, become_a_file, make_anew, make_anew, set_a_value, set_a_value,
    lambda one, _two, _number: one.is_file() and one.read_bytes(),
    lambda one, two, _number: os.rename(one, two.with_name("\udcff\udc80 \n")),
]


def steps(chance: Random, count: int) -> list[tuple[int, str, str, int]]:
    def path() -> str:
        return "/".join(chance.choices("abcd", k=chance.randint(1, 4)))

    return [(chance.randrange(len(MORE)), path(), path(), chance.randrange(8)) for _ in range(count)]


# -- both ways


def insist_same(bench: Bench, before: Callable[[Path], object], after: Callable[[Path], object]) -> Noting:
    """While a container has it mounted, and at rest."""
    base, key = os.urandom(8).hex(), os.urandom(8).hex()
    bench.write_snapshot(base, "", before)
    driver = Noting(bench.driver)
    assert isinstance(driver, HoldsDifference)
    with bench.mounted(bench.driver.prepare(key, base)) as path:
        after(path)
        running = found(driver, key)
    resting = found(driver, key)
    assert running == resting == found(Whole(bench.driver), key)
    bench.driver.remove(key)
    bench.driver.remove(base)
    return driver


def work(bench: Bench, seed: int, rounds: int) -> int:
    """How often the driver knew, of four times a round."""
    known = 0
    for turn in range(rounds):
        chance = Random(f"{seed} {turn}")
        first, then = steps(chance, 60), steps(chance, chance.choice((1, 3, 10, 60)))

        def begin(path: Path, first: list[tuple[int, str, str, int]] = first) -> None:
            fill(path)
            act(path, first, MORE)

        driver = insist_same(bench, begin, lambda path, then=then: act(path, then, MORE))  # type: ignore[misc]
        known += sum(touched is not None for touched in driver.touched)
    return known


def many(path: Path) -> None:
    for directory in range(20):
        (path / f"{directory}").mkdir()
        for number in range(20):
            (path / f"{directory}/{number}").write_bytes(b"x")
    os.link(path / "3/3", path / "4/other")
    os.setxattr(path / "5/5", "user.kept", b"1")
    os.setxattr(path / "6", "user.kept", b"1")


def change_few(path: Path) -> None:
    (path / "3/3").write_bytes(b"y")
    os.rename(path / "7", path / "8/moved")


FEW = [
    "C /3", "C /3/3", "C /4", "C /4/other", "D /7", "C /8", "A /8/moved",
    *sorted(f"A /8/moved/{n}" for n in range(20)),
]


# More than a process may have directories open.
LEVELS = 600


def deep(path: Path) -> None:
    """A file below many directories."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def touch_deep(path: Path) -> None:
    here = os.open(path, os.O_RDONLY)
    for _ in range(LEVELS):
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.chmod("f", 0o600, dir_fd=here)
    os.close(here)
