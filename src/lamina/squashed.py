"""The documents of an image whose layers were merged: new config, honest history, new manifest.

What the old documents say is kept, in their order, unless squashing makes it false. History stays as
Docker's classic builder left it: lines of merged layers become ``empty_layer``, and one line is added with
the comment that it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lamina.convert import in_line_of, in_one_family
from lamina.errors import InvalidInput
from lamina.image import Image
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest, dump_document, parse_document
from lamina.values import dataclass

# image-spec annotations.md: true no longer of an image that shares no layer with its base.
BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_NAME = "org.opencontainers.image.base.name"
# Ours, on the manifest: what was squashed; and on the merged layer: the layers in it, base first.
SOURCE = "io.lamina.squash.source"
SOURCE_IMAGE = "io.lamina.squash.image"
MERGED_LAYERS = "io.lamina.squash.layers"
REDACTED = "[redacted]"
# Times, which other engines insist on, and digests.
_NOT_WRITTEN = frozenset({"created", BASE_DIGEST, SOURCE, SOURCE_IMAGE, MERGED_LAYERS})
# Where a config holds what people wrote. The rest are digests, numbers and names of platforms.
_WRITTEN = ("author", "comment", "config", "container_config", "history")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Layers ``first`` to ``last`` of an image have become ``layer``, whose tar is ``diff_id``.

    ``parent`` names what is kept below, by an image ID if one is known; empty where nothing is.
    """

    first: int
    last: int
    layer: Descriptor
    diff_id: Digest
    parent: str


def squash_comment(image: Digest, parent: str) -> str:
    """moby's ``daemon/images/image_squash.go`` wrote these sentences; scripts look for them."""
    return f"merge {image} to {parent}" if parent else f"create new from {image}"


def squash_config(image: Image, pieces: Sequence[Piece], *, created: str, message: str = "") -> ImageConfig:
    """``pieces`` do not overlap; the topmost comes first. ``created`` is RFC 3339."""
    document = dict(image.config.document)
    diff_ids: list[Any] = list(image.config.diff_ids)
    lines: list[dict[str, Any]] = list(document.get("history") or [])
    for piece in pieces:
        diff_ids = _replaced(diff_ids, piece, piece.diff_id)
        line = {"created": created, **({"created_by": message} if message else {}),
                "comment": squash_comment(image.id, piece.parent)}
        lines = _with_line(lines, piece, line)
    document["created"] = created
    document["rootfs"] = {**document["rootfs"], "diff_ids": diff_ids}
    document["history"] = lines
    return ImageConfig.build(document)


def squash_manifest(image: Image, pieces: Sequence[Piece], config: Descriptor) -> Manifest:
    """``config`` is the new config's; media types stay in the family of the old manifest."""
    document = parse_document(image.manifest.raw, "manifest")
    for piece in pieces:
        merged = ",".join(image.config.diff_ids[piece.first : piece.last + 1])
        new = piece.layer.to_json() | {"annotations": {MERGED_LAYERS: merged}}
        document["layers"] = _replaced(document["layers"], piece, new)
    keeps_base = all(piece.first for piece in pieces)
    document["annotations"] = dict(sorted({
        **{name: text for name, text in image.manifest.annotations.items()
           if keeps_base or name not in (BASE_DIGEST, BASE_NAME)},
        SOURCE: str(image.descriptor.digest), SOURCE_IMAGE: str(image.id),
    }.items()))
    return with_config(document, image.manifest.media_type, config)


def with_config(document: dict[str, Any], media_type: str, config: Descriptor) -> Manifest:
    """A manifest's document, edited and given another config."""
    document["config"] = in_line_of(document["config"], config)
    document, media_type = in_one_family(document, media_type)
    return Manifest.parse(dump_document(document), media_type)


def _replaced(layers: Sequence[Any], piece: Piece, new: Any) -> list[Any]:
    return [*layers[: piece.first], new, *layers[piece.last + 1 :]]


