"""A plan of squashes over images here, or over a list with pull counts; and what comes of applying it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.engine.borrowing import borrowed
from lamina.engine.explain import open_tree
from lamina.engine.images import load_record
from lamina.engine.locations import parse_location
from lamina.engine.merging import SquashOptions
from lamina.engine.squashing import Squashed, squash
from lamina.errors import InvalidInput, LaminaError
from lamina.image import Image
from lamina.insight.planner import WORTH, Plan, PlannedImage, PlannedLayer, plan_squashes
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference

if TYPE_CHECKING:
    from lamina.engine.engine import Engine

SUFFIX = "-squashed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """``limit`` is how many layers an image may have, 0 for any; ``worth`` is what a lost layer must save.

    ``suffix`` is added to a tag for the new image; empty, the new image takes the name over.
    """

    limit: int = 0
    worth: int = WORTH
    is_applied: bool = False
    suffix: str = SUFFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """``done`` are the squashes of a plan that was applied, one an image that changed."""

    plan: Plan
    done: tuple[Squashed, ...] = ()


def plan(engine: Engine, wanted: Sequence[tuple[str, int]], options: PlanOptions) -> Planned:
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
    engine: Engine, wanted: Sequence[tuple[str, int]]
) -> Iterator[list[tuple[str, int, ImageRecord]]]:
    """Each image once: of several names of one, pulls are added up under the first."""
    if not wanted:
        wanted = [
            (Reference.parse(record.names[0]).familiar, 1)
            for record in engine.store.catalog.records() if record.names and _is_image(engine, record)
        ]
    found: dict[Digest, tuple[str, int, ImageRecord]] = {}
    with ExitStack() as stack:
        for name, pulls in wanted:
            record = stack.enter_context(borrowed(engine, name))
            first, before, _record = found.get(record.config, (name, 0, record))
            found[record.config] = (first, before + pulls, record)
        yield list(found.values())


def _is_image(engine: Engine, record: ImageRecord) -> bool:
    try:
        load_record(engine, record)
    except LaminaError:  # an artifact, or one that `check` will complain about
        return False
    return True


def _planned(engine: Engine, name: str, pulls: int, record: ImageRecord) -> PlannedImage:
    image = load_record(engine, record)
    return PlannedImage(name=name, pulls=pulls, layers=_layers(image), hidden=_hidden(engine, image))


def _bystanders(engine: Engine, chosen: set[Digest]) -> Iterator[PlannedImage]:
    """The other images here, for what they share alone."""
    seen = set(chosen)
    for record in engine.store.catalog.records():
        if record.config not in seen and _is_image(engine, record):
            seen.add(record.config)
            image = load_record(engine, record)
            shown = Reference.parse(record.names[0]).familiar if record.names else record.config.short
            yield PlannedImage(name=shown, pulls=0, layers=_layers(image))


def _layers(image: Image) -> list[PlannedLayer]:
    return [PlannedLayer(diff_id=layer.diff_id, size=layer.descriptor.size) for layer in image.layers]


def _hidden(engine: Engine, image: Image) -> dict[tuple[int, int], int]:
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
    engine: Engine, found: Plan, chosen: Sequence[tuple[str, int, ImageRecord]], options: PlanOptions
) -> Iterator[Squashed]:
    for name, _pulls, _record in chosen:
        ranges = found.ranges_of(name)
        if ranges:
            target = _target(name, options.suffix)
            yield squash(engine, name, target, SquashOptions(ranges=ranges), None)


def _target(name: str, suffix: str) -> str:
    """The same place, under a tag of its own. Raises ``InvalidInput`` where a name cannot be made of it."""
    location = parse_location(name)
    if location.path is not None:
        raise InvalidInput(f"{name}: a plan is applied to names in the store or in registries, not to files")
    reference = Reference.parse(location.name).with_default_tag()
    if not reference.tag:
        raise InvalidInput(f"{name}: a plan is applied to tags; give the image a name first")
    tagged = replace(reference, tag=reference.tag + suffix, digest=None)
    return tagged.familiar if location.is_store else f"docker://{tagged.canonical}"
