"""JSON documents of an image, searched as bytes and string by string, with the field's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lamina.insight.needles import Needle
from lamina.insight.places import Place
from lamina.insight.scan import Match, scan
from lamina.values import dataclass

_LONGEST_FIELD = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMatch:
    """``field`` is as in ``config.Env[2]``; empty for what is in no string: then the offset is the
    document's, else the string's."""

    place: Place
    field: str
    match: Match


def search_document(
    raw: bytes, needles: Sequence[Needle], default: Place, *, keep: int = 0
) -> list[FieldMatch]:
    """What escapes hide is found in the strings; what is in no string, as a number, in the bytes."""
    found = [
        FieldMatch(place=place_of(field, default), field=field, match=match)
        for field, text in strings_of(raw)
        for match in scan(needles, encoded(text), keep=keep)
    ]
    told = {(id(each.match.needle), each.match.encoding) for each in found}
    found += [
        FieldMatch(place=default, field="", match=match)
        for match in scan(needles, raw, keep=keep)
        if (id(match.needle), match.encoding) not in told
    ]
    return found


def place_of(field: str, default: Place) -> Place:
    """By the name of the field, in any of the documents."""
    if field.startswith("history["):
        return Place.HISTORY
    if field.startswith(("config.Labels", "container_config.Labels")):
        return Place.LABEL
    if re.match(r"(?:(?:manifests\[\d+\]|layers\[\d+\]|config|subject)\.)?annotations\b", field):
        return Place.ANNOTATION
    return default


def strings_of(raw: bytes) -> Iterator[tuple[str, str]]:
    """Every string of a document with its field, keys too, and each of several under one key."""
    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, _Pairs):
            fields = [(_shortened(f"{field}.{key}" if field else key), key, inner) for key, inner in value]
            for within, key, _inner in fields:
                yield within, key
            waiting.extend((within, inner) for within, _key, inner in reversed(fields))
        elif isinstance(value, list):
            waiting.extend((_shortened(f"{field}[{number}]"), value[number])
                           for number in range(len(value) - 1, -1, -1))


def _shortened(field: str) -> str:
    """Depth times length of keys must not become memory."""
    return field if len(field) <= _LONGEST_FIELD else field[:_LONGEST_FIELD] + "…"


def encoded(text: str) -> bytes:
    """As UTF-8; half a surrogate pair, which JSON can spell, stays what it is."""
    return text.encode("utf-8", "surrogatepass")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may repeat."""
