"""Images: built, brought in and out, named, squashed; and what registries say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.core import Core

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    from lamina.build.context import Context
    from lamina.build.report import StepReport
    from lamina.engine.building.options import BuildOptions, BuiltImage
    from lamina.engine.building.usage import CacheRecord, PrunedCache
    from lamina.engine.images import HistoryRow, ImageSummary
    from lamina.engine.merging import SquashOptions
    from lamina.engine.planning import Planned, PlanOptions
    from lamina.engine.removed import Removed
    from lamina.engine.serving import Serving
    from lamina.engine.squashing import Squashed
    from lamina.engine.transfer import Pulled, Pushed
    from lamina.image import Image
    from lamina.oci.descriptor import Descriptor, Platform
    from lamina.oci.digest import Digest


class ImageVerbs(Core):
    """See :class:`~lamina.engine.engine.Engine`."""

    # -- builds

    def build(
        self, context: Context | Path | str, options: BuildOptions | None = None, *,
        report: StepReport | None = None, stdin: BinaryIO | None = None, stdout: BinaryIO | None = None,
    ) -> BuiltImage:
        """``context`` is a directory, a URL or ``-``, or open with its Dockerfile in ``options.text``.

        Raises ``DockerfileError``, ``StepFailed``, and what keeps a base from being had.
        """
        from lamina.build.report import unheard
        from lamina.engine.building import build as building
        from lamina.engine.building.contexts import opened_context
        from lamina.engine.building.options import BuildOptions

        asked = options or BuildOptions()
        if not isinstance(context, Path | str):
            return building.build(self, context, asked, report or unheard, stdout=stdout)
        with opened_context(self, str(context), asked, stdin) as (opened, asked):
            return building.build(self, opened, asked, report or unheard, stdout=stdout)

    def build_cache(self) -> tuple[CacheRecord, ...]:
        """Steps and cache mounts; the one used last comes first."""
        from lamina.engine.building import usage as buildcache

        return buildcache.records(self)

    def prune_builds(
        self, *, all_records: bool = False, filters: Mapping[str, Sequence[str]] | None = None,
        keep: int | None = None,
    ) -> PrunedCache:
        """Of the build cache what is not in use, the least recently used first, down to ``keep`` bytes.

        With ``all_records`` also steps whose layers an image has.
        """
        from lamina.engine.building import usage as buildcache

        return buildcache.prune(self, all_records=all_records, filters=filters or {}, keep=keep)

    # -- images in and out

    def pull(
        self, name: str, *, platform: Platform | None = None, all_tags: bool = False
    ) -> tuple[Pulled, ...]:
        """Fetches, verifies, unpacks and names an image; with ``all_tags`` each one of its repository."""
        from lamina.engine import transfer

        return transfer.pull(self, name, platform=platform, all_tags=all_tags)

    def push(self, name: str, *, all_tags: bool = False, compression: str = "gzip") -> tuple[Pushed, ...]:
        """Layers that came compressed go as they came; the others are compressed on the way."""
        from lamina.engine import transfer

        return transfer.push(self, name, all_tags=all_tags, compression=compression)

    def save(self, names: Sequence[str], out: BinaryIO, *, form: str = "docker-archive") -> None:
        """Several images as one archive: ``docker-archive`` or ``oci-archive``. Names are checked first."""
        from lamina.engine import archives

        archives.save(self, names, out, form)

    def load(self, source: BinaryIO | Path, *, platform: Platform | None = None) -> tuple[str, ...]:
        """Names of what was loaded, or image IDs where an image had none."""
        from lamina.engine import archives

        return archives.load(self, source, platform)

    def import_image(
        self,
        source: BinaryIO,
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: Platform | None = None,
        created: str | None = None,
    ) -> Digest:
        """A root filesystem as an image of one layer; gives its ID. ``changes`` are Dockerfile lines."""
        from lamina.engine import archives

        return archives.import_image(self, source, name, changes=changes, message=message,
                                     platform=platform, created=created)

    def export(self, name: str, out: BinaryIO) -> None:
        """All layers as one tar: what a container would see."""
        from lamina.engine import archives

        archives.export(self, name, out)

    # -- images here

    def images(
        self, *, names: Sequence[str] = (), filters: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[ImageSummary, ...]:
        """Newest first, one value a name; ``filters`` are dangling, label, reference, before, since."""
        from lamina.engine import images

        return images.summaries(self, names, filters or {})

    def image(self, name: str) -> Image:
        """An image in the store as a value."""
        from lamina.engine import images

        return images.load(self, name)

    def inspect(self, name: str) -> dict[str, Any]:
        """Docker's fields as a document that JSON can hold."""
        from lamina.engine import images

        return images.inspect(self, name)

    def history(self, name: str) -> tuple[HistoryRow, ...]:
        """Newest first, as docker shows it."""
        from lamina.engine import images

        return images.history(self, name)

    def tag(self, source: str, target: str) -> None:
        """Gives an image one more name, taking it from whichever image had it."""
        from lamina.engine import images

        images.tag(self, source, target)

    def remove(self, name: str, *, force: bool = False, prune: bool = True) -> tuple[Removed, ...]:
        """Removes a name, and with an image's last name the image and what only it needed."""
        from lamina.engine import housekeeping

        return housekeeping.remove(self, name, force=force, prune=prune)

    def squash(
        self,
        name: str,
        target: str = "",
        *,
        options: SquashOptions | None = None,
        platform: Platform | None = None,
    ) -> Squashed:
        """Merges a range of layers into one; says what came of it and what it costs.

        ``name`` and ``target`` may be in the store, a registry, an archive or a layout (see
        ``lamina.engine.locations``). Without a target the result is in the store under its ID alone.
        """
        from lamina.engine import merging, squashing

        return squashing.squash(self, name, target, options or merging.SquashOptions(), platform)

    def plan_squashes(
        self, wanted: Sequence[tuple[str, int]] = (), *, options: PlanOptions | None = None
    ) -> Planned:
        """Which ranges of layers are worth merging, over images with pull counts; all here by default."""
        from lamina.engine import planning

        return planning.plan(self, wanted, options or planning.PlanOptions())

    # -- registries

    def login(self, registry: str, username: str, secret: str) -> str:
        """Asks the registry first; says where the credentials were stored."""
        from lamina.engine import accounts

        return accounts.login(self, registry, username, secret)

    def logout(self, registry: str) -> bool:
        """Whether there was anything to forget."""
        from lamina.engine import accounts

        return accounts.logout(self, registry)

    def remote_manifest(self, name: str) -> tuple[Descriptor, bytes]:
        """The document itself, without pulling anything else."""
        from lamina.engine import transfer

        return transfer.remote_manifest(self, name)

    def remote_tags(self, name: str) -> Iterator[str]:
        """Page by page, as the registry lists them."""
        from lamina.engine import transfer

        return transfer.remote_tags(self, name)

    def serve(self, address: str = "127.0.0.1", port: int = 5000, *, read_only: bool = False) -> Serving:
        """The store as a registry, in threads of this process, until the answer is closed."""
        from lamina.engine import serving

        return serving.serve(self, address, port, read_only=read_only)
