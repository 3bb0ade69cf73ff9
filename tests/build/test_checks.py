"""Build checks: each finds what it is for, and leaves alone what only looks like it."""

from __future__ import annotations

import pytest
from tests.build.golden import files

from lamina.build.checks import Base, check
from lamina.build.failure import Span
from lamina.build.findings import RULES, url
from lamina.build.syntax import parse

KNOWN = {"debian": Base(environment={"PATH": "/bin", "BASE_HOME": "/x"}, platform="linux/amd64")}

# For each rule: what it finds, with the lines; and what it does not.
FOUND = {
    "StageNameCasing": [("FROM debian AS Builder\n", [1])],
    "FromAsCasing": [("FROM debian as b\n", [1]), ("from debian AS b\n", [1])],
    "NoEmptyContinuation": [("FROM debian\nRUN a \\\n\n  b\n", [3]), ("FROM debian\nRUN a \\\n\n \\\n\n b\n", [3])],
    "ConsistentInstructionCasing": [
        ("FROM debian\nRun a\n", [2]), ("from debian\nrun a\nCOPY a b\n", [3]), ("FROM debian\nrun a\n", [2]),
    ],
    "DuplicateStageName": [("FROM debian AS a\nFROM debian AS b\nFROM debian AS A\n", [3])],
    "ReservedStageName": [("FROM debian AS scratch\nFROM debian AS context\n", [1, 2])],
    "JSONArgsRecommended": [("FROM debian\nCMD a\n", [2]), ("FROM debian\nENTRYPOINT a\n", [2])],
    "MaintainerDeprecated": [("FROM debian\nMAINTAINER me\n", [2])],
    "UndefinedArgInFrom": [
        ("FROM debian:$TAG\n", [1]), ("ARG A\nFROM --platform=$PLATFORM debian\n", [2]),
        ("FROM debian AS a\nARG TAG=1\nFROM debian:$TAG\n", [3]),
    ],
    "WorkdirRelativePath": [
        ("FROM debian\nWORKDIR app\n", [2]), ("FROM debian AS a\nWORKDIR /x\nFROM debian\nWORKDIR y\n", [4]),
        ("FROM debian\nARG D=app\nWORKDIR $D\n", [3]),
    ],
    "UndefinedVar": [
        ("FROM debian\nCOPY $src /\n", [2]), ("FROM scratch\nENV A=$B B=1\n", [2]),
        ("ARG G=1\nFROM debian\nLABEL x=$G\n", [3]), ("FROM debian\nENV NODE_VERSION=1\nLABEL v=$NODE_VERSOIN\n", [3]),
        ("FROM unknown\nENV NODE_VERSION=1\nLABEL v=$NODE_VERSOIN\n", [3]),
        ("FROM debian\nRUN --mount=type=cache,target=$C a\n", [2]),
    ],
    "MultipleInstructionsDisallowed": [
        ('FROM debian\nCMD ["a"]\nCMD ["b"]\nCMD ["c"]\n', [2, 3]), ('FROM debian\nENTRYPOINT ["a"]\nENTRYPOINT ["b"]\n', [2]),
        ("FROM debian\nHEALTHCHECK NONE\nHEALTHCHECK CMD b\n", [2]),
    ],
    "LegacyKeyValueFormat": [("FROM debian\nENV a b\nLABEL c d\n", [2, 3])],
    "InvalidBaseImagePlatform": [("FROM --platform=linux/arm64 debian AS arm64\n", [1])],
    "RedundantTargetPlatform": [("FROM --platform=$TARGETPLATFORM debian\n", [1]), ("FROM --platform=${TARGETPLATFORM} debian\n", [1])],
    "SecretsUsedInArgOrEnv": [
        ("ARG GITHUB_TOKEN\nFROM debian\nENV api_key=1 PASSWORD=2\n", [1, 3, 3]), ("FROM debian\nARG MY_secret_X\n", [2]),
    ],
    "InvalidDefaultArgInFrom": [("ARG TAG\nFROM debian:$TAG\n", [2]), ("ARG IMAGE\nFROM $IMAGE\n", [2])],
    "FromPlatformFlagConstDisallowed": [("FROM --platform=linux/amd64 debian AS base\n", [1])],
    "CopyIgnoredFile": [("FROM debian\nCOPY ./ignored.log /\nADD ok ignored.log /\nCOPY /ignored.log /\n", [2, 3, 4])],
    "InvalidDefinitionDescription": [
        ("# check=experimental=all\n\n# the base\nFROM debian AS base\n# what for\nARG x\n", [4, 6]),
        ("# check=experimental=InvalidDefinitionDescription\nFROM debian\n# x is\n# it\nARG x=1 y=2\n", [5]),
    ],
    "ExposeProtoCasing": [("FROM debian\nEXPOSE 80/TCP 81/tcp\n", [2]), ("FROM debian\nARG P=Udp\nEXPOSE 80/$P\n", [3])],
    "ExposeInvalidFormat": [("FROM debian\nEXPOSE 80:80 127.0.0.1:1:1 [::1]:2:2\n", [2, 2, 2])],
}
NOT_FOUND = {
    "StageNameCasing": ["FROM debian AS builder\n", "FROM Debian\n"],
    "FromAsCasing": ["FROM debian AS b\n", "from debian as b\n", "From debian as b\n"],
    "NoEmptyContinuation": ["FROM debian\nRUN a \\\n  # comment\n  b\n\nRUN c\n", "FROM debian\nRUN a \\\n"],
    "ConsistentInstructionCasing": ["FROM debian\nRUN a\n", "from debian\nrun a\n", "FROM debian\nONBUILD run a\n"],
    "DuplicateStageName": ["FROM debian AS a\nFROM debian AS b\nFROM debian\nFROM debian\n"],
    "ReservedStageName": ["FROM scratch AS scratched\n", "FROM scratch\n"],
    "JSONArgsRecommended": [
        'FROM debian\nCMD ["a"]\nENTRYPOINT []\nRUN a\nHEALTHCHECK CMD a\n', 'FROM debian\nSHELL ["a"]\nCMD a\n',
        'FROM debian AS a\nSHELL ["b"]\nFROM a\nCMD c\n',
    ],
    "MaintainerDeprecated": ["FROM debian\nLABEL maintainer=me\n"],
    "UndefinedArgInFrom": ["ARG TAG\nFROM --platform=$BUILDPLATFORM debian:${TAG:-$TARGETARCH}\n", "FROM debian\n"],
    "WorkdirRelativePath": [
        "FROM debian\nWORKDIR /a\nWORKDIR b\n", "FROM debian AS a\nWORKDIR /x\nFROM a\nWORKDIR y\n",
        "FROM debian\nENV D=/app\nWORKDIR $D\n", "FROM unknown\nWORKDIR $HOME_OF_BASE\n",
    ],
    "UndefinedVar": [
        "FROM debian\nARG src\nCOPY $src /\n", "FROM debian\nENV PATH=$PATH:/x H=$BASE_HOME\n", "FROM scratch\nENV PATH=$PATH:/x\n",
        "FROM unknown\nENV JAVA=$JAVA_HOME/bin\n", "FROM debian\nRUN echo $x\nCMD echo $y\n", "FROM debian AS a\nENV x=1\nARG y\nFROM a\nLABEL z=$x$y\n",
        "FROM debian\nLABEL x='$y' z=\\$y\n", "FROM debian\nARG TARGETARCH\nCOPY $TARGETARCH /\n", "FROM debian\nCOPY <<'E' /x\n$y\nE\n",
    ],
    "MultipleInstructionsDisallowed": [
        'FROM debian AS a\nCMD ["a"]\nFROM debian\nCMD ["b"]\n', 'FROM debian\nCMD ["a"]\nENTRYPOINT ["b"]\nRUN c\nRUN d\n',
    ],
    "LegacyKeyValueFormat": ["FROM debian\nENV a=b\nLABEL c=d e='f g'\n"],
    "InvalidBaseImagePlatform": ["FROM debian\n", "FROM --platform=linux/amd64 debian\n", "FROM --platform=linux/arm64 unknown\n", "FROM scratch\n"],
    "RedundantTargetPlatform": ["FROM --platform=$BUILDPLATFORM debian\n", "FROM --platform=linux/$TARGETARCH debian\n", "FROM debian\n"],
    "SecretsUsedInArgOrEnv": [
        "ARG PUBLIC_KEY\nFROM debian\nENV TOKEN_FILE=x KEYBOARD=y MONKEY=1 KEY_VERSION=2\n", "FROM debian\nLABEL token=x\n",
        "FROM debian\nRUN --mount=type=secret,id=TOKEN,env=TOKEN a\n",
    ],
    "InvalidDefaultArgInFrom": ["ARG TAG=1\nFROM debian:$TAG\n", "ARG TAG\nFROM debian:${TAG:-1}\n", "ARG TAG\nFROM debian${TAG:+:$TAG}\n"],
    "FromPlatformFlagConstDisallowed": [
        "FROM --platform=$BUILDPLATFORM debian\n", "FROM --platform=linux/amd64 debian AS base-amd64\n",
        "ARG P=linux/amd64\nFROM --platform=$P debian\n", "FROM debian\n",
    ],
    "CopyIgnoredFile": [
        "FROM debian AS a\nCOPY . /\nCOPY ok /\nFROM debian\nCOPY --from=a ignored.log /\nADD https://example.com/ignored.log /\n",
        "FROM debian\nCOPY <<ignored.log /x\nignored.log\n",
    ],
    "InvalidDefinitionDescription": [
        "# a comment\nFROM debian AS base\n",
        "# check=experimental=all\nFROM debian\n# base is the first\nFROM debian AS Base\n\n# apart\n\nARG x\n# y too\nARG x y\n# no name\nFROM debian\n",
        "# check=experimental=all\n# one\n#\nFROM debian AS base\n# run\nRUN x\n",
    ],
    "ExposeProtoCasing": ["FROM debian\nEXPOSE 80/tcp 81 82-83/udp\n"],
    "ExposeInvalidFormat": ["FROM debian\nEXPOSE 80/tcp 8000-8010 :90\n"],
}


