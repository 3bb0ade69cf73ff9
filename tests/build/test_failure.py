"""What a person is told of a mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.failure import DockerfileError, Span, excerpt, printable
from lamina.errors import InvalidInput

TEXT = "FROM a\nRUN one\nRUM two\nRUN three\nRUN four\nRUN five\n"


def test_an_error_is_one_line():
    error = DockerfileError(
        "unknown instruction: RUM", span=Span(12, 12), suggestion="did you mean RUN?", expected="an instruction"
    )
    assert str(error) == "Dockerfile:12: unknown instruction: RUM; expected an instruction; did you mean RUN?"
    assert (error.message, error.suggestion, error.expected) == (
        "unknown instruction: RUM", "did you mean RUN?", "an instruction",
    )
    assert isinstance(error, InvalidInput)


def test_a_place_is_added_once():
    located = DockerfileError.at(Span(3, 4), InvalidInput("x: no such thing"), name="f")
    assert (str(located), located.span) == ("f:3: x: no such thing", Span(3, 4))
    assert DockerfileError.at(Span(9, 9), located) is located


def test_control_characters_are_shown_and_not_sent():
    error = DockerfileError("a\x1b[31m\nb\u202e", span=Span(1, 1), name="x\r")
    assert str(error) == "x\\r:1: a\\x1b[31m\\nb\\u202e"
    assert printable("plain é 名") == "plain é 名"
    assert printable("\udcff") == "\\udcff"


def test_a_long_word_does_not_fill_the_screen():
    assert len(str(DockerfileError("x" * 10_000, span=Span(1, 1)))) < 500


def test_the_lines_around():
    assert excerpt(TEXT, Span(3, 3, 5), name="f") == (
        "f:3\n"
        "    1 | FROM a\n"
        "    2 | RUN one\n"
        ">>> 3 | RUM two\n"
        "      |     ^\n"
        "    4 | RUN three\n"
        "    5 | RUN four"
    )


def test_no_lines_around_and_no_column():
    assert excerpt(TEXT, Span(2, 3), name="f", context=0) == "f:2\n>>> 2 | RUN one\n>>> 3 | RUM two"


def test_numbers_are_aligned():
    shown = excerpt("\n" * 9 + "a\n", Span(10, 10), name="f", context=1)
    assert shown == "f:10\n     9 |\n>>> 10 | a"


def test_blanks_and_control_characters_keep_the_caret_in_place():
    shown = excerpt("\tA\x1b B\r\n", Span(1, 1, 5), name="f")
    assert shown == "f:1\n>>> 1 |     A\\x1b B\n      |           ^"


def test_a_long_line_is_cut_around_the_column():
    shown = excerpt("a" * 500 + "B" + "c" * 500, Span(1, 1, 501), name="f").split("\n")
    assert shown[1].startswith(">>> 1 | ...a")
    assert shown[1].endswith("c...")
    assert shown[1][shown[2].index("^")] == "B"
    assert len(shown[1]) < 200


def test_a_long_span_is_cut():
    shown = excerpt("a\n" * 100, Span(2, 99), name="f", context=0).split("\n")
    assert len(shown) == 18
    assert shown[-1].strip() == "| ..."


@pytest.mark.parametrize("span", [Span(1, 1), Span(7, 7, 3), Span(1, 900), Span(50, 60)])
def test_a_span_outside_the_text_harms_nothing(span):
    assert excerpt("a\n", span, name="f").startswith(f"f:{span.first}")
    assert excerpt("", span, name="f") == f"f:{span.first}"


@given(st.text(max_size=60), st.integers(1, 5), st.integers(0, 3), st.integers(0, 70))
def test_nothing_unprintable_is_shown(text, first, more, column):
    shown = excerpt(text, Span(first, first + more, column), name=text)
    assert all(one.isprintable() for one in shown.split("\n"))
