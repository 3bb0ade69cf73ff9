"""What the store holds besides an image: other images' content, what nobody reaches, what is landing."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamina.build.cache import BuildCache
from lamina.content.catalog import ImageRecord
from lamina.content.collect import reachable
from lamina.engine import images
from lamina.engine.building.mounts import CACHES
from lamina.engine.watching import watched
from lamina.errors import LaminaError
from lamina.insight.certificate import Elsewhere, ElsewhereKind
from lamina.insight.documents import search_document
from lamina.insight.erasure import ErasureFinding, Gap, Wanted, search_stream
from lamina.insight.needles import masked
from lamina.insight.nested import DEPTH, NestedLimits, NestedSearch
from lamina.insight.paths import entries_at
from lamina.insight.places import Place
from lamina.insight.scan import Match
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT
from lamina.oci.reference import Reference
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.content.dropped import DroppedBlob
    from lamina.engine.core import Core

# A layer is a compressed tar: what lies in its files is two containers deep already.
_LIMITS = NestedLimits(depth=DEPTH + 2)
# What nobody promised to be whole, or to be an archive at all: searched as far as it goes.
_UNBLESSED = (ElsewhereKind.UNFINISHED, ElsewhereKind.BUILD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    found: tuple[Elsewhere, ...]
    undecided: tuple[Gap, ...]


def search_elsewhere(
    engine: Core, record: ImageRecord, wanted: Wanted, findings: Sequence[ErasureFinding]
) -> Outside:
    """``findings`` are those in the image: other images that share the content have them too."""
    search = _Elsewhere(engine, record, wanted)
    search.shared(findings)
    search.content()
    search.layers()
    search.unfinished()
    search.builds()
    return Outside(found=tuple(search.found), undecided=tuple(search.undecided))


class _Elsewhere:
    def __init__(self, engine: Core, record: ImageRecord, wanted: Wanted) -> None:
        self.found: list[Elsewhere] = []
        self.undecided: list[Gap] = []
        self._engine = engine
        self._record = record
        self._wanted = wanted
        self._nested = NestedSearch(wanted.needles, _LIMITS, scratch=str(engine.root / "ingest"))
        self._mine = reachable(engine.store, [record.descriptor])
        self._others = [
            other for other in engine.store.catalog.records()
            if other.descriptor.digest != record.descriptor.digest
        ]
        self._holders: dict[Digest, list[str]] = {}
        for other in self._others:
            for digest in reachable(engine.store, [other.descriptor]):
                self._holders.setdefault(digest, []).append(_name(other))

    def shared(self, findings: Sequence[ErasureFinding]) -> None:
        """One line for each content and each thing that was found in it."""
        counts: dict[tuple[Digest, str, str, str], int] = {}
        for finding in findings:
            key = finding.blob, finding.kind, finding.label, finding.encoding
            counts[key] = counts.get(key, 0) + 1
        for (blob, kind, label, encoding), count in counts.items():
            if blob in self._holders:
                self.found.append(Elsewhere(
                    kind=ElsewhereKind.SHARED, subject=blob, images=self._images(blob), sought=kind,
                    label=label, encoding=encoding, where="", count=count,
                ))

    def content(self) -> None:
        """Blobs that the image does not reach, whether another one does or none."""
        for digest, size in sorted(self._engine.store.walk()):
            if digest not in self._mine and self._wanted.needles:
                with suppress(FileNotFoundError):  # a prune went by
                    path = self._engine.store.blob_path(digest)
                    self._file(path, size, ElsewhereKind.CONTENT, digest, self._images(digest))
        for blob in self._engine.store.dropped_blobs():
            if blob.digest not in self._mine and self._wanted.needles:
                self._dropped(blob)

    def _dropped(self, blob: DroppedBlob) -> None:
        """What is unpacked of its layer is here."""
        layers = self._engine.layers_store
        try:
            tar, size = layers.open_tar(blob.diff_id), layers.facts(blob.diff_id).tar_size
        except LaminaError as error:
            self.undecided.append(Gap(blob=blob.digest, reason=self._mask(str(error))))
            return
        self._stream(tar, size, ElsewhereKind.CONTENT, blob.digest, self._images(blob.digest))

    def unfinished(self) -> None:
        """What has arrived of downloads and pushes, going on or given up."""
        for path in sorted((self._engine.root / "ingest").glob("*/data")):
            if self._wanted.needles:
                with suppress(FileNotFoundError, PermissionError):
                    name = path.parent.name
                    self._file(path, path.stat().st_size, ElsewhereKind.UNFINISHED, name, ())

    def builds(self) -> None:
        """What the build cache knows besides its layers: what went into steps, and files of cache mounts."""
        if not self._wanted.needles:
            return
        for step in BuildCache(self._engine.store.state).walk():
            text = f"{step.text}\n{step.ingredients.to_text()}".encode("utf-8", "surrogateescape")
            found = search_stream(io.BytesIO(text), len(text), self._wanted.needles, self._nested)
            matches = [(step.text, match) for _inside, match in found.matches]
            self._tell(matches, ElsewhereKind.BUILD, step.key, ())
        for path in _files_below(self._engine.root / CACHES):
            with suppress(OSError):  # a build goes on
                name = path.relative_to(self._engine.root / CACHES)
                self._file(path, path.stat().st_size, ElsewhereKind.BUILD, str(name), ())

    def layers(self) -> None:
        """Paths are looked up in the indexes of other images' layers."""
        mine = set(images.load_record(self._engine, self._record).config.diff_ids)
        for diff_id, names in self._other_layers(mine):
            for path in self._wanted.paths:
                entries = list(entries_at(path, [self._engine.layers_store.index(diff_id)]))
                if entries:
                    self.found.append(Elsewhere(
                        kind=ElsewhereKind.LAYER, subject=diff_id, images=tuple(names), sought="path",
                        label=f"/{path}", encoding="", where=self._mask(f"/{entries[0][1].path}"),
                        count=len(entries),
                    ))

    def _other_layers(self, mine: set[Digest]) -> Iterator[tuple[Digest, list[str]]]:
        found: dict[Digest, list[str]] = {}
        for other in self._others:
            with suppress(LaminaError):  # an artifact has no layers
                for diff_id in images.load_record(self._engine, other).config.diff_ids:
                    found.setdefault(diff_id, []).append(_name(other))
        for diff_id in self._engine.layers_store.walk():
            if diff_id not in mine:
                yield diff_id, sorted(set(found.get(diff_id, ())))

    def _file(
        self, path: Path, size: int, kind: ElsewhereKind, subject: str, names: tuple[str, ...]
    ) -> None:
        matches = self._document(path) if size <= MAX_DOCUMENT else None
        if matches is None:
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
            self._stream(file, size, kind, subject, names)
        else:
            self._tell(matches, kind, subject, names)

    def _stream(
        self, source: BinaryIO, size: int, kind: ElsewhereKind, subject: str, names: tuple[str, ...]
    ) -> None:
        with watched(source, subject, size, self._engine.report) as stream:
            found = search_stream(stream, size, self._wanted.needles, self._nested)
        if kind not in _UNBLESSED:
            self.undecided += [
                Gap(blob=Digest(subject), reason=self._mask(trouble.reason),
                    path=self._mask("/".join(trouble.trail)))
                for trouble in found.troubles if trouble.is_undecided
            ]
        matches = [("/".join(inside), match) for inside, match in found.matches]
        self._tell(matches, kind, subject, names)

    def _document(self, path: Path) -> list[tuple[str, Match]] | None:
        """``None`` for what is no JSON document."""
        raw = path.read_bytes()
        if raw.lstrip()[:1] not in (b"{", b"["):
            return None
        found = search_document(raw, self._wanted.needles, Place.OTHER)
        return [(each.field, each.match) for each in found]

    def _tell(
        self, matches: list[tuple[str, Match]], kind: ElsewhereKind, subject: str, names: tuple[str, ...]
    ) -> None:
        """One line for each thing and encoding, with the place of the first."""
        first: dict[tuple[str, str, str], str] = {}
        counts: dict[tuple[str, str, str], int] = {}
        for where, match in matches:
            key = str(match.needle.kind), match.needle.label, match.encoding
            first.setdefault(key, where)
            counts[key] = counts.get(key, 0) + 1
        for (sought, label, encoding), count in counts.items():
            self.found.append(Elsewhere(
                kind=kind, subject=subject, images=names, sought=sought, label=label, encoding=encoding,
                where=self._mask(first[sought, label, encoding]), count=count,
            ))

    def _images(self, digest: Digest) -> tuple[str, ...]:
        return tuple(sorted(set(self._holders.get(digest, ()))))

    def _mask(self, text: str) -> str:
        return masked(text, self._wanted.needles)


def _files_below(top: Path) -> Iterator[Path]:
    """Regular files, through no symlink."""
    for directory, _names, files in os.walk(top):
        for name in sorted(files):
            path = Path(directory, name)
            with suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def _name(record: ImageRecord) -> str:
    """All names of an image, or its ID."""
    shown = ", ".join(Reference.parse(name).familiar for name in record.names)
    return shown or record.config.short
