"""What lies on disk: mounts, storage drivers, dropped blobs, housekeeping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.core import Core

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from lamina.content.collect import Finding
    from lamina.content.dropped import DroppedBlob
    from lamina.engine.diskusage import ImageUsage, UsageRow
    from lamina.engine.drivers import DriverRow
    from lamina.engine.dropping import DropResult
    from lamina.engine.housekeeping import Pruned
    from lamina.engine.migrating import Migration
    from lamina.engine.mounts import MountRecord
    from lamina.engine.storagebench import Benched


class StorageVerbs(Core):
    """See :class:`~lamina.engine.engine.Engine`."""

    # -- filesystems

    def mount(self, name: str) -> Path:
        """Mounts all layers, read-only, and says where. Survives this process where the kernel lets it."""
        from lamina.engine import mounts

        return mounts.mount(self, name)

    def unmount(self, name: str) -> None:
        """By image name, ID or the path that :meth:`mount` gave."""
        from lamina.engine import mounts

        mounts.unmount(self, name)

    def mounts(self) -> tuple[MountRecord, ...]:
        """What :meth:`mount` has mounted and this process can see."""
        from lamina.engine import mounts

        return mounts.listing(self)

    # -- storage drivers

    def storage_drivers(self) -> tuple[DriverRow, ...]:
        """Each that is installed, best first: whether it works here, is in use, and what it has."""
        from lamina.engine import drivers

        return drivers.listing(self)

    def migrate_storage(self, to: str, *, is_dry_run: bool = False) -> Migration:
        """Everything becomes another storage driver's, whose options the settings hold.

        Raises ``DriverUnavailable``, ``NoRoom``, ``ContainerRunning`` or ``StateInUse`` naming what is in the
        way, and at the end ``NotMoved`` for containers that stay with their old driver.
        """
        from lamina.engine import migrating

        return migrating.migrate(self, to, is_dry_run=is_dry_run)

    def bench_storage(
        self, drivers: Sequence[str] = (), *, layers: int = 10, containers: int = 50
    ) -> Benched:
        """Times and bytes of the drivers that work here, or of those named. Raises ``NoRoom``."""
        from lamina.engine import storagebench

        return storagebench.bench(self, drivers, layers=layers, containers=containers)

    # -- housekeeping

    def usage(self) -> tuple[UsageRow, ...]:
        """Bytes on disk by kind, as ``lamina system df`` shows them."""
        from lamina.engine import diskusage

        return diskusage.usage(self)

    def image_usage(self) -> tuple[ImageUsage, ...]:
        """One value a name: what the image takes, and shares with others."""
        from lamina.engine import diskusage

        return diskusage.image_usage(self)

    def prune(
        self, *, all_images: bool = False, filters: Mapping[str, Sequence[str]] | None = None
    ) -> Pruned:
        """Images without a name and content that nothing reaches; with ``all_images`` every image too."""
        from lamina.engine import housekeeping

        return housekeeping.prune(self, all_images=all_images, filters=filters or {})

    def check(self, *, repair: bool = False, online: bool = False) -> Iterable[Finding]:
        """Reads everything and compares it with its name, reporting as it goes.

        With ``online`` registries are asked whether they serve what was dropped here.
        """
        from lamina.engine import checking

        return checking.check(self, repair=repair, online=online)

    # -- blobs that registries keep

    def dropped_blobs(self) -> tuple[DroppedBlob, ...]:
        """What was dropped here, and where each comes back from."""
        return tuple(self.store.dropped_blobs())

    def drop_blobs(self, *names: str) -> DropResult:
        """Blobs of images, or of all, that registries serve and that what is unpacked makes up for."""
        from lamina.engine import dropping

        return dropping.drop(self, names)

    def fetch_blobs(self, name: str) -> tuple[DroppedBlob, ...]:
        """Brings back what was dropped of an image; gives what that was. Raises ``NoLongerServed``."""
        from lamina.engine import refetching
        from lamina.engine.lookup import find_image

        return refetching.fetch(self, find_image(self.store.catalog, name).descriptor)

    def info(self) -> dict[str, Any]:
        """Settings with their origins, the storage driver and why, this machine."""
        from lamina.engine import about

        return about.info(self)
