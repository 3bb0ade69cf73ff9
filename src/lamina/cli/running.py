"""Containers started and entered: run, create, start, attach, exec."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.attaching import (
    DEFAULT_KEYS,
    Detached,
    flush_standard_streams,
    insist_terminal,
    proxied_signals,
    raw_terminal,
    read_detach_keys,
    relay_attached,
    relay_terminal,
    terminal_size,
)
from lamina.cli.platforms import platform_of
from lamina.cli.runoptions import add_command, add_run_arguments, read_lines, read_options
from lamina.cli.session import Refused
from lamina.cli.several import for_each
from lamina.cli.streams import ForeignStreams
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb
from lamina.errors import Conflict, LaminaError

if TYPE_CHECKING:
    import socket

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.engine import Engine
    from lamina.engine.entering import ExecOptions
    from lamina.runtime.container import Container
    from lamina.runtime.entering import Inside

ENGINE_FAILED = 125
_CODES = """\
Exit codes: the command's own, 128 and the number of the signal that ended it, 127 if the command is not
found in the container, 126 if it cannot be run, 125 if lamina failed."""


def _add_keys(parser: VerbParser) -> None:
    parser.value("--detach-keys", metavar="KEYS", default=DEFAULT_KEYS,
                 about="keys that detach (ctrl-p,ctrl-q)")


def _add_proxying(parser: VerbParser) -> None:
    parser.flag("--sig-proxy", about="pass signals on (default true)", default=True)


# -- run and create


def _create_arguments(parser: VerbParser) -> None:
    parser.positional("image", "IMAGE", "a name, an ID, or the beginning of an ID")
    add_run_arguments(parser)


def _run_arguments(parser: VerbParser) -> None:
    _create_arguments(parser)
    parser.flag("-d", "--detach", about="leave it running, and print its ID")
    parser.values("-a", "--attach", metavar="STREAM", about="stdin, stdout, stderr: only these")
    _add_proxying(parser)
    _add_keys(parser)


def _create(arguments: Arguments, session: Session) -> None:
    with _with_image(arguments, session) as engine:
        session.print(_make(arguments, session, engine).id)


def _run(arguments: Arguments, session: Session) -> int:
    if arguments.detach and arguments.attach:
        raise UsageError("--detach and --attach exclude each other")
    keys = read_detach_keys(arguments.detach_keys)
    if arguments.tty and arguments.interactive and not arguments.detach:
        insist_terminal()
    with _with_image(arguments, session) as engine:
        container = _make(arguments, session, engine)
        try:
            if arguments.detach:
                started = engine.start(container.id, console=terminal_size() if arguments.tty else None)
                _show_notes(session, started.notes)
                session.print(container.id)
                return 0
            return _attached_start(
                session, engine, container, keys, proxies=arguments.sig_proxy,
                streams=_streams(arguments.attach, is_interactive=arguments.interactive),
            )
        except Exception:
            _forget_unstarted(engine, container)
            raise


def _make(arguments: Arguments, session: Session, engine: Engine) -> Container:
    if arguments.cidfile and os.path.exists(arguments.cidfile):
        raise UsageError(f"--cidfile {arguments.cidfile}: there is such a file; remove it, or name another")
    container = engine.create(
        arguments.image, options=read_options(arguments, session.environ), name=arguments.name,
        pull="never", platform=platform_of(arguments.platform),
    )
    if arguments.cidfile:
        try:
            with open(arguments.cidfile, "x", encoding="ascii") as file:
                file.write(container.id)
        except OSError:
            engine.remove_container(container.id, with_volumes=True)
            raise
    return container


def _forget_unstarted(engine: Engine, container: Container) -> None:
    """``--rm`` of a container that never ran, when its monitor could not do it."""
    if container.options.is_removed_at_exit:
        with contextlib.suppress(LaminaError):
            engine.remove_container(container.id, with_volumes=True)


@contextlib.contextmanager
def _with_image(arguments: Arguments, session: Session) -> Iterator[Engine]:
    """The image is here. Pulled, where it must be, with its progress and before anything else: downloading
    has threads, and starting must have none.
    """
    engine = session.engine()
    if _is_pull_needed(arguments, session, engine):
        from lamina.cli.progress import shown

        engine.close()
        with shown(session, session.stderr) as report, session.engine(report) as puller:
            puller.pull(arguments.image, platform=platform_of(arguments.platform))
        engine = session.engine()
    with engine:
        yield engine


def _is_pull_needed(arguments: Arguments, session: Session, engine: Engine) -> bool:
    from lamina.engine.lookup import ImageNotFound, find_image

    if arguments.pull != "missing":
        return bool(arguments.pull == "always")
    try:
        record = find_image(engine.store.catalog, arguments.image)
    except ImageNotFound:
        session.note(f"{visible(arguments.image)} is not here: pulling it")
        return True
    platform = platform_of(arguments.platform)
    return platform is not None and record.platform != str(platform)


def _streams(attach: list[str], *, is_interactive: bool) -> tuple[str, ...]:
    for name in attach:
        if name.lower() not in ("stdin", "stdout", "stderr"):
            raise UsageError(f"--attach: expected stdin, stdout or stderr, got {name!r}")
    chosen = tuple(name.lower() for name in attach) or ("stdout", "stderr")
    return (*chosen, "stdin") if is_interactive and not attach else chosen


def _attached_start(
    session: Session, engine: Engine, container: Container, keys: bytes, *, proxies: bool,
    streams: tuple[str, ...],
) -> int:
    """The container's start, and then this terminal is its own until it ends."""
    import socket

    is_terminal = container.options.has_terminal
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            console = terminal_size() if is_terminal else None
            started = engine.start(container.id, client=theirs, console=console)
        _show_notes(session, started.notes)
        return _attend(session, engine, container.id, ours, keys, proxies=proxies, streams=streams,
                       is_terminal=is_terminal)


