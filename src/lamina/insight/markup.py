"""HTML and SVG in which no text can become markup: what is not marked as HTML is escaped on its way in."""

from __future__ import annotations

import html

# HTML elements that end without an end tag; SVG's are closed like any other.
_VOID = frozenset({"br", "col", "input"})


class Html(str):
    """Text that is markup already: made here, or a file of ours."""

    __slots__ = ()


Child = str | int | None


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """``class_`` is ``class``, ``data_layer`` is ``data-layer``; ``None`` and ``False`` leave one out."""
    opening = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{opening}>")
    return Html(f"<{name}{opening}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Html:
    return Html("".join(_markup(child) for child in children if child is not None))


def printable(text: str) -> str:
    """What nobody can see, or what turns text around, as the escapes that the terminal shows for it.

    Names in images are bytes, and may hold control characters, bidi overrides, or no UTF-8 at all.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _markup(child: str | int) -> str:
    return child if isinstance(child, Html) else html.escape(printable(str(child)))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}" if isinstance(value, float) else printable(str(value))
    return f' {name}="{html.escape(text)}"'


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    short = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}.get(character)
    if short is not None:
        return short
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
