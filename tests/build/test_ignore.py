from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.ignore import InvalidIgnoreFile, Rules, cleaned, find_rules
from lamina.build.pattern import pattern
from lamina.build.rooted import Unreadable


def excluded(text: str, *paths: str) -> list[str]:
    rules = Rules.parse(text)
    return [path for path in paths if rules.decide(path).is_excluded]


def test_the_last_match_wins() -> None:
    assert excluded("*.md\n!README*.md\nREADME-secret.md\n", "a.md", "README.md", "README-secret.md", "README-x.md") == [
        "a.md", "README-secret.md"]
    assert excluded("*.md\nREADME-secret.md\n!README*.md\n", "a.md", "README-secret.md") == ["a.md"]


def test_a_directory_covers_what_is_below() -> None:
    assert excluded("temp", "temp", "temp/a", "temp/a/b", "temporary") == ["temp", "temp/a", "temp/a/b"]
    assert excluded("*/temp*", "a/temp", "a/temp/x", "temp", "a/b/temp") == ["a/temp", "a/temp/x"]


def test_an_exception_brings_back_what_is_below_too() -> None:
    assert excluded("a\n!a/b\n", "a", "a/x", "a/b", "a/b/c") == ["a", "a/x"]


def test_how_lines_are_read() -> None:
    text = "\ufeff# comment\r\n  # no comment \r\n\r\n   \n /lead\n./dot/\n!  /lead/keep \nx/../y//z\n../up\n"
    assert [(rule.line, rule.text, rule.pattern.text, rule.is_exception) for rule in Rules.parse(text).rules] == [
        (2, "# no comment", "# no comment", False),
        (5, "/lead", "lead", False),
        (6, "./dot/", "dot", False),
        (7, "!  /lead/keep", "lead/keep", True),
        (8, "x/../y//z", "y/z", False),
        (9, "../up", "../up", False),
    ]


def test_only_line_feeds_end_lines() -> None:
    assert [rule.pattern.text for rule in Rules.parse("a\x0bb\x1cc\u2028d\n\x1ce").rules] == ["a\x0bb\x1cc\u2028d", "\x1ce"]


@pytest.mark.parametrize("text", ["a\n!\n", "a\n!   \n"])
def test_an_exception_of_nothing_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InvalidIgnoreFile, match=r"^\.dockerignore:2: "):
        Rules.parse(text)


def test_a_malformed_pattern_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidIgnoreFile, match=r"^mine:3: 'b\['"):
        Rules.parse("a\n\nb[\n", "mine")


def test_the_rule_that_decided_is_named() -> None:
    decision = Rules.parse("*\n!a\n").decide("a/b")
    assert not decision.is_excluded
    assert decision.rule is not None
    assert (decision.rule.place, decision.rule.text) == (".dockerignore:2", "!a")
    assert Rules.parse("x\n").decide("y").rule is None


def test_bytes_that_are_no_text() -> None:
    assert Rules.parse(b"\xff*\n").excludes("\udcffa")


def test_the_values_of_an_option() -> None:
    rules = Rules.of(["#x", "!#x/keep", ""])
    assert rules.excludes("#x/a")
    assert not rules.excludes("#x/keep")
    assert rules.rules[0].place == "--exclude"


def test_a_directory_is_skipped_unless_something_could_come_back() -> None:
    assert Rules.parse("a\n").can_skip("a")
    assert not Rules.parse("a\n").can_skip("b")
    assert not Rules.parse("a\n!a/b\n").can_skip("a")
    assert not Rules.parse("*\n!**/*.py\n").can_skip("a")
    assert Rules.parse("!a/b\na\n").can_skip("a")
    assert Rules.parse("*\n!*.md\n!src\n").can_skip("node_modules")


@pytest.mark.parametrize(("given_path", "expected"), [
    ("", "."), ("/", "/"), ("//a", "/a"), ("///a", "/a"), ("a/", "a"), ("a/./b", "a/b"), ("a/../../b", "../b"), ("/../a", "/a")])
def test_cleaning_as_go_does(given_path: str, expected: str) -> None:
    assert cleaned(given_path) == expected


def test_which_file_has_the_rules(tmp_path: Path) -> None:
    context = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not find_rules(context)
        (tmp_path / ".dockerignore").write_text("general\n")
        assert find_rules(context).excludes("general")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.dockerignore").write_text("own\n")
        rules = find_rules(context, "sub/x")
        assert rules.excludes("own")
        assert not rules.excludes("general")
        assert rules.rules[0].place == "sub/x.dockerignore:1"
    finally:
        os.close(context)


def test_a_dockerfile_beside_the_context(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / ".dockerignore").write_text("general\n")
    (tmp_path / "Dockerfile.dockerignore").write_text("own\n")
    context, beside = os.open(tmp_path / "context", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    try:
        assert find_rules(context, beside=beside).excludes("own")
        assert find_rules(context).excludes("general")
    finally:
        os.close(context)
        os.close(beside)


def test_rules_that_lead_out_are_read_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".dockerignore").symlink_to("../secret")
    context = os.open(tmp_path / "c", os.O_RDONLY)
    try:
        assert not find_rules(context)
        (tmp_path / "c" / "secret").write_text("inside\n")
        assert find_rules(context).excludes("inside")
    finally:
        os.close(context)


def test_rules_in_a_fifo_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".dockerignore")
    context = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(Unreadable, match=r"^\.dockerignore: expected a regular file"):
            find_rules(context)
    finally:
        os.close(context)


_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_LINES = st.lists(
    st.tuples(st.sampled_from(["", "!"]), st.lists(st.sampled_from(["a", "b", "*", "**", "?", "[ab]"]), min_size=1, max_size=3).map("/".join)),
    max_size=5).map(lambda lines: [mark + path for mark, path in lines])


def slowly(lines: list[str], path: str) -> bool:
    names = path.split("/")
    prefixes = ["/".join(names[:length]) for length in range(1, len(names) + 1)]
    answer = False
    for line in lines:
        if any(pattern(line.removeprefix("!")).matches(prefix) for prefix in prefixes):
            answer = not line.startswith("!")
    return answer


@given(_LINES, st.lists(_PATHS, min_size=1, max_size=5))
def test_as_the_plain_statement_of_the_rules_says(lines: list[str], paths: list[str]) -> None:
    rules = Rules.parse("\n".join(lines))
    for path in paths:
        assert rules.decide(path).is_excluded is rules.excludes(path) is slowly(lines, path)


@given(_LINES, _PATHS, _PATHS)
def test_what_is_skipped_holds_nothing(lines: list[str], directory: str, below: str) -> None:
    rules = Rules.parse("\n".join(lines))
    if rules.can_skip(directory):
        assert rules.excludes(f"{directory}/{below}")
