"""The functions of ``--format`` templates: docker's own, and those of Go's template language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lamina.cli.terminal import json_text
from lamina.errors import InvalidInput


class TemplateError(InvalidInput):
    pass


class _NoValue:
    """What a field that is not there gives: false, empty, and printed as Go prints it."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "<no value>"


NO_VALUE = _NoValue()


def is_true(value: Any) -> bool:
    """Go: false, 0, nil and anything empty are false."""
    return bool(value)


def go_text(value: Any) -> str:
    """As Go's ``%v`` has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value is NO_VALUE:
        return "<no value>"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{go_text(key)}:{go_text(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(go_text, value))}]"
    return str(value)


def _json(value: Any) -> str:
    return json_text(None if value is NO_VALUE else value)


def _lower(text: Any) -> str:
    return _string(text).lower()


def _upper(text: Any) -> str:
    return _string(text).upper()


def _title(text: Any) -> str:
    """Go's ``strings.Title``: the first letter of each word, the others as they are."""
    words = _string(text).split(" ")
    return " ".join(word[:1].upper() + word[1:] for word in words)


def _split(text: Any, separator: Any) -> list[str]:
    mark = _string(separator)
    return _string(text).split(mark) if mark else list(_string(text))


def _join(items: Any, separator: Any) -> str:
    if items is NO_VALUE or items is None:
        return ""
    if not isinstance(items, list | tuple):
        raise TemplateError(f"template: join: expected a list, got {go_text(items)[:60]!r}")
    return _string(separator).join(map(go_text, items))


def _println(*values: Any) -> str:
    return " ".join(map(go_text, values)) + "\n"


def _print(*values: Any) -> str:
    """Go puts a space between two operands only when neither is a string."""
    text = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            text += " "
        text += go_text(value)
    return text


def _printf(form: Any, *values: Any) -> str:
    import re

    rest = list(values)

    def one(match: re.Match[str]) -> str:
        verb = match[2]
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        return _formatted(match[1], verb, rest.pop(0))

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([a-zA-Z%])", one, _string(form))


def _formatted(flags: str, verb: str, value: Any) -> str:
    if verb in ("s", "v"):
        return f"%{flags}s" % go_text(value)
    if verb == "q":
        return f"%{flags}s" % json_text(go_text(value))
    if verb in ("d", "x", "X", "o", "c") and isinstance(value, int):
        return f"%{flags}{verb}" % value
    if verb in ("f", "e", "g") and isinstance(value, int | float):
        return f"%{flags}{verb}" % value
    if verb == "t" and isinstance(value, bool):
        return go_text(value)
    if verb in ("x", "X") and isinstance(value, str):
        digits = value.encode(errors="surrogateescape").hex()
        return digits.upper() if verb == "X" else digits
    return f"%!{verb}({go_text(value)})"


def _pad(text: Any, before: Any, after: Any) -> str:
    """Docker's: spaces before and after, but none around nothing."""
    inner = _string(text)
    return " " * _count(before) + inner + " " * _count(after) if inner else ""


def _truncate(text: Any, length: Any) -> str:
    return _string(text)[: _count(length)]


def _len(value: Any) -> int:
    if isinstance(value, str | Mapping | list | tuple):
        return len(value.encode(errors="surrogateescape")) if isinstance(value, str) else len(value)
    if value is None or value is NO_VALUE:
        return 0
    raise TemplateError(f"template: len: {go_text(value)!r} has no length")


def _index(value: Any, *keys: Any) -> Any:
    """A missing key of an object is nothing, as in Go; a list's must be inside it."""
    for key in keys:
        if value is None or value is NO_VALUE:
            return NO_VALUE
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif isinstance(value, list | tuple | str) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TemplateError(f"template: index: {key} is out of range (there are {len(value)})")
            value = value[key]
        else:
            where = go_text(value)[:60]
            raise TemplateError(f"template: index: cannot look up {go_text(key)!r} in {where!r}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, list | tuple | str) or len(bounds) > 2:
        raise TemplateError("template: slice: expected a list or a string and at most two positions")
    first = _count(bounds[0]) if bounds else 0
    last = _count(bounds[1]) if len(bounds) == 2 else len(value)
    if not first <= last <= len(value):
        raise TemplateError(f"template: slice: {first}:{last} is out of range (there are {len(value)})")
    return value[first:last]


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise TemplateError("template: eq: expected at least two operands")
    return any(_is_same(first, other) for other in others)


def _is_same(first: Any, second: Any) -> bool:
    if first is NO_VALUE or second is NO_VALUE:
        return first in (NO_VALUE, None) and second in (NO_VALUE, None)
    if isinstance(first, str) != isinstance(second, str) and None not in (first, second):
        raise TemplateError(f"template: eq: cannot compare {go_text(first)!r} with {go_text(second)!r}")
    return bool(first == second)


def _ordering(name: str, holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(first: Any, second: Any) -> bool:
        is_same_kind = isinstance(first, str) == isinstance(second, str)
        if not is_same_kind or not _is_ordered(first) or not _is_ordered(second):
            both = f"{go_text(first)!r} with {go_text(second)!r}"
            raise TemplateError(f"template: {name}: cannot compare {both}")
        return holds(first, second)

    return compare


def _is_ordered(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _not_equal(first: Any, second: Any) -> bool:
    return not _is_same(first, second)


def _not(value: Any) -> bool:
    return not is_true(value)


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or value is NO_VALUE:
        return ""
    raise TemplateError(f"template: expected a string, got {go_text(value)[:60]!r}")


def _count(value: Any) -> int:
    """A length in a template; bounded, since ``pad`` would build any."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10_000:
        return value
    raise TemplateError(f"template: expected a number from 0 to 10000, got {go_text(value)[:60]!r}")


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "json": _json, "lower": _lower, "upper": _upper, "title": _title, "split": _split, "join": _join,
    "print": _print, "println": _println, "printf": _printf, "pad": _pad, "truncate": _truncate,
    "len": _len, "index": _index, "slice": _slice, "eq": _equal, "ne": _not_equal, "not": _not,
    "lt": _ordering("lt", lambda first, second: first < second),
    "le": _ordering("le", lambda first, second: first <= second),
    "gt": _ordering("gt", lambda first, second: first > second),
    "ge": _ordering("ge", lambda first, second: first >= second),
}
