"""The kinds of failure, each with what a door needs to answer for it.

Every error that lamina raises on purpose is one of these kinds; the concrete ones live
beside the code that raises them and inherit exactly one kind::

    LaminaError
    ├── InvalidInput     (ValueError)   400  the text, document or archive is not what it must be
    ├── NotFound         (LookupError)  404  no such blob, name, tag, path
    ├── Conflict                        409  it exists already, or is in use
    ├── IntegrityError                  422  the bytes are not the ones that were promised
    ├── Unsupported                     501  understood, but not something we do or can do here
    ├── Denied                          403  not allowed: credentials, privilege, or a path that escapes
    └── Unavailable                     503  the other side, or a lock, did not answer

A message starts with its subject and gives both sides: ``sha256:ab…: expected 312 bytes, got
298``. What was being done is added on the way up with :meth:`BaseException.add_note`, never by
wrapping. The drawing above is kept true by ``tests/test_surface.py``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the end of a message, where one comes really near.

    Who does not know the word seldom misses its first letter: ``--gpus`` was never meant to be ``--cpus``.
    """
    import difflib  # noqa: PLC0415 - only somebody who misspelled something pays for it

    bare = {name: name.lstrip("-") for name in known}
    begin = word.lstrip("-")[:1]
    likely = [name for name in bare if bare[name][:1] == begin]
    near = difflib.get_close_matches(word, likely, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


class LaminaError(Exception):
    """Base of everything raised on purpose. ``status`` is HTTP's; ``exit_code`` is the shell's."""

    status = 500
    exit_code = 1


class InvalidInput(LaminaError, ValueError):
    status = 400


class NotFound(LaminaError, LookupError):
    status = 404


class Conflict(LaminaError):
    status = 409


class IntegrityError(LaminaError):
    status = 422


class Unsupported(LaminaError):
    status = 501


class Denied(LaminaError):
    status = 403


class Unavailable(LaminaError):
    """``retry_after`` is in seconds, when the other side said one."""

    status = 503
    retry_after: float | None = None
