"""From what a person typed to the image that is meant: a name, an ID, or the beginning of an ID."""

from __future__ import annotations

import re

from lamina.content.catalog import Catalog, ImageRecord
from lamina.errors import InvalidInput, NotFound
from lamina.oci.reference import InvalidReference, Reference

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


class ImageNotFound(NotFound):
    pass


class AmbiguousID(InvalidInput):
    pass


def find_image(catalog: Catalog, text: str) -> ImageRecord:
    """A name wins over an ID prefix that is spelled the same, as with docker."""
    record = find_named(catalog, text)
    if record is not None:
        return record
    match = _ID.fullmatch(text)
    if match is not None:
        found = catalog.with_id_prefix(match[1])
        if len({record.config for record in found}) > 1:
            raise AmbiguousID(f"{text}: begins the ID of {len(found)} images; give more digits")
        if found:
            return found[0]
    raise ImageNotFound(f"{text}: no such image{_suggestion(catalog, text)}")


def find_named(catalog: Catalog, text: str) -> ImageRecord | None:
    """By name alone. With a digest, the tag is only decoration: the digest decides."""
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        if _ID.fullmatch(text):
            return None
        raise
    if reference.digest is None:
        return catalog.named(reference.with_default_tag().canonical)
    record = catalog.with_digest(reference.digest)
    if record is None:
        return None
    repositories = {Reference.parse(name).name for name in record.names}
    return record if not repositories or reference.name in repositories else None


def _suggestion(catalog: Catalog, text: str) -> str:
    if _ID.fullmatch(text):
        return ""
    mine = [Reference.parse(name) for record in catalog.records() for name in record.names]
    asked = Reference.parse(text)
    same = sorted(found.familiar for found in mine if found.name == asked.name)
    if same:
        return f"; there is {', '.join(same[:5])}"
    import difflib

    near = difflib.get_close_matches(text, [found.familiar for found in mine], n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else f"; `lamina pull {text}` fetches it from a registry"
