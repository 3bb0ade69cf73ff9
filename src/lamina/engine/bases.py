"""Where the base of an image ends: as somebody says, as annotations say, or by the images that are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.engine import images
from lamina.engine.borrowing import opened
from lamina.engine.locations import parse_location
from lamina.errors import InvalidInput
from lamina.image import Image
from lamina.oci.digest import Digest
from lamina.oci.reference import InvalidReference, Reference
from lamina.squashed import BASE_DIGEST, BASE_NAME
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


class NotABase(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The lowest ``layers`` of an image.

    ``id`` is the image ID of the base, or the chain ID if none is known; ``found`` says how it was found.
    """

    layers: int
    id: str = ""
    found: str


def stated_base(engine: Core, image: Image, text: str) -> Base:
    """The base that somebody names: its config is read wherever it is, its layers are not.

    Raises :class:`NotABase` unless the image begins with all of its layers.
    """
    with opened(engine, parse_location(text)) as (source, root):
        base = Image.load(source, root, image.config.platform)
    if not _begins_with(image.config.diff_ids, base.config.diff_ids):
        raise NotABase(
            f"{text}: not a base of this image: their layers differ from layer "
            f"{_in_common(image.config.diff_ids, base.config.diff_ids)} on"
        )
    return Base(layers=len(base.layers), id=str(base.id), found=f"{text}, as asked")


def find_base(engine: Core, image: Image) -> Base:
    """From annotations, else the local image that has most of its lowest layers; else no layer is a base's.

    Only what is here is asked: no registry is.
    """
    known = [record for record in engine.store.catalog.records() if record.config != image.id]
    annotated = _annotated(known, image)
    if annotated is not None:
        found = _as_base(engine, image, annotated, "as its annotations say")
        if found is not None:
            return found
    candidates = [_as_base(engine, image, record, "the longest here") for record in known]
    bases = [base for base in candidates if base is not None and base.layers < len(image.layers)]
    if bases:
        return max(bases, key=lambda base: (base.layers, base.id))
    return Base(layers=0, found="no base image is known here")


def kept_base(engine: Core, image: Image, layers: int) -> Base:
    """The lowest ``layers`` of an image, whatever they are; an image that is just them lends its ID."""
    if not layers:
        return Base(layers=0, found="")
    wanted = image.config.diff_ids[:layers]
    for record in engine.store.catalog.records():
        if _diff_ids(engine, record) == wanted:
            return Base(layers=layers, id=str(record.config), found=images.shown_name(record))
    chain = image.chain_ids[layers - 1]
    return Base(layers=layers, id=str(chain), found="")


def _annotated(known: Sequence[ImageRecord], image: Image) -> ImageRecord | None:
    digest = image.manifest.annotations.get(BASE_DIGEST, "")
    name = _canonical(image.manifest.annotations.get(BASE_NAME, ""))
    for record in known:
        if digest and digest in (record.descriptor.digest, record.manifest):
            return record
    return next((record for record in known if name and name in record.names), None)


def _canonical(name: str) -> str:
    try:
        return Reference.parse(name).with_default_tag().canonical
    except InvalidReference:
        return ""


def _as_base(engine: Core, image: Image, record: ImageRecord, how: str) -> Base | None:
    diff_ids = _diff_ids(engine, record)
    if not diff_ids or not _begins_with(image.config.diff_ids, diff_ids):
        return None
    return Base(layers=len(diff_ids), id=str(record.config), found=f"{images.shown_name(record)}, {how}")


def _diff_ids(engine: Core, record: ImageRecord) -> tuple[Digest, ...]:
    image = images.load_sound(engine, record)
    return image.config.diff_ids if image is not None else ()  # what is no image is no base either


def _begins_with(stack: Sequence[Digest], base: Sequence[Digest]) -> bool:
    return tuple(stack[: len(base)]) == tuple(base)


def _in_common(stack: Sequence[Digest], base: Sequence[Digest]) -> int:
    count = 0
    for one, other in zip(stack, base, strict=False):
        if one != other:
            break
        count += 1
    return count
