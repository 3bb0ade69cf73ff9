"""The end of a container: its filesystem, its directory, and last of all its row.

In that order, so that whoever dies in between leaves a container that can be removed again, and nothing that
no row knows of.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from lamina.content.state import State
from lamina.runtime.container import Container, ContainerDirectory
from lamina.runtime.records import ContainerTable
from lamina.snapshot.snapshotter import SnapshotNotFound, Snapshotter


def remove_container(
    root: Path, state: State, driver: Snapshotter, container: Container, *, keeps_directory: bool = False
) -> None:
    """The caller holds the container's lock, and nothing of it is mounted in its mount namespace. Idempotent.

    With ``keeps_directory`` the caller removes that itself, soon: it has a use for it still.
    """
    with contextlib.suppress(SnapshotNotFound):
        driver.remove(container.snapshot)
    if not keeps_directory:
        ContainerDirectory(root, container.id).discard()
    ContainerTable(state).remove(container.id)


def remove_own(root: Path, container: Container, *, keeps_directory: bool) -> None:
    """For a monitor, which has no engine: opens what :func:`remove_container` needs, and closes it."""
    from lamina.snapshot.layers import LayerStore  # noqa: PLC0415 - at the end only
    from lamina.snapshot.probing import reopen  # noqa: PLC0415 - at the end only

    state = State(root / "state.sqlite")
    try:
        driver = reopen(root, state, LayerStore(root), container.driver)
        try:
            remove_container(root, state, driver, container, keeps_directory=keeps_directory)
        finally:
            driver.close()
    finally:
        state.close()