def lines(text: str, rule: str) -> list[int]:
    return [one.span.first for one in checked(text) if one.rule == rule]


def checked(text: str, **more):
    return check(
        parse(text), is_ignored=lambda path: path == "ignored.log", base=KNOWN.get, platform="linux/amd64", **more
    )


def test_every_rule_has_both_sides():
    assert FOUND.keys() == NOT_FOUND.keys() == RULES.keys()
    assert len(RULES) == 22


@pytest.mark.parametrize(("rule", "text", "expected"), [(rule, *one) for rule in FOUND for one in FOUND[rule]])
def test_found(rule, text, expected):
    assert lines(text, rule) == expected


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule in NOT_FOUND for text in NOT_FOUND[rule]])
def test_not_found(rule, text):
    assert lines(text, rule) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_directive_skips(rule):
    (text, _), *_ = FOUND[rule]
    without = text.removeprefix("# check=experimental=all\n")
    for skip in (rule, "all", f"Other,{rule}"):
        assert not [one for one in checked(f"# check=experimental=all;skip={skip}\n{without}") if one.rule == rule]
    assert [one for one in checked(f"# check=experimental=all;skip=Other\n{without}") if one.rule == rule]


def test_a_clean_file():
    assert checked(
        "# syntax=docker/dockerfile:1\n\nARG TAG=12\nFROM --platform=$BUILDPLATFORM debian:$TAG AS build\nWORKDIR /src\n"
        'COPY . .\nRUN make\n\nFROM scratch\nCOPY --from=build /src/out /\nEXPOSE 80/tcp\nENTRYPOINT ["/out"]\n'
    ) == ()


