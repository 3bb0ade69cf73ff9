"""Reading a command line: argparse with docker's habits, and complaints that say what to do.

Options may stand before and after arguments; ``--flag=false`` works as Go's flags have it; nothing is
abbreviated, since a script that leans on an abbreviation breaks with the next option.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from lamina.errors import InvalidInput, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from lamina.cli.verbs import Verb

# What argparse says is read here in English and put into our words. A translation would spoil that, and
# asking whether there is one costs every command 3 ms.
argparse._ = str  # type: ignore[attr-defined]

Arguments = argparse.Namespace
_SWITCH = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_SIZE = r"(?i)([0-9]{1,18}(?:\.[0-9]+)?)\s*(?:([kmgt])(i?)b?|b)?"
# Options that may stand before the verb or after it, and those of them that take a value.
GLOBAL_VALUES = ("--root", "--config-file", "--storage-driver", "--storage-opt")


class UsageError(InvalidInput):
    """The command line cannot be read, so nothing was tried: 125, as docker has it."""

    exit_code = 125


class _Formatter(argparse.HelpFormatter):
    """argparse makes one for each option, to check it; given a width, it need not ask the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class _Word(argparse._StoreConstAction):  # noqa: SLF001 - its only name
    """``--pull`` and ``--pull=never``, of which argparse reads the first alone."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        metavar = more.pop("metavar")
        super().__init__(option_strings, dest, **more)
        self.metavar = metavar


class VerbParser(argparse.ArgumentParser):
    """The parser of one verb. ``command`` ends up in ``arguments.command`` when the verb takes one."""

    def __init__(self, name: str, verb: Verb) -> None:
        super().__init__(
            prog=f"lamina {name}", usage=f"lamina {name} {verb.usage}", add_help=False, allow_abbrev=False,
            formatter_class=_Formatter,
        )
        self.verb_name = name
        self.verb = verb
        if verb.arguments is not None:
            verb.arguments(self)
        self.own = tuple(self._actions)
        add_globals(self)

    def positional(self, name: str, metavar: str, about: str, nargs: str | None = None) -> None:
        self.add_argument(name, metavar=metavar, help=about, nargs=nargs)

    def flag(self, *names: str, about: str, default: bool = False) -> None:
        self.add_argument(*names, action="store_true", default=default, help=about)

    def value(self, *names: str, metavar: str, about: str, **more: Any) -> None:
        self.add_argument(*names, metavar=metavar, help=about, **more)

    def word(self, *names: str, metavar: str, bare: str, about: str, default: str = "") -> None:
        """An option whose value, if it has one, stands behind a ``=``; without it means ``bare``."""
        self.add_argument(*names, action=_Word, const=bare, default=default, metavar=metavar, help=about)

    def values(self, *names: str, metavar: str, about: str) -> None:
        """An option that may be given several times."""
        self.add_argument(*names, metavar=metavar, help=about, action="append", default=[])

    def read(self, words: Sequence[str], begun: Arguments) -> Arguments:
        """``begun`` holds what the words before the verb said."""
        words, command = self._split(words)
        words, switched = self._switches(words)
        arguments = self.parse_intermixed_args(_protected(words), begun)
        for name, value in {**vars(arguments), **switched}.items():
            setattr(arguments, name, _unprotected(value))
        arguments.command = command
        return arguments

    def wants_help(self, words: Sequence[str]) -> bool:
        """Asked before anything else is read, so that ``lamina rmi --help`` needs no image."""
        ours, _ = self._split(words)
        ours = ours[: list(ours).index("--")] if "--" in ours else ours
        return "--help" in ours or ("-h" in ours and self._option_string_actions["-h"].dest == "help")

    def _split(self, words: Sequence[str]) -> tuple[Sequence[str], list[str]]:
        """Our words, and the user's own command behind them."""
        if self.verb.command != "after":
            return _split_command(words, self.verb.command)
        position = self._after_options(words)
        if position < len(words) and words[position] == "--":
            words = [*words[:position], *words[position + 1 :]]
        return words[: position + 1], list(words[position + 1 :])

    def _after_options(self, words: Sequence[str]) -> int:
        """Where the first word stands that is neither an option nor an option's value."""
        position = 0
        while position < len(words):
            word = words[position]
            if word == "--" or not word.startswith("-") or word == "-":
                break
            position += 2 if self._wants_value(word) else 1
        return min(position, len(words))

    def _wants_value(self, word: str) -> bool:
        """Whether the next word belongs to this option; ``-dit`` and ``-p80:80`` are read by letters."""
        if word.startswith("--"):
            action = self._option_string_actions.get(word)
            return action is not None and action.nargs != 0
        for number, letter in enumerate(word[1:], 2):
            action = self._option_string_actions.get(f"-{letter}")
            if action is None or action.nargs != 0:
                return action is not None and number == len(word)
        return False

    def _switches(self, words: Sequence[str]) -> tuple[list[str], dict[str, bool | str]]:
        """Takes ``--flag=true`` and ``--flag=false`` out of the words; argparse knows only ``--flag``."""
        rest: list[str] = []
        switched: dict[str, bool | str] = {}
        for number, word in enumerate(words):
            if word == "--":
                return [*rest, *words[number:]], switched
            name, equals, value = word.partition("=")
            action = self._option_string_actions.get(name) if equals else None
            if isinstance(action, _Word):
                switched[action.dest] = value
            elif not isinstance(action, argparse._StoreTrueAction):  # noqa: SLF001 - its only name
                rest.append(word)
            elif value.lower() not in _SWITCH:
                raise UsageError(f"{name}: expected true or false, got {value!r}")
            else:
                switched[action.dest] = _SWITCH[value.lower()]
        return rest, switched

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, in our words. Raises :class:`UsageError`."""
        raise self.complaint(message.replace(_DISGUISE, ""))

    def complaint(self, message: str) -> UsageError:
        missing = re.match(r"the following arguments are required: (.*)", message)
        unknown = re.match(r"unrecognized arguments: (.*)", message)
        wrong = re.match(r"argument (\S+): (.*)", message)
        if missing is not None:
            error = UsageError(f"{self.verb_name} needs {missing[1].replace(', ', ' and ')}")
        elif unknown is not None:
            error = self._unknown(unknown[1])
        elif wrong is not None and wrong[2].startswith(_IN_CLUSTER):
            error = self._unknown(f"-{wrong[2].removeprefix(_IN_CLUSTER)[1:2]}")
        elif wrong is not None:
            error = UsageError(f"{wrong[1].rsplit('/', 1)[-1]}: {_plainly(wrong[2])}")
        else:
            error = UsageError(f"{self.verb_name}: {message}")
        error.add_note(f"`lamina help {self.verb_name}` shows how it is used")
        return error

    def _unknown(self, words: str) -> UsageError:
        first = words.split(maxsplit=1)[0]
        if not first.startswith("-"):
            return UsageError(f"{self.verb_name}: did not expect {words!r}")
        name = first.partition("=")[0]
        suggestion = nearest(name, self._option_string_actions)
        return UsageError(f"{self.verb_name}: unknown option {name}{suggestion}")


def add_globals(parser: argparse.ArgumentParser, debug: Sequence[str] = ("--debug",)) -> None:
    """The options of every verb. Without defaults, so that the ones after the verb add to those before."""
    unset = argparse.SUPPRESS
    parser.add_argument("--root", metavar="DIR", default=unset, help="state directory (also LAMINA_ROOT)")
    parser.add_argument("--config-file", metavar="FILE", default=unset,
                        help="read settings from this file only (also LAMINA_CONFIG_FILE)")
    parser.add_argument("--storage-driver", metavar="NAME", default=unset,
                        help="such as overlay2 or btrfs, instead of the best that works here; "
                             "`lamina storage ls` shows all")
    # That of `run` and `create` is the container's.
    if "--storage-opt" not in parser._option_string_actions:  # noqa: SLF001 - its only name
        parser.add_argument("--storage-opt", metavar="KEY=VALUE", action="append", default=unset,
                            help="an option for the storage driver; may be repeated")
    parser.add_argument(*debug, action="store_true", default=unset, help="show where an error arose")
    # `docker run -h NAME` is the host's name: a verb's own -h goes before ours.
    short = () if "-h" in parser._option_string_actions else ("-h",)  # noqa: SLF001 - its only name
    parser.add_argument(*short, "--help", action="store_true", default=unset, help="show this help")


def split_globals(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options before the verb, and the rest, which begins with the verb."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        if words[position] == "--":
            return list(words[:position]), list(words[position + 1 :])
        position += 2 if words[position] in GLOBAL_VALUES else 1
    return list(words[:position]), list(words[position:])


class GlobalParser(argparse.ArgumentParser):
    """For what stands before the verb: the same options, and those that make sense only there."""

    def __init__(self) -> None:
        super().__init__(prog="lamina", add_help=False, allow_abbrev=False, formatter_class=_Formatter)
        add_globals(self, ("-D", "--debug"))
        self.add_argument("-q", "--quiet", dest="is_quiet", action="store_true", default=argparse.SUPPRESS,
                          help="no progress and no notes")
        self.add_argument("-v", "--version", dest="shows_version", action="store_true",
                          default=argparse.SUPPRESS, help="show the version")

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown is not None:
            name = unknown[1].partition("=")[0]
            message = f"unknown option {name}{nearest(name, self._option_string_actions)}"
        error = UsageError(message.removeprefix("argument "))
        error.add_note("`lamina help` shows the options and verbs that there are")
        raise error


def pairs_of(texts: Sequence[str]) -> dict[str, str]:
    """``KEY[=VALUE]``; the last of several values counts."""
    return {key: value for key, _equals, value in (text.partition("=") for text in texts)}


def parse_size(text: str, option: str) -> int:
    """``10MB``, ``10 m``, ``1.5GiB``, ``4096``: bytes. Decimal units, but for those with an ``i``."""
    found = re.fullmatch(_SIZE, text.strip())
    if found is None:
        raise UsageError(f"{option}: expected a size such as 500kB or 10MB, got {text!r}")
    power = " kmgt".index((found[2] or " ").lower())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


_NUMBERS = {"int": "a whole number", "float": "a number such as 1.5"}

# What argparse says of the x in -lx.
_IN_CLUSTER = "ignored explicit argument "

# argparse's intermixed parsing forgets what ``--`` said, so words behind it are disguised. No word of a
# command line can hold a NUL.
_DISGUISE = "\0"


def _protected(words: Sequence[str]) -> list[str]:
    if "--" not in words:
        return list(words)
    mark = list(words).index("--")
    return [*words[:mark], *(_DISGUISE + word for word in words[mark + 1 :])]


def _unprotected(value: Any) -> Any:
    if isinstance(value, list):
        return [_unprotected(item) for item in value]
    return value.removeprefix(_DISGUISE) if isinstance(value, str) else value


def _plainly(complaint: str) -> str:
    """What argparse says of a value that is no number, in our words."""
    found = re.match(r"invalid (int|float) value: (.*)", complaint)
    if found is None:
        return complaint
    return f"expected {_NUMBERS[found[1]]}, got {found[2]}"


def _split_command(words: Sequence[str], where: str) -> tuple[Sequence[str], list[str]]:
    """The command of the user's own that ends the line; no option in it is ours."""
    if where == "all":
        return [], list(words)
    if where == "first":
        before, after = split_globals(words)
        return before, after
    if where == "--" and "--" in words:
        mark = list(words).index("--")
        return words[:mark], list(words[mark + 1 :])
    return words, []