def _with_line(old: Sequence[dict[str, Any]], piece: Piece, line: dict[str, Any]) -> list[dict[str, Any]]:
    """The new line comes right behind the last one that it stands for: lines and layers still pair."""
    lines: list[dict[str, Any]] = []
    layer, place = 0, 0
    for item in old:
        is_merged = not item.get("empty_layer") and piece.first <= layer <= piece.last
        lines.append({**item, "empty_layer": True} if is_merged else item)
        if not item.get("empty_layer"):
            layer += 1
        if layer <= piece.last + 1:
            place = len(lines)
    # Layers below about which history is silent get a line, or the new one would be taken for theirs.
    silent = [{"comment": "a layer without history"}] * max(0, piece.first - layer)
    return [*lines[:place], *silent, line, *lines[place:]]


# -- redaction


class InvalidPattern(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """``field`` is where something was replaced, such as ``config.Env[2]``; ``count`` how often."""

    field: str
    count: int


def compile_patterns(patterns: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """Raises :class:`InvalidPattern` for what is no regular expression, or matches everywhere."""
    compiled = []
    for text in patterns:
        try:
            pattern = re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidPattern(f"{text!r}: not a regular expression ({error})") from None
        if pattern.search("") is not None:
            raise InvalidPattern(f"{text!r}: matches the empty string, and so every place of every text")
        compiled.append(pattern)
    return tuple(compiled)


def redact_config(
    config: ImageConfig, patterns: Sequence[re.Pattern[str]]
) -> tuple[ImageConfig, tuple[Redaction, ...]]:
    """Replaces what matches in environment, labels, history and the like.

    Gives the config itself if nothing does.
    """
    found: list[Redaction] = []
    document = {
        name: _redacted(value, name, patterns, found) if name in _WRITTEN else value
        for name, value in config.document.items()
    }
    return (ImageConfig.build(document) if found else config), tuple(found)


def redact_manifest(
    manifest: Manifest, patterns: Sequence[re.Pattern[str]]
) -> tuple[Manifest, tuple[Redaction, ...]]:
    """The same in annotations, of the manifest and of what it lists."""
    document, found = _redacted_annotations(manifest.raw, "layers", patterns)
    if not found:
        return manifest, ()
    return Manifest.parse(dump_document(document), manifest.media_type), found


def redact_index(
    raw: bytes, patterns: Sequence[re.Pattern[str]]
) -> tuple[dict[str, Any], tuple[Redaction, ...]]:
    """The same in annotations of an index and of what it lists; gives the document."""
    return _redacted_annotations(raw, "manifests", patterns)


def _redacted_annotations(
    raw: bytes, children: str, patterns: Sequence[re.Pattern[str]]
) -> tuple[dict[str, Any], tuple[Redaction, ...]]:
    found: list[Redaction] = []
    document = parse_document(raw, children)
    lines = [("", document)] + [
        (f"{children}[{number}].", line) for number, line in enumerate(document.get(children) or [])
    ]
    for where, line in lines:
        if "annotations" in line:
            line["annotations"] = _redacted(line["annotations"], f"{where}annotations", patterns, found)
    return document, tuple(found)


def _redacted(value: Any, field: str, patterns: Sequence[re.Pattern[str]], found: list[Redaction]) -> Any:
    if isinstance(value, str):
        text, count = value, 0
        for pattern in patterns:
            # An empty match, of `(?=x)` for one, holds nothing to replace.
            hits = sum(1 for match in pattern.finditer(text) if match[0])
            text = pattern.sub(lambda match: REDACTED if match[0] else "", text) if hits else text
            count += hits
        if count:
            found.append(Redaction(field=field, count=count))
        return text
    if isinstance(value, list):
        return [_redacted(item, f"{field}[{number}]", patterns, found) for number, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            _redacted(name, f"{field} (a name)", patterns, found):
                item if name in _NOT_WRITTEN else _redacted(item, f"{field}.{name}", patterns, found)
            for name, item in value.items()
        }
    return value
