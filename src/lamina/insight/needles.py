"""What is searched for: a secret in the encodings in which files hold one, or a pattern.

A secret's bytes become a handful of literals. For base64 that is one for each of the three places that
the secret can have in a group of three bytes; the two characters at its ends, which it shares with its
neighbours, are compared as far as they are its own, so that nothing of the secret is left out.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

from lamina.errors import InvalidInput
from lamina.insight.wrapped import WrappedText
from lamina.values import dataclass, field, replace

MIN_SECRET = 4  # shorter ones are in every image, by chance
MAX_SECRET = 1 << 20
# A match of a pattern is seen whole up to this length, and its surroundings as far.
PATTERN_REACH = 4096
ENCODINGS = ("raw", "base64", "URL", "hex", "UTF-16", "JSON")

_STANDARD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_URL_SAFE = _STANDARD[:-2] + b"-_"
# What is left as it is by: most libraries; by encodeURIComponent; in a path; by encodeURI.
_LEFT_ALONE = ("", "!'()*", "/", "!'()*;/?:@&=+$,#")
# encoding/json of Go writes these so, and PHP the slash.
_GO_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_PROBES = (b"", b"a b\n0", b"\0\xff.-_/")
_MASK = b"***"


class InvalidSecret(InvalidInput):
    pass


class InvalidPattern(InvalidInput):
    pass


class Search(Protocol):
    """One thing to look for in a window of bytes.

    ``span`` is how far an occurrence reaches at most. ``find`` gives begin and end of those that begin in
    ``start`` to ``end``, in order; the window goes on behind ``end`` by ``span`` unless the stream ends.
    """

    @property
    def encoding(self) -> str: ...

    @property
    def span(self) -> int: ...

    def find(self, window: bytes, start: int, end: int) -> Iterator[tuple[int, int]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    encoding: str
    text: bytes

    @property
    def span(self) -> int:
        return len(self.text)

    def find(self, window: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        size = len(self.text)
        at = window.find(self.text, start, end + size - 1)
        while at >= 0:
            yield at, at + size
            at = window.find(self.text, at + size, end + size - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    compiled: re.Pattern[bytes]
    encoding: str = "raw"
    span: int = PATTERN_REACH

    def find(self, window: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        for found in self.compiled.finditer(window, start, end + PATTERN_REACH):
            if found.start() >= end:
                return
            yield found.span()


class NeedleKind(StrEnum):
    SECRET = "secret-file"  # noqa: S105 - the name of an option
    PATTERN = "pattern"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """``label`` is what may be said of it: a file's name, or a pattern's text. ``size``: a secret's bytes."""

    kind: NeedleKind
    label: str
    size: int = 0
    searches: tuple[Search, ...] = field(repr=False)


def secret_needle(content: bytes, label: str) -> Needle:
    """One line end after the secret is not part of it: editors and ``echo`` put it there."""
    secret = content[:-1].removesuffix(b"\r") if content.endswith(b"\n") else content
    if not secret:
        raise InvalidSecret(f"{label}: the secret is empty")
    if len(secret) < MIN_SECRET:
        raise InvalidSecret(
            f"{label}: a secret of {len(secret)} bytes would be found everywhere by chance; "
            f"{MIN_SECRET} is the least"
        )
    if len(secret) > MAX_SECRET:
        raise InvalidSecret(f"{label}: the secret is larger than {MAX_SECRET} bytes; is this the right file?")
    return Needle(
        kind=NeedleKind.SECRET, label=label, size=len(secret), searches=tuple(_without_repeats(secret))
    )


