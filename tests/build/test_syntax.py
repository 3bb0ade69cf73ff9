"""The language: a golden corpus, and laws that hold for any text."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.build.golden import as_document, as_text, complaint, described, files

from lamina.build.failure import DockerfileError, Span, excerpt
from lamina.build.flags import duration
from lamina.build.instruction import (
    Cmd,
    Command,
    Copy,
    Env,
    Healthcheck,
    Heredoc,
    Instruction,
    OnBuild,
    Run,
    expanded,
    parse_mount,
)
from lamina.build.shape import json_strings
from lamina.build.syntax import CheckDirective, parse, parse_trigger
from lamina.errors import InvalidInput


def test_the_corpus_is_there():
    assert len(files("good")) >= 40
    assert len(files("bad")) >= 80


@pytest.mark.parametrize("path", files("good"), ids=lambda path: path.stem)
def test_meaning(path: Path):
    assert as_text(described(parse(path.read_bytes()))) == path.with_suffix(".json").read_text()


@pytest.mark.parametrize("path", files("bad"), ids=lambda path: path.stem)
def test_mistake(path: Path):
    assert complaint(path) == path.with_suffix(".error").read_text()


def test_an_error_carries_its_parts():
    with pytest.raises(DockerfileError) as caught:
        parse("FROM a\nCOPY --chwon=x a b\n", name="some/file")
    error = caught.value
    assert (error.name, error.span, error.suggestion) == ("some/file", Span(2, 2, 6), "")
    assert str(error) == "some/file:2: unknown flag of COPY: --chwon; did you mean --chown?"


@pytest.mark.parametrize(("written", "meant"), [
    ("RUM", "RUN"), ("FORM", "FROM"), ("CPY", "COPY"), ("ENTRYPONT", "ENTRYPOINT"), ("HELTHCHECK", "HEALTHCHECK"),
    ("volumes", "VOLUME"), ("WORKDIRS", "WORKDIR"), ("STOP_SIGNAL", "STOPSIGNAL"), ("EXPORT", "EXPOSE"),
])
def test_a_misspelled_instruction_is_understood(written, meant):
    with pytest.raises(DockerfileError) as caught:
        parse(f"FROM a\n{written} x\n")
    assert caught.value.suggestion == f"did you mean {meant}?"


def test_the_whole_is_kept():
    file = parse(b"\xef\xbb\xbf# escape=`\r\nFROM a\r\n", name="D")
    assert (file.text, file.name, file.escape, file.syntax) == ("# escape=`\r\nFROM a\r\n", "D", "`", "")
    assert file.check == CheckDirective()


@pytest.mark.parametrize(("value", "directive"), [
    ("skip=all", CheckDirective(skip=("all",), skips_all=True)),
    ("skip=A,B", CheckDirective(skip=("A", "B"))),
    ("skip=A;error=true", CheckDirective(skip=("A",), is_error=True)),
    ("error=false", CheckDirective()),
    ("experimental=all", CheckDirective(experimental=("all",), runs_experimental=True)),
])
def test_check_directives(value, directive):
    assert parse(f"# check={value}\nFROM a").check == directive


# JSON

@pytest.mark.parametrize("text", [
    "[", "[a]", "['a']", '["a"', '["a"] x', '["a",]', '{"a": 1}', '"a"', "[NaN]", "[-Infinity]", "[" * 5000, '["\n"]',
])
def test_what_is_no_json_is_left_to_the_shell(text):
    assert json_strings(text) is None


def test_json():
    assert json_strings("[]") == ()
    assert json_strings('[ "a" ,\t"\\u00e9\\ud83d\\udc33" ]') == ("a", "é🐳")
    assert json_strings('["\\ud800"]') == ("\ufffd",)
    for text in ("[1]", "[null]", '["a", []]', '["\\u0000"]'):
        with pytest.raises(InvalidInput):
            json_strings(text)


# Times

@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("0", 0), ("1ns", 1), ("2us", 2_000), ("2\u00b5s", 2_000), ("2\u03bcs", 2_000), ("3ms", 3_000_000), ("1.5s", 1_500_000_000),
    (".5m", 30_000_000_000), ("1h", 3_600_000_000_000), ("1h2m3s", 3_723_000_000_000), ("1.s", 1_000_000_000), ("0.0000000001s", 0),
])
def test_durations(text, nanoseconds):
    assert duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "s", "1 s", "1d", "-1s", "+1s", "1..5s", ".s", "1s2", "\u0661s", "1" * 30 + "s"])
def test_no_durations(text):
    assert duration(text) is None


# Triggers

def test_a_trigger_from_an_image():
    found = parse_trigger("COPY --from=x a /b")
    assert isinstance(found, Copy)
    assert (found.from_, found.span) == ("x", Span(1, 1, 1))
    script = parse_trigger("RUN <<A\nb\nA")
    assert isinstance(script, Run)
    assert script.heredocs[0].content == "b\n"


def test_a_trigger_means_what_its_onbuild_meant():
    for path in files("good"):
        for one in parse(path.read_bytes()).instructions:
            if isinstance(one, OnBuild):
                assert without_place(parse_trigger(one.trigger)) == without_place(one.parsed)


def without_place(instruction: Instruction) -> dict[str, Any]:
    document = as_document(instruction)
    del document["span"]
    return document


@pytest.mark.parametrize(("text", "message"), [
    ("FROM a", "ONBUILD trigger:1: FROM cannot be a trigger of ONBUILD"),
    ("onbuild RUN a", "ONBUILD trigger:1: ONBUILD cannot be a trigger of ONBUILD"),
    ("MAINTAINER a", "ONBUILD trigger:1: MAINTAINER cannot be a trigger of ONBUILD"),
    ("", "ONBUILD trigger:1: expected one instruction, got none"),
    ("RUN a\nRUN b", "ONBUILD trigger:2: expected one instruction, got 2"),
    ("NO", "ONBUILD trigger:1: unknown instruction: NO"),
    ("RUN \0", "ONBUILD trigger:1: NUL bytes have no place here"),
])
def test_no_triggers(text, message):
    with pytest.raises(DockerfileError) as caught:
        parse_trigger(text)
    assert str(caught.value) == message


# Laws

PIECES = st.sampled_from([
    "FROM ", "RUN ", "COPY ", "ADD ", "ENV ", "ARG ", "LABEL ", "ONBUILD ", "HEALTHCHECK ", "CMD ", "SHELL ", "VOLUME ",
    "EXPOSE ", "USER ", "NONE", " AS ", "a", "b ", "--mount=", "--from=", "--link", "--chown=", "--interval=", "type=", "cache",
    "target=/x", "size=", "<<", "<<-", "EOF", "\n", "\r\n", "\\\n", "\\", "`", "'", '"', "$", "{", "}", "[", "]", ",", "=", "#",
    "# escape=`\n", "# check=", "skip=all", "\t", " ", "\0", "\ud800", "\udc80", "\x1b", "\u00a0", "\ufeff", "\\u0000", "1m",
])
DOCKERFILES = st.lists(PIECES, max_size=30).map("".join)


@given(st.one_of(st.text(), DOCKERFILES, DOCKERFILES.map(lambda text: "FROM a\n" + text), st.binary()))
def test_any_text_is_understood_or_refused_with_a_place(data):
    try:
        parsed = parse(data)
    except DockerfileError as caught:
        check_complaint(data, caught)
        return
    for before, after in pairwise(parsed.instructions):
        assert before.span.last < after.span.first
    for one in parsed.instructions:
        assert one.original.startswith(one.keyword)
        with contextlib.suppress(InvalidInput):
            expanded(one, {"a": "$b"}.get, escape=parsed.escape)


def check_complaint(data: str | bytes, error: DockerfileError) -> None:
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    assert 1 <= error.span.first <= error.span.last <= text.count("\n") + 1
    assert str(error).isprintable()
    assert excerpt(text, error.span, name=error.name)


@given(DOCKERFILES)
def test_any_trigger_too(text):
    with contextlib.suppress(DockerfileError):
        parse_trigger(text)


@given(st.text(alphabet=st.sampled_from("typebindsrco=,/x$\"'1 a"), max_size=40))
def test_any_mount_too(text):
    for expand in (None, lambda value: value):
        with contextlib.suppress(InvalidInput):
            assert parse_mount(text, expand).raw == text


# Random instructions, written down and read again.

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
PLAIN = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="\\'\"$#<["), min_size=1, max_size=12)
ANY = st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
CONTENT = st.lists(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=20), max_size=4)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\{one}" if one in '\\"$' else one for one in text) + '"'


@st.composite
def instructions(draw: Any) -> tuple[str, Instruction]:
    """A text, and what it must mean but for its place."""
    where: dict[str, Any] = {"span": Span(0, 0), "original": "", "keyword": ""}
    kind = draw(st.sampled_from(["env", "cmd", "copy", "health", "script"]))
    if kind == "env":
        pairs = draw(st.dictionaries(NAMES, ANY.filter(lambda one: "\n" not in one and "\r" not in one), min_size=1, max_size=4))
        return "ENV " + " ".join(f"{key}={quoted(value)}" for key, value in pairs.items()), Env(pairs=tuple(pairs.items()), **where)
    if kind == "cmd":
        argv = tuple(draw(st.lists(ANY, max_size=4)))
        return f"CMD {json.dumps(argv)}", Cmd(command=Command(argv=argv, is_shell=False), **where)
    if kind == "copy":
        words = draw(st.lists(PLAIN.filter(lambda one: not one.startswith("-")), min_size=2, max_size=4))
        origin, is_link = draw(NAMES), draw(st.booleans())
        text = f"COPY --from={origin}{' --link' * is_link} {' '.join(words)}"
        return text, Copy(sources=tuple(words[:-1]), destination=words[-1], from_=origin, is_link=is_link, **where)
    if kind == "health":
        seconds, retries, command = draw(st.integers(1, 9999)), draw(st.integers(1, 99)), draw(PLAIN)
        return f"HEALTHCHECK --interval={seconds}s \\\n --retries={retries} CMD {command}", Healthcheck(
            command=Command(argv=(command,), is_shell=True), interval=seconds * 10**9, retries=retries, **where,
        )
    content = "".join(line + "\n" for line in draw(CONTENT) if line.lstrip("\t").rstrip("\r") != "E_O_F")
    return f"RUN <<'E_O_F'\n{content}E_O_F", Run(
        command=Command(argv=("<<'E_O_F'",), is_shell=True),
        heredocs=(Heredoc(name="E_O_F", content=content, is_expanded=False),), **where,
    )


@given(st.lists(instructions(), max_size=6))
def test_what_is_written_down_is_read_again(written):
    text = "FROM a\n" + "\n# between\n\n".join(one for one, _ in written) + "\n"
    _, *found = parse(text).instructions
    assert len(found) == len(written)
    for one, (_, meant) in zip(found, written, strict=True):
        known = expanded(one, lambda _: None) if isinstance(one, Env) else one
        assert without_place(known) | {"original": "", "keyword": ""} == without_place(meant) | {"original": "", "keyword": ""}


def test_a_plain_file_is_read_without_the_slow_modules():
    code = (
        "import sys; before = set(sys.modules); from lamina.build.syntax import parse;"
        "parse('FROM a AS b\\nRUN --mount=type=cache,target=/x c \\\\\\n d\\nENV A=$B\\n');"
        "print(sorted({'re', 'json', 'csv', 'difflib', 'dataclasses', 'typing', 'inspect'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
