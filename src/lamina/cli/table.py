"""Tables as docker draws them: cells padded with spaces, no lines, nothing cut off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Go's tabwriter as docker sets it up: a cell is as wide as its longest text and the gap, or the minimum.
MINIMUM = 10
_GAP = 3


def render(rows: Iterable[Sequence[str]], right: Sequence[int] = (), minimum: int = MINIMUM) -> list[str]:
    """One line a row. The last cell of a row is not padded; columns in ``right`` are aligned to the right."""
    lines = [list(row) for row in rows]
    widths = _widths(lines, minimum)
    return ["".join(_padded(row, widths, right)).rstrip(" ") for row in lines]


def _widths(lines: Sequence[Sequence[str]], minimum: int) -> list[int]:
    widths: list[int] = []
    for row in lines:
        for number, cell in enumerate(row[:-1]):
            if number == len(widths):
                widths.append(minimum)
            widths[number] = max(widths[number], len(cell) + _GAP)
    return widths


def _padded(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> Iterable[str]:
    for number, cell in enumerate(row):
        if number == len(row) - 1:
            yield cell
        elif number in right:
            yield cell.rjust(widths[number] - _GAP) + " " * _GAP
        else:
            yield cell.ljust(widths[number])
