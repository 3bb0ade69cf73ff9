"""Where a build's context comes from: a directory, a stream, a git repository, or a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamina.build.context import MAX_DOCUMENT, Context
from lamina.build.ignore import find_rules
from lamina.engine.building.options import BuildOptions
from lamina.errors import InvalidInput, NotFound
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.build.gitaddress import GitAddress
    from lamina.engine.core import Core

DOCKERFILES = ("Dockerfile", "dockerfile", "Containerfile")


@contextmanager
def opened_context(
    engine: Core, text: str, options: BuildOptions, stdin: BinaryIO | None = None
) -> Iterator[tuple[Context, BuildOptions]]:
    """The context, and the options with the Dockerfile's text read.

    ``text`` is docker's PATH, URL or ``-``: a directory, ``git@…`` and its kin, an archive or a Dockerfile
    behind http(s), or either of them on standard input. ``-f -`` takes the Dockerfile from there.
    """
    with ExitStack() as stack:
        if options.dockerfile == "-":
            if text == "-":
                raise InvalidInput("-f -: the context comes on standard input already")
            options = replace(options, text=_read_all(stdin), dockerfile="")
        if text == "-":
            context, options = _streamed(_insist(stdin), options, stack)
        elif os.path.isdir(text):
            context, options = _local(text, options, stack)
        elif (address := _git_address(text)) is not None:
            context, options = _repository(address, options, stack)
        elif text.startswith(("http://", "https://")):
            context, options = _downloaded(engine, text, options, stack)
        else:
            context, options = _local(text, options, stack)
        yield context, options


def open_context(path: str, options: BuildOptions) -> tuple[Context, BuildOptions]:
    """A directory, with its ignore rules, and its Dockerfile read. The caller closes it."""
    with ExitStack() as stack:
        opened = _local(path, options, stack)
        stack.pop_all()
        return opened


@contextmanager
def other_context(engine: Core, text: str) -> Iterator[Context]:
    """``--build-context NAME=…``: what its own ignore file excludes is not there."""
    with ExitStack() as stack:
        address = None if os.path.isdir(text) else _git_address(text)
        if address is not None:
            text = str(_checkout(address, stack, keeps_git=False))
        elif text.startswith(("http://", "https://")):
            context, _ = _downloaded(engine, text, BuildOptions(text=b""), stack)
            yield context
            return
        context = stack.enter_context(Context.from_directory(text))
        context.rules = find_rules(context.descriptor)
        yield context


def _local(path: str, options: BuildOptions, stack: ExitStack) -> tuple[Context, BuildOptions]:
    context = stack.enter_context(Context.from_directory(path))
    if options.text is not None:
        context.rules = find_rules(context.descriptor)
        return context, replace(options, dockerfile=options.dockerfile or "Dockerfile")
    file = _find_file(Path(path), options.dockerfile)
    with file.open("rb") as stream:
        text = _read_all(stream)
    beside = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        context.rules = find_rules(context.descriptor, file.name, beside=beside)
    finally:
        os.close(beside)
    return context, replace(options, dockerfile=options.dockerfile or file.name, text=text)


def _find_file(context: Path, asked: str) -> Path:
    """As the user says it, from where he is, or else from the context; without a word the usual names."""
    if not asked:
        for name in DOCKERFILES:
            if (context / name).is_file():
                return context / name
        raise NotFound(f"{context}: no Dockerfile here; name one with -f, or the directory that it is in")
    for path in (Path(asked), context / asked):
        if path.is_file():
            return path
    raise NotFound(f"{asked}: no such Dockerfile, neither here nor in {context}")


def _inside(context: Context, options: BuildOptions) -> BuildOptions:
    """The Dockerfile of a context from elsewhere lies in it."""
    if options.text is not None:
        context.rules = find_rules(context.descriptor)
        return replace(options, dockerfile=options.dockerfile or "Dockerfile")
    names = [options.dockerfile] if options.dockerfile else DOCKERFILES
    name = next((name for name in names if context.resolve(name) is not None), "")
    if not name:
        raise NotFound(f"{names[0]}: not in the context; name the Dockerfile with -f")
    text = context.read(name)
    context.rules = find_rules(context.descriptor, name)
    return replace(options, dockerfile=name, text=text)


def _streamed(stdin: BinaryIO, options: BuildOptions, stack: ExitStack) -> tuple[Context, BuildOptions]:
    from lamina.build.streamed import receive

    received = receive(stdin)
    context = stack.enter_context(received.context)
    if received.dockerfile is not None:
        return context, replace(options, dockerfile="Dockerfile", text=received.dockerfile)
    return context, _inside(context, options)


def _repository(
    address: GitAddress, options: BuildOptions, stack: ExitStack
) -> tuple[Context, BuildOptions]:
    keeps = options.arguments.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "") in ("1", "true")
    context = stack.enter_context(Context.from_directory(_checkout(address, stack, keeps_git=keeps)))
    return context, _inside(context, options)


def _git_address(text: str) -> GitAddress | None:
    from lamina.build.gitaddress import parse_git

    return parse_git(text)


def _checkout(address: GitAddress, stack: ExitStack, *, keeps_git: bool) -> Path:
    from lamina.build.git import Git
    from lamina.engine.building.remote import private_directory

    directory = stack.enter_context(private_directory())
    return Git(os.environ).fetch(address, directory, keeps_git=keeps_git).path


def _downloaded(
    engine: Core, url: str, options: BuildOptions, stack: ExitStack
) -> tuple[Context, BuildOptions]:
    import tempfile

    from lamina.build.remote import Remote

    spool: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack does
    Remote(transport=engine.transport).fetch(url, spool)
    spool.seek(0)
    return _streamed(spool, options, stack)


def _insist(stdin: BinaryIO | None) -> BinaryIO:
    if stdin is None:
        raise InvalidInput("-: there is no standard input to read the context from")
    return stdin


def _read_all(stream: BinaryIO | None) -> bytes:
    data = _insist(stream).read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise InvalidInput(f"the Dockerfile is longer than {MAX_DOCUMENT} bytes")
    return data