def _attend(
    session: Session, engine: Engine, name: str, connection: socket.socket, keys: bytes, *, proxies: bool,
    streams: tuple[str, ...], is_terminal: bool,
) -> int:
    flush_standard_streams()
    session.flush()

    def send(number: int) -> None:
        with contextlib.suppress(LaminaError):
            engine.kill(name, number)

    try:
        with _either(is_terminal, proxies, send):
            ended = relay_attached(
                connection, sends_input="stdin" in streams, is_terminal=is_terminal, keys=keys, shows=streams
            )
    except Detached:
        session.note("detached: the container goes on")
        return 0
    if ended is None:
        return _code_after_loss(engine, name)
    code, trouble = ended
    if trouble:
        session.complain(trouble)
    return code


def _code_after_loss(engine: Engine, name: str) -> int:
    """The monitor is gone without a last word."""
    seen = engine.container(name)
    if seen.state.is_live:
        raise Refused(f"{name}: its monitor was killed; the container goes on without one, and without a log")
    return seen.state.exit_code


@contextlib.contextmanager
def _either(is_terminal: bool, proxies: bool, send: Callable[[int], None]) -> Iterator[None]:
    """A terminal sends Ctrl-C as a key; without one, signals are passed on."""
    if is_terminal and os.isatty(0):
        with raw_terminal():
            yield
    elif proxies:
        with proxied_signals(send):
            yield
    else:
        yield


def _show_notes(session: Session, notes: tuple[str, ...]) -> None:
    for note in notes:
        session.note(note)


CREATE = Verb(
    _create,
    usage="[OPTIONS] IMAGE [COMMAND [ARGUMENT...]]",
    about="""\
Makes a container of an image: a writable layer of its own over the image's layers, and prints its ID.
`lamina start` runs its command.""",
    arguments=_create_arguments,
    examples=("lamina create --name web -p 8080:80 nginx:1", "lamina start web"),
    command="after", trouble=ENGINE_FAILED,
)
RUN = Verb(
    _run,
    usage="[OPTIONS] IMAGE [COMMAND [ARGUMENT...]]",
    about=f"""\
Runs a command in a new container: `create`, `start`, and this terminal is the command's until it ends. The
image is pulled if it is not here. What the command writes goes to the container's own layer and stays there
until `rm`; --rm removes it at once.

{_CODES}""",
    arguments=_run_arguments,
    examples=(
        "lamina run --rm -it alpine:3 sh", "lamina run -d --name cache -p 6379:6379 redis:7",
        "lamina run --rm -v $PWD:/src -w /src python:3 python test.py",
    ),
    command="after", trouble=ENGINE_FAILED,
)


# -- start and attach


def _start_arguments(parser: VerbParser) -> None:
    parser.positional("names", "CONTAINER", "a name, an ID, or the beginning of an ID", nargs="+")
    parser.flag("-a", "--attach", about="show its output, pass signals on, and exit with its code")
    parser.flag("-i", "--interactive", about="pass input on as well")
    _add_keys(parser)


def _start(arguments: Arguments, session: Session) -> int:
    keys = read_detach_keys(arguments.detach_keys)
    is_attached = arguments.attach or arguments.interactive
    if is_attached and len(arguments.names) > 1:
        raise UsageError("start --attach: one container at a time")
    with session.engine() as engine:
        if is_attached:
            seen = engine.container(arguments.names[0])
            if seen.state.is_live:
                return _attach_to(
                    session, engine, arguments.names[0], keys, sends_input=arguments.interactive
                )
            if seen.container.options.has_terminal and arguments.interactive:
                insist_terminal()
            streams = ("stdout", "stderr", *(["stdin"] if arguments.interactive else []))
            return _attached_start(session, engine, seen.container, keys, proxies=True, streams=streams)
        return for_each(session, arguments.names, lambda name: _start_one(session, engine, name))


