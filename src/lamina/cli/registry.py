"""Images and registries: pull, push, credentials, looking without pulling, and being a registry."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.progress import shown
from lamina.cli.session import Refused
from lamina.cli.terminal import is_terminal, json_text, visible
from lamina.cli.verbs import Verb
from lamina.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.transfer import Pulled

_RESUMES = "what has arrived is kept, and the next pull goes on from there"


# -- pull


def _pull_arguments(parser: VerbParser) -> None:
    parser.positional("name", "NAME[:TAG|@DIGEST]", "what to pull; docker.io and 'latest' if not said")
    parser.flag("-a", "--all-tags", about="pull every tag of the repository")
    parser.value("--blobs", metavar="HOW", choices=["keep", "drop-refetchable"], default="",
                 about="what becomes of compressed layers once they are unpacked: keep, or drop-refetchable, "
                       "which leaves them to the registry (default: the setting 'blobs')")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.flag("-q", "--quiet", about="print the full name only")
    parser.flag("--disable-content-trust", about="accepted for docker's sake: it does nothing")


def _pull(arguments: Arguments, session: Session) -> None:
    session.is_quiet = session.is_quiet or arguments.quiet
    platform = platform_of(arguments.platform)
    reference = Reference.parse(arguments.name)
    if arguments.blobs:
        session.flags["blobs"] = arguments.blobs
    if not session.is_quiet and not (reference.tag or reference.digest or arguments.all_tags):
        session.print("Using default tag: latest")
    with (
        _resuming(), shown(session, session.stdout) as report, session.engine(report) as engine,
    ):
        pulled = engine.pull(arguments.name, platform=platform, all_tags=arguments.all_tags)
    for one in pulled:
        _print_pulled(session, one)
    if any(one.is_new for one in pulled):
        session.hint(f"note: the IDs above name compressed layers; `lamina layers {visible(arguments.name)}` "
                     "shows each beside\n      its diff id, which is what inspect lists.")


def _print_pulled(session: Session, pulled: Pulled) -> None:
    if not session.is_quiet:
        familiar = visible(Reference.parse(pulled.reference).familiar)
        state = "Downloaded newer image for" if pulled.is_new else "Image is up to date for"
        session.print(f"Digest: {pulled.digest}")
        session.print(f"Status: {state} {familiar}")
    session.print(visible(pulled.reference))


@contextmanager
def _resuming() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(_RESUMES)
        raise


PULL = Verb(
    _pull,
    usage="[OPTIONS] NAME[:TAG|@DIGEST]",
    about="""\
Several layers arrive at once; each is verified and unpacked while it arrives, and none that is here
already is fetched again ("Already exists"). An interrupted pull goes on where it stopped.

The ID on each line names a layer as it travels: the digest of the compressed blob. `lamina inspect`
lists diff ids, the digests of the same layers uncompressed; `lamina layers` shows both.""",
    arguments=_pull_arguments,
    examples=(
        "lamina pull redis:latest",
        "lamina pull --platform linux/arm64 alpine:3.20",
        "lamina pull registry.example.com/team/app@sha256:<64 digits>",
    ),
)


# -- push


def _push_arguments(parser: VerbParser) -> None:
    parser.positional("name", "NAME[:TAG]", "an image that is here, by the name of where it goes")
    parser.flag("-a", "--all-tags", about="push every tag of the repository that is here")
    parser.value("--compression", metavar="HOW", choices=["gzip", "zstd"], default="gzip",
                 about="for layers that are here uncompressed: gzip (default) or zstd, which older "
                       "engines cannot read")
    parser.flag("-q", "--quiet", about="print the digests only")


def _push(arguments: Arguments, session: Session) -> None:
    is_terse = arguments.quiet or session.is_quiet
    session.is_quiet = is_terse
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        pushed = engine.push(arguments.name, all_tags=arguments.all_tags, compression=arguments.compression)
    for one in pushed:
        if is_terse:
            session.print(one.digest)
        else:
            session.print(f"{visible(one.tag)}: digest: {one.digest} size: {one.size}")


PUSH = Verb(
    _push,
    usage="[OPTIONS] NAME[:TAG]",
    about="""\
