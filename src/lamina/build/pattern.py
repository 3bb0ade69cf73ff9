"""Patterns for paths: Go's ``filepath.Match``, and ``**`` for any number of directories.

Go's rules (path/filepath, "Match"): ``*`` and ``?`` stop at a slash, ``[a-z]`` and ``[^a]`` are sets, a
backslash makes the next character plain. A pattern that Go calls malformed is refused. What ``**`` means
is what ``.dockerignore`` has taught people: ``a/**`` is all below ``a``, ``**/b`` is ``b`` at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

from lamina.errors import InvalidInput
from lamina.values import dataclass, field

MAX_PATTERN = 4096  # PATH_MAX: no path that is longer can be asked about
_WILD = frozenset("*?[")


class InvalidPattern(InvalidInput):
    pass


@dataclass(frozen=True, slots=True)
class Pattern:
    """``regex`` matches whole paths. ``leading`` are the names up to the first that may span directories."""

    text: str
    regex: str = field(compare=False)
    leading: tuple[str, ...] = field(compare=False)
    is_open: bool = field(compare=False)

    def matches(self, path: str) -> bool:
        return compiled(self.regex)(path) is not None

    def may_match_below(self, directory: str) -> bool:
        """False only where nothing below the directory can match."""
        names = directory.split("/") if directory else []
        for name, part in zip(names, self.leading, strict=False):
            if compiled(part)(name) is None:
                return False
        return self.is_open or len(self.leading) > len(names)


@cache
def pattern(text: str) -> Pattern:
    """Raises :class:`InvalidPattern`, which names it."""
    if len(text) > MAX_PATTERN:
        raise InvalidPattern(f"{text[:60]!r}…: a pattern of more than {MAX_PATTERN} characters")
    tokens = list(_tokens(text))
    regex = "".join(_regex(tokens))
    leading: list[str] = []
    name = ""
    for kind, piece in tokens:
        if kind in ("any", "set"):  # a set may hold a slash
            return Pattern(text, regex, tuple(leading), is_open=True)
        if kind == "slash":
            leading.append(name)
            name = ""
        else:
            name += piece
    return Pattern(text, regex, (*leading, name), is_open=False)


@cache
def single_star(text: str) -> Pattern:
    """As Go reads it, which knows no ``**``: two stars are as good as one."""
    kept: list[str] = []
    for piece in re.findall(r"\\.|.", text, re.DOTALL):
        if piece != "*" or kept[-1:] != ["*"]:
            kept.append(piece)
    return pattern("".join(kept))


def has_wildcards(text: str) -> bool:
    """Backslashes alone do not count."""
    skips = False
    for character in text:
        if skips:
            skips = False
        elif character == "\\":
            skips = True
        elif character in _WILD:
            return True
    return False


def unescaped(text: str) -> str:
    """The name that a pattern without wildcards means."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def escaped(text: str) -> str:
    """The pattern that means just this name."""
    return re.sub(r"([*?\\[\]])", r"\\\1", text)


@cache
def compiled(regex: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(regex, re.DOTALL).fullmatch


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """What each part is, and the regular expression for it."""
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "*" and text[at : at + 1] == "*":
            at += 1
            if text[at : at + 1] == "/":
                at += 1
                yield "any", "" if at == len(text) else "/"
            else:
                yield "any", ""
        elif character == "*":
            yield "star", "[^/]*"
        elif character == "?":
            yield "one", "[^/]"
        elif character == "[":
            at, piece = _set(text, at)
            yield "set", piece
        elif character == "/":
            yield "slash", "/"
        else:
            if character == "\\":
                if at == len(text):
                    raise InvalidPattern(f"{text!r}: a pattern cannot end in a backslash")
                character = text[at]
                at += 1
            yield "plain", re.escape(character)


def _regex(tokens: list[tuple[str, str]]) -> Iterator[str]:
    """A ``**`` at the end takes everything; so does one at the start, if all behind it is plain text."""
    last = len(tokens) - 1
    begins_plain = all(kind in ("plain", "slash") for kind, _piece in tokens[1:])
    for number, (kind, piece) in enumerate(tokens):
        if kind != "any":
            yield piece
        elif number == last or (number == 0 and begins_plain and not piece):
            yield ".*"
        else:
            yield "(?:.*/)?"


def _set(text: str, at: int) -> tuple[int, str]:
    """From behind the bracket: where the set ends, and its regular expression."""
    is_negated = text[at : at + 1] == "^"
    at += is_negated
    ranges: list[str] = []
    while text[at : at + 1] != "]" or not ranges:
        at, low = _member(text, at)
        high = low
        if text[at : at + 1] == "-":
            at, high = _member(text, at + 1)
        if low <= high:  # a range the wrong way round holds nothing
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    inside = "".join(ranges)
    if not inside:
        return at + 1, "." if is_negated else "(?!)"
    return at + 1, f"[{'^' if is_negated else ''}{inside}]"


def _member(text: str, at: int) -> tuple[int, str]:
    character = text[at : at + 1]
    if character == "\\":
        at += 1
        character = text[at : at + 1]
    elif character in ("-", "]"):
        raise InvalidPattern(f"{text!r}: {character!r} stands where a set needs a character")
    if not character or at + 1 >= len(text):
        raise InvalidPattern(f"{text!r}: a '[' without its ']'")
    return at + 1, character
