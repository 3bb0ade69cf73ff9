"""Images mounted as filesystems, and found again by later commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine import images
from lamina.engine.lookup import ImageNotFound, find_image
from lamina.errors import InvalidInput
from lamina.oci.reference import InvalidReference
from lamina.snapshot.mounts import MountRecord as Record
from lamina.snapshot.mounts import MountRecords, NotMounted, Standing
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRecord:
    """``name`` is what was asked for; ``id`` the image's; ``path`` where its files are."""

    name: str
    id: str
    path: Path
    driver: str


def mount(engine: Core, name: str) -> Path:
    """The same image is mounted once: asking again gives the same place."""
    record = find_image(engine.store.catalog, name)
    for known in _standing(engine):
        if _id_of(known) == record.config:
            return Path(known.target)
    image = images.load_record(engine, record)
    if not image.layers:
        raise InvalidInput(f"{name}: an image without layers has nothing to mount")
    from lamina.engine.landing import unpack_present

    unpack_present(engine, image)
    made = MountRecords(engine.root).mount(
        engine.driver, str(image.chain_ids[-1]), None, label=f"{record.config} {name}", now=engine.clock()
    )
    return Path(made.target)


def unmount(engine: Core, name: str) -> None:
    """Raises ``NotMounted``, ``MountBusy``."""
    records = MountRecords(engine.root)
    for known in records.walk():
        if name == known.target or name.rstrip("/") == known.target:
            records.unmount(engine.driver_named(known.driver), known)
            return
    try:
        wanted = find_image(engine.store.catalog, name).config
    except (ImageNotFound, InvalidReference):
        raise NotMounted(f"{name}: neither a mounted image nor where one is mounted") from None
    mine = [known for known in _standing(engine) if _id_of(known) == wanted]
    if not mine:
        raise NotMounted(f"{name}: not mounted")
    for known in mine:
        records.unmount(engine.driver_named(known.driver), known)


def listing(engine: Core) -> tuple[MountRecord, ...]:
    return tuple(
        MountRecord(
            name=known.label.partition(" ")[2], id=_id_of(known), path=Path(known.target), driver=known.driver
        )
        for known in _standing(engine)
    )


def mounted_ids(engine: Core) -> set[str]:
    """Image IDs that are mounted, here or in somebody's namespace."""
    records = MountRecords(engine.root)
    return {_id_of(known) for known in records.walk() if records.standing(known) is not Standing.GONE}


def forget_gone(engine: Core) -> None:
    """Records of mounts that ended with their namespace, or with the machine's last run."""
    records = MountRecords(engine.root)
    for name in {known.driver for known in records.walk()}:
        records.forget_gone(engine.driver_named(name))


def _standing(engine: Core) -> list[Record]:
    records = MountRecords(engine.root)
    return [known for known in records.walk() if records.standing(known) is Standing.MOUNTED]


def _id_of(record: Record) -> str:
    return record.label.partition(" ")[0]
