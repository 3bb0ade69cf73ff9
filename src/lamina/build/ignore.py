"""``.dockerignore``: which paths a build does not get to see, and which line says so.

The last line that matches decides, and one that matches a directory matches all below it. The rules of
reading are docker's ("dockerignore file"): a byte order mark goes, ``#`` comments only in the first column,
blanks around a line go, ``!`` makes an exception, the path is cleaned as Go's ``filepath.Clean`` does it,
and a leading slash means nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from lamina.build.pattern import InvalidPattern, Pattern, compiled, pattern
from lamina.build.rooted import NotThere, read_file
from lamina.errors import InvalidInput
from lamina.values import dataclass

IGNORE_FILE = ".dockerignore"
MAX_IGNORE_FILE = 4 << 20
# What Go's unicode.IsSpace takes for a blank; Python's own list has four separators more.
_BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029"
    "\u202f\u205f\u3000"
)


class InvalidIgnoreFile(InvalidInput):
    pass


@dataclass(frozen=True, slots=True)
class Rule:
    """``source`` and ``line`` are where it stands; a rule of an option has line 0."""

    text: str
    pattern: Pattern
    is_exception: bool
    source: str = IGNORE_FILE
    line: int = 0

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Decision:
    """``rule`` is the one that decided; ``None`` where none matches."""

    is_excluded: bool
    rule: Rule | None


class Rules:
    """Asked about the same directories again and again, and remembers what it found out about them."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._any = compiled("|".join(f"(?:{rule.pattern.regex})" for rule in self.rules) or "(?!)")
        # Which rules match a directory or one above it, as bits.
        self._known: dict[str, int] = {"": 0}

    @classmethod
    def parse(cls, text: str | bytes, source: str = IGNORE_FILE) -> Rules:
        """Raises :class:`InvalidIgnoreFile`, which names the line."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        rules = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if not line.startswith("#") and (rule := _rule(line, source, number)) is not None:
                rules.append(rule)
        return cls(rules)

    @classmethod
    def of(cls, patterns: Iterable[str], source: str = "--exclude") -> Rules:
        """The values of an option. ``#`` has no meaning there."""
        return cls(rule for text in patterns if (rule := _rule(text, source, 0)) is not None)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def decide(self, path: str) -> Decision:
        """``path`` is relative and clean; what is at it does not matter."""
        number = self._last(path)
        if number < 0:
            return Decision(is_excluded=False, rule=None)
        rule = self.rules[number]
        return Decision(not rule.is_exception, rule)

    def excludes(self, path: str) -> bool:
        if not self.rules:
            return False
        number = self._last(path)
        return number >= 0 and not self.rules[number].is_exception

    def can_skip(self, directory: str) -> bool:
        """Whether it and everything that could be below it is excluded."""
        number = self._last(directory)
        if number < 0 or self.rules[number].is_exception:
            return False
        later = self.rules[number + 1 :]
        return not any(rule.is_exception and rule.pattern.may_match_below(directory) for rule in later)

    def _last(self, path: str) -> int:
        return (self._above(path.rpartition("/")[0]) | self._own(path)).bit_length() - 1

    def _above(self, directory: str) -> int:
        missing: list[str] = []
        while (known := self._known.get(directory)) is None:
            missing.append(directory)
            directory = directory.rpartition("/")[0]
        for each in reversed(missing):
            known = self._known[each] = known | self._own(each)
        return known

    def _own(self, path: str) -> int:
        if not path or self._any(path) is None:
            return 0
        return sum(1 << number for number, rule in enumerate(self.rules) if rule.pattern.matches(path))


def cleaned(path: str) -> str:
    """As Go's ``filepath.Clean``: the shortest spelling; ``.`` for nothing."""
    return posixpath.normpath(re.sub("^/+", "/", path))


def find_rules(context: int, dockerfile: str = "Dockerfile", *, beside: int | None = None) -> Rules:
    """``<dockerfile>.dockerignore``, or else the context's own file, or no rules.

    Both descriptors are directories: the context's, and the one that ``dockerfile`` is named from (the
    context too, if not given). Symlinks are followed inside them. Raises :class:`InvalidIgnoreFile`.
    """
    for directory, name in ((context if beside is None else beside, dockerfile + IGNORE_FILE),
                            (context, IGNORE_FILE)):
        try:
            return Rules.parse(read_file(directory, name, MAX_IGNORE_FILE), name)
        except NotThere:
            continue
    return Rules()


def _rule(line: str, source: str, number: int) -> Rule | None:
    text = line.strip(_BLANKS)
    is_exception = text.startswith("!")
    path = text[1:].strip(_BLANKS) if is_exception else text
    place = f"{source}:{number}" if number else source
    if not path:
        if is_exception:
            raise InvalidIgnoreFile(f"{place}: a '!' must be followed by a path")
        return None
    path = cleaned(path)
    if len(path) > 1:
        path = path.removeprefix("/")
    try:
        return Rule(text, pattern(path), is_exception, source, number)
    except InvalidPattern as error:
        raise InvalidIgnoreFile(f"{place}: {error}") from None
