"""What went wrong, in one sentence first, and the exit code that goes with it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from lamina.cli.terminal import visible_lines
from lamina.errors import LaminaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.session import Session

BUG = 125  # lamina itself failed: the code that docker keeps for its engine
INTERRUPTED = 130
CLOSED_OUTPUT = 141

_ADVICE = {
    errno.ENOSPC: "no space left; `lamina system df` shows what takes it and `lamina prune` frees what is "
                  "not needed, or choose a larger disk with --root",
    errno.EDQUOT: "the disk quota is used up; `lamina prune` frees what is not needed, or choose another "
                  "place with --root",
    errno.EROFS: "the filesystem is read-only; make it writable, or choose another place with --root",
    errno.EACCES: "permission denied; run as its owner, or choose a place of your own with --root",
    errno.EPERM: "not permitted; this needs more privilege than this user has",
    errno.EMFILE: "too many open files; raise the limit with `ulimit -n`",
    errno.ENFILE: "the system has too many open files",
    errno.EIO: "the disk answers with an input/output error; look at the kernel's log before trusting it",
}

_ABOUT_ROOT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def report(error: BaseException, session: Session) -> int:
    """Says what happened on standard error; gives the exit code. The verb's own code replaces 1."""
    if session.is_debug:
        import traceback

        session.stderr.write(visible_lines(without_passwords("".join(traceback.format_exception(error)))))
    codes = [_report_one(each, session) for each in _each(error)]
    code = max(codes)
    return session.trouble if code == 1 else code


def _report_one(error: BaseException, session: Session) -> int:
    sentence, code = explain(error, str(session.flags.get("data-root", "")), session.known_root)
    session.complain(without_passwords(sentence))
    for note in _notes(error, session.known_root):
        session.stderr.write(f"        {visible_lines(without_passwords(note))}\n")
    return code


def explain(error: BaseException, root: str = "", known_root: str = "") -> tuple[str, int]:
    """One sentence, and the exit code. ``root`` is the state directory as somebody gave it."""
    if isinstance(error, LaminaError):
        return str(error) or _spaced(type(error).__name__), error.exit_code
    if type(error).__module__ == "sqlite3":
        return _of_database(error), 1
    if isinstance(error, OSError):
        return _of_system(error, root, known_root), 1
    if isinstance(error, MemoryError):
        return "not enough memory", 1
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected {text} (this is a fault in lamina; --debug shows where)", BUG


def without_passwords(text: str) -> str:
    """People give URLs with a password in them; logs are read by others."""
    import re

    return re.sub(r"(?<=://)([^/\s:@]*):[^/\s@]*@", r"\1:***@", text)


def _each(error: BaseException) -> Iterator[BaseException]:
    """Errors found together are told together."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _each(inner)
    else:
        yield error


def _notes(error: BaseException, known_root: str) -> Iterator[str]:
    cause = error.__cause__
    if isinstance(cause, LaminaError | OSError):
        yield f"because of {explain(cause, known_root=known_root)[0]}"
    yield from getattr(error, "__notes__", ())


def _of_system(error: OSError, root: str, known_root: str) -> str:
    subject = error.filename if error.filename is not None else root or "the state directory"
    if isinstance(subject, bytes):
        subject = subject.decode(errors="surrogateescape")
    is_named = error.filename is not None
    is_theirs = is_named and error.errno in _ABOUT_ROOT and not _may_be_ours(subject, error.errno, known_root)
    if subject == "standard output" or is_theirs or (is_named and error.errno not in _ADVICE):
        return f"{subject}: {(error.strerror or str(error)).lower()}"
    if error.errno in _ADVICE:
        return f"{subject}: {_ADVICE[error.errno]}"
    return error.strerror or str(error) or type(error).__name__


def _may_be_ours(path: object, number: int | None, root: str) -> bool:
    """Whether it is in the state directory, or a directory that this one is in.

    A relative name may be one below an open directory of ours, where permission would not be missing.
    """
    if not isinstance(path, str | os.PathLike) or not root:
        return False
    if not os.path.isabs(path):
        return number != errno.EACCES
    path, root = os.path.abspath(path), os.path.abspath(root)
    return os.path.commonpath([path, root]) in (path, root)


def _of_database(error: BaseException) -> str:
    """SQLite's own words for what the system answered, with what to do."""
    text = str(error)
    if "full" in text:
        return f"state.sqlite: {_ADVICE[errno.ENOSPC]}"
    if "readonly" in text:
        return f"state.sqlite: {_ADVICE[errno.EROFS]}"
    if "unable to open" in text:
        return ("state.sqlite: cannot be opened; its directory must be there, writable, and not on a "
                "read-only filesystem; --root chooses another place")
    if "disk I/O" in text:  # what SQLite makes of a full disk where it maps a file
        return f"state.sqlite: {text}; is the disk full, or failing?"
    if "locked" in text:
        return "state.sqlite: another lamina keeps it locked; try again when that one is done"
    if "malformed" in text or "not a database" in text:
        return f"state.sqlite: damaged ({text}); `lamina check --repair` rebuilds what can be rebuilt"
    return f"state.sqlite: {text}"


def _spaced(name: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