Layers that the registry has already are not sent again, and one that a sibling repository holds is
mounted from there. Give an image its remote name with `lamina tag` first.""",
    arguments=_push_arguments,
    examples=(
        "lamina push registry.example.com/team/app:1.2",
        "lamina push --all-tags localhost:5000/team/app",
    ),
)


# -- credentials


def _login_arguments(parser: VerbParser) -> None:
    parser.positional("registry", "REGISTRY", "the registry's host (docker.io if not said)", nargs="?")
    parser.value("-u", "--username", metavar="NAME", default="", about="asked for if not given")
    parser.value("-p", "--password", metavar="SECRET", default="",
                 about="better not: others can read it in the process list; use --password-stdin")
    parser.flag("--password-stdin", about="read the password or token from standard input")


def _login(arguments: Arguments, session: Session) -> None:
    registry = arguments.registry or "docker.io"
    username = arguments.username or _asked_name(arguments, session)
    secret = _secret(arguments, session)
    if not secret:
        raise UsageError("login: the password is empty")
    with session.engine() as engine:
        place = engine.login(registry, username, secret)
    if place:
        session.note(f"note: the credentials are kept in {visible(str(place))}")
    session.print("Login Succeeded")


def _asked_name(arguments: Arguments, session: Session) -> str:
    if arguments.password_stdin or not is_terminal(session.stdin):
        raise UsageError("login: --username is needed when there is no terminal to ask on")
    session.stderr.write("Username: ")
    session.stderr.flush()
    name = session.stdin.readline().strip()
    if not name:
        raise UsageError("login: a user name is needed")
    return name


def _secret(arguments: Arguments, session: Session) -> str:
    if arguments.password_stdin:
        if arguments.password:
            raise UsageError("login: --password and --password-stdin exclude each other")
        return session.stdin.read().rstrip("\r\n")
    if arguments.password:
        session.note("warning: a password on the command line can be read by every user of this machine; "
                     "use --password-stdin")
        return str(arguments.password)
    if not is_terminal(session.stdin):
        raise UsageError("login: no terminal to ask for the password on; use --password-stdin")
    import getpass

    return getpass.getpass("Password: ")


LOGIN = Verb(
    _login,
    usage="[OPTIONS] [REGISTRY]",
    about="""\