def _start_one(session: Session, engine: Engine, name: str) -> None:
    state = engine.container(name).state
    if state.status == "paused":
        raise Conflict(f"{name}: paused, not ended; `lamina unpause {name}` lets it go on")
    if not state.is_live:
        _show_notes(session, engine.start(name).notes)


START = Verb(
    _start, usage="[OPTIONS] CONTAINER...",
    about="Runs the command of containers that were created, or that have ended.",
    arguments=_start_arguments, examples=("lamina start web cache", "lamina start -ai shell"),
)


def _attach_arguments(parser: VerbParser) -> None:
    parser.positional("name", "CONTAINER", "one that is running")
    parser.flag("--no-stdin", about="do not pass input on")
    _add_proxying(parser)
    _add_keys(parser)


def _attach(arguments: Arguments, session: Session) -> int:
    keys = read_detach_keys(arguments.detach_keys)
    with session.engine() as engine:
        return _attach_to(session, engine, arguments.name, keys, sends_input=not arguments.no_stdin,
                          proxies=arguments.sig_proxy)


def _attach_to(
    session: Session, engine: Engine, name: str, keys: bytes, *, sends_input: bool, proxies: bool = True
) -> int:
    seen = engine.container(name)
    options = seen.container.options
    streams = ("stdout", "stderr", *(["stdin"] if sends_input and options.is_interactive else []))
    with engine.attach(name) as connection:
        return _attend(session, engine, name, connection, keys, proxies=proxies, streams=streams,
                       is_terminal=options.has_terminal)


ATTACH = Verb(
    _attach, usage="[OPTIONS] CONTAINER",
    about="""\
Connects this terminal with a running container: its output from now on, its input if it was made with -i, and
its exit code. With a terminal, Ctrl-P Ctrl-Q leaves it running.""",
    arguments=_attach_arguments, examples=("lamina attach shell", "lamina attach --no-stdin web"),
)


# -- exec


def _exec_arguments(parser: VerbParser) -> None:
    parser.positional("name", "CONTAINER", "one that is running")
    parser.flag("-d", "--detach", about="leave the command running")
    add_command(parser)
    parser.flag("--privileged", about="all capabilities")
    _add_keys(parser)


def _exec(arguments: Arguments, session: Session) -> int:
    from lamina.cli.runoptions import read_variable
    from lamina.engine.entering import ExecOptions

    if not arguments.command:
        raise UsageError("exec: which command? (lamina exec CONTAINER COMMAND)")
    keys = read_detach_keys(arguments.detach_keys)
    if arguments.tty and arguments.interactive and not arguments.detach:
        insist_terminal()
    environment = [line for file in arguments.env_file
                   for line in read_lines(file, "--env-file", session.environ)]
    environment += [line for text in arguments.env for line in read_variable(text, session.environ)]
    options = ExecOptions(
        command=tuple(arguments.command), environment=tuple(environment), user=arguments.user,
        working_directory=arguments.workdir, has_terminal=arguments.tty, is_privileged=arguments.privileged,
        console=terminal_size() if arguments.tty else None,
    )
    with session.engine() as engine:
        entry = engine.enter(arguments.name)
    session.flush()
    flush_standard_streams()
    with entry.joined() as inside:
        return _entered(arguments, options, inside, keys)


def _entered(arguments: Arguments, options: ExecOptions, inside: Inside, keys: bytes) -> int:
    if arguments.detach:
        inside.start(options, stdin=-1, stdout=-1, stderr=-1)
        return 0
    if not arguments.tty:
        with ForeignStreams(sends_input=arguments.interactive) as streams:
            process = inside.start(options, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr)
            with proxied_signals(process.send):
                streams.relay(process.pid)
                return process.wait()
    process = inside.start(options, stdin=-1, stdout=-1, stderr=-1)
    try:
        with raw_terminal():
            relay_terminal(process.terminal, process.is_over, sends_input=arguments.interactive, keys=keys)
    except Detached:
        sys.stderr.write("detached: the command goes on\n")
        return 0
    return process.wait()


EXEC = Verb(
    _exec, usage="[OPTIONS] CONTAINER COMMAND [ARGUMENT...]",
    about=f"""\
Runs one more command in a running container, with its namespaces, its files and its limits.

{_CODES}""",
    arguments=_exec_arguments,
    examples=("lamina exec -it web sh", "lamina exec cache redis-cli ping"),
    command="after", trouble=ENGINE_FAILED,
)
