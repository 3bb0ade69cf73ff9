"""What a build takes from elsewhere: URLs and git repositories, as sources of ADD and as contexts.

What stands for it in a key is known before it is fetched wherever that can be: a checksum that was given, a
commit, or what a server says has not changed. So a build that is cached moves no bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.build.checksum import digest_selection
from lamina.build.context import Context
from lamina.build.git import Git
from lamina.build.gitaddress import GitAddress, parse_git
from lamina.build.instruction import Add
from lamina.build.remote import Remote, Seen
from lamina.build.selection import Place, select
from lamina.engine.building.copying import Part
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.snapshot.trees import empty_and_remove
from lamina.values import asdict, dataclass

if TYPE_CHECKING:
    from lamina.engine.building.build import Build
    from lamina.engine.core import Core

_URLS = "buildurls"
_DOWNLOAD_MODE = 0o600  # of files that ADD downloads, as docker has it


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource:
    """``ingredient`` stands for the content in a key. ``fetch`` gives it, once, within the stack."""

    url: str
    ingredient: str
    fetch: Callable[[ExitStack], Part]


def is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://")) or parse_git(source) is not None


def remote_source(build: Build, add: Add, source: str) -> RemoteSource:
    """Raises what keeps it from being had, and ``ChecksumMismatch``."""
    address = parse_git(source)
    if address is not None:
        return _repository(build, add, source, address)
    return _download(build, add, source)


# -- URLs


def _download(build: Build, add: Add, url: str) -> RemoteSource:
    checksum = Digest.parse(add.checksum) if add.checksum else None
    digest = checksum or _looked(build, url).digest

    def fetch(stack: ExitStack) -> Part:
        directory = stack.enter_context(private_directory())
        file = directory / "download"
        with file.open("wb") as out:
            seen = _remote(build.engine).fetch(url, out, checksum=checksum).seen
        os.chmod(file, _DOWNLOAD_MODE)
        if seen.mtime is not None:
            os.utime(file, (seen.mtime, seen.mtime))
        return _part(add, directory, file, seen.name or "download", stack)

    return RemoteSource(url=url, ingredient=f"{url} {digest}", fetch=fetch)


def _looked(build: Build, url: str) -> Seen:
    """What the URL holds now: as it was, says the server, or else it is read once to know."""
    record = build.engine.root / _URLS / f"{hashlib.sha256(url.encode()).hexdigest()}.json"
    known: Seen | None = None
    with contextlib.suppress(OSError, ValueError, TypeError, InvalidInput):
        document = json.loads(record.read_bytes())
        known = Seen(**{**document, "digest": Digest.parse(document["digest"])})
    with tempfile.TemporaryFile(prefix="lamina-add-") as out:
        found = _remote(build.engine).fetch(url, out, seen=known)
    if not found.is_unchanged:
        from lamina.content.durable import write_file

        record.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(record, json.dumps(asdict(found.seen)).encode())
    return found.seen


def _part(add: Add, directory: Path, file: Path, name: str, stack: ExitStack) -> Part:
    """A context of one file, whose name is the URL's."""
    target = directory / "named"
    target.mkdir()
    os.rename(file, target / name)
    context = stack.enter_context(Context.from_directory(target))
    selection = select(context, [_literal(name)], add.destination, place=Place("ADD", "the download"))
    return Part(
        selection=selection, files=context, digested=digest_selection(context, selection),
        is_archive=bool(add.unpacks),
    )


def _literal(name: str) -> str:
    from lamina.build.pattern import escaped

    return escaped(name)


def _remote(engine: Core) -> Remote:
    return Remote(transport=engine.transport)


# -- git


def _repository(build: Build, add: Add, source: str, address: GitAddress) -> RemoteSource:
    git = Git(os.environ)
    keeps = add.keeps_git_dir or bool(address.keeps_git)
    if add.checksum and not address.commit:
        from lamina.values import replace

        address = replace(address, commit=add.checksum)
    resolved = git.resolve(address)

    def fetch(stack: ExitStack) -> Part:
        directory = stack.enter_context(private_directory())
        checkout = git.fetch(address, directory, keeps_git=keeps)
        context = stack.enter_context(Context.from_directory(checkout.path))
        selection = select(context, ["."], add.destination, exclude=add.excludes,
                           place=Place("ADD", "the repository"))
        return Part(
            selection=selection, files=context, digested=digest_selection(context, selection, build.digests)
        )

    if resolved.commit:
        return RemoteSource(url=source, ingredient=f"{address} {resolved.commit} {keeps}", fetch=fetch)
    with ExitStack() as stack:  # a short commit: only the repository knows what it means
        digest = fetch(stack).digested.digest
    return RemoteSource(url=source, ingredient=f"{address} {digest} {keeps}", fetch=fetch)


@contextmanager
def private_directory() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="lamina-fetch-"))
    try:
        yield place
    finally:
        empty_and_remove(place)
