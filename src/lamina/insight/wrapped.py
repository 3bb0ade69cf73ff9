"""Text of a small alphabet (base64, hex) as it stands in files: perhaps in lines, with unknown edges.

Whoever encodes a longer text around ours decides where lines break and what half of the first and last
character is. So two pieces of the text are looked for, one of which no line break can divide, and what
lies around a hit is compared character by character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lamina.values import dataclass

# PEM breaks after 64 characters (RFC 7468), MIME and base64(1) after 76, xxd -p after 60.
_SHORTEST_LINE = 60
_SHORTEST_ANCHOR = 3
# The end of a line, also as a JSON string writes it, and the indentation of the next.
_BREAK = re.compile(rb"(?:\r|\n|\\r|\\n){1,4}[ \t]{0,64}")
_BREAK_BEFORE = re.compile(rb"(?:\r|\n|\\r|\\n){1,4}[ \t]{0,64}\Z")
_LONGEST_BREAK = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedText:
    """``before`` and ``after`` are the characters of which one must stand there; empty where none must."""

    encoding: str
    body: bytes
    before: bytes = b""
    after: bytes = b""

    @property
    def span(self) -> int:
        """The most bytes that one occurrence takes, breaks and edges included."""
        return len(self.body) + 2 + (len(self.body) // _SHORTEST_LINE + 2) * _LONGEST_BREAK

    def find(self, window: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Occurrences that begin in ``start`` to ``end``, as begin and end, in order."""
        found = {}
        for place, anchor in self._anchors():
            # What begins before ``end`` may have its anchor behind it: an edge, and a break around it, later.
            lead = place + 1 + 2 * _LONGEST_BREAK
            limit = end + lead + len(anchor)
            at = window.find(anchor, start, limit)
            while at >= 0:
                first = self._begin(window, at, self.body[:place])
                if start <= first < end and at - first <= lead:
                    last = self._end(window, at, self.body[place:])
                    if last >= 0 and last - first <= self.span:
                        found[first] = last
                at = window.find(anchor, at + 1, limit)
        yield from sorted(found.items())

    def _anchors(self) -> list[tuple[int, bytes]]:
        half = min(len(self.body), _SHORTEST_LINE) // 2
        if half < _SHORTEST_ANCHOR:
            return [(0, self.body)]
        return [(0, self.body[:half]), (half, self.body[half : 2 * half])]

    def _begin(self, window: bytes, at: int, prefix: bytes) -> int:
        """Where ``prefix`` begins that ends at ``at``, with the edge before it; -1 if it is not there."""
        if prefix and window[max(0, at - len(prefix)) : at] == prefix:
            at -= len(prefix)
        else:
            for byte in reversed(prefix):
                at = _before_break(window, at) - 1
                if at < 0 or window[at] != byte:
                    return -1
        if not self.before:
            return at
        at = _before_break(window, at) - 1
        return at if at >= 0 and window[at] in self.before else -1

    def _end(self, window: bytes, at: int, rest: bytes) -> int:
        """Behind ``rest``, which begins at ``at``, and the edge after it; -1 if it is not there."""
        position = 0
        while not window.startswith(rest[position:], at):
            found = _BREAK.search(window, at, at + len(rest) - position + _LONGEST_BREAK)
            if found is None or not rest.startswith(window[at : found.start()], position):
                return -1
            position += found.start() - at
            at = found.end()
        at += len(rest) - position
        if not self.after:
            return at
        found = _BREAK.match(window, at)
        at = at if found is None else found.end()
        return at + 1 if at < len(window) and window[at] in self.after else -1


def _before_break(window: bytes, at: int) -> int:
    """``at``, or where the line break begins that ends there."""
    if at <= 0 or window[at - 1] not in b"\r\n\t nr":
        return at
    start = max(0, at - _LONGEST_BREAK)
    found = _BREAK_BEFORE.search(window[start:at])
    return at if found is None else start + found.start()
