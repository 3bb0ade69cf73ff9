"""Likely secrets in an image: in the files of every layer, seen or hidden, and in what its documents say.

What is found is shown by its first four characters and its length, here as in the texts of the image that
come with it. Files are searched as they are, not what is in archives among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

from lamina.content.store import read_all
from lamina.errors import LaminaError
from lamina.image import Image, Layer
from lamina.insight.documents import encoded, strings_of
from lamina.insight.documents import place_of as place_of_field
from lamina.insight.erasure import Content, ErasureFinding, Gap, Stack
from lamina.insight.layersearch import LayerResult, search_tar
from lamina.insight.needles import PATTERN_REACH, Needle, NeedleKind
from lamina.insight.places import Place, spot_of
from lamina.insight.rules import ASSIGNMENT, FILE_RULES, RULES, FileRule, Rule, is_placeholder
from lamina.insight.scan import Match, Scanner, scan
from lamina.layer.compress import inflate
from lamina.layer.entry import Entry, Kind
from lamina.layer.index import LayerIndex
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT
from lamina.values import dataclass, replace

OpenData = Callable[[int, Entry], BinaryIO]

_CHUNK = 1 << 18
# Of a file that is judged by its name; credentials are short.
_FILE_HEAD = 1 << 18
# Lines are counted up to here.
_LINES_UP_TO = 64 << 20
_SHOWN = 4
_FIELD_RULE = "assignment"
_TITLES = {rule.id: rule.title for rule in (*RULES, *FILE_RULES)} | {_FIELD_RULE: "secret in a setting"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """``finding`` says where; ``line`` counts from 1, in text. Of ``size`` bytes only ``preview`` is told."""

    rule: str
    title: str
    finding: ErasureFinding
    preview: str
    size: int
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """By layers, base first, and then the documents. ``undecided`` could not be searched."""

    image: Image
    leaks: tuple[Leak, ...]
    undecided: tuple[Gap, ...]
    bytes_searched: int


def find_leaks(image: Image, content: Content, open_data: OpenData) -> Leaks:
    """One platform's image."""
    search = _Search(image, content, open_data)
    search.layers()
    search.files_by_name()
    search.documents()
    found = sorted(search.leaks, key=_order)
    return Leaks(image=image, leaks=tuple(map(_hushed, found)), undecided=tuple(search.undecided),
                 bytes_searched=search.bytes_searched)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RuleSearch:
    """What the rule calls the secret, wherever one of its anchors stands in the part that is searched."""

    rule: Rule
    encoding: str = "raw"
    span: int = PATTERN_REACH

    def find(self, window: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        found = {}
        for anchor in self.rule.anchors:
            at = window.find(anchor, start, end + len(anchor) - 1)
            while at >= 0:
                match = self.rule.expression.match(window, at, at + PATTERN_REACH)
                if match is not None and not is_placeholder(_secret(match)):
                    begin, end_of_it = match.span("secret" if "secret" in match.re.groupindex else 0)
                    found[begin] = end_of_it
                at = window.find(anchor, at + 1, end + len(anchor) - 1)
        yield from sorted(found.items())


def _needles() -> tuple[Needle, ...]:
    return tuple(
        Needle(kind=NeedleKind.PATTERN, label=rule.id, searches=(_RuleSearch(rule=rule),)) for rule in RULES
    )


class _Search:
    def __init__(self, image: Image, content: Content, open_data: OpenData) -> None:
        self.leaks: list[Leak] = []
        self.undecided: list[Gap] = []
        self.bytes_searched = 0
        self._image = image
        self._content = content
        self._open_data = open_data
        self._needles = _needles()
        self._indexes = [self._index(layer) for layer in image.layers]
        self._stack = Stack(image, self._indexes)

    def layers(self) -> None:
        results: dict[Digest, LayerResult] = {}
        for layer, index in zip(self._image.layers, self._indexes, strict=True):
            if index is None:
                continue
            if layer.diff_id not in results:
                results[layer.diff_id] = self._layer(layer, index)
            result = results[layer.diff_id]
            for failure in result.failures:
                self._gap(layer, failure)
            for match in result.tar:
                self._in_layer(layer, index, match, result.end)

    def files_by_name(self) -> None:
        for layer, index in zip(self._image.layers, self._indexes, strict=True):
            for number, path in enumerate(index.paths if index is not None else ()):
                rules = [rule for rule in FILE_RULES if rule.name.search(path)]
                if rules and index is not None and index.kinds[number] == Kind.FILE and index.sizes[number]:
                    self._in_named_file(layer, index.entry(number), rules)

    def documents(self) -> None:
        for descriptor in (self._image.descriptor, self._image.manifest.config):
            raw = read_all(self._content.source, descriptor, MAX_DOCUMENT)
            self.bytes_searched += len(raw)
            default = Place.DOCUMENT if descriptor.digest == self._image.descriptor.digest else Place.CONFIG
            for field, text in strings_of(raw):
                self._in_field(descriptor.digest, place_of_field(field, default), field, encoded(text))

    # -- one place each

    def _index(self, layer: Layer) -> LayerIndex | None:
        try:
            return self._content.index(self._image, layer)
        except LaminaError as error:
            self._gap(layer, str(error))
            return None

    def _layer(self, layer: Layer, index: LayerIndex) -> LayerResult:
        result = LayerResult()
        scanner = Scanner(self._needles, keep=PATTERN_REACH)
        try:
            kept = self._content.kept_tar(layer.diff_id)
            with kept or self._content.source.open(layer.descriptor) as stream:
                tar = stream if kept is not None else inflate(stream)
                search_tar(tar, layer.diff_id, index, scanner, result)
        except LaminaError as error:
            result.failures.append(str(error))
        self.bytes_searched += result.tar_bytes
        return result

    def _in_layer(self, layer: Layer, index: LayerIndex, match: Match, end: int) -> None:
        rule = match.needle.label
        spot = spot_of(index, match.offset, end)
        finding = self._finding(rule, Place.LIVE, layer.descriptor.digest, layer=layer.number)
        line = None
        if spot.place is Place.LIVE:
            line = self._line(layer.number, index.entry(spot.entry), spot.offset)
        self._add(rule, self._stack.spotted(finding, index, spot), match.begin, line)

    def _in_named_file(self, layer: Layer, entry: Entry, rules: Sequence[FileRule]) -> None:
        try:
            with self._open_data(layer.number, entry) as stream:
                head = _read(stream, _FILE_HEAD)
        except LaminaError as error:
            self._gap(layer, str(error))
            return
        for rule in rules:
            for match in rule.expression.finditer(head):
                if not is_placeholder(_secret(match)):
                    finding = self._finding(rule.id, Place.LIVE, layer.descriptor.digest, layer=layer.number,
                                            path=f"/{entry.path}", offset=match.start("secret"))
                    line = head.count(b"\n", 0, match.start("secret")) + 1
                    self._add(rule.id, self._stack.placed(finding, entry), _secret(match), line)

    def _in_field(self, blob: Digest, place: Place, field: str, text: bytes) -> None:
        told = []
        for match in scan(self._needles, text, keep=PATTERN_REACH):
            told.append(range(match.offset, match.offset + match.size))
            finding = self._finding(match.needle.label, place, blob, field=field, offset=match.offset)
            self._add(match.needle.label, finding, match.begin, None)
        for assigned in ASSIGNMENT.finditer(text):
            at = assigned.start("secret")
            if not is_placeholder(_secret(assigned)) and not any(at in span for span in told):
                finding = self._finding(_FIELD_RULE, place, blob, field=field, offset=at)
                self._add(_FIELD_RULE, finding, _secret(assigned), None)

    def _line(self, layer: int, entry: Entry, offset: int) -> int | None:
        """Of an offset in a file; ``None`` in what is no text, or far into a large one."""
        if offset > _LINES_UP_TO:
            return None
        with suppress(LaminaError), self._open_data(layer, entry) as stream:
            line, left = 1, offset
            while left and (chunk := stream.read(min(left, _CHUNK))):
                if b"\0" in chunk:
                    return None
                line += chunk.count(b"\n")
                left -= len(chunk)
            return line
        return None

    # -- what was found

    def _finding(
        self, rule: str, place: Place, blob: Digest, *, layer: int | None = None, path: str = "",
        field: str = "", offset: int | None = None,
    ) -> ErasureFinding:
        return ErasureFinding(
            kind="rule", label=rule, encoding="raw", place=place, blob=blob, layer=layer, path=path,
            field=field, offset=offset, platform=str(self._image.config.platform),
        )

    def _add(self, rule: str, finding: ErasureFinding, secret: bytes, line: int | None) -> None:
        self.leaks.append(Leak(
            rule=rule, title=_TITLES[rule], finding=finding, preview=_preview(secret), size=len(secret),
            line=line,
        ))

    def _gap(self, layer: Layer, reason: str) -> None:
        self.undecided.append(Gap(blob=layer.descriptor.digest, reason=reason, layer=layer.number))


def _secret(match: re.Match[bytes]) -> bytes:
    return match["secret"] if "secret" in match.re.groupindex else match[0]


def _preview(secret: bytes) -> str:
    return secret[:_SHOWN].decode("utf-8", "backslashreplace") + "…"


def hushed(text: str) -> str:
    """A text of the image without the secrets that rules find in it."""
    data = text.encode("utf-8", "surrogateescape")
    for rule in RULES:
        if any(anchor in data for anchor in rule.anchors):
            data = rule.expression.sub(_hush, data)
    return ASSIGNMENT.sub(_hush, data).decode("utf-8", "surrogateescape")


def _hush(match: re.Match[bytes]) -> bytes:
    whole: bytes = match[0]
    secret = _secret(match)
    return whole.replace(secret, secret[:_SHOWN] + "…".encode())


def _hushed(leak: Leak) -> Leak:
    finding = leak.finding
    hider = finding.hidden_by
    if hider is not None:
        hider = replace(hider, instruction=hushed(hider.instruction), path=hushed(hider.path))
    return replace(leak, finding=replace(
        finding, instruction=hushed(finding.instruction), path=hushed(finding.path),
        field=hushed(finding.field), hidden_by=hider,
    ))


def _order(leak: Leak) -> tuple[int, int, str, int]:
    finding = leak.finding
    is_document = finding.layer is None
    return int(is_document), finding.layer or 0, finding.path or finding.field, finding.offset or 0


def _read(stream: BinaryIO, size: int) -> bytes:
    parts = []
    while size and (chunk := stream.read(size)):
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)
