"""What may reach a terminal: text from images with everything that could steer one made visible.

Names, labels, history lines and error texts come from strangers. A control character in them moves the
cursor, rewrites what was printed before, or sets the window title (CVE-2019-11255 and kin); a bidi
override makes one name look like another. So text for people is always escaped, in a pipe as on a
terminal, since a log is read on a terminal later. Exact values come out as JSON, whose own escapes serve.
"""

from __future__ import annotations

from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, TextIO

CHUNK = 1 << 20
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    """One line of harmless text: what cannot be printed is shown as an escape, line ends too."""
    # str.isprintable() is false for C0, DEL, C1, bidi and other format characters, lone surrogates,
    # line and paragraph separators: exactly what repr() would escape.
    return text if text.isprintable() else "".join(map(_escaped, text))


def visible_lines(text: str) -> str:
    """The same for text of several lines: line ends and tabs stay."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def visible_chunks(stream: BinaryIO) -> Iterator[str]:
    """A file's content for a terminal. Bytes that are not UTF-8 are shown as escapes."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    while chunk := stream.read(CHUNK):
        yield visible_lines(decoder.decode(chunk))
    yield visible_lines(decoder.decode(b"", final=True))


def json_text(document: Any, indent: int | None = None) -> str:
    """JSON that keeps readable text readable and escapes the rest, so that it is safe to look at."""
    import json

    separators = (",", ": ") if indent is not None else (",", ":")
    text = json.dumps(document, ensure_ascii=False, indent=indent, separators=separators)
    if text.replace("\n", "").isprintable():
        return text
    # A line end in here is the layout's: those inside strings are escaped already.
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        if character != "\x7f" else "\\u007f"
        for character in text
    )


def is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # closed, or a stand-in that is not a file
        return False


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
