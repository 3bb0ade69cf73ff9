"""The bytes of a Dockerfile as logical lines: directives, comments, continuations and here-documents."""

from __future__ import annotations

from lamina.build.failure import DockerfileError, Span
from lamina.build.instruction import Heredoc
from lamina.build.shape import json_strings, split_flags, split_keyword
from lamina.build.words import unexpanded_words
from lamina.errors import InvalidInput
from lamina.values import dataclass, field, replace

_MAX_FILE = 16 << 20  # bytes
_MAX_LINE = 1 << 20  # characters of one instruction, without its here-documents
_MAX_INSTRUCTIONS = 1 << 16  # a kilobyte of memory each
_DIRECTIVES = ("syntax", "escape", "check")
_BOM = "\ufeff"
_WITH_HEREDOCS = ("add", "copy", "run")


@dataclass(frozen=True, slots=True)
class Line:
    """An instruction's text, its continuation lines joined, with neither blanks nor comments around it.

    ``comments`` stood right above it, without their ``#``; ``empty_lines`` within it. A piece tells where in
    ``text`` a physical line begins, its number, and the column.
    """

    text: str
    span: Span
    heredocs: tuple[Heredoc, ...]
    comments: tuple[str, ...]
    empty_lines: tuple[int, ...]
    pieces: tuple[tuple[int, int, int], ...]

    def at(self, offset: int) -> Span:
        """The place of a character of ``text``."""
        return _place(self.pieces, offset)


def _place(pieces: tuple[tuple[int, int, int], ...], offset: int) -> Span:
    start, number, column = next(one for one in reversed(pieces) if one[0] <= offset)
    return Span(number, number, column + offset - start)


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Source:
    text: str
    lines: tuple[Line, ...]
    directives: tuple[Directive, ...]
    escape: str


def read(data: bytes | str, *, name: str = "Dockerfile") -> Source:
    text = decode(data, name=name)
    physical = text.split("\n")
    directives = _directives(physical, name)
    escape = next((one.value for one in directives if one.name == "escape"), "\\")
    reader = _Reader(physical, escape, name, read=directives[-1].span.last if directives else 0)
    return Source(text, tuple(reader.lines()), tuple(directives), escape)


def read_line(text: str, escape: str, *, name: str) -> Line:
    """One instruction that stands alone, with neither directives nor anything else beside it."""
    reader = _Reader(decode(text, name=name).split("\n"), escape, name)
    lines = list(reader.lines())
    if len(lines) != 1:
        message = f"expected one instruction, got {len(lines) or 'none'}"
        raise DockerfileError(message, span=lines[1].span if lines else Span(1, 1), name=name)
    return lines[0]


