"""A plan of squashes over images here, or over a list with pull counts; and what comes of applying it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.engine.borrowing import borrowed
from lamina.engine.delivery import check_target
from lamina.engine.explain import open_tree
from lamina.engine.images import load_record, load_sound, shown_name
from lamina.engine.locations import parse_location
from lamina.engine.merging import SquashOptions
from lamina.engine.squashing import Squashed, squash
from lamina.errors import InvalidInput
from lamina.image import Image
from lamina.insight.planner import WORTH, Plan, PlannedImage, PlannedLayer, plan_squashes
from lamina.oci.descriptor import INDEXES
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core

SUFFIX = "-squashed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """``limit`` is how many layers an image may have, 0 for any; ``worth`` is what a lost layer must save.

    ``suffix`` is added to a tag for the new image; empty, the new image takes the name over. ``created`` is
    the RFC 3339 time of new images, empty for now.
    """

    limit: int = 0
    worth: int = WORTH
    is_applied: bool = False
    suffix: str = SUFFIX
    created: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """``done`` are the squashes of a plan that was applied, one an image that changed."""

    plan: Plan
    done: tuple[Squashed, ...] = ()


def plan(engine: Core, wanted: Sequence[tuple[str, int]], options: PlanOptions) -> Planned:
    """``wanted`` are images with their pull counts; without any, every image here that has a name.

    The other images here are never squashed, but what is shared with them stays shared.
    """
    with _chosen(engine, wanted) as chosen:
        images = [_planned(engine, name, pulls, record) for name, pulls, record in chosen]
        mine = {record.config for _name, _pulls, record in chosen}
        found = plan_squashes(
            [*images, *_bystanders(engine, mine)], limit=options.limit, worth=options.worth
        )
        done = tuple(_apply(engine, found, chosen, options)) if options.is_applied else ()
    return Planned(plan=found, done=done)


@contextmanager
def _chosen(
    engine: Core, wanted: Sequence[tuple[str, int]]
) -> Iterator[list[tuple[str, int, ImageRecord]]]:
    """Each image once: of several names of one, pulls are added up under the first."""
    if not wanted:
        wanted = [
            (Reference.parse(record.names[0]).familiar, 1)
            for record in engine.store.catalog.records()
            if record.names and load_sound(engine, record) is not None
        ]
    found: dict[Digest, tuple[str, int, ImageRecord]] = {}
    with ExitStack() as stack:
        for name, pulls in wanted:
            record = stack.enter_context(borrowed(engine, name))
            first, before, _record = found.get(record.config, (name, 0, record))
            found[record.config] = (first, before + pulls, record)
        yield list(found.values())


def _planned(engine: Core, name: str, pulls: int, record: ImageRecord) -> PlannedImage:
    image = load_record(engine, record)
    return PlannedImage(name=name, pulls=pulls, layers=_layers(image), hidden=_hidden(engine, image))


def _bystanders(engine: Core, chosen: set[Digest]) -> Iterator[PlannedImage]:
    """The other images here, for what they share alone."""
    seen = set(chosen)
    for record in engine.store.catalog.records():
        image = load_sound(engine, record) if record.config not in seen else None
        if image is not None:
            seen.add(record.config)
            yield PlannedImage(name=shown_name(record), pulls=0, layers=_layers(image))


def _layers(image: Image) -> list[PlannedLayer]:
    return [PlannedLayer(diff_id=layer.diff_id, size=layer.descriptor.size) for layer in image.layers]


def _hidden(engine: Core, image: Image) -> dict[tuple[int, int], int]:
    """Bytes of files, scaled to what they take in their layer's blob."""
    tree = open_tree(engine, image)
    ratios = [
        layer.descriptor.size / max(index.tar_size, 1)
        for layer, index in zip(image.layers, tree.indexes, strict=True)
    ]
    found: dict[tuple[int, int], float] = {}
    for hidden in tree.obscured():
        pair = (hidden.layer, hidden.hidden_by.layer)
        found[pair] = found.get(pair, 0) + hidden.size * ratios[hidden.layer]
    return {pair: int(size) for pair, size in found.items()}


# -- applying


def _apply(
    engine: Core, found: Plan, chosen: Sequence[tuple[str, int, ImageRecord]], options: PlanOptions
) -> Iterator[Squashed]:
    """Nothing is done unless all of it can be named. Of an index, the platform that was planned."""
    work = [
        (name, _target(name, record, options.suffix), record) for name, _pulls, record in chosen
        if found.ranges_of(name)
    ]
    if not options.suffix:
        for name, _target_name, record in work:
            _insist_on_one_platform(name, record)
    for name, target, record in work:
        squash_options = SquashOptions(ranges=found.ranges_of(name), created=options.created)
        if record.descriptor.media_type not in INDEXES:
            yield squash(engine, name, target, squash_options, None)
            continue
        platform = load_record(engine, record).config.platform
        done = squash(engine, name, target, squash_options, platform)
        note = f"an index: only its image for {platform} was planned and squashed"
        yield replace(done, notes=(*done.notes, note))


def _insist_on_one_platform(name: str, record: ImageRecord) -> None:
    if record.descriptor.media_type in INDEXES:
        raise InvalidInput(
            f"{name}: an index, for several platforms; one alone cannot take its name: give a suffix"
        )


def _target(name: str, record: ImageRecord, suffix: str) -> str:
    """The same place, under a tag of its own. Raises ``InvalidInput`` where a name cannot be made of it."""
    location = parse_location(name)
    if location.path is not None:
        raise InvalidInput(f"{name}: a plan is applied to names in the store or in registries, not to files")
    reference = Reference.parse(location.name).with_default_tag()
    is_id = location.is_store and reference.canonical not in record.names
    if is_id or not reference.tag:
        raise InvalidInput(f"{name}: a plan is applied to tags; give the image a name first")
    tagged = replace(reference, tag=reference.tag + suffix, digest=None)
    target = tagged.familiar if location.is_store else f"docker://{tagged.canonical}"
    check_target(parse_location(target))
    return target
