"""One image with a range of its layers merged: which range, what is made of it, and what that costs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lamina.content.behind import WriteBehind
from lamina.content.lease import Lease
from lamina.engine.bases import Base, find_base, kept_base, stated_base
from lamina.engine.explain import open_indexes, sharing
from lamina.engine.layering import adopt
from lamina.errors import InvalidInput
from lamina.events import Action, Event
from lamina.image import Image
from lamina.insight.instruction import instruction_of
from lamina.layer.compress import Compression, deflate, layer_media_type
from lamina.layer.index import IndexBuilder
from lamina.layer.squash import Merged, merge, write_merged
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import DOCKER_MANIFEST, Descriptor
from lamina.oci.digest import Digest, Digester
from lamina.oci.manifest import Manifest, parse_document
from lamina.squashed import (
    Piece,
    Redaction,
    redact_config,
    redact_manifest,
    squash_config,
    squash_manifest,
    with_config,
)
from lamina.values import dataclass, field, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core

Make = Callable[[], tuple[Descriptor, Digest]]
_NUMBER = re.compile(r"\d{1,4}")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


class NoSuchLayer(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SquashOptions:
    """Which layers are merged: by default those above the base that is found.

    Else ``first`` to ``last``, each a number from the base, or a digest or its beginning; or the ``count``
    topmost ones; or several ``ranges``, topmost first; or all; or those above ``base``. ``created`` is
    RFC 3339, now by default; ``redact`` are regular expressions for config, history and annotations.
    """

    first: str = ""
    last: str = ""
    count: int = 0
    ranges: Sequence[tuple[int, int]] = ()
    is_all: bool = False
    base: str = ""
    message: str = ""
    created: str = ""
    compression: str = "none"
    level: int | None = None
    redact: Sequence[str] = ()
    is_dry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """A local image that goes on using layers which were merged, so that ``size`` bytes are kept twice."""

    image: str
    layers: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SquashedImage:
    """One platform. Sizes are bytes of uncompressed tars; layers are numbered from 0 at the base.

    ``image_id`` and ``digest`` are the new image's, or ``None`` for what was only tried. ``ranges`` are the
    first and last layer of each that was merged, the topmost first; none where there was nothing to merge.
    ``shared_size`` counts what other local images keep alive, each layer once. ``lost`` are the
    instructions of layers that can no longer be looked at one by one.
    """

    platform: str
    source: Digest
    image_id: Digest | None
    digest: Digest | None
    ranges: tuple[tuple[int, int], ...]
    base: Base
    layers_before: int
    layers_after: int
    size_before: int
    size_after: int
    entries_before: int = 0
    entries_after: int = 0
    shared_with: tuple[Sharing, ...] = ()
    shared_size: int = 0
    lost: tuple[str, ...] = ()
    redactions: tuple[Redaction, ...] = ()

    @property
    def size_gone(self) -> int:
        return self.size_before - self.size_after

    @property
    def is_changed(self) -> bool:
        return bool(self.ranges or self.redactions)


@dataclass(slots=True)
class Merging:
    """One platform's image on its way to the squashed one.

    ``made`` is the manifest that stands for it after ``run``, ``layers`` are the diff ids of new layers; all
    digests that were put into the store are appended to ``noted``, and held by ``lease``.
    """

    engine: Core
    options: SquashOptions
    patterns: Sequence[re.Pattern[str]]
    image: Image
    noted: list[Digest]
    lease: Lease
    # Asked before a range is merged: who builds the same again has the layer already.
    recall: Callable[[Sequence[Digest], Make], tuple[Descriptor, Digest]] | None = None
    made: Manifest = field(init=False)
    layers: list[Digest] = field(default_factory=list)
    _config: ImageConfig = field(init=False)
    _pieces: list[Piece] = field(default_factory=list)

    def run(self) -> SquashedImage:
        self.made, self._config = self.image.manifest, self.image.config
        ranges, base = self._ranges()
        return self._documented(self._merged(ranges, base) if ranges else self._unchanged(base))

    # -- which layers

    def _ranges(self) -> tuple[list[tuple[int, int]], Base]:
        """First and last layer of each range, the topmost first, and what is kept below the lowest."""
        if self.options.ranges:
            for first, last in self.options.ranges:
                if not 0 <= first <= last < len(self.image.layers):
                    raise NoSuchLayer(
                        f"layers {first} to {last}: the image has {len(self.image.layers)} layers"
                    )
            ranges = [(first, last) for first, last in self.options.ranges if first < last]
            return ranges, kept_base(self.engine, self.image, ranges[-1][0] if ranges else 0)
        first, last, base = self._range()
        return ([(first, last)] if first < last else []), base

    def _range(self) -> tuple[int, int, Base]:
        options, image = self.options, self.image
        count = len(image.layers)
        last = self._layer(options.last, "--to") if options.last else count - 1
        if options.first:
            first = self._layer(options.first, "--from")
        elif options.count:
            if options.count > last + 1:
                raise NoSuchLayer(f"-n {options.count}: the image has {last + 1} layers to choose from")
            first = last + 1 - options.count
        elif options.is_all:
            first = 0
        else:
            base = self._base()
            if options.last and last < base.layers:
                kept = f"{base.layers} layers are kept"
                raise NoSuchLayer(f"--to {options.last}: lies in the base, whose {kept}")
            return base.layers, last, base
        if first > last >= 0:
            raise NoSuchLayer(f"--from {options.first}: lies above --to {options.last or last}")
        return first, last, kept_base(self.engine, image, first)

    def _base(self) -> Base:
        if self.options.base:
            return stated_base(self.engine, self.image, self.options.base)
        return find_base(self.engine, self.image)

    def _layer(self, text: str, option: str) -> int:
        """A layer's number, or the beginning of its diff id or of its blob's digest."""
        layers = self.image.layers
        if _NUMBER.fullmatch(text) and int(text) < len(layers):
            return int(text)
        match = _DIGEST.fullmatch(text)
        if match is not None:
            found = [
                layer.number for layer in layers
                if match[1] in (layer.diff_id.encoded[: len(match[1])],
                                layer.descriptor.digest.encoded[: len(match[1])])
            ]
            if len(found) == 1:
                return found[0]
            if found:
                both = ", ".join(map(str, found))
                raise NoSuchLayer(f"{option} {text}: layers {both} have it; give a number")
        there = f"layers 0 to {len(layers) - 1}" if layers else "no layers"
        raise NoSuchLayer(f"{option} {text}: no such layer; the image has {there}")

    # -- what becomes of them

    def _unchanged(self, base: Base) -> SquashedImage:
        size = sum(index.tar_size for index in open_indexes(self.engine, self.image))
        return SquashedImage(
            platform=str(self.image.config.platform), source=self.image.id, image_id=self.image.id,
            digest=self.image.descriptor.digest, ranges=(), base=base,
            layers_before=len(self.image.layers), layers_after=len(self.image.layers),
            size_before=size, size_after=size,
        )

    def _merged(self, ranges: Sequence[tuple[int, int]], base: Base) -> SquashedImage:
        image = self.image
        indexes = open_indexes(self.engine, image)
        merged = [merge(indexes, first, last) for first, last in ranges]
        numbers = sorted(number for first, last in ranges for number in range(first, last + 1))
        before = sum(index.tar_size for index in indexes)
        shared, shared_size = _shared(self.engine, image, numbers)
        tried = SquashedImage(
            platform=str(image.config.platform), source=image.id, image_id=None, digest=None,
            ranges=tuple(ranges), base=base,
            layers_before=len(image.layers), layers_after=len(image.layers) - len(numbers) + len(ranges),
            size_before=before,
            size_after=before - sum(indexes[number].tar_size for number in numbers)
            + sum(each.tar_size for each in merged),
            entries_before=sum(len(indexes[number]) for number in numbers),
            entries_after=sum(len(each.members) for each in merged),
            shared_with=shared, shared_size=shared_size,
            lost=tuple(instruction_of(image.layers[number].history) for number in numbers),
        )
        if not self.options.is_dry:
            self._make(merged, base)
        return tried

    def _make(self, merged: Sequence[Merged], base: Base) -> None:
        """The layers, in the store; and what the config says of them."""
        for each in merged:
            layer, diff_id = self._made(each)
            is_base = each.first and each.first == base.layers
            below = base if is_base else kept_base(self.engine, self.image, each.first)
            self._pieces.append(Piece(
                first=each.first, last=each.last, layer=layer, diff_id=diff_id, parent=below.id
            ))
        self._config = squash_config(
            self.image, self._pieces, created=self.options.created,
            message=self.options.message,
        )

    def _made(self, merged: Merged) -> tuple[Descriptor, Digest]:
        if self.recall is None:
            return self._write(merged)
        # What lies below decides too: which removals are still of use.
        below = self.image.config.diff_ids[: merged.last + 1]
        return self.recall((*below, Digest.of(f"from {merged.first}".encode())), lambda: self._write(merged))

    def _write(self, merged: Merged) -> tuple[Descriptor, Digest]:
        engine, diff_ids = self.engine, self.image.config.diff_ids
        compression = Compression(self.options.compression)
        is_docker = self.image.manifest.media_type == DOCKER_MANIFEST
        index = io.BytesIO()
        builder = IndexBuilder(index)
        with engine.store.ingest() as ingest:
            out = _Poured(engine, self.image.id, merged.tar_size, ingest, compression,
                          self.options.level)
            with WriteBehind(out) as behind:
                write_merged(
                    merged, lambda number: engine.layers_store.open_tar(diff_ids[number]), behind, builder
                )
                behind.finish()
            out.finish()
            self._note(ingest.digest)
            layer = ingest.commit(layer_media_type(compression, is_docker))
        diff_id = out.diff_id or layer.digest
        builder.finish(diff_id, merged.tar_size)
        self.layers.append(diff_id)
        self.lease.hold([diff_id])
        adopt(self.engine, layer, diff_id, index)
        return layer, diff_id

    # -- documents

    def _documented(self, report: SquashedImage) -> SquashedImage:
        """Config and manifest, redacted before they are stored: nothing else is left lying about."""
        config, in_config = redact_config(self._config, self.patterns)
        described = replace(self.image.manifest.config, digest=config.digest, size=len(config.raw))
        manifest = self.image.manifest
        if self._pieces:
            manifest = squash_manifest(self.image, self._pieces, described)
        manifest, in_manifest = redact_manifest(manifest, self.patterns)
        report = replace(report, redactions=(*in_config, *in_manifest))
        if self.options.is_dry or not report.is_changed:
            return report
        if not self._pieces:
            document = parse_document(manifest.raw, "manifest")
            manifest = with_config(document, manifest.media_type, described)
        self.put(described.media_type, config.raw)
        self.put(manifest.media_type, manifest.raw)
        self.made = manifest
        return replace(report, image_id=described.digest, digest=manifest.descriptor.digest)

    def put(self, media_type: str, raw: bytes) -> None:
        self._note(Digest.of(raw))
        self.engine.store.put_bytes(media_type, raw)

    def _note(self, digest: Digest) -> None:
        """Before it is there: whoever makes the same and takes it back must see that we want it."""
        self.noted.append(digest)
        self.lease.hold([digest])


class _Poured:
    """The merged tar on its way into the store: compressed if asked for, and counted for those who wait.

    ``diff_id`` is ``None`` where the blob is the tar, and has that digest itself.
    """

    def __init__(
        self, engine: Core, subject: Digest, total: int, ingest: object, compression: Compression,
        level: int | None,
    ) -> None:
        self._engine = engine
        self._event = Event(action=Action.SQUASHING, subject=subject, total=total)
        self._out = deflate(ingest, compression, level)  # type: ignore[arg-type]  # only written to
        self._digester = None if compression is Compression.NONE else Digester()
        self._written = 0

    def write(self, chunk: bytes | memoryview) -> None:
        if self._digester is not None:
            self._digester.update(chunk)
        self._out.write(chunk)
        self._written += len(chunk)
        self._engine.report(replace(self._event, current=self._written))

    def finish(self) -> None:
        self._out.finish()
        self._engine.report(replace(self._event, action=Action.SQUASHED))

    @property
    def diff_id(self) -> Digest | None:
        return None if self._digester is None else self._digester.digest()


# -- what it costs


def _shared(
    engine: Core, image: Image, numbers: Sequence[int]
) -> tuple[tuple[Sharing, ...], int]:
    """Other images here that go on needing the layers that were merged, and the bytes of those layers."""
    users = sharing(engine, image)
    merged = {image.layers[number].diff_id for number in numbers if users.get(image.layers[number].diff_id)}
    sizes = {diff_id: engine.layers_store.facts(diff_id).tar_size for diff_id in merged}
    names = sorted({name for diff_id in merged for name in users[diff_id]})
    found = []
    for name in names:
        mine = [size for diff_id, size in sizes.items() if name in users[diff_id]]
        found.append(Sharing(image=name, layers=len(mine), size=sum(mine)))
    return tuple(found), sum(sizes.values())
