"""What is asked for several things in one command: each is tried, whatever happened to those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lamina.cli.terminal import visible
from lamina.errors import LaminaError

if TYPE_CHECKING:
    from lamina.cli.session import Session

_Found = TypeVar("_Found")


def for_each(session: Session, names: Sequence[str], act: Callable[[str], object]) -> int:
    """Prints each one's name when it is done, unless ``act`` says ``False``: there was nothing to do.

    The exit code is docker's: 1 if any failed.
    """

    def act_and_tell(name: str) -> None:
        if act(name) is not False:
            session.print(visible(name))

    _, code = collected(session, names, act_and_tell)
    return 1 if code else 0


def collected(
    session: Session, names: Sequence[str], read: Callable[[str], _Found]
) -> tuple[list[_Found], int]:
    """What was found for those where anything was, and the exit code."""
    from lamina.cli import failures

    found, code = [], 0
    for name in names:
        try:
            found.append(read(name))
        except LaminaError as error:
            session.flush()
            code = failures.report(error, session)
    return found, code
