"""What is wrong with a Dockerfile, and where: one sentence, and the lines around it."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.values import dataclass

_SHOWN_LINES = 16  # of a span: a here-document may have thousands
_SHOWN_COLUMNS = 160
_MOST_TOLD = 400  # characters of a message: a foreign word in it may be as long as a file


@dataclass(frozen=True, slots=True)
class Span:
    """Lines from 1, both inclusive; the column is the first line's, from 1, and 0 where it is not known."""

    first: int
    last: int
    column: int = 0


class DockerfileError(InvalidInput):
    """``suggestion`` is a phrase (``did you mean RUN?``), ``expected`` what could have stood there."""

    def __init__(
        self, message: str, *, span: Span, name: str = "Dockerfile", suggestion: str = "", expected: str = ""
    ) -> None:
        self.message, self.span, self.name = sentence(message), span, name
        self.suggestion, self.expected = sentence(suggestion), sentence(expected)
        parts = [f"{printable(name)}:{span.first}: {self.message}"]
        if expected:
            parts.append(f"expected {self.expected}")
        if suggestion:
            parts.append(self.suggestion)
        super().__init__("; ".join(parts))

    @classmethod
    def at(cls, span: Span, error: InvalidInput, *, name: str = "Dockerfile") -> DockerfileError:
        """``error`` with its place, for what reads words and knows of no file."""
        if isinstance(error, DockerfileError):
            return error
        return cls(str(error), span=span, name=name)


def printable(text: str) -> str:
    """Escapes what would steer a terminal or turn the writing round (CVE-2021-42574): files are foreign."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def sentence(text: str) -> str:
    """Printable, and of a length that a line of a report may have."""
    return printable(text if len(text) <= _MOST_TOLD else text[:_MOST_TOLD] + "...")


def excerpt(text: str, span: Span, *, name: str, context: int = 2) -> str:
    """The lines of ``span`` marked ``>>>``, ``context`` more on both sides, and a caret under the column."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    first, last = max(span.first - context, 1), min(span.last + context, len(lines))
    width = len(str(last))
    shown = [f"{printable(name)}:{span.first}"]
    for number in range(first, last + 1):
        if span.first + _SHOWN_LINES <= number <= span.last:
            if number == span.last:
                shown.append(f"    {'':{width}} | ...")
            continue
        mark = ">>>" if span.first <= number <= span.last else "   "
        line, caret = _shown(lines[number - 1], span.column if number == span.first else 0)
        shown.append(f"{mark} {number:{width}} | {line}".rstrip())
        if caret >= 0:
            shown.append(f"    {'':{width}} | {'':{caret}}^")
    return "\n".join(shown)


def _shown(line: str, column: int) -> tuple[str, int]:
    """The line as a terminal may have it, and where in it the column lies; -1 for nowhere."""
    line = line.removesuffix("\r")
    start = max(0, column - _SHOWN_COLUMNS // 2) if len(line) > _SHOWN_COLUMNS else 0
    cut = "..." if start else ""
    before = cut + _on_terminal(line[start:max(column - 1, start)])
    after = _on_terminal(line[max(column - 1, start):start + _SHOWN_COLUMNS])
    more = "..." if len(line) > start + _SHOWN_COLUMNS else ""
    return before + after + more, len(before) if column else -1


def _on_terminal(text: str) -> str:
    return printable(text.replace("\t", "    "))
