"""Patterns in ``${name#pattern}`` and its kin: ``*`` and ``?`` within a line, matched in linear time.

A pattern falls apart at its stars into pieces of fixed length. Between two stars the earliest place of a
piece is always as good as any other, so nothing is tried twice; only the last piece wants its latest place
where the longest match is asked for. A regular expression would take exponential time for ``*a*a*a*b``.
"""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

MAX_OUTPUT = 8 << 20  # characters: what an expansion may grow to
_MAX_PATTERN = 4096  # characters
_MAX_WORK = 1 << 28  # comparisons, about a second of them


class Pattern:
    """``is_reversed`` reads from the right, for suffixes: the value must then be reversed too."""

    def __init__(self, text: str, *, is_longest: bool, is_reversed: bool = False) -> None:
        import re  # noqa: PLC0415 - few Dockerfiles hold a pattern

        pieces: list[list[str]] = [[]]
        for one in _tokens(text):
            if one == "*":
                pieces.append([])
            else:
                pieces[-1].append("." if one == "?" else re.escape(one[-1]))
        if is_reversed:
            pieces = [piece[::-1] for piece in pieces[::-1]]
        self._first_length = len(pieces[0])
        self._first, *rest = ["".join(piece) for piece in pieces]
        stars = [".*?"] * len(rest)
        if rest and is_longest:
            stars[-1] = ".*"
        self._head = re.compile(self._first)
        self._tail: list[re.Pattern[str]] = [
            re.compile(star + piece) for star, piece in zip(stars, rest, strict=True)
        ]

    def end(self, value: str, start: int = 0) -> int | None:
        """Where the match that begins at ``start`` ends."""
        found = self._head.match(value, start)
        for piece in self._tail:
            if found is None:
                return None
            found = piece.match(value, found.end())
        return None if found is None else found.end()

    def find(self, value: str, start: int) -> tuple[int, int] | None:
        """The first match at or after ``start``."""
        while (found := self._head.search(value, start)) is not None:
            end = self.end(value, found.start())
            if end is not None:
                return found.start(), end
            # What follows the first piece is not on this line, so a later start on it does no better.
            newline = value.find("\n", found.end())
            if newline < 0:
                return None
            start = max(found.start() + 1, newline + 1 - self._first_length)
        return None


def _tokens(pattern: str) -> list[str]:
    """``*``, ``?``, and characters; two where the first only escapes the second."""
    tokens, characters = [], iter(pattern)
    for one in characters:
        if one != "\\":
            tokens.append(one if one in "*?" else "\\" + one)
            continue
        escaped = next(characters, "")
        if escaped not in ("*", "?", "\\", "}", "/"):
            raise InvalidInput(f"{pattern}: a pattern has no escape \\{escaped}")
        tokens.append("\\" + escaped)
    return tokens


def _check_work(value: str, pattern: str) -> None:
    """A piece is tried at every place of the value."""
    if len(pattern) > _MAX_PATTERN or len(pattern) * len(value) > _MAX_WORK:
        raise InvalidInput(f"{pattern[:60]}: the pattern, or what it is for, is too long")


def without_prefix(value: str, pattern: str, *, is_longest: bool) -> str:
    _check_work(value, pattern)
    end = Pattern(pattern, is_longest=is_longest).end(value)
    return value if end is None else value[end:]


def without_suffix(value: str, pattern: str, *, is_longest: bool) -> str:
    _check_work(value, pattern)
    end = Pattern(pattern, is_longest=is_longest, is_reversed=True).end(value[::-1])
    return value if end is None else value[:len(value) - end]


def replaced(value: str, pattern: str, replacement: str, *, is_everywhere: bool) -> str:
    """Empty matches count as in Go's ``ReplaceAllString``: not where another match has just ended."""
    _check_work(value, pattern)
    wanted = Pattern(pattern, is_longest=True)
    parts, size, kept, start = [], len(value), 0, 0
    while start <= len(value) and (found := wanted.find(value, start)) is not None:
        parts.append(value[kept:found[0]])
        if found[1] > kept or found[0] == 0:
            parts.append(replacement)
            size += len(replacement)
        if size > MAX_OUTPUT:
            raise InvalidInput(f"{pattern}: the replacement gives more than {MAX_OUTPUT} characters")
        kept, start = found[1], max(start + 1, found[1])
        if not is_everywhere:
            break
    return "".join((*parts, value[kept:]))
