"""Finds the verb of a command line, imports what it needs and nothing else, runs it, answers for errors."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.cli import failures, verbs
from lamina.cli.arguments import Arguments, GlobalParser, UsageError, VerbParser, split_globals
from lamina.cli.session import OutputClosed, Session
from lamina.errors import nearest

_SETTING_OF = {"root": "data-root", "storage_driver": "storage-driver", "storage_opt": "storage-opts"}


def main(words: Sequence[str], session: Session) -> int:
    """Runs one command line; gives the exit code. Never raises, but for an interrupt while it cleans up."""
    try:
        code = _dispatch(words, session)
        session.flush()
    except OutputClosed:
        return failures.CLOSED_OUTPUT
    except KeyboardInterrupt as interrupt:
        return _after_interrupt(interrupt, session)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11, of one that comes in __set_name__
            return _after_interrupt(error.__cause__, session)
        return _after_failure(error, session)
    return code


def _dispatch(words: Sequence[str], session: Session) -> int:
    before, rest = split_globals(words)
    arguments = GlobalParser().parse_args(before, Arguments())
    _adopt(arguments, session)
    if getattr(arguments, "shows_version", False):
        rest = ["version", "--short"]
    if not rest:
        return _help([], session)
    name, count = verbs.find(rest)
    if not name:
        return _without_verb(rest, session)
    verb = verbs.load(name)
    session.trouble = verb.trouble
    parser = VerbParser(name, verb)
    if getattr(arguments, "help", False) or parser.wants_help(rest[count:]):
        return _help(rest[:count], session)
    arguments = parser.read(rest[count:], arguments)
    _adopt(arguments, session)
    return verb.run(arguments, session) or 0


def _adopt(arguments: Arguments, session: Session) -> None:
    """The options that every verb has."""
    given = vars(arguments)
    session.flags |= {key: given[name] for name, key in _SETTING_OF.items() if name in given}
    session.config_file = given.get("config_file", session.config_file)
    session.is_quiet = given.get("is_quiet", session.is_quiet)
    session.is_debug = given.get("debug", session.is_debug)


def _help(words: Sequence[str], session: Session) -> int:
    from lamina.cli.help import explain

    return explain(words, session)


def _without_verb(words: Sequence[str], session: Session) -> int:
    """A group alone is explained; anything else is a mistake that a near verb may put right."""
    first = words[0]
    if first in verbs.GROUPS:
        rest = [word for word in words[1:] if not word.startswith("-")]
        if not rest:
            return _help([first], session)
        known = verbs.members(first)
        raise _unknown(f"{first} {rest[0]}", nearest(rest[0], known), f"lamina help {first}")
    raise _unknown(first, nearest(first, [*verbs.names(), *verbs.GROUPS, *verbs.ALIASES]), "lamina help")


def _unknown(spelled: str, suggestion: str, where: str) -> UsageError:
    error = UsageError(f"there is no verb {spelled!r}{suggestion}")
    error.add_note(f"`{where}` lists those that there are")
    return error


def _after_interrupt(interrupt: KeyboardInterrupt, session: Session) -> int:
    session.stderr.write("\n")
    session.complain("; ".join(["interrupted", *getattr(interrupt, "__notes__", ())]))
    return failures.INTERRUPTED


def _after_failure(error: Exception, session: Session) -> int:
    """What was printed before the failure is kept, and comes before the complaint."""
    import contextlib

    with contextlib.suppress(OSError, OutputClosed):
        session.flush()
    return failures.report(error, session)
