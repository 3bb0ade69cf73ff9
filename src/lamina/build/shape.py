"""How the text of an instruction falls apart: keyword, flags, words, assignments, JSON."""

from __future__ import annotations

from lamina.errors import InvalidInput

_BLANKS = "\t\v\f\r"  # and the space: no other parts words, for a file's name may hold a no-break space


def split_keyword(text: str) -> tuple[str, int]:
    """The keyword as written, and where in ``text`` its arguments begin."""
    end = 0
    while end < len(text) and text[end] != " " and text[end] not in _BLANKS:
        end += 1
    return text[:end], _after_blanks(text, end)


def split_flags(text: str, start: int) -> tuple[list[tuple[str, int]], int]:
    """Each flag with its place, quotes and escapes removed, and where what follows them begins.

    A flag that is ``--`` alone ends them. The escape is the backslash, whatever the directive says.
    """
    flags: list[tuple[str, int]] = []
    while text.startswith("--", start):
        flag, end = _flag(text, start)
        if flag == "--":
            return flags, _after_blanks(text, end)
        flags.append((flag, start))
        start = _after_blanks(text, end)
    return flags, start


def _flag(text: str, start: int) -> tuple[str, int]:
    found, place, quote = [], start, ""
    while place < len(text) and (quote or not text[place].isspace()):
        one = text[place]
        if one == quote:
            quote = ""
        elif not quote and one in "'\"":
            quote = one
        elif one == "\\":
            place += 1
            found.append(text[place:place + 1])
        else:
            found.append(one)
        place += 1
    return "".join(found), min(place, len(text))


def _after_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def split_blanks(text: str) -> list[str]:
    for blank in _BLANKS:
        text = text.replace(blank, " ")
    return [word for word in text.split(" ") if word]


def split_quoted(text: str, escape: str) -> list[str]:
    """Words of ENV, LABEL and ARG: parted by blanks outside quotes; quotes and escapes stay for expansion."""
    words: list[str] = []
    writing: list[str] = []
    quote, place = "", 0
    while place < len(text):
        one = text[place]
        if one.isspace() and not quote:
            if writing:
                words.append("".join(writing))
                writing.clear()
        elif one == escape and quote != "'":
            writing.append(text[place:place + 2] if place + 1 < len(text) else "")
            place += 1
        else:
            if one == quote:
                quote = ""
            elif not quote and one in "'\"":
                quote = one
            writing.append(one)
        place += 1
    return [*words, "".join(writing)] if writing else words


def json_strings(text: str) -> tuple[str, ...] | None:
    """The exec form's words; None where the text is no JSON array, and then the shell form has it."""
    if not text.startswith("["):
        return None
    import json  # noqa: PLC0415 - many Dockerfiles have no exec form

    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(one, str) for one in found):
        raise InvalidInput(f"{text[:80]}: an array of the exec form holds strings only")
    if "\\u" in text:
        found = [_without_surrogates(one) for one in found]
    if any("\0" in one for one in found):
        raise InvalidInput(f"{text[:80]}: no word may hold a NUL")
    return tuple(found)


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which Python reads and JSON does not have


def _without_surrogates(text: str) -> str:
    """Half a pair would stand for a byte later on, as ``surrogateescape`` has it."""
    return "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in text)
