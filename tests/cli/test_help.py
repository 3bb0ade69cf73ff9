"""Every verb explains itself: help with an example, every option described, nothing too wide."""

from __future__ import annotations

import shlex

import pytest
from tests.cli.fakes import Command

from lamina.cli import verbs
from lamina.cli.arguments import GlobalParser, UsageError, VerbParser

NAMES = verbs.names()


def parser_of(name: str) -> VerbParser:
    return VerbParser(name, verbs.load(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_verb_has_help_with_an_example(command: Command, name: str) -> None:
    spellings = [("help", *name.split()), (*name.split(), "--help"), (*name.split(), "-h"), ("--help", *name.split())]
    if name in ("run", "create"):  # docker's -h, which takes the host's name
        spellings.pop(2)
    results = [command(*words) for words in spellings]
    assert {result.out for result in results} == {results[0].out}
    assert {(result.code, result.err) for result in results} == {(0, "")}
    lines = results[0].lines
    assert lines[0].startswith(f"Usage:  lamina {name}")
    assert lines[2] == verbs.entry(name)[2]
    assert f"lamina {name}" in results[0].out.partition("Examples:")[2]
    assert max(map(len, lines)) <= 110


def test_a_hyphen_is_no_place_to_break_a_line(command: Command) -> None:
    assert [line for line in command("help", "squash").lines if line.endswith(("oci-", "docker-"))] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_and_option_is_described(name: str) -> None:
    for action in parser_of(name)._actions:
        assert action.help, f"{name}: {action.dest} is not described"
        if action.nargs != 0:
            assert action.metavar, f"{name}: {action.dest} has no name for its value"
            assert str(action.metavar).isupper() or "|" in str(action.metavar), f"{name}: {action.metavar}"


@pytest.mark.parametrize("name", NAMES)
def test_the_usage_names_what_the_parser_takes(name: str) -> None:
    parser = parser_of(name)
    usage = parser.verb.usage
    for action in parser.own:
        if not action.option_strings:
            word = str(action.metavar).split("[")[0].split("|")[0]
            assert word.upper() in usage.upper() or name == "completion", f"{name}: {word} is missing in {usage!r}"
    has_options = any(action.option_strings for action in parser.own)
    assert has_options == ("[OPTIONS]" in usage), f"{name}: [OPTIONS]"


@pytest.mark.parametrize("name", NAMES)
def test_examples_can_be_read(name: str) -> None:
    """Those of one plain command line: our own parsers take them."""
    for example in parser_of(name).verb.examples:
        if not example.startswith("lamina ") or any(mark in example for mark in ("|", "$(", "&&", "<64")):
            continue
        words = shlex.split(example)[1:]
        before = words[: next(number for number, word in enumerate(words) if not word.startswith("-"))]
        if before:
            continue
        proper, count = verbs.find(words)
        assert proper, example
        try:
            parser_of(proper).read(words[count:], GlobalParser().parse_args([]))
        except UsageError as error:
            pytest.fail(f"{example}: {error}")


def test_no_option_of_a_verb_hides_a_global_one() -> None:
    taken = {name for action in GlobalParser()._actions for name in action.option_strings if name.startswith("--")}
    for name in NAMES:
        own = {option for action in parser_of(name).own for option in action.option_strings}
        # That of a container is docker's, and so is that of the whole.
        both = {"--storage-opt"} if name in ("run", "create") else set()
        assert not own & (taken - {"--quiet", "--version"} - both), name


def test_the_overview_names_every_verb(command: Command) -> None:
    out = command("help").out
    for name in NAMES:
        assert f"\n  {name} " in out, name
    assert "CONVENTIONS" not in out


@pytest.mark.parametrize("group", verbs.GROUPS)
def test_a_group_lists_its_verbs(command: Command, group: str) -> None:
    for words in ((group,), ("help", group), (group, "--help")):
        result = command(*words)
        assert result.code == 0
        for member in verbs.members(group):
            assert f"\n  {member} " in result.out


@pytest.mark.parametrize(("alias", "name"), verbs.ALIASES.items())
def test_dockers_spellings_lead_to_the_same_verb(command: Command, alias: str, name: str) -> None:
    assert verbs.find(alias.split()) == (name, len(alias.split()))
    assert f"lamina {alias}" in command("help", *name.split()).out


def test_help_of_a_verb_that_is_not_there(command: Command) -> None:
    result = command("help", "imags")
    assert (result.code, result.err) == (125, "lamina: there is no verb 'imags'; did you mean images?\n")


def test_help_in_the_users_own_command_is_not_ours() -> None:
    parser = parser_of("mount")
    assert not parser.wants_help(["app", "--", "ls", "--help"])
    assert parser.wants_help(["--help", "app"])
    assert not parser_of("unshare").wants_help(["ls", "--help"])