def test_a_finding_says_what_where_and_more():
    (found,) = checked("FROM debian\nCMD a \\\n  b\n")
    assert found.rule == "JSONArgsRecommended"
    assert found.message == "CMD: in the shell form, signals do not reach the program"
    assert found.span == Span(2, 3, 1)
    assert found.url == "https://docs.docker.com/reference/build-checks/json-args-recommended/"
    assert found.description == RULES[found.rule]


def test_addresses():
    assert url("UndefinedArgInFrom") == "https://docs.docker.com/reference/build-checks/undefined-arg-in-from/"
    assert url("InvalidBaseImagePlatform") == ""


def test_findings_are_in_the_order_of_the_lines():
    found = checked("from debian AS X\nMAINTAINER me\nCMD a\n\nRUN a\\\n\n b\n")
    assert [one.span.first for one in found] == sorted(one.span.first for one in found)
    assert len({one.rule for one in found}) > 4


def test_a_misspelled_variable_is_suggested():
    (found,) = checked("FROM debian\nENV NODE_VERSION=1\nLABEL v=$NODE_VERSOIN\n")
    assert found.message == "LABEL: nothing sets $NODE_VERSOIN; did you mean NODE_VERSION?"
    (found, _) = checked("ARG VERSION=1\nFROM debian:$VERSOIN\n")
    assert found.message == "FROM debian:$VERSOIN: no ARG before the first FROM declares VERSOIN; did you mean VERSION?"


