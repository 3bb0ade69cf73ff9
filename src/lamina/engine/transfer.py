"""Images between registries and the store: pull, push, and looking without pulling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.content.copy import copy_graph, plan_copy
from lamina.content.lease import Lease
from lamina.content.local import LocalStore
from lamina.engine.images import load_record
from lamina.engine.landing import hold_all, land, present, without_foreign
from lamina.engine.lookup import find_image
from lamina.engine.refetching import RefetchingStore
from lamina.engine.settings import DROP
from lamina.errors import InvalidInput
from lamina.events import Action, Event, Report
from lamina.oci.descriptor import FOREIGN_LAYERS, INDEXES, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index
from lamina.oci.reference import Reference
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """``reference`` is canonical; ``digest`` names the root document, as the registry gave it."""

    reference: str
    digest: Digest
    image_id: Digest
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    reference: str
    tag: str
    digest: Digest
    size: int


def pull(engine: Core, name: str, *, platform: Platform | None, all_tags: bool) -> tuple[Pulled, ...]:
    reference = Reference.parse(name)
    if not all_tags:
        return (_pull_one(engine, reference.with_default_tag(), platform),)
    if reference.tag or reference.digest:
        raise InvalidInput(f"{name}: with --all-tags, name the repository alone")
    tags = list(engine.registries.repository(reference).tags())
    return tuple(_pull_one(engine, reference.with_tag(tag), platform) for tag in tags)


def _pull_one(engine: Core, reference: Reference, platform: Platform | None) -> Pulled:
    engine.report(Event(
        action=Action.PULLING, subject=reference.tag or str(reference.digest),
        detail=reference.repository if reference.registry == "docker.io" else reference.name,
    ))
    repository = engine.registries.repository(reference)
    try:
        root = repository.resolve(str(reference.digest or reference.tag))
        before = engine.store.catalog.named(reference.canonical)
        landed = land(
            engine, repository, root, names=(reference.canonical,),
            platform=platform or engine.settings.platform, report=engine.report,
        )
    except Exception as error:
        error.add_note(f"while pulling {reference.familiar}")
        raise
    _learn_origins(engine.store, landed.record, reference)
    if engine.settings.blobs == DROP:
        from lamina.engine.dropping import drop_pulled

        drop_pulled(engine, landed.image, reference.name, landed.fetched)
    now = (root.digest, landed.record.manifest)
    is_new = before is None or (before.descriptor.digest, before.manifest) != now
    return Pulled(
        reference=reference.canonical, digest=root.digest, image_id=landed.record.config, is_new=is_new
    )


def push(engine: Core, name: str, *, all_tags: bool, compression: str) -> tuple[Pushed, ...]:
    reference = Reference.parse(name)
    if not all_tags:
        return (_push_one(engine, reference.with_default_tag(), compression),)
    if reference.tag or reference.digest:
        raise InvalidInput(f"{name}: with --all-tags, name the repository alone")
    mine = [
        found for record in engine.store.catalog.records() for text in record.names
        if (found := Reference.parse(text)).name == reference.name and found.tag
    ]
    if not mine:
        find_image(engine.store.catalog, name)  # says what is wrong with the name
    return tuple(_push_one(engine, found, compression) for found in sorted(mine, key=str))


def _push_one(engine: Core, reference: Reference, compression: str) -> Pushed:
    record = find_image(engine.store.catalog, reference.canonical)
    if not reference.tag:
        raise InvalidInput(f"{reference.familiar}: push needs a tag to push to")
    engine.report(Event(action=Action.PUSHING_TO, subject=reference.tag, detail=reference.name))
    try:
        with Lease(engine.store.state, f"push {reference.familiar}") as lease:
            hold_all(engine.store, record.descriptor, lease)  # compressing may take long
            root = _pushable(engine, record, compression)
            hold_all(engine.store, root, lease)
            repository = engine.registries.repository(reference)
            copy_graph(
                RefetchingStore(engine, is_final=True), repository, root, choose=without_foreign,
                origins=lambda blob: siblings(engine.store, blob, reference),
                report=as_push(engine.report), workers=engine.settings.max_concurrent_uploads,
            )
            repository.put_manifest(engine.store.read_document(root), root.media_type, reference.tag)
    except Exception as error:
        error.add_note(f"while pushing {reference.familiar}")
        raise
    _learn_origins(engine.store, record, reference)
    return Pushed(reference=reference.canonical, tag=reference.tag, digest=root.digest, size=root.size)


def remote_manifest(engine: Core, name: str) -> tuple[Descriptor, bytes]:
    reference = Reference.parse(name).with_default_tag()
    repository = engine.registries.repository(reference)
    return repository.fetch_manifest(str(reference.digest or reference.tag))


def remote_tags(engine: Core, name: str) -> Iterator[str]:
    return engine.registries.repository(Reference.parse(name)).tags()


def _pushable(engine: Core, record: ImageRecord, compression: str) -> Descriptor:
    """The root if all it lists is here, else the one manifest that is; layers compressed if need be."""
    root = record.descriptor
    if root.media_type in INDEXES:
        index = Index.parse(engine.store.read_document(root), root.media_type)
        if all(engine.store.has(child) for child in index.manifests):
            return root
        engine.report(Event(
            action=Action.NOTE, subject=record.manifest,
            detail="only this platform of the image is here: pushing its manifest alone",
        ))
        root = replace(load_record(engine, record).manifest.descriptor, platform=None)
    from lamina.convert import compress_layers

    return compress_layers(RefetchingStore(engine), root, compression)


def siblings(store: LocalStore, blob: Digest, reference: Reference) -> list[str]:
    """Repositories of the same registry that hold a blob already."""
    found = []
    for name in store.catalog.origins(blob):
        registry, _, repository = name.partition("/")
        if registry == reference.registry and repository != reference.repository:
            found.append(repository)
    return found[:3]


def _learn_origins(store: LocalStore, record: ImageRecord, reference: Reference) -> None:
    plan = plan_copy(store, record.descriptor, present(store))
    blobs = [leaf.digest for leaf in plan.leaves if leaf.media_type not in FOREIGN_LAYERS]
    store.catalog.learn_origin([record.descriptor.digest, *blobs], reference.name)


_PUSH_WORDS = {
    Action.PULLING_LAYER: Action.PREPARING,
    Action.DOWNLOADING: Action.PUSHING,
    Action.DOWNLOADED: Action.PUSHED,
    Action.EXISTS: Action.PUSH_EXISTS,
}


def as_push(report: Report) -> Report:
    """A copy speaks of downloading; seen from here the same bytes are pushed."""

    def speak(event: Event) -> None:
        report(replace(event, action=_PUSH_WORDS.get(event.action, event.action)))

    return speak
