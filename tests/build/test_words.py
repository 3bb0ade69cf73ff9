"""Expansion: quotes, escapes, variables and every modifier."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.failure import Span
from lamina.build.instruction import (
    Add,
    Arg,
    Command,
    Copy,
    Env,
    Expose,
    From,
    Heredoc,
    Instruction,
    Label,
    Run,
    User,
    Volume,
    expanded,
    parse_mount,
)
from lamina.build.substitution import replaced, without_prefix, without_suffix
from lamina.build.syntax import parse
from lamina.build.words import expand, expand_raw, expand_words
from lamina.errors import InvalidInput

VALUES = {
    "A": "alpha", "EMPTY": "", "BLANKS": "x  y z", "FILE": "/dir/name.tar.gz", "DOLLAR": "$A ${A}", "QUOTE": "'q' \"r\"",
    "ESCAPE": "a\\b", "N1": "n", "STAR": "a*b*c", "LINES": "one\ntwo\n", "é": "letter",
}


@pytest.mark.parametrize(("text", "value"), [
    ("", ""),
    ("plain", "plain"),
    # names
    ("$A", "alpha"), ("${A}", "alpha"), ("$A$A", "alphaalpha"), ("x$A.y", "xalpha.y"), ("$Ab", ""), ("${A}b", "alphab"),
    ("$N1", "n"), ("$é", "letter"), ("$NONE", ""), ("${NONE}", ""), ("a$NONE.b", "a.b"),
    # what is no name
    ("$", "$"), ("a$", "a$"), ("$ A", "$ A"), ("$.", "$."), ('$"A"', "$A"), ("$/x", "$/x"),
    # positional and special parameters are unset, and one character long
    ("$$", ""), ("$$A", "A"), ("$?x", "x"), ("$@", ""), ("$*", ""), ("$#", ""), ("$!", ""), ("$-", ""), ("$0", ""),
    ("$12x", "x"), ("${12}x", "x"), ("${@:-d}", "d"),
    # quotes
    ("'$A'", "$A"), ('"$A"', "alpha"), ("a'b'\"c\"d", "abcd"), ("''", ""), ('""', ""), ("\"it's\"", "it's"),
    ("'a\"b'", 'a"b'), ("'a\\b'", "a\\b"), ('"$BLANKS"', "x  y z"), ("$BLANKS", "x  y z"),
    # escapes
    ("\\$A", "$A"), ("\\a", "a"), ("\\\\", "\\"), ("a\\", "a"), ("\\'", "'"), ('\\"', '"'), ("a\\ b", "a b"),
    ('"\\$A"', "$A"), ('"\\a"', "\\a"), ('"\\\\"', "\\"), ('"\\""', '"'), ("\\${A}", "${A}"),
    # nothing in a value is read again
    ("$DOLLAR", "$A ${A}"), ('"$DOLLAR"', "$A ${A}"), ("$QUOTE", "'q' \"r\""), ("$ESCAPE", "a\\b"),
    # defaults
    ("${A-d}", "alpha"), ("${A:-d}", "alpha"), ("${EMPTY-d}", ""), ("${EMPTY:-d}", "d"), ("${NONE-d}", "d"),
    ("${NONE:-d}", "d"), ("${NONE:-}", ""), ("${NONE-}", ""), ("${NONE:-$A}", "alpha"), ("${NONE:-'$A'}", "$A"),
    ('${NONE:-"a }"}', "a }"), ("${NONE:-a\\}b}", "a}b"), ("${NONE:-a b}", "a b"), ("${NONE:-a:b/c}", "a:b/c"),
    ("${NONE:-{}", "{"), ("${NONE:-${NONE:-${EMPTY:-x}}}", "x"), ("${NONE--}", "-"), ("${NONE:--1}", "-1"),
    # alternatives
    ("${A+s}", "s"), ("${A:+s}", "s"), ("${EMPTY+s}", "s"), ("${EMPTY:+s}", ""), ("${NONE+s}", ""), ("${NONE:+s}", ""),
    ("${A:+$EMPTY}", ""), ("${A:+${A}${A}}", "alphaalpha"),
    # demands
    ("${A?}", "alpha"), ("${A:?no}", "alpha"), ("${EMPTY?no}", ""),
    # prefixes and suffixes
    ("${FILE#*/}", "dir/name.tar.gz"), ("${FILE##*/}", "name.tar.gz"), ("${FILE%.*}", "/dir/name.tar"),
    ("${FILE%%.*}", "/dir/name"), ("${FILE#/dir/}", "name.tar.gz"), ("${FILE#x}", "/dir/name.tar.gz"),
    ("${FILE%.gz}", "/dir/name.tar"), ("${FILE%%*}", ""), ("${FILE%*}", "/dir/name.tar.gz"), ("${FILE##*}", ""),
    ("${A#?}", "lpha"), ("${A%?}", "alph"), ("${A##a?p}", "ha"), ("${A#al*}", "pha"), ("${A##al*}", ""),
    ("${A%$NONE}", "alpha"), ("${A%${NONE:-ha}}", "alp"), ("${NONE#x}", ""), ("${EMPTY%x}", ""),
    ("${STAR#a\\*}", "b*c"), ("${STAR%\\*c}", "a*b"), ("${STAR#*\\*}", "b*c"), ("${STAR##*\\*}", "c"),
    ("${ESCAPE#a\\\\}", "b"), ("${A:#al}", "pha"), ("${FILE#[a-z]}", "/dir/name.tar.gz"), ("${FILE#/d.r}", "/dir/name.tar.gz"),
    # replacement
    ("${A/a/b}", "blpha"), ("${A//a/b}", "blphb"), ("${A/a/}", "lpha"), ("${A//a/}", "lph"), ("${A/x/y}", "alpha"),
    ("${A/p*/-}", "al-"), ("${A//?/-}", "-----"), ("${FILE//\\//:}", ":dir:name.tar.gz"), ("${FILE/.*/}", "/dir/name"),
    ("${STAR//\\*/+}", "a+b+c"), ("${A/$NONE/x}", "xalpha"), ("${A//a/$N1}", "nlphn"), ("${NONE/a/b}", ""),
    ("${A/l/$DOLLAR}", "a$A ${A}pha"), ("${A/a*a/[&\\1$1]}", "[&\\1]"),
])
def test_one_word(text, value):
    assert expand(text, VALUES.get) == value


@pytest.mark.parametrize(("text", "message"), [
    ("'a", "'a: a single quote is not closed"),
    ('"a', '"a: a double quote is not closed'),
    ('"a\\', '"a\\: a double quote is not closed'),
    ('"a\\"', '"a\\": a double quote is not closed'),
    ("${", "${: '}' is missing"), ("${A", "${A: '}' is missing"), ("${A:", "${A:: '}' is missing"),
    ("${A:-x", "${A:-x: '}' is missing"), ("${A/x", "${A/x: '/' is missing"), ("${A/x}", "${A/x}: '/' is missing"),
    ("${A/x/y", "${A/x/y: '}' is missing"),
    ("${}", "${}: a name must follow ${"), ("${{A}}", "${{A}}: a name must follow ${"), ("${:-x}", "${:-x}: a name must follow ${"),
    ("${A!}", "${A!}: '!' is not a modifier of variables"), ("${A:x}", "${A:x}: ':x' is not a modifier of variables"),
    ("${A b}", "${A b}: ' ' is not a modifier of variables"), ("${A^^}", "${A^^}: '^' is not a modifier of variables"),
    ("${NONE?}", "NONE: must not be unset"), ("${NONE:?}", "NONE: must not be unset"), ("${EMPTY:?}", "EMPTY: must not be empty"),
    ("${NONE?give $A}", "NONE: give alpha"), ("${EMPTY:?why}", "EMPTY: why"),
    ("${A#\\x}", "\\x: a pattern has no escape \\x"),
])
def test_what_cannot_be_expanded(text, message):
    with pytest.raises(InvalidInput) as caught:
        expand(text, VALUES.get)
    assert str(caught.value) == message


@pytest.mark.parametrize(("text", "value"), [
    ("`$A", "$A"), ("\\$A", "\\alpha"), ("c:\\dir", "c:\\dir"), ('"`""', '"'), ("``", "`"), ('"\\n"', "\\n"),
    ("${NONE:-`}}", "}"), ("${STAR#a\\*}", "b*c"),
])
def test_another_escape(text, value):
    assert expand(text, VALUES.get, escape="`") == value


@pytest.mark.parametrize(("text", "words"), [
    ("", []), ("a b", ["a", "b"]), ("  a \t b ", ["a", "b"]), ("'a b' c", ["a b", "c"]), ('"a b"c', ["a bc"]),
    ("$BLANKS", ["x", "y", "z"]), ('"$BLANKS"', ["x  y z"]), ("1$BLANKS-2", ["1x", "y", "z-2"]), ("$NONE", []),
    ("$NONE a", ["a"]), ("'' a", ["a"]), ("a\\ b", ["a b"]), ("${NONE:-a b} c", ["a", "b", "c"]), ("$DOLLAR", ["$A", "${A}"]),
    ("$QUOTE", ["'q'", '"r"']), ("80/tcp $A", ["80/tcp", "alpha"]),
])
def test_words(text, words):
    assert expand_words(text, VALUES.get) == words


@pytest.mark.parametrize(("text", "value"), [
    ("'$A' \"$A\"\n", "'alpha' \"alpha\"\n"), ("it's\n", "it's\n"), ("\\$A\n", "$A\n"), ("\\\n", "\n"), ("\\\\\n", "\\\n"),
    ("${NONE:-'x'}", "'x'"), ("$DOLLAR", "$A ${A}"), ("no more", "no more"),
])
def test_bodies_keep_their_quotes(text, value):
    assert expand_raw(text, VALUES.get) == value


def test_names_that_were_looked_up():
    used: set[str] = set()
    expand("$A ${B:-$C} '$D' \\$E ${F/$G/$H} $$", VALUES.get, used=used)
    assert used == {"A", "B", "C", "F", "G", "H", "$"}
    expand_words("$I", VALUES.get, used=used)
    expand_raw("$J", VALUES.get, used=used)
    assert {"I", "J"} < used


def test_depth_is_bounded():
    def nested(depth: int) -> str:
        return "${a:-" * depth + "x" + "}" * depth

    assert expand(nested(32), VALUES.get) == "x"
    for depth in (33, 100_000):
        with pytest.raises(InvalidInput, match="nested more than 32 deep"):
            expand(nested(depth), VALUES.get)
    quoted = "x"
    for _ in range(40):
        quoted = f'"${{a:-{quoted}}}"'
    with pytest.raises(InvalidInput, match="nested more than 32 deep"):
        expand(quoted, VALUES.get)


def test_size_is_bounded():
    value = {"big": "x" * (1 << 20)}
    assert len(expand("$big" * 8, value.get)) == 8 << 20
    for text in ("$big" * 9, "${big//x/$big}", "${none:-$big$big$big$big$big}"):
        with pytest.raises(InvalidInput, match="more than 8388608 characters"):
            expand(text, value.get)


def test_patterns_take_no_exponential_time():
    value = {"v": "a" * 50_000}
    stars = "*a" * 30
    assert expand(f"${{v#{stars}b}}", value.get) == value["v"]
    assert expand(f"${{v%%b{stars}}}", value.get) == value["v"]
    assert expand(f"${{v//a{stars}b/x}}", value.get) == value["v"]
    assert expand("${v//a*b/x}", value.get) == value["v"]


def test_patterns_are_bounded():
    for pattern, size in (("?" * 5000, 1), ("a" * 4000 + "b", 1 << 17)):
        with pytest.raises(InvalidInput, match="too long"):
            expand(f"${{v#{pattern}}}", {"v": "a" * size}.get)


def as_regex(pattern: str, *, is_longest: bool) -> str:
    """What a pattern means, told by another engine."""
    star = ".*" if is_longest else ".*?"
    return "".join({"*": star, "?": "."}.get(one, re.escape(one)) for one in pattern)


PATTERNS = st.text(alphabet="ab*?\n", max_size=6)
STRINGS = st.text(alphabet="ab\n", max_size=12)


@given(STRINGS, PATTERNS, st.booleans())
def test_prefixes_are_those_of_a_regular_expression(value, pattern, is_longest):
    ends = [end for end in range(len(value) + 1) if re.fullmatch(as_regex(pattern, is_longest=True), value[:end])]
    expected = value[(max if is_longest else min)(ends):] if ends else value
    assert without_prefix(value, pattern, is_longest=is_longest) == expected


@given(STRINGS, PATTERNS, st.booleans())
def test_suffixes_are_prefixes_from_behind(value, pattern, is_longest):
    mirrored = without_prefix(value[::-1], pattern[::-1], is_longest=is_longest)
    assert without_suffix(value, pattern, is_longest=is_longest) == mirrored[::-1]


@given(STRINGS, PATTERNS.filter(lambda one: one.strip("*")), st.booleans())
def test_replacements_are_those_of_a_regular_expression(value, pattern, is_everywhere):
    expected = re.sub(as_regex(pattern, is_longest=True), lambda _: "<>", value, count=0 if is_everywhere else 1)
    assert replaced(value, pattern, "<>", is_everywhere=is_everywhere) == expected


def test_empty_matches_are_replaced_between_characters():
    assert replaced("ab", "", "-", is_everywhere=True) == "-a-b-"
    assert replaced("ab", "*", "-", is_everywhere=True) == "-"
    assert replaced("a\nb", "*", "-", is_everywhere=True) == "-\n-"
    assert replaced("", "*", "-", is_everywhere=True) == "-"


TRICKY = st.text(alphabet=st.sampled_from("ab $\\{}'\"`:-+?#%/*é\n"), max_size=40)


@given(TRICKY, TRICKY)
def test_only_invalid_input_is_raised(text, value):
    for function in (expand, expand_words, expand_raw):
        for escape in "\\`":
            with contextlib.suppress(InvalidInput):
                function(text, {"a": value}.get, escape=escape)


@given(st.text(max_size=40))
def test_a_value_arrives_as_it_is(value):
    for text in ("$a", "${a}", '"$a"', "${a:-x}" if value else "$a", "${none-$a}", "${a+$a}", "'x'\"${a}\"y"):
        assert value in expand(text, {"a": value}.get)
    assert expand("$a", {"a": value}.get) == expand_raw("$a", {"a": value}.get) == value


@given(st.text(alphabet=st.characters(exclude_characters="'\\$\"")))
def test_quoted_text_stays(text):
    assert expand(f"'{text}'", VALUES.get) == expand(f'"{text}"', VALUES.get) == expand(text, VALUES.get) == text


# Instructions: which fields are expanded.

WHERE = {"span": Span(1, 1), "original": "", "keyword": ""}


def of(instruction: Instruction) -> Instruction:
    return expanded(instruction, VALUES.get)


def test_pairs():
    assert of(Env(pairs=(("$A", '"$A b"'),), **WHERE)) == Env(pairs=(("alpha", "alpha b"),), **WHERE)
    assert of(Label(pairs=(("x", "'$A'"),), **WHERE)) == Label(pairs=(("x", "$A"),), **WHERE)
    assert of(Arg(pairs=(("a", "$A"), ("b", None)), **WHERE)) == Arg(pairs=(("a", "alpha"), ("b", None)), **WHERE)


def test_values_are_those_from_before_the_instruction():
    (_, env) = parse("FROM a\nENV A=new B=$A").instructions
    assert expanded(env, VALUES.get).pairs == (("A", "new"), ("B", "alpha"))


def test_words_and_lists():
    assert of(User(value="$A:${NONE:-0}", **WHERE)) == User(value="alpha:0", **WHERE)
    assert of(Volume(paths=("/$A", "'/x y'"), **WHERE)) == Volume(paths=("/alpha", "/x y"), **WHERE)
    assert of(Expose(ports=("$BLANKS", "80"), **WHERE)) == Expose(ports=("x", "y", "z", "80"), **WHERE)


@pytest.mark.parametrize(("text", "message"), [
    ("VOLUME /a $NONE", "VOLUME: a path is empty once its variables are expanded"),
    ("ENV $NONE=a", "ENV: a name is empty once its variables are expanded"),
    ("LABEL a=b ''=c", "LABEL: a name is empty once its variables are expanded"),
])
def test_what_may_not_become_empty(text, message):
    (_, instruction) = parse(f"FROM a\n{text}\n").instructions
    with pytest.raises(InvalidInput) as caught:
        of(instruction)
    assert str(caught.value) == message


def test_copies():
    body = Heredoc(name="f", content="'$A'\n")
    raw = Heredoc(name="g", content="'$A'\n", is_expanded=False)
    copy = Copy(
        sources=("$A", "b"), destination="/$A", heredocs=(body, raw), from_="s", chown="$A", chmod="$A",
        excludes=("$A",), **WHERE,
    )
    found = of(copy)
    assert isinstance(found, Copy)
    assert (found.sources, found.destination, found.chown, found.chmod) == (("alpha", "b"), "/alpha", "alpha", "alpha")
    assert [one.content for one in found.heredocs] == ["'alpha'\n", "'$A'\n"]
    assert found.excludes == ("$A",)
    add = of(Add(sources=("a",), destination="b", checksum="sha256:$A", **WHERE))
    assert isinstance(add, Add)
    assert add.checksum == "sha256:alpha"


def test_here_documents_have_the_backslash_for_an_escape_whatever_the_directive_says():
    copy = Copy(sources=(), destination="`$A", heredocs=(Heredoc(name="f", content="`$A \\$A\n"),), **WHERE)
    found = expanded(copy, VALUES.get, escape="`")
    assert isinstance(found, Copy)
    assert (found.destination, found.heredocs[0].content) == ("$A", "`alpha $A\n")


def test_commands_and_from_are_left_alone():
    for one in parse(
        'FROM $A AS x\nRUN $A\nCMD $A\nENTRYPOINT ["$A"]\nSHELL ["$A"]\nHEALTHCHECK CMD $A\nONBUILD ENV A=$A\n'
        "MAINTAINER $A\nRUN <<E\n$A\nE\n"
    ).instructions:
        assert of(one) == one
    assert isinstance(of(From(image="$A", **WHERE)), From)


def test_mounts_are_expanded_option_by_option():
    text = "type=cache,target=/$A,id=$EVIL,mode=${MODE:-700}"
    values = {"A": "x", "EVIL": "i,from=other", "MODE": ""}
    run = Run(command=Command(argv=("x",), is_shell=True), mounts=(parse_mount(text),), **WHERE)
    found = expanded(run, values.get)
    assert isinstance(found, Run)
    (mount,) = found.mounts
    assert (mount.target, mount.id, mount.from_, mount.mode) == ("/x", "i,from=other", "", 0o700)


def test_mounts_are_judged_when_their_values_are_known():
    mount = parse_mount("type=$T,size=1k")
    assert (mount.type, mount.raw) == ("bind", "type=$T,size=1k")
    run = Run(command=Command(argv=("x",), is_shell=True), mounts=(mount,), **WHERE)
    good = expanded(run, {"T": "tmpfs"}.get)
    assert isinstance(good, Run)
    assert (good.mounts[0].type, good.mounts[0].size) == ("tmpfs", 1024)
    with pytest.raises(InvalidInput, match=r"^size: not an option of mounts of type bind"):
        expanded(run, {"T": "bind"}.get)
