"""A stream searched for many things at once, in flat memory: where each occurrence begins, exactly once.

The stream is cut into blocks of a fixed size, whatever the pieces in which it arrives, so that the answer
depends on its bytes alone. Each block is looked at together with what lies around it as far as the widest
search reaches. ``bytes.find`` for each literal is the fastest way that the standard library has: see the
decision on the erasure certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lamina.insight.needles import PATTERN_REACH, Needle, Search
from lamina.values import dataclass

BLOCK = 1 << 20
# Of one search in one stream: who fills a file with the secret must not fill our memory with it.
MAX_MATCHES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """``offset`` counts from the start of the stream. ``begin``: its first bytes, if those were asked for."""

    needle: Needle
    encoding: str
    offset: int
    size: int
    begin: bytes = b""


class Scanner:
    """``feed`` it the stream, then ``finish``. ``keep``: how many bytes of each match to remember.

    ``matches`` are those found so far; all that begin before ``position`` are among them, in an order
    that is theirs alone. A search that found :data:`MAX_MATCHES` rests for the remainder of the stream.
    """

    def __init__(self, needles: Sequence[Needle], *, keep: int = 0, block: int = BLOCK) -> None:
        self.matches: list[Match] = []
        self.position = 0
        self._keep = keep
        self._lines = [_Line(needle, search) for needle in needles for search in needle.searches]
        self._ahead = max((line.search.span for line in self._lines), default=0)
        self._block = max(block, self._ahead)
        self._pending: list[bytes] = []
        self._size = 0  # bytes pending that were not searched yet
        self._before = 0  # bytes pending that were: what lies before the next block

    def feed(self, chunk: bytes) -> None:
        if chunk:
            self._pending.append(chunk)
            self._size += len(chunk)
            if self._size >= self._block + self._ahead:
                self._search(is_last=False)

    def finish(self) -> list[Match]:
        """All matches, in the order of their offsets."""
        self._search(is_last=True)
        self.matches.sort(key=lambda match: match.offset)
        return self.matches

    def _search(self, *, is_last: bool) -> None:
        window = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        at = self._before
        while len(window) - at >= self._block + self._ahead:
            self._search_block(window, at, at + self._block)
            at += self._block
        while is_last and at < len(window):
            end = min(at + self._block, len(window))
            self._search_block(window, at, end)
            at = end
        start = max(0, at - PATTERN_REACH)
        self._pending = [window[start:]]
        self._before, self._size = at - start, len(window) - at

    def _search_block(self, window: bytes, start: int, end: int) -> None:
        base = self.position - start  # of the window in the stream
        for line in self._lines:
            if line.count < MAX_MATCHES:
                self.matches += self._found(line, window, start, end, base)
        self.position = base + end

    def _found(self, line: _Line, window: bytes, start: int, end: int, base: int) -> Iterator[Match]:
        begin = max(start, line.resume - base)
        if begin >= end:
            return
        for first, last in line.search.find(window, begin, end):
            if first + base < line.resume:
                continue  # inside the one before
            line.resume = base + max(last, first + 1)
            line.count += 1
            yield Match(
                needle=line.needle, encoding=line.search.encoding, offset=base + first, size=last - first,
                begin=window[first : min(last, first + self._keep)],
            )
            if line.count == MAX_MATCHES:
                return


class _Line:
    """One search on its way through a stream. It goes on at ``resume``, an offset in the stream."""

    __slots__ = ("count", "needle", "resume", "search")

    def __init__(self, needle: Needle, search: Search) -> None:
        self.needle = needle
        self.search = search
        self.resume = 0
        self.count = 0


def scan(needles: Sequence[Needle], data: bytes, *, keep: int = 0) -> list[Match]:
    """Of what is in memory already."""
    scanner = Scanner(needles, keep=keep)
    scanner.feed(data)
    return scanner.finish()
