"""``lamina demo``: how images and layers work, shown by the real verbs on small real images.

Everything happens in a temporary directory and on the loopback interface: a second store plays the
registry. The verbs are run as the command line runs them, so what is seen here is what they do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lamina.cli.demochapters import CHAPTERS, CLOSING, Chapter
from lamina.cli.demofiles import has_compiler, write_contexts
from lamina.cli.session import Refused, Session
from lamina.cli.terminal import is_terminal, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.engine.engine import Engine

# What a program needs to run at all; a user's settings, proxies and credentials stay out of the demo.
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "NO_COLOR", "CI", "TMPDIR", "COLUMNS")
_REPOSITORY = "demo"
# These answer a question by their exit code too: 1 is an answer, not a failure.
_ANSWERING = ("verify-erased",)
_SHOWING_PROGRESS = ("pull", "build")


def _arguments(parser: VerbParser) -> None:
    parser.value("--keep", metavar="DIR", default="",
                 about="leave the state directory there, to go on with it")


def _demo(arguments: Arguments, session: Session) -> int:
    with ExitStack() as stack:
        work = stack.enter_context(_workplace(arguments.keep))
        inner = _inner_session(session, work)
        host = stack.enter_context(_published(inner, os.path.join(work, "registry")))
        names = {name: f"{host}/{_REPOSITORY}/{name}:1" for name in ("app", "worker")}
        stack.enter_context(_among_files(work))
        for number, chapter in enumerate(CHAPTERS, 1):
            code = _tell(number, chapter, names, session, inner)
            if code:
                return code
    session.print("")
    session.print(CLOSING)
    if arguments.keep:
        session.print(f"Kept: try  lamina --root {visible(os.path.join(arguments.keep, 'state'))} images")
    return 0


@contextmanager
def _workplace(keep: str) -> Iterator[str]:
    """A directory for the demo: one that goes away, or the one that is to be kept."""
    if not keep:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="lamina-demo-") as directory:
            yield directory
        return
    if os.path.isdir(keep) and os.listdir(keep):
        raise Refused(f"{keep}: not empty; --keep wants a new or an empty directory")
    os.makedirs(keep, exist_ok=True)
    yield os.path.abspath(keep)


@contextmanager
def _among_files(work: str) -> Iterator[None]:
    """Where the commands find files by short names: a note, and what is built."""
    from contextlib import chdir

    place = os.path.join(work, "here")
    os.makedirs(place)
    with open(os.path.join(place, "note"), "w", encoding="utf-8") as file:
        file.write("Written in a container\n")
    write_contexts(place)
    with chdir(place):
        yield


def _why_not(chapter: Chapter, inner: Session) -> str:
    """Empty where all that the chapter needs can be had."""
    if chapter.needs_mounts and (reason := _why_no_mounts(inner)):
        return reason
    return _why_no_programs() if chapter.needs_compiler else ""


def _why_no_programs() -> str:
    if not has_compiler():
        return f"the demo has no program for {os.uname().machine}"
    if os.statvfs(".").f_flag & os.ST_NOEXEC:
        return f"{os.getcwd()} is on a filesystem mounted noexec; TMPDIR chooses another"
    return ""


def _why_no_mounts(inner: Session) -> str:
    """Empty where containers can be had."""
    from lamina.engine.starting import no_namespaces

    with _again(inner, is_quiet=True).engine() as engine:
        return "" if engine.driver.identity.may_mount else no_namespaces()


def _inner_session(session: Session, work: str) -> Session:
    """For the verbs of the demo: the same streams, but a state directory and settings of their own."""
    environ = {name: session.environ[name] for name in _KEPT if name in session.environ}
    inner = Session(
        stdin=session.stdin, stdout=session.stdout, stderr=session.stderr,
        environ={**environ, "HOME": os.path.join(work, "home")}, clock=session.clock,
    )
    driver = session.flags.get("storage-driver")
    inner.flags = {"data-root": os.path.join(work, "state"), **({"storage-driver": driver} if driver else {})}
    inner.is_debug = session.is_debug
    return inner


@contextmanager
def _published(inner: Session, root: str) -> Iterator[str]:
    """Another store, served as a registry on a free port of the loopback interface; gives its host."""
    from lamina.cli.samples import publish

    with _publisher(inner, root) as engine:
        publish(engine.store, _REPOSITORY, engine.platform)
        server = engine.serve("127.0.0.1", 0, read_only=True)
        try:
            yield server.url.partition("://")[2].rstrip("/")
        finally:
            server.close()


def _publisher(inner: Session, root: str) -> Engine:
    from lamina.engine.engine import Engine
    from lamina.engine.settings import Settings

    return Engine.open(settings=Settings.load(inner.environ, flags={"data-root": root}))


def _tell(
    number: int, chapter: Chapter, names: dict[str, str], session: Session, inner: Session
) -> int:
    session.print("")
    session.print(_heading(f"{number}. {chapter.title}", session))
    if chapter.before:
        session.print(chapter.before)
    if reason := _why_not(chapter, inner):
        session.print(f"Not here: {reason}.")
        return 0
    if chapter.edit is not None:
        chapter.edit(os.getcwd())
    for text in chapter.commands:
        code = _show(text, names, session, inner)
        if code:
            return code
    session.print("")
    session.print(chapter.after)
    return 0


def _show(text: str, names: dict[str, str], session: Session, inner: Session) -> int:
    """One command line and what it answers, as a person would see it."""
    import shlex

    from lamina.cli.dispatch import main

    for name, full in names.items():
        text = text.replace(f"{{{name}}}", full)
    session.print("")
    session.print(f"$ lamina {text}")
    session.flush()
    words = shlex.split(text)
    fresh = _again(inner, is_quiet=words[0] not in _SHOWING_PROGRESS)
    if words[0] == "build":
        fresh.stderr = fresh.stdout  # its progress is the result here
    code = main(words, fresh)
    return 0 if code == 1 and words[0] in _ANSWERING else code


def _again(inner: Session, *, is_quiet: bool) -> Session:
    """Each command line starts afresh, as each process does."""
    fresh = Session(stdin=inner.stdin, stdout=inner.stdout, stderr=inner.stderr, environ=inner.environ,
                    clock=inner.clock)
    fresh.flags, fresh.is_debug, fresh.has_hints = dict(inner.flags), inner.is_debug, False
    fresh.is_quiet = is_quiet
    return fresh


def _heading(text: str, session: Session) -> str:
    if is_terminal(session.stdout) and not session.environ.get("NO_COLOR"):
        return f"\x1b[1m{text}\x1b[0m"
    return text


DEMO = Verb(
    _demo,
    usage="[OPTIONS]",
    about="""\
Makes two small images that share a base, serves them from a registry of its own on the loopback
interface, pulls both, builds two more, and explains what happens. No network, no root; leaves nothing
behind.""",
    arguments=_arguments,
    examples=("lamina demo", "lamina demo --keep ./playground"),
)
