"""Containers stand still: for whoever pauses them until somebody lets them go on, or for a moment.

The file ``paused`` in a container's directory says so. It is there from before the first process is frozen
until after the last one thaws: what somebody who was killed left frozen is shown as paused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.containers import Seen, directory_of, find_group, find_live, group_of
from lamina.errors import Conflict, Unavailable, Unsupported
from lamina.runtime.container import PAUSED, Status

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.runtime.cgroup import Cgroup


def pause(engine: Core, name: str) -> None:
    """Raises ``ContainerNotRunning``; ``Conflict`` if it is paused already, by a commit perhaps."""
    seen = find_live(engine, name, "pause")
    if seen.state.status is Status.PAUSED:
        raise Conflict(f"{name}: paused already")
    group = group_of(seen.state, name)
    try:
        os.close(_frozen(directory_of(engine, seen.container).path / PAUSED, group))
    except FileExistsError:
        raise Conflict(f"{name}: paused already") from None


def unpause(engine: Core, name: str) -> None:
    """Raises ``ContainerNotRunning``; ``Conflict`` if it is not paused."""
    seen = find_live(engine, name, "unpause")
    group = find_group(seen.state)
    # Frozen without the flag: by hands of another's, as `runc pause` has them.
    if seen.state.status is not Status.PAUSED and not (group and group.is_frozen):
        raise Conflict(f"{name}: not paused")
    group_of(seen.state, name).thaw()
    (directory_of(engine, seen.container).path / PAUSED).unlink(missing_ok=True)


@contextlib.contextmanager
def standing_still(engine: Core, seen: Seen) -> Iterator[None]:
    """For a look at the filesystem of a running container; where pausing cannot be had, without.

    It is paused as by :func:`pause`. One that is paused already stays so, and one that somebody lets go on
    meanwhile is theirs from then on.
    """
    group = find_group(seen.state) if seen.state.status is Status.RUNNING else None
    flag = directory_of(engine, seen.container).path / PAUSED
    held = -1
    if group is not None:
        with contextlib.suppress(Unsupported, Unavailable, OSError):
            held = _frozen(flag, group)
    if group is None or held < 0:
        yield
        return
    try:
        yield
    finally:
        try:
            _let_go(flag, group, held)
        finally:
            os.close(held)


def _frozen(flag: Path, group: Cgroup) -> int:
    """The flag, made and open; whoever takes it away thaws the group. Raises ``FileExistsError``."""
    held = os.open(flag, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        group.freeze()
        if not os.fstat(held).st_nlink:  # unpaused while its processes came to a stand
            group.thaw()
    except BaseException:
        os.close(held)
        flag.unlink(missing_ok=True)
        raise
    return held


def _let_go(flag: Path, group: Cgroup, held: int) -> None:
    """Unless the flag is no longer ours: unpaused or ended meanwhile, and perhaps paused again."""
    if os.fstat(held).st_nlink:
        with contextlib.suppress(FileNotFoundError):  # it ended, and its group is gone
            group.thaw()
        flag.unlink(missing_ok=True)
