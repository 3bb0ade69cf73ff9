"""Nothing that an image says can steer a terminal (CVE-2019-11255 and kin)."""

from __future__ import annotations

import io
import json

import pytest

from lamina.cli.terminal import json_text, visible, visible_chunks, visible_lines

HOSTILE = [
    *(chr(code) for code in range(0x20)), "\x7f", *(chr(code) for code in range(0x80, 0xA0)),
    "\u200e", "\u200f", "\u061c", *(chr(code) for code in range(0x202A, 0x202F)),
    *(chr(code) for code in range(0x2066, 0x206A)), "\u2028", "\u2029", "\ufeff", "\udc9b", "\U000e0001",
]


@pytest.mark.parametrize("character", HOSTILE, ids=lambda character: f"U+{ord(character):04X}")
def test_hostile_characters_become_plain_ascii(character: str) -> None:
    shown = visible(f"a{character}b")
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize("character", HOSTILE, ids=lambda character: f"U+{ord(character):04X}")
def test_json_escapes_the_same_and_says_the_same(character: str) -> None:
    document = {"na\u00efve": f"a{character}b"}
    for indent in (None, 4):
        text = json_text(document, indent)
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == document
        assert "na\u00efve" in text


@pytest.mark.parametrize(("text", "expected"), [
    ("plain", "plain"), ("日本語 é 🐳", "日本語 é 🐳"), ("\x1b[31mred", "\\x1b[31mred"), ("a\nb\tc\r", "a\\nb\\tc\\r"),
    ("\u202egpj.exe", "\\u202egpj.exe"), ("\x9b2J", "\\x9b2J"), ("caf\udce9", "caf\\xe9"), ("", ""),
    ("C:\\x1b", "C:\\x1b"),
])
def test_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_lines_keep_their_ends_and_tabs() -> None:
    assert visible_lines("a\tb\n\x1b]0;title\x07\n") == "a\tb\n\\x1b]0;title\\x07\n"


def test_a_files_content_for_a_terminal() -> None:
    content = "é\n".encode() + b"\xff\x1b[2J\n" + b"\xe9"
    assert "".join(visible_chunks(io.BytesIO(content))) == "é\n\\xff\\x1b[2J\n\\xe9"


def test_a_character_cut_in_two_by_a_chunk_is_whole() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(1)

    assert "".join(visible_chunks(Slow("aé🐳".encode()))) == "aé🐳"


def test_json_is_compact_or_indented() -> None:
    assert json_text({"a": [1, "é"]}) == '{"a":[1,"é"]}'
    assert json_text([{"a": 1}], indent=4) == '[\n    {\n        "a": 1\n    }\n]'
    assert json_text([1, 2], indent=1) == "[\n 1,\n 2\n]"