def decode(data: bytes | str, *, name: str) -> str:
    """Bytes that are no UTF-8 survive, as ``surrogateescape`` keeps them; a byte-order mark does not."""
    if isinstance(data, str):
        try:
            size = len(data.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            span = _span_of(data, error.start)
            raise DockerfileError("a lone surrogate is no character", span=span, name=name) from None
        text = data
    else:
        size, text = len(data), data.decode("utf-8", "surrogateescape")
    if size > _MAX_FILE:
        raise DockerfileError(f"expected at most {_MAX_FILE} bytes, got {size}", span=Span(1, 1), name=name)
    if "\0" in text:
        span = _span_of(text, text.index("\0"))
        raise DockerfileError("NUL bytes have no place here", span=span, name=name)
    return text.removeprefix(_BOM)


def _span_of(text: str, offset: int) -> Span:
    number = text.count("\n", 0, offset) + 1
    return Span(number, number, offset - text.rfind("\n", 0, offset))


def _directives(physical: list[str], name: str) -> list[Directive]:
    """They end at the first line that is none; a ``#!`` line may stand before them."""
    found: list[Directive] = []
    for number, line in enumerate(physical, 1):
        if number == 1 and line.startswith("#!"):
            continue
        key, value = _directive(line)
        if not key:
            break
        span = Span(number, number, line.index("#") + 1)
        if any(one.name == key for one in found):
            raise DockerfileError(f"the directive {key} is given twice", span=span, name=name)
        if key == "escape" and value not in ("\\", "`"):
            raise DockerfileError(f"{value!r} cannot be the escape", span=span, name=name, expected="\\ or `")
        found.append(Directive(key, value, span))
    return found


def _directive(line: str) -> tuple[str, str]:
    mark, _, rest = line.strip().partition("#")
    key, equals, value = rest.partition("=")
    key = key.strip().lower()
    if mark or not equals or key not in _DIRECTIVES or not value.strip():
        return "", ""
    return key, value.strip()


@dataclass(slots=True)
class _Draft:
    """A logical line while it grows."""

    parts: list[str] = field(default_factory=list)
    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    empty_lines: list[int] = field(default_factory=list)
    length: int = 0

    def add(self, text: str, number: int, column: int) -> None:
        self.pieces.append((self.length, number, column))
        self.parts.append(text)
        self.length += len(text)


class _Reader:
    def __init__(self, physical: list[str], escape: str, name: str, *, read: int = 0) -> None:
        self._physical, self._escape, self._name = physical, escape, name
        self._number = read  # of physical lines

    def lines(self) -> list[Line]:
        found: list[Line] = []
        comments: list[str] = []
        while self._number < len(self._physical):
            whole = self._take()
            line = whole.lstrip()
            if line.startswith("#"):
                comment = line[1:].strip()
                if comment:
                    comments.append(comment)
                else:
                    comments = []
            elif not line:
                comments = []
            else:
                logical = self._logical(line, len(whole) - len(line) + 1, tuple(comments))
                if logical is not None:
                    found.append(logical)
                comments = []
                if len(found) > _MAX_INSTRUCTIONS:
                    message = f"a file has at most {_MAX_INSTRUCTIONS} instructions"
                    raise DockerfileError(message, span=found[-1].span, name=self._name)
        return found

    def _take(self) -> str:
        self._number += 1
        return self._physical[self._number - 1].rstrip("\r")

    def _logical(self, line: str, column: int, comments: tuple[str, ...]) -> Line | None:
        first, draft = self._number, _Draft()
        content, is_open = self._continued(line)
        draft.add(content, first, column)
        while is_open and self._number < len(self._physical):
            line = self._take()
            bare = line.lstrip()
            if bare.startswith("#"):
                continue
            if not bare:
                if self._number < len(self._physical):  # the last newline begins no line
                    draft.empty_lines.append(self._number)
                continue
            content, is_open = self._continued(line)
            draft.add(content, self._number, 1)
        return self._finished(first, draft, comments)

    def _continued(self, line: str) -> tuple[str, bool]:
        """An escape at the end continues the line, unless another one stands before it."""
        bare = line.rstrip(" \t")
        if bare.endswith(self._escape) and not bare.endswith(self._escape * 2):
            return bare[:-1], True
        return line, False

    def _finished(self, first: int, draft: _Draft, comments: tuple[str, ...]) -> Line | None:
        whole = "".join(draft.parts)
        text = whole.lstrip()
        if not text:
            return None
        shift = len(whole) - len(text)
        pieces = tuple((start - shift, number, column) for start, number, column in draft.pieces)
        span = replace(_place(pieces, 0), first=first, last=draft.pieces[-1][1])
        line = Line(text.rstrip(), span, (), comments, tuple(draft.empty_lines), pieces)
        if len(text) > _MAX_LINE:
            message = f"an instruction has at most {_MAX_LINE} characters"
            raise DockerfileError(message, span=span, name=self._name)
        heredocs = tuple(self._heredocs(line)) if "<<" in text and _may_hold_heredocs(line.text) else ()
        if not heredocs:
            return line
        return replace(line, heredocs=heredocs, span=replace(span, last=self._number))

    def _heredocs(self, line: Line) -> list[Heredoc]:
        try:
            openings = heredocs_opened(line.text)
        except InvalidInput as error:
            raise DockerfileError.at(line.span, error, name=self._name) from None
        return [self._heredoc(opening, line) for opening in openings]

    def _heredoc(self, opening: Heredoc, line: Line) -> Heredoc:
        content: list[str] = []
        while self._number < len(self._physical):
            self._number += 1
            one = self._physical[self._number - 1]
            if opening.is_stripped:
                one = one.lstrip("\t")
            if one.rstrip("\r") == opening.name:
                return Heredoc(
                    name=opening.name, content="".join(content), is_expanded=opening.is_expanded,
                    is_stripped=opening.is_stripped,
                )
            content.append(one + "\n")
        span = line.at(max(line.text.find("<<"), 0))
        message = f"the here-document {opening.name} does not end"
        raise DockerfileError(message, span=span, name=self._name, expected=f"a line that is {opening.name}")


def _may_hold_heredocs(text: str) -> bool:
    keyword, start = split_keyword(text)
    if keyword.lower() == "onbuild":
        text = text[start:]
        keyword, start = split_keyword(text)
    if keyword.lower() not in _WITH_HEREDOCS:
        return False
    _, start = split_flags(text, start)
    try:
        return json_strings(text[start:]) is None
    except InvalidInput:
        return False


def heredocs_opened(text: str) -> list[Heredoc]:
    """What a line begins, still without content. A line whose quotes do not match begins none."""
    try:
        words = unexpanded_words(text, keeps_quotes=True, keeps_escapes=True)
    except InvalidInput:
        return []
    return [one for one in map(heredoc_opened, words) if one is not None]


def heredoc_opened(word: str) -> Heredoc | None:
    """``<<NAME``, ``<<-NAME``, ``<<"NAME"`` or ``3<<NAME``; a quoted name keeps variables as they are."""
    digits, mark, rest = word.partition("<<")
    is_stripped = rest.startswith("-")
    rest = rest.removeprefix("-")
    if not mark or (digits and not digits.isdecimal()) or not rest or "<" in rest:
        return None
    names = unexpanded_words(rest, keeps_quotes=False, keeps_escapes=False)
    if len(names) != 1:
        return None
    written = "".join(unexpanded_words(rest, keeps_quotes=True, keeps_escapes=False))
    is_expanded = _quotes(names[0]) == _quotes(written)
    return Heredoc(name=names[0], content="", is_expanded=is_expanded, is_stripped=is_stripped)


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