def test_arguments_that_are_given_count():
    text = "ARG TAG\nFROM $TAG\nARG D\nWORKDIR $D\n"
    assert [one.rule for one in checked(text, arguments={"TAG": "debian", "D": "app"})] == [
        "InvalidDefaultArgInFrom", "WorkdirRelativePath",
    ]
    assert [one.rule for one in checked(text, arguments={"TAG": "debian", "D": "/app"})] == ["InvalidDefaultArgInFrom"]


def test_env_beats_arg():
    assert lines("FROM debian\nENV D=/app\nARG D=app\nWORKDIR $D\n", "WorkdirRelativePath") == []


def test_only_what_a_target_needs_is_followed():
    text = (
        "FROM debian AS unused\nCMD a\nFROM debian AS base\nCMD b\nFROM debian AS copied\nCMD c\nFROM debian AS mounted\nCMD d\n"
        "FROM base AS last\nCOPY --from=copied /a /b\nRUN --mount=from=mounted,target=/x a\nCMD e\n"
    )
    def found(target: str) -> list[int]:
        return [one.span.first for one in checked(text, target=target) if one.rule == "JSONArgsRecommended"]

    assert found("") == [2, 4, 6, 8, 12]
    assert found("last") == found("LAST") == found("4") == [4, 6, 8, 12]
    assert found("base") == found("1") == [4]


def test_what_cannot_be_expanded_is_the_builds_to_refuse():
    assert checked('FROM debian\nENV A=${B?no} C="\nLABEL x=${y!}\n') == ()
    assert [one.rule for one in checked("ARG A=${x?}\nFROM debian:${A!}\n")] == []


def test_control_characters_are_not_passed_on():
    (found,) = checked("FROM debian\nCOPY $x\x1b /\nLABEL \x1b[31m y\n")[-1:]
    assert found.message.isprintable()


@pytest.mark.parametrize("path", files("good"), ids=lambda path: path.stem)
def test_the_corpus_can_be_checked(path):
    for one in checked_bytes(path.read_bytes()):
        assert one.message.isprintable()
        assert 1 <= one.span.first <= one.span.last


def checked_bytes(data: bytes):
    return check(parse(data), is_ignored=lambda _: True)
