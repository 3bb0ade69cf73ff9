"""Squash: a range of an image's layers as one, from wherever the image is to wherever it shall go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamina.content.lease import Lease
from lamina.content.store import BlobNotFound, Fetcher, read_all
from lamina.convert import in_line_of
from lamina.engine.borrowing import landed, opened
from lamina.engine.delivery import check_target, deliver
from lamina.engine.images import load_record
from lamina.engine.landing import hold_all
from lamina.engine.locations import Location, parse_location
from lamina.engine.merging import Merging, SquashedImage, SquashOptions
from lamina.engine.removed import discard
from lamina.image import Image, images_of
from lamina.oci.descriptor import INDEXES, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, Manifest, dump_document
from lamina.oci.reference import Reference
from lamina.squashed import Redaction, compile_patterns, redact_index
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class Squashed:
    """``digest`` names the new root document, ``target`` is where it went (``""``: nowhere but the store)."""

    name: str
    target: str
    digest: Digest | None
    images: tuple[SquashedImage, ...]
    seconds: float
    notes: tuple[str, ...] = ()


def squash(
    engine: Core, name: str, target: str, options: SquashOptions, platform: Platform | None
) -> Squashed:
    """Nothing has a name before all of it is there; what was made is taken back after a failure."""
    began = engine.clock()
    goal = parse_location(target) if target else None
    if goal is not None:
        check_target(goal)
    patterns = compile_patterns(options.redact)
    if not options.created:  # one time for all platforms
        now = datetime.fromtimestamp(began, UTC)
        options = replace(options, created=now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    made: list[Digest] = []
    with ExitStack() as stack:
        sources = stack.enter_context(_sources(engine, name, platform))
        lease = stack.enter_context(Lease(engine.store.state, f"squash {name}"))
        work = [Merging(engine, options, patterns, image, made, lease) for image in sources.images]
        try:
            results = [each.run() for each in work]
            index, redactions = redact_index(sources.raw, patterns) if sources.is_index else ({}, ())
            is_changed = bool(made or redactions)
            root = None if options.is_dry else _root(sources, index, work, is_changed=is_changed)
            if root is not None:
                _finish(engine, root, [each.made for each in work], goal)
        except BaseException:
            _take_back(engine, lease, made, work)
            raise
        if goal is not None and not goal.is_store:
            _take_back(engine, lease, made, work)  # the store was only where the work was done
    return Squashed(
        name=name, target="" if options.is_dry else target, digest=root.digest if root else None,
        images=tuple(results), seconds=engine.clock() - began,
        notes=sources.notes + _redaction_notes(redactions),
    )


def _take_back(engine: Core, lease: Lease, made: Sequence[Digest], work: Sequence[Merging]) -> None:
    lease.close()
    discard(engine, made, [diff_id for each in work for diff_id in each.layers])


# -- what is squashed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """``root`` is an index where several images come from one, and they keep its order."""

    root: Descriptor
    raw: bytes
    images: tuple[Image, ...]
    is_here: bool
    notes: tuple[str, ...] = ()

    @property
    def is_index(self) -> bool:
        return self.root.media_type in INDEXES


@contextmanager
def _sources(engine: Core, name: str, platform: Platform | None) -> Iterator[_Sources]:
    """The images that are meant, all of each in the store until the context ends."""
    location = parse_location(name)
    with ExitStack() as stack:
        source, root = stack.enter_context(opened(engine, location))
        raw = read_all(source, root, MAX_DOCUMENT)
        chosen, notes = _choose(engine, source, root, raw, platform)
        loaded = []
        for child in chosen:
            if location.is_store:
                lease = stack.enter_context(Lease(engine.store.state, f"squash {name}"))
                hold_all(engine.store, child, lease)
                image = Image.load(engine.store, child, platform)
                image.insist_on(platform)
                lease.hold(image.config.diff_ids)
            else:
                record = stack.enter_context(landed(engine, source, child, platform))
                image = load_record(engine, record)
            loaded.append(image)
        yield _Sources(root=root, raw=raw, images=tuple(loaded), is_here=location.is_store, notes=notes)


def _choose(
    engine: Core, source: Fetcher, root: Descriptor, raw: bytes, platform: Platform | None
) -> tuple[list[Descriptor], tuple[str, ...]]:
    """Which manifests, and what is left out. With a platform one; without, every image that is there."""
    if root.media_type not in INDEXES:
        return [root], ()
    if platform is not None:
        return [Image.load(source, root, platform).descriptor], ()
    index = Index.parse(raw, root.media_type)
    children = images_of(index)
    if any(child.media_type in INDEXES for child in children):
        return [Image.load(source, root, engine.platform).descriptor], (
            "an index of indexes: only the image for this machine was squashed",
        )
    others = len(index.manifests) - len(children)
    distinct = list({child.digest: child for child in children}.values())
    here = [child for child in distinct if source.has(child)]
    absent = len(distinct) - len(here)
    if not here:
        raise BlobNotFound(f"{root.digest}: none of the images that this index lists is there")
    notes = []
    if others:
        notes.append(f"{_counted(others, 'attestation')} left out: what is attested is the image as it was")
    if absent:
        notes.append(f"{_counted(absent, 'platform')} left out: not here")
    return [replace(child, platform=None, annotations={}) for child in here], tuple(notes)


def _counted(count: int, what: str) -> str:
    return f"1 {what} was" if count == 1 else f"{count} {what}s were"


def _redaction_notes(redactions: Sequence[Redaction]) -> tuple[str, ...]:
    return tuple(f"redacted in the index: {each.field} ({each.count} times)" for each in redactions)


# -- what comes of it


def _root(
    sources: _Sources, document: dict[str, Any], work: Sequence[Merging], *, is_changed: bool
) -> Descriptor:
    """The document to name: the old one where nothing changed, a manifest, or an index of the new ones.

    ``document`` is the old index, redacted.
    """
    if sources.is_here and not is_changed:
        return sources.root
    manifests = [each.made for each in work]
    if len(manifests) == 1:
        return manifests[0].descriptor
    new = {
        image.descriptor.digest: manifest.descriptor
        for image, manifest in zip(sources.images, manifests, strict=True)
    }
    document["manifests"] = [
        in_line_of(line, described)
        for line in document["manifests"] if (described := new.get(line["digest"])) is not None
    ]
    index = Index.parse(dump_document(document), sources.root.media_type)
    work[0].put(index.media_type, index.raw)
    return index.descriptor


def _finish(
    engine: Core, root: Descriptor, manifests: Sequence[Manifest], goal: Location | None
) -> None:
    """Sent where it shall go; or filed in the store, under the name if one was given."""
    if goal is not None and not goal.is_store:
        deliver(engine, root, goal)
        return
    names = (Reference.parse(goal.name).with_default_tag().canonical,) if goal is not None else ()
    known = engine.store.catalog.with_digest(root.digest)
    if known is not None:  # nothing changed: the platform that stands for it stays the one it was
        engine.store.record(root, names=names, manifest=load_record(engine, known).manifest)
    else:
        engine.store.record(root, names=names, manifest=manifests[0] if len(manifests) == 1 else None)
