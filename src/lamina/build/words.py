"""Words of a Dockerfile: quotes, escapes, and variables with their modifiers, expanded in a single pass.

The rules are those of BuildKit's ``frontend/dockerfile/shell``: what stands in a value is never read again,
so a value that holds ``$X`` stays as it is. Depth and size are bounded, for both come from strangers.
"""

from __future__ import annotations

from lamina.build.substitution import MAX_OUTPUT, replaced, without_prefix, without_suffix
from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Lookup = Callable[[str], str | None]

_MAX_DEPTH = 32
_SPECIAL_PARAMETERS = "@*#?-$!0"  # POSIX 2.5.2; all unset in a Dockerfile
_END = ""  # what a look past the end gives


def expand(text: str, lookup: Lookup, *, escape: str = "\\", used: set[str] | None = None) -> str:
    """One word: quotes removed, blanks kept. ``used`` gains every name that was looked up.

    Raises ``InvalidInput`` that has no place: for ``${name?message}``, for what is not closed, at the limits.
    """
    if _is_plain(text, escape):
        return text
    return _Reader(text, lookup, escape, used).read()


def expand_words(text: str, lookup: Lookup, *, escape: str = "\\", used: set[str] | None = None) -> list[str]:
    """Split at blanks outside quotes, those that came with a value too; empty words vanish."""
    return _Reader(text, lookup, escape, used).read_words()


def expand_raw(text: str, lookup: Lookup, *, escape: str = "\\", used: set[str] | None = None) -> str:
    """Quotes are characters like others, as in the body of a here-document; escapes are not."""
    if "$" not in text and escape not in text:
        return text
    return _Reader(text, lookup, escape, used, ignores_quotes=True).read()


def unexpanded_words(text: str, *, keeps_quotes: bool, keeps_escapes: bool) -> list[str]:
    """The shell's words of a line with its variables left in: how here-documents are found.

    The escape is always the backslash there, whatever the directive says.
    """
    reader = _Reader(
        text, lambda _: None, "\\", None,
        keeps_quotes=keeps_quotes, keeps_escapes=keeps_escapes, keeps_unset=True,
    )
    return reader.read_words()


def _is_plain(text: str, escape: str) -> bool:
    return "$" not in text and "'" not in text and '"' not in text and escape not in text


class _Words:
    """Words as they grow: blanks part them, unless they were quoted."""

    __slots__ = ("_words", "_writing")

    def __init__(self) -> None:
        self._words: list[str] = []
        self._writing: list[str] = []

    def add(self, text: str) -> None:
        if text[:1].isspace():
            self.done()
        for number, part in enumerate(text.split()):
            if number:
                self.done()
            self._writing.append(part)
        if text[-1:].isspace():
            self.done()

    def add_quoted(self, text: str) -> None:
        if text:
            self._writing.append(text)

    def done(self) -> list[str]:
        if self._writing:
            self._words.append("".join(self._writing))
            self._writing.clear()
        return self._words


