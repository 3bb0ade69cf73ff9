"""What is wrong with a pool, and with the devices that rows speak of: a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lamina.errors import LaminaError
from lamina.snapshot.devicemapper.devices import Devices, Volume
from lamina.snapshot.devicemapper.pool import PoolStatus
from lamina.snapshot.devicemapper.settings import Settings
from lamina.snapshot.devicemapper.superblock import read_superblock


def find_problems(
    devices: Devices, settings: Settings, volumes: Sequence[tuple[str, Volume]]
) -> Iterator[str]:
    """``volumes`` by the names of their snapshots. Where there are none, nothing is made active."""
    if not volumes:
        return
    try:
        with devices.pool() as pool:
            name, status = pool.name, pool.status()
    except (LaminaError, OSError) as error:
        yield str(error)
        return
    yield from _pool_problems(name, status, settings)
    for key, volume in volumes:
        try:
            with devices.looked_at(volume) as (node, _is_open):
                found = read_superblock(node)
        except (LaminaError, OSError) as error:
            yield f"{key}: {error}"
            continue
        if found is None:
            yield f"{key}: there is no filesystem on thin device {volume.device}"
        elif found.has_errors:
            yield f"{key}: the filesystem on thin device {volume.device} has errors; its next use mends it"


def _pool_problems(name: str, status: PoolStatus, settings: Settings) -> Iterator[str]:
    if status.mode != "rw":
        yield f"{name}: the thin pool's mode is {status.mode}, not rw"
    if status.needs_check:
        yield f"{name}: the thin pool's metadata wants thin_check(8), as after a disk failed"
    for what, used, total in (
        ("data", status.used, status.total), ("metadata", status.used_metadata, status.total_metadata),
    ):
        if (total - used) * 100 < total * settings.min_free_space:
            yield (
                f"{name}: {used * 100 // total}% of the thin pool's {what} space is used: it takes nothing "
                f"new (dm.min_free_space={settings.min_free_space}%)"
            )