def pattern_needle(text: str) -> Needle:
    """A Python regular expression over bytes. One that matches nothing at all is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a future Python may read differently
            compiled = re.compile(text.encode("utf-8", "surrogateescape"))
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise InvalidPattern(f"{text!r}: not a regular expression ({error})") from None
    for probe in _PROBES:
        found = compiled.search(probe)
        if found is not None and not found[0]:
            raise InvalidPattern(f"{text!r}: matches the empty string, and so every place of every file")
    return Needle(kind=NeedleKind.PATTERN, label=text, searches=(Expression(compiled=compiled),))


def masked(text: str, needles: Sequence[Needle]) -> str:
    """Text of an image as a report may show it: what is searched for is replaced by ``***``."""
    data = text.encode("utf-8", "surrogateescape")
    spans = sorted(
        span for needle in needles for search in needle.searches for span in search.find(data, 0, len(data))
    )
    if not spans:
        return text
    parts, position = [], 0
    for begin, end in spans:
        if begin >= position:
            parts += [data[position:begin], _MASK]
        position = max(position, end)
    parts.append(data[position:])
    return b"".join(parts).decode("utf-8", "surrogateescape")


# -- encodings


def _without_repeats(secret: bytes) -> Iterator[Search]:
    """Most secrets look the same in several encodings; the first name that fits is the one that is told."""
    seen: set[bytes] = set()
    for encoding, literal in _literals(secret):
        if literal not in seen:
            seen.add(literal)
            yield Literal(encoding=encoding, text=literal)
    yield from _base64(secret)
    yield from dict.fromkeys(_hex(secret))


def _literals(secret: bytes) -> Iterator[tuple[str, bytes]]:
    yield "raw", secret
    if b"\n" in secret:
        yield "raw", secret.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        text = ""
    for written in _json(text) if text else ():
        yield "JSON", written
    for quoted in _url(secret):
        yield "URL", quoted
    if text:
        yield from _utf16(text)


def _json(text: str) -> Iterable[bytes]:
    for ascii_only in (True, False):
        written = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for variant in (written, written.translate(_GO_ESCAPES), written.replace("/", "\\/")):
            yield variant.encode("utf-8", "surrogatepass")


def _url(secret: bytes) -> Iterable[bytes]:
    quoted = [urllib.parse.quote_from_bytes(secret, safe=safe) for safe in _LEFT_ALONE]
    quoted.append(quoted[0].replace("%20", "+"))
    quoted.append("".join(f"%{byte:02X}" for byte in secret))
    for text in quoted:
        yield text.encode()
        yield re.sub(r"%..", lambda found: found[0].lower(), text).encode()


def _utf16(text: str) -> Iterator[tuple[str, bytes]]:
    """Where every second byte is 0, both byte orders have the same inside: one literal finds either."""
    little, big = text.encode("utf-16-le"), text.encode("utf-16-be")
    if max(text) <= "\xff":
        yield "UTF-16", little[:-1]
    else:
        yield "UTF-16", little
        yield "UTF-16", big


def _hex(secret: bytes) -> Iterator[WrappedText]:
    yield WrappedText(encoding="hex", body=secret.hex().encode())
    yield WrappedText(encoding="hex", body=secret.hex().upper().encode())


def _base64(secret: bytes) -> Iterator[WrappedText]:
    for shift in range(3):
        standard, url_safe = (_aligned(secret, shift, alphabet) for alphabet in (_STANDARD, _URL_SAFE))
        if standard.body == url_safe.body:
            yield replace(standard, before=standard.before + url_safe.before,
                          after=standard.after + url_safe.after)
        else:
            yield from (standard, url_safe)


def _aligned(secret: bytes, shift: int, alphabet: bytes) -> WrappedText:
    """The secret behind ``shift`` other bytes: whole characters, and what the ones at the edges may be."""
    first, after_last = 8 * shift, 8 * (shift + len(secret))  # bits
    padded = bytes(shift) + secret + bytes(-(shift + len(secret)) % 3)
    characters = base64.b64encode(padded).translate(bytes.maketrans(_STANDARD, alphabet))
    begin, end = -(-first // 6), after_last // 6
    before = after = b""
    if first % 6:
        known = alphabet.index(characters[begin - 1])
        low = 6 - first % 6
        before = bytes(alphabet[high << low | known & (1 << low) - 1] for high in range(1 << (6 - low)))
    if after_last % 6:
        known = alphabet.index(characters[end])
        free = 6 - after_last % 6
        high = known >> free << free
        after = alphabet[high : high + (1 << free)]
    return WrappedText(encoding="base64", body=characters[begin:end], before=before, after=after)
