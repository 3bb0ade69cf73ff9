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
    root: Path, state: State, driver: Snapshotter, container: Container, *, keeps_directory: bool = False,
    with_volumes: bool = False,
) -> None:
    """The caller holds the container's lock, and nothing of it is mounted in its mount namespace. Idempotent.

    With ``keeps_directory`` the caller removes that itself, soon: it has a use for it still. ``with_volumes``
    takes its anonymous volumes too.
    """
    with contextlib.suppress(SnapshotNotFound):
        driver.remove(container.snapshot)
    if not keeps_directory:
        ContainerDirectory(root, container.id).discard()
    ContainerTable(state).remove(container.id)
    if with_volumes and container.anonymous:
        _remove_anonymous(root, state, container)


def _remove_anonymous(root: Path, state: State, gone: Container) -> None:
    """Unless another container borrowed them."""
    from lamina.runtime.volumes import VolumeNotFound, VolumeStore  # noqa: PLC0415 - few have any

    used = {name for container in ContainerTable(state).walk() for name in container.volumes}
    for name in set(gone.anonymous) - used:
        with contextlib.suppress(VolumeNotFound):
            VolumeStore(root).remove(name)


def remove_own(root: Path, container: Container, *, keeps_directory: bool) -> None:
    """For a monitor, which has no engine: opens what :func:`remove_container` needs, and closes it.

    Who asked for ``--rm`` gets rid of the anonymous volumes as well, as with docker.
    """
    from lamina.snapshot.layers import LayerStore  # noqa: PLC0415 - at the end only
    from lamina.snapshot.probing import reopen  # noqa: PLC0415 - at the end only

    state = State(root / "state.sqlite")
    try:
        driver = reopen(root, state, LayerStore(root), container.driver)
        try:
            remove_container(
                root, state, driver, container, keeps_directory=keeps_directory, with_volumes=True
            )
        finally:
            driver.close()
    finally:
        state.close()
