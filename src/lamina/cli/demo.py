"""``lamina demo``: how images and layers work, shown by the real verbs on two small real images.

Everything happens in a temporary directory and on the loopback interface: a second store plays the
registry. The verbs are run as the command line runs them, so what is seen here is what they do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lamina.cli.session import Refused, Session
from lamina.cli.terminal import is_terminal, visible
from lamina.cli.verbs import Verb
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.engine.engine import Engine

# What a program needs to run at all; a user's settings, proxies and credentials stay out of the demo.
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "NO_COLOR", "CI", "TMPDIR", "COLUMNS")
_REPOSITORY = "demo"
_DRIVERS = (
    """info --format '{{range .DriverCandidates}}{{printf "%-10s" .Name}}{{.Reason}}\\n{{end}}"""
    """chosen: {{.Driver}}'"""
)



@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """What is said before and after some command lines; {app} and {worker} stand for the images' names.

    Where nothing may be mounted, one that needs it says why instead.
    """

    title: str
    before: str = ""
    commands: tuple[str, ...]
    after: str
    needs_mounts: bool = False


CHAPTERS = (
    Chapter(
        title="Pulling an image",
        before="""\
An image is a stack of read-only layers. Each line that ends with "Pull complete" is one layer.""",
        commands=("pull {app}",),
        after="""\
Three layers arrived, each checked against its digest. No daemon was involved, and no root.""",
    ),
    Chapter(
        title="The same layers in inspect",
        commands=("inspect --format '{{json .RootFS.Layers}}' {app}",),
        after="""\
Three layers again, under other names. Pull showed the digests of the compressed blobs that travelled;
inspect lists diff ids, the digests of the same layers uncompressed. Next, both side by side.""",
    ),
    Chapter(
        title="A stack of layers",
        before="Base first: Ubuntu (nearly), then Java, then the application.",
        commands=("layers {app}", "history {app}"),
        after="Each instruction that changed files made one layer; CMD changed none and made none.",
    ),
    Chapter(
        title="One layer obscures another",
        before="""\
Seven files were put into /files: three by the base, three with Java, and File 7 by the application's
layer, as the updated version of File 6. A container sees six:""",
        commands=(
            "ls -l {app}:/files", "cat {app} /files/file-6", "blame {app} /files/file-6", "obscured {app}",
        ),
        after="""\
File 7 obscures File 6. The old version is still in its layer: whoever pulls the image pulls it too.""",
    ),
    Chapter(
        title="A storage driver stacks the layers",
        before="The first of these that works here is chosen, unless `--storage-driver` says otherwise.",
        commands=(_DRIVERS,),
        after="""\
Whichever it is, every command answers the same. `lamina mount` shows the stack as a directory.""",
    ),
    Chapter(
        title="Layers are shared",
        before="A second image has the same base and the same Java layer, and one of its own on top.",
        commands=("pull {worker}",),
        after="""\
"Already exists": two of its layers were here, and were neither fetched nor stored again.""",
    ),
    Chapter(
        title="Pulling again",
        commands=("pull {app}",),
        after="Nothing was new, so not one byte of a layer moved.",
    ),
    Chapter(
        title="What it takes on disk",
        commands=("images", "system df -v"),
        after="""\
Sizes in `images` are those of the files. `system df` counts what is on disk: shared bytes once, however
many images use them; only the unique ones go when an image is removed.""",
    ),
    Chapter(
        title="Removing is not erasing",
        before="The second image removed File 5 in its top layer. No container sees it any more, and yet:",
        commands=("blame {worker} /files/file-5", "cat --layer 1 {worker} /files/file-5"),
        after="""\
A layer can hide what is below it, never take it away. Secrets do not belong in any layer.""",
    ),
    Chapter(
        title="Squashing",
        before="""\
Several layers become one, and what one of them removed is gone. The base stays as it is, and shared.""",
        commands=("squash --from 1 {worker} -t {worker}-squashed", "layers {worker}-squashed"),
        after="""\
That is the gain, and the price stands beside it: layers that could be shared, pulled and looked into alone.
The image itself has not changed, and its history is told on in the new one.""",
    ),
    Chapter(
        title="Is it really gone?",
        before="Every byte that an image reaches is searched: hidden files, padding, settings, history.",
        commands=(
            "verify-erased --image-only --path /files/file-5 {worker}",
            "verify-erased --image-only --path /files/file-5 {worker}-squashed",
        ),
        after="""\
Clean, with a certificate for those who ask (`-o`). But whoever pulled the image before has it still.""",
    ),
    Chapter(
        title="Containers: a layer of their own",
        before="""\
A container is an image's layers with a writable one on top. Here are two of one image; a file is copied
into each, over File 7 in the first, and beside it in the second.""",
        commands=(
            "create --name one {app}", "create --name two {app}",
            "cp note one:/files/file-6", "cp note two:/files/note", "diff one", "diff two",
        ),
        after="""\
Each has its own change, and sees nothing of the other's. What neither of them touched, they share.""",
        needs_mounts=True,
    ),
    Chapter(
        title="The image stays as it was",
        commands=("cat {app} /files/file-6", "system df", "rm one two"),
        after="""\
`rm` took the two layers away; `commit` would have made images of them. These images hold no program, so
nothing ran here. With one that does:  lamina run --rm -it alpine:3 sh""",
        needs_mounts=True,
    ),
)
# These answer a question by their exit code too: 1 is an answer, not a failure.
_ANSWERING = ("verify-erased",)
_SHOWING_PROGRESS = ("pull",)
_CLOSING = """\
That is all there is to it: layers named by their digests, stored once, stacked into images and containers.
Now with a real one:  lamina pull redis:latest && lamina layers redis"""


def _arguments(parser: VerbParser) -> None:
    parser.value("--keep", metavar="DIR", default="",
                 about="leave the state directory there, to go on with it")


def _demo(arguments: Arguments, session: Session) -> int:
    with ExitStack() as stack:
        work = stack.enter_context(_workplace(arguments.keep))
        inner = _inner_session(session, work)
        host = stack.enter_context(_published(inner, os.path.join(work, "registry")))
        names = {name: f"{host}/{_REPOSITORY}/{name}:1" for name in ("app", "worker")}
        stack.enter_context(_beside_a_note(work))
        for number, chapter in enumerate(CHAPTERS, 1):
            code = _tell(number, chapter, names, session, inner)
            if code:
                return code
    session.print("")
    session.print(_CLOSING)
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
def _beside_a_note(work: str) -> Iterator[None]:
    """Where the commands find a file by a short name."""
    from contextlib import chdir

    place = os.path.join(work, "here")
    os.makedirs(place)
    with open(os.path.join(place, "note"), "w", encoding="utf-8") as file:
        file.write("Written in a container\n")
    with chdir(place):
        yield


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
    if chapter.needs_mounts and (reason := _why_no_mounts(inner)):
        session.print(f"Not here: {reason}.")
        return 0
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
    code = main(words, _again(inner, is_quiet=words[0] not in _SHOWING_PROGRESS))
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
interface, pulls both, and explains what happens. No network, no root; leaves nothing behind.""",
    arguments=_arguments,
    examples=("lamina demo", "lamina demo --keep ./playground"),
)
