"""Help: the overview, one verb, or one group of verbs, laid out as docker's users know it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.cli import verbs
from lamina.cli.arguments import Arguments, GlobalParser, UsageError, VerbParser
from lamina.cli.verbs import Verb
from lamina.errors import nearest

if TYPE_CHECKING:
    from lamina.cli.session import Session

_WIDTH = 100
_OPENING = """\
lamina pulls, stores, explains, squashes and pushes container images, with no daemon and no root.

An image is a stack of read-only layers. Each layer is stored once, however many images share it,
and named by the digest of its bytes."""
_FIRST_STEPS = (
    ("lamina demo", "see how it all works, in a few seconds and without a network"),
    ("lamina pull redis:latest", "download an image"),
    ("lamina layers redis", "see what each of its layers changes"),
    ("lamina help pull", "everything about one verb"),
)
_CLOSING = """\
Settings are read from /etc/lamina/lamina.{json,toml} and ~/.config/lamina/lamina.{json,toml}, with
the keys of docker's daemon.json; LAMINA_* variables and options win over them. `lamina info` shows
what is in force and why. Exit codes: 0, 1 when a command failed, 125 when the command line was
wrong or lamina itself failed, 126 and 127 when a program given to it could not be run or found,
130 when interrupted."""


def explain(words: Sequence[str], session: Session) -> int:
    """``words`` are those after ``lamina help``, or those before ``--help``."""
    if not words:
        lines = _overview()
    elif list(words) == [words[0]] and words[0] in verbs.GROUPS:
        lines = _group(words[0])
    else:
        name, count = verbs.find(words)
        if not name or count < len(words):
            spelled = " ".join(words)
            raise UsageError(f"there is no verb {spelled!r}{nearest(spelled, verbs.names())}")
        lines = of_verb(name, verbs.load(name))
    for line in lines:
        session.print(line)
    return 0


def _run(arguments: Arguments, session: Session) -> int:
    return explain(arguments.verb, session)


def _arguments(parser: VerbParser) -> None:
    parser.positional("verb", "VERB", "the verb to explain; without it, an overview", nargs="*")


def of_verb(name: str, verb: Verb) -> Iterator[str]:
    parser = VerbParser(name, verb)
    yield f"Usage:  lamina {name} {verb.usage}".rstrip()
    yield ""
    yield verbs.entry(name)[2]
    if verb.about:
        yield ""
        yield verb.about.strip("\n")
    if verbs.spellings(name):
        yield from ("", "Also:")
        yield "  " + ", ".join(f"lamina {alias}" for alias in verbs.spellings(name))
    positionals = [action for action in parser.own if not action.option_strings]
    if positionals:
        yield from ("", "Arguments:")
        yield from _described((str(action.metavar), action.help or "") for action in positionals)
    options = [action for action in parser.own if action.option_strings]
    if options:
        yield from ("", "Options:")
        yield from _described(map(_option, sorted(options, key=_long_name)))
    yield from ("", "Examples:")
    yield from (f"  {'$ ' if line.startswith('lamina') else ''}{line}" for line in verb.examples)
    yield from ("", "The options of every verb (--root, --debug, ...) are in `lamina help`.")


def _overview() -> Iterator[str]:
    yield from ("Usage:  lamina [OPTIONS] VERB [ARGUMENTS]", "", _OPENING, "", "First steps:")
    yield from _described(_FIRST_STEPS)
    for heading, members in verbs.HEADINGS.items():
        yield from ("", f"{heading}:")
        yield from _described((name, line) for name, (_, _, line) in members.items())
    yield from ("", "Options:")
    yield from _described(map(_option, sorted(GlobalParser()._actions, key=_long_name)))  # noqa: SLF001
    yield from ("", _CLOSING)


def _group(group: str) -> Iterator[str]:
    yield from (f"Usage:  lamina {group} VERB [ARGUMENTS]", "", verbs.GROUPS[group], "", "Verbs:")
    yield from _described(
        (word, verbs.entry(proper)[2]) for word, proper in sorted(verbs.members(group).items())
    )
    yield from ("", f"`lamina {group} VERB --help` explains one of them.")


def _option(action: argparse.Action) -> tuple[str, str]:
    short = [name for name in action.option_strings if not name.startswith("--")]
    long = [name for name in action.option_strings if name.startswith("--")]
    names = f"{short[0]}, " if short else "    "
    names += ", ".join(long) if long else ""
    if action.nargs != 0 and action.metavar:
        names = f"{names.rstrip(', ')} {action.metavar}"
    elif action.metavar:
        names = f"{names}[={action.metavar}]"
    return names.rstrip(", "), action.help or ""


def _long_name(action: argparse.Action) -> str:
    return next((name for name in action.option_strings if name.startswith("--")), action.option_strings[0])


def _described(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms, and behind them what they mean, wrapped."""
    import textwrap

    terms = list(pairs)
    width = max(len(term) for term, _ in terms) + 4
    for term, meaning in terms:
        lines = textwrap.wrap(meaning, max(30, _WIDTH - width - 2), break_on_hyphens=False) or [""]
        yield f"  {term:<{width - 2}}{lines[0]}".rstrip()
        yield from (" " * width + line for line in lines[1:])


HELP = Verb(
    _run,
    usage="[VERB]",
    about="Every verb also answers to --help.",
    arguments=_arguments,
    examples=("lamina help", "lamina help pull", "lamina help system df"),
)
