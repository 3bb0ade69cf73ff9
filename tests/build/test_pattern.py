from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.pattern import InvalidPattern, has_wildcards, pattern, single_star, unescaped


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        # Go's own table (path/filepath, match_test.go) as facts: pattern, name, answer.
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^b-d]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("a[^a][^a][^a]b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "x", True),
        ("[x\\-]", "-", True),
        ("[x\\-]", "z", False),
        ("[\\-x]", "a", False),
        ("*x", "xxx", True),
        ("[z-a]", "b", False),
        ("[^z-a]", "b", True),
        ("[||&&]", "|", True),
        ("a.c", "abc", False),
        ("a(b)+$", "a(b)+$", True),
        # a name with a line break is a name
        ("*.txt", "a\nb.txt", True),
        ("?", "\n", True),
        ("[^a]", "\n", True),
        # what two stars do (patternmatcher's table)
        ("**", "file", True),
        ("**", "dir/file", True),
        ("**/", "dir/file", True),
        ("**/**", "dir/file", True),
        ("dir/**", "dir/file", True),
        ("dir/**", "dir/dir2/file", True),
        ("dir/**", "dir", False),
        ("**/dir2/*", "dir/dir2/file", True),
        ("**/dir2/*", "dir/dir2/dir2/file", True),
        ("**/dir2/**", "dir/dir2/dir2/file", True),
        ("**file", "file", True),
        ("**file", "dir/file", True),
        ("**/file", "dir/file", True),
        ("**file", "dir/dir/file", True),
        ("**/file*", "dir/dir/file.txt", True),
        ("**/file*txt", "dir/dir/file.txt", True),
        ("**/*.txt", "file.txt", True),
        ("**/**/*.txt", "dir/dir/file.txt", True),
        ("**/**/*.txt2", "file.txt", False),
        ("a**/*.txt", "a/file.txt", True),
        ("a**/*.txt", "a/dir/file.txt", True),
        ("a**/*.txt", "a/dir/dir/file.txt", True),
        ("a/*.txt", "a/dir/file.txt", False),
        ("a/*.txt", "a/file.txt", True),
        ("a/*.txt**", "a/file.txt", True),
        ("a[b-d]e", "ae", False),
        ("a[b-d]e", "ace", True),
        ("a[^b-d]e", "aze", True),
        (".*", ".foo", True),
        (".*", "foo", False),
        ("abc/**", "abc/def/ghi", True),
        ("**/.foo", ".foo", True),
        ("**/.foo", "bar.foo", False),
        ("**.foo", "bar.foo", True),
        ("a(b)c/def", "a(b)c/xyz", False),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ],
)
def test_what_matches(text: str, path: str, expected: bool) -> None:
    assert pattern(text).matches(path) is expected


@pytest.mark.parametrize(
    "text", ["[", "[^", "[^bc", "a[", "a[]", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "a\\", "[\\", "[a\\", "[]", "[^]", "x/["],
)
def test_what_go_calls_malformed_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidPattern) as caught:
        pattern(text)
    assert repr(text) in str(caught.value)


def test_a_pattern_longer_than_any_path_is_refused() -> None:
    with pytest.raises(InvalidPattern, match="more than 4096"):
        pattern("a" * 4097)


def test_names_that_are_no_text() -> None:
    assert pattern("a?").matches("a\udcff")
    assert pattern("a*").matches("a\udcff\udc80")


def test_two_stars_are_one_for_go() -> None:
    assert not single_star("**/b").matches("a/a/b")
    assert single_star("**/b").matches("a/b")
    assert single_star("a\\**").matches("a*b")
    assert not single_star("a\\**").matches("ab")
    with pytest.raises(InvalidPattern):
        single_star("a\\")


def test_what_has_wildcards() -> None:
    assert [has_wildcards(text) for text in ("a", "a*", "a?", "a[b]", "a\\*", "a\\\\*", "a]")] == [
        False, True, True, True, False, True, False]
    assert unescaped("a\\*b\\\\") == "a*b\\"


_NAMES = st.text("ab.", min_size=1, max_size=3)
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_PARTS = st.lists(st.sampled_from(["a", "b", ".", "*", "?", "**", "[ab]", "[^a]", "\\a"]), min_size=1, max_size=3).map("".join)
PATTERNS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)


def slowly(text: str, path: str, *, is_start: bool = True) -> bool:
    """A matcher that tries everything, character by character."""
    if not text:
        return not path
    if text.startswith("**"):
        rest = text[3:] if text[2:3] == "/" else text[2:]
        if not rest:
            return True
        if is_start and text[2:3] != "/" and not set(rest) & set("*?["):
            return path.endswith(rest)
        starts = [0, *(at + 1 for at, character in enumerate(path) if character == "/")]
        return any(slowly(rest, path[at:], is_start=False) for at in starts)
    if text[0] == "*":
        if slowly(text[1:], path, is_start=False):
            return True
        return bool(path) and path[0] != "/" and slowly(text, path[1:], is_start=False)
    if not path:
        return False
    if text.startswith("["):
        end = text.index("]")
        inside = text[1:end]
        fits = path[0] not in inside[1:] if inside[0] == "^" else path[0] in inside
        return fits and slowly(text[end + 1 :], path[1:], is_start=False)
    fits = path[0] != "/" if text[0] == "?" else path[0] == text[0]
    return fits and slowly(text[1:], path[1:], is_start=False)


@given(PATTERNS.filter(lambda text: "***" not in text and "\\" not in text), _PATHS)
def test_as_a_slow_matcher_says(text: str, path: str) -> None:
    assert pattern(text).matches(path) is slowly(text, path)


@given(PATTERNS, _PATHS, _PATHS)
def test_a_directory_is_left_out_only_if_nothing_below_can_match(text: str, directory: str, below: str) -> None:
    if pattern(text).matches(f"{directory}/{below}"):
        assert pattern(text).may_match_below(directory)


def test_a_directory_that_no_path_can_lead_into_is_left_out() -> None:
    assert not pattern("*.md").may_match_below("node_modules")
    assert not pattern("src/a").may_match_below("lib")
    assert pattern("src/a").may_match_below("src")
    assert not pattern("src").may_match_below("src")
    assert pattern("**/x").may_match_below("anything/at/all")
