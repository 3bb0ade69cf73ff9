"""Drivers that everything was moved away from: nothing of theirs stays.

A migration leaves them at its end; where one was killed before that, the next one does, or a prune.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.directorylock import locked
from lamina.content.durable import make_directory
from lamina.errors import LaminaError
from lamina.runtime.records import ContainerTable
from lamina.snapshot.choice import read_choice
from lamina.snapshot.directories import locked_home
from lamina.snapshot.drivers import ORDER
from lamina.snapshot.snapshotter import Snapshotter, Withdraws

if TYPE_CHECKING:
    from lamina.engine.core import Core


@contextlib.contextmanager
def migrating_alone(root: Path) -> Iterator[bool]:
    """Whether nobody else moves what is here from one driver to another; nobody does until the block ends."""
    home = root / "snapshots"
    make_directory(home)
    with locked(home) as is_alone:
        yield is_alone


def left(engine: Core) -> list[str]:
    """Drivers of ours that have no snapshot, and no container, any more, but a directory."""
    homes = {name for name in ORDER if (engine.root / "snapshots" / name).is_dir()}
    if not homes:
        return []
    rows = engine.store.state.rows("SELECT DISTINCT driver FROM snapshots")
    having = {str(name) for (name,) in rows}
    having |= {container.driver for container in ContainerTable(engine.store.state).walk()}
    choice = read_choice(engine.root)
    return sorted(homes - having - {"" if choice is None else str(choice["driver"])})


def leave(root: Path, driver: Snapshotter) -> int:
    """Nothing of a driver stays if no snapshot does; the bytes freed."""
    if any(True for _each in driver.walk()):
        return 0
    freed = driver.withdraw() if isinstance(driver, Withdraws) else 0
    home = root / "snapshots" / driver.name
    # Somebody makes a snapshot here, or is about to; or the driver keeps something.
    with contextlib.suppress(OSError), locked_home(home, fcntl.LOCK_EX | fcntl.LOCK_NB):
        os.rmdir(home)
    return freed


def leave_all(engine: Core) -> int:
    """What killed migrations left; the bytes freed. Nothing while one is under way."""
    names = left(engine)
    if not names:
        return 0
    freed = 0
    with migrating_alone(engine.root) as is_alone:
        for name in names if is_alone else ():
            with contextlib.suppress(LaminaError, OSError):  # it cannot be opened here, or not by this user
                driver = engine.driver_named(name)
                freed += driver.sweep() + leave(engine.root, driver)
    return freed