class _Reader:
    """Over one text, once."""

    __slots__ = (
        "_depth", "_escape", "_ignores_quotes", "_keeps_escapes", "_keeps_quotes", "_keeps_unset", "_lookup",
        "_place", "_size", "_text", "_used",
    )

    def __init__(
        self, text: str, lookup: Lookup, escape: str, used: set[str] | None, *,
        keeps_quotes: bool = False, keeps_escapes: bool = False, keeps_unset: bool = False,
        ignores_quotes: bool = False,
    ) -> None:
        self._text, self._lookup, self._escape, self._used = text, lookup, escape, used
        self._keeps_quotes, self._keeps_escapes = keeps_quotes, keeps_escapes
        self._keeps_unset, self._ignores_quotes = keeps_unset, ignores_quotes
        self._place, self._depth, self._size = 0, 0, 0

    def read(self) -> str:
        return self._until(_END, keeps_escapes=self._keeps_escapes)

    def read_words(self) -> list[str]:
        words = _Words()
        self._until(_END, words, keeps_escapes=self._keeps_escapes)
        return words.done()

    def _peek(self) -> str:
        return self._text[self._place:self._place + 1]

    def _next(self) -> str:
        one = self._text[self._place:self._place + 1]
        self._place += 1
        return one

    def _until(self, stop: str, words: _Words | None = None, *, keeps_escapes: bool) -> str:
        """To ``stop``, which is read too, or to the end; ``words`` gains what is there."""
        outer, self._keeps_escapes = self._keeps_escapes, keeps_escapes
        found: list[str] = []
        while (one := self._peek()) != stop:
            if one == _END:
                raise InvalidInput(f"{self._shown()}: {stop!r} is missing")
            is_quoted = True
            if one in "'\"" and not self._ignores_quotes:
                part = self._quoted(one)
            elif one == self._escape:
                part = self._escaped()
            else:
                is_quoted = False
                part = self._variable() if one == "$" else self._next()
            found.append(part)
            if words is not None:
                (words.add_quoted if is_quoted else words.add)(part)
        self._place += 1
        self._keeps_escapes = outer
        return "".join(found)

    def _escaped(self) -> str:
        escape = self._next()
        return (escape if self._keeps_escapes else "") + self._next()

    def _quoted(self, quote: str) -> str:
        self._next()
        content = self._single_quoted() if quote == "'" else self._double_quoted()
        return quote + content + quote if self._keeps_quotes else content

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._place)
        if end < 0:
            raise InvalidInput(f"{self._shown()}: a single quote is not closed")
        content, self._place = self._text[self._place:end], end + 1
        return content

    def _double_quoted(self) -> str:
        found: list[str] = []
        while (one := self._peek()) != '"':
            if one == _END:
                raise InvalidInput(f"{self._shown()}: a double quote is not closed")
            if one == "$":
                found.append(self._variable())
                continue
            self._place += 1
            if one == self._escape:
                if self._keeps_escapes:
                    found.append(one)
                # Only these can be escaped within double quotes; before others the escape stands for itself.
                if self._peek() in ('"', "$", self._escape):
                    one = self._next()
                elif self._peek() == _END:
                    continue
            found.append(one)
        self._place += 1
        return "".join(found)

    def _variable(self) -> str:
        self._next()
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return self._counted(f"${name}" if value is None and self._keeps_unset else value or "")
        self._next()
        if self._depth >= _MAX_DEPTH:
            raise InvalidInput(f"{self._shown()}: variables are nested more than {_MAX_DEPTH} deep")
        self._depth += 1
        value = self._braced()
        self._depth -= 1
        return self._counted(value)

    def _braced(self) -> str:
        """After ``${``, to the brace that closes it."""
        if self._peek() in ("{", "}", ":"):
            raise InvalidInput(f"{self._shown()}: a name must follow ${{")
        name, modifier = self._name(), self._next()
        if modifier == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self._keeps_unset else value or ""
        if modifier == "/":
            return self._replacement(name)
        is_colon = modifier == ":"
        if is_colon:
            modifier = self._next()
        if modifier == _END:
            raise InvalidInput(f"{self._shown()}: '}}' is missing")
        if modifier not in "+-?#%":
            shown = ":" * is_colon + modifier
            raise InvalidInput(f"{self._shown()}: {shown!r} is not a modifier of variables")
        word = self._until("}", keeps_escapes=modifier in "#%")
        value = self._value(name)
        if value is None and self._keeps_unset:
            return f"${{{name}{':' * is_colon}{modifier}{word}}}"
        return _modified(name, value, modifier, word, is_colon=is_colon)

    def _replacement(self, name: str) -> str:
        is_everywhere = self._peek() == "/"
        if is_everywhere:
            self._next()
        pattern = self._until("/", keeps_escapes=True)
        replacement = self._until("}", keeps_escapes=True)
        value = self._value(name)
        if value is None and self._keeps_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return replaced(value or "", pattern, replacement, is_everywhere=is_everywhere)

    def _name(self) -> str:
        start = self._place
        if self._peek().isdecimal():
            while self._peek().isdecimal():
                self._place += 1
        elif self._peek() and self._peek() in _SPECIAL_PARAMETERS:
            self._place += 1
        else:
            while (one := self._peek()) and (one.isalpha() or one.isdecimal() or one == "_"):
                self._place += 1
        return self._text[start:self._place]

    def _value(self, name: str) -> str | None:
        if self._used is not None:
            self._used.add(name)
        return self._lookup(name)

    def _counted(self, value: str) -> str:
        self._size += len(value)
        if self._size > MAX_OUTPUT:
            raise InvalidInput(f"{self._shown()}: the variables give more than {MAX_OUTPUT} characters")
        return value

    def _shown(self) -> str:
        return self._text if len(self._text) <= 80 else self._text[:77] + "..."


def _modified(name: str, value: str | None, modifier: str, word: str, *, is_colon: bool) -> str:
    """``is_colon`` takes an empty value for none."""
    is_missing = value is None or (is_colon and not value)
    if modifier == "-":
        return word if is_missing else value or ""
    if modifier == "+":
        return "" if is_missing else word
    if modifier == "?":
        if is_missing:
            state = "unset" if value is None else "empty"
            raise InvalidInput(f"{name}: {word or f'must not be {state}'}")
        return value or ""
    is_longest = word.startswith(modifier)
    remove = without_prefix if modifier == "#" else without_suffix
    return remove(value or "", word[1:] if is_longest else word, is_longest=is_longest)
