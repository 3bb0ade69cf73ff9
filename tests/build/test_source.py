"""Logical lines: what belongs to an instruction, and where it stands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.failure import DockerfileError, Span
from lamina.build.source import heredoc_opened, heredocs_opened, read, read_line


def texts(text: str | bytes) -> list[str]:
    return [line.text for line in read(text).lines]


def test_lines_of_nothing():
    assert texts("") == texts("\n\n") == texts("# only\n") == texts("\\\n\\") == []


def test_the_escape_at_the_end_continues():
    assert texts("A b \\\n c\nD") == ["A b  c", "D"]
    assert texts("A b \\  \t\n c") == ["A b  c"]
    assert texts("A b\\\nc") == ["A bc"]


def test_an_escaped_escape_continues_nothing():
    assert texts("A b\\\\\nC") == ["A b\\\\", "C"]


def test_the_escape_directive_changes_the_escape():
    assert texts("# escape=`\nA b `\n c\\\nD") == ["A b  c\\", "D"]


def test_comments_and_empty_lines_within():
    (line,) = read("A \\\n# no\n\n  # no\n b \\\n\n c\n").lines
    assert (line.text, line.empty_lines, line.span) == ("A  b  c", (3, 6), Span(1, 7, 1))


def test_the_end_of_the_file_ends_a_line():
    (line,) = read("A b \\\n").lines
    assert (line.text, line.empty_lines, line.span) == ("A b", (), Span(1, 1, 1))


def test_comments_right_above():
    first, second, third = read("# syntax=x\n# a\n#\n# b\n# c\nA\n\n# d\n\nB\nC\n").lines
    assert (first.comments, second.comments, third.comments) == (("b", "c"), (), ())


def test_places():
    (line,) = read("\n  A b \\\n\t c d\n").lines
    assert line.span == Span(2, 3, 3)
    assert [line.at(line.text.index(one)) for one in "Abcd"] == [
        Span(2, 2, 3), Span(2, 2, 5), Span(3, 3, 3), Span(3, 3, 5),
    ]


def test_carriage_returns_are_no_part_of_lines():
    assert texts(b"A b \\\r\n c\r\n\r\nD\r\n") == ["A b  c", "D"]


def test_other_separators_of_lines_are_no_newlines():
    assert texts("A \x0b \x0c \x85 \u2028 b") == ["A \x0b \x0c \x85 \u2028 b"]


def test_a_byte_order_mark_is_dropped():
    source = read(b"\xef\xbb\xbf# escape=`\nA")
    assert (source.escape, source.text) == ("`", "# escape=`\nA")


def test_bytes_that_are_no_utf_8_survive():
    (line,) = read(b"A \xff").lines
    assert line.text.encode("utf-8", "surrogateescape") == b"A \xff"


@pytest.mark.parametrize(("data", "message"), [
    (b"A\nb\0", "Dockerfile:2: NUL bytes have no place here"),
    ("A\nb\ud800", "Dockerfile:2: a lone surrogate is no character"),
    (b"A " + bytes(32) * (1 << 19), "Dockerfile:1: expected at most 16777216 bytes, got 16777218"),
    ("A " + "b" * (1 << 20), "Dockerfile:1: an instruction has at most 1048576 characters"),
    ("A\n" * 65_537, "Dockerfile:65537: a file has at most 65536 instructions"),
    ("\n" + "A \\\n" * 600_000, "Dockerfile:2: an instruction has at most 1048576 characters"),
])
def test_what_is_refused(data, message):
    with pytest.raises(DockerfileError) as caught:
        read(data)
    assert str(caught.value) == message


def test_directives_end_with_the_first_other_line():
    found = read("# Syntax = a b \n#escape=`\n# check=skip=all\n\n# escape=x\nA").directives
    assert [(one.name, one.value, one.span.first) for one in found] == [
        ("syntax", "a b", 1), ("escape", "`", 2), ("check", "skip=all", 3),
    ]
    for text in ("\n# escape=`", "# other=1\n# escape=`", "# escape=\n# escape=`", "A\n# escape=`", "#\n# escape=`"):
        assert read(text).escape == "\\"


@pytest.mark.parametrize(("word", "name", "is_expanded", "is_stripped"), [
    ("<<EOF", "EOF", True, False), ("<<-EOF", "EOF", True, True), ('<<"EOF"', "EOF", False, False),
    ("<<-'EOF'", "EOF", False, True), ("3<<EOF", "EOF", True, False), ('<<E"O"F', "EOF", False, False),
    ("<<a/b.txt", "a/b.txt", True, False), ("<<$x", "$x", True, False), ("<<${x}", "${x}", True, False),
    ("<<E\\ F", "E F", True, False), ("<<'A B'", "A B", False, False),
])
def test_what_begins_a_here_document(word, name, is_expanded, is_stripped):
    opened = heredoc_opened(word)
    assert opened is not None
    assert (opened.name, opened.is_expanded, opened.is_stripped) == (name, is_expanded, is_stripped)


@pytest.mark.parametrize("word", ["<<", "<<-", "<<<x", "x<<y", "<EOF", "<<a<b", '<<""', "EOF", "x3<<y"])
def test_what_does_not(word):
    assert heredoc_opened(word) is None


def test_several_on_one_line():
    assert [one.name for one in heredocs_opened("RUN <<A cat && 5<<-B x '<<C'")] == ["A", "B"]
    assert heredocs_opened("RUN echo it's <<EOF") == []


def test_here_documents_are_read_in_turn():
    line, after = read("COPY <<A <<-B /x\na\nB\nA\n\tb\n\t\tA\n\tB\nC").lines
    assert [one.content for one in line.heredocs] == ["a\nB\n", "b\nA\n"]
    assert (line.span, after.text, after.span) == (Span(1, 7, 1), "C", Span(8, 8, 1))


def test_only_some_instructions_have_here_documents():
    assert texts("CMD <<A\nA") == ["CMD <<A", "A"]
    assert texts('RUN ["<<A"]\nA') == ['RUN ["<<A"]', "A"]
    assert texts("ONBUILD RUN <<A\nA") == ["ONBUILD RUN <<A"]
    assert texts("run --network=none <<A\nA") == ["run --network=none <<A"]


def test_one_line_alone():
    assert read_line("RUN <<A\nb\nA", "\\", name="x").heredocs[0].content == "b\n"
    assert read_line("# escape=`\nRUN a \\\nb", "\\", name="x").text == "RUN a b"
    for text, message in (("", "x:1: expected one instruction, got none"),
                          ("A\nB", "x:2: expected one instruction, got 2")):
        with pytest.raises(DockerfileError) as caught:
            read_line(text, "\\", name="x")
        assert str(caught.value) == message


@given(st.text(alphabet=st.sampled_from("aA \t\n\r\\#<'\"-E"), max_size=80))
def test_spans_are_in_order_and_cover_whatever_is_no_comment(text):
    try:
        lines = read(text).lines
    except DockerfileError:
        return
    physical = text.split("\n")
    covered: set[int] = set()
    for before, after in pairwise(lines):
        assert before.span.last < after.span.first
    for line in lines:
        assert 1 <= line.span.first <= line.span.last <= len(physical)
        covered |= set(range(line.span.first, line.span.last + 1))
        place = line.at(0)
        assert line.text[0] == physical[place.first - 1][place.column - 1]
    for number, one in enumerate(physical, 1):
        if number not in covered:
            assert one.strip().startswith("#") or not one.replace("\\", "").strip()