Asks the registry before anything is kept. Credentials go where docker keeps them: to the credential
helper that ~/.docker/config.json names, or into that file, readable by you alone.""",
    arguments=_login_arguments,
    examples=("lamina login -u me registry.example.com", "cat token | lamina login -u me --password-stdin"),
)


def _logout_arguments(parser: VerbParser) -> None:
    parser.positional("registry", "REGISTRY", "the registry's host (docker.io if not said)", nargs="?")


def _logout(arguments: Arguments, session: Session) -> None:
    registry = arguments.registry or "docker.io"
    with session.engine() as engine:
        was_known = engine.logout(registry)
    if was_known:
        session.print(f"Removing login credentials for {visible(registry)}")
    else:
        session.print(f"Not logged in to {visible(registry)}")


LOGOUT = Verb(
    _logout,
    usage="[REGISTRY]",
    about="Removes the credentials from this machine. Tokens that the registry gave out live on there.",
    arguments=_logout_arguments,
    examples=("lamina logout registry.example.com",),
)


# -- looking without pulling


def _manifest_arguments(parser: VerbParser) -> None:
    parser.positional("name", "NAME[:TAG|@DIGEST]", "a name in a registry")
    parser.flag("--raw", about="print exactly the bytes that the registry holds")
    parser.flag("-v", "--verbose", about="print the digest, media type and size too")


def _manifest(arguments: Arguments, session: Session) -> None:
    import json

    with session.engine() as engine:
        descriptor, raw = engine.remote_manifest(arguments.name)
    if arguments.raw and not is_terminal(session.stdout):
        session.output_bytes().write(raw)
        return
    document = json.loads(raw)
    if arguments.verbose:
        document = {"Ref": Reference.parse(arguments.name).with_default_tag().canonical,
                    "Descriptor": descriptor.to_json(), "Manifest": document}
    session.print(json_text(document, indent=4))


MANIFEST = Verb(
    _manifest,
    usage="[OPTIONS] NAME[:TAG|@DIGEST]",
    about="Fetches one document and nothing else: an index lists platforms, a manifest lists layers.",
    arguments=_manifest_arguments,
    examples=("lamina manifest inspect redis:latest", "lamina manifest inspect --raw redis | sha256sum"),
)


def _tags_arguments(parser: VerbParser) -> None:
    parser.positional("name", "REPOSITORY", "a repository in a registry, without a tag")
    parser.value("--limit", metavar="N", type=int, default=0, about="stop after so many")


def _tags(arguments: Arguments, session: Session) -> None:
    import itertools

    with session.engine() as engine:
        tags = engine.remote_tags(arguments.name)
        for tag in itertools.islice(tags, arguments.limit or None):
            session.print(visible(tag))


TAGS = Verb(
    _tags,
    usage="[OPTIONS] REPOSITORY",
    about="In the registry's order, one a line; pages are fetched as they are needed.",
    arguments=_tags_arguments,
    examples=("lamina tags redis", "lamina tags --limit 10 registry.example.com/team/app"),
)


# -- being a registry


def _serve_arguments(parser: VerbParser) -> None:
    parser.value("--address", metavar="HOST", default="127.0.0.1",
                 about="where to listen (default 127.0.0.1)")
    parser.value("-p", "--port", metavar="PORT", type=int, default=5000,
                 about="default 5000; 0 picks a free one")
    parser.flag("--read-only", about="refuse pushes")


def _serve(arguments: Arguments, session: Session) -> None:
    """Prints the address on standard output, so that a script that asked for port 0 can read it."""
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port: expected a number from 0 to 65535, got {arguments.port}")
    if arguments.address not in ("127.0.0.1", "::1", "localhost"):
        session.note("warning: everybody who reaches this address can pull"
                     f"{'' if arguments.read_only else ' and push'}: there is neither TLS nor a password")
    with session.engine() as engine, _told() as told:
        try:
            server = engine.serve(arguments.address, arguments.port, read_only=arguments.read_only)
        except OSError as error:
            raise _not_listening(arguments, error) from None
        try:
            session.print(server.url)
            session.flush()
            session.note(f"Serving {visible(str(engine.root))}: images are NAME in "
                         f"`docker pull {server.url.partition('://')[2]}/NAME`; Ctrl-C ends it.")
            told.wait()
        finally:
            server.close()


def _not_listening(arguments: Arguments, error: OSError) -> Refused:
    where = f"{arguments.address}:{arguments.port}"
    if error.errno == errno.EADDRINUSE:
        return Refused(f"{where}: another program listens there; --port chooses another, 0 picks a free one")
    number = error.errno or 0  # of the resolver, where it is not in the table
    reason = os.strerror(number) if number in errno.errorcode else error.strerror
    return Refused(f"{where}: cannot listen there ({reason})")


@contextmanager
def _told() -> Iterator[threading.Event]:
    """Set by Ctrl-C or SIGTERM, both of which are a good end for a server."""
    import signal

    told = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: told.set()) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SERVE = Verb(
    _serve,
    usage="[OPTIONS]",
    about="""\
The state directory as an OCI Distribution registry: docker, podman, skopeo and containerd can pull from
it and push to it. Image NAME:TAG is served under its repository path, docker.io/library/redis as
library/redis.""",
    arguments=_serve_arguments,
    examples=(
        "lamina serve", "lamina serve --port 0 --read-only", "docker pull localhost:5000/library/redis",
    ),
)
