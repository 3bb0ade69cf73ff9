"""What must not be in an image: proof that something is gone, and a look for secrets nobody thought of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamina.cli.arguments import UsageError
from lamina.cli.listing import Listing, check_document_form, show, show_document
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.terminal import json_text
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session

_IMAGE_HELP = "a name or an ID here, or docker://REF, oci:DIR, oci-archive:FILE, docker-archive:FILE, ./FILE"
_STANDARD_INPUT = "-"
_FOUND, _UNDECIDED = 1, 125


def _verify_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", _IMAGE_HELP)
    parser.values("--secret-file", metavar="FILE",
                  about="search for what this file holds, without its last line end (- for standard input)")
    parser.values("--pattern", metavar="RE", about="search for a Python regular expression, over bytes")
    parser.values("--path", metavar="PATH", about="insist that no layer has this path, nor anything below it")
    parser.flag("--everywhere", about="fail also if it is elsewhere in the store")
    parser.flag("--image-only", about="do not look at the rest of the store")
    parser.value("-o", "--output", metavar="FILE", default="", about="write the certificate there, as JSON")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.value("--format", metavar="FORMAT", default="", about="'json' (the certificate) or a Go template")


def _verify(arguments: Arguments, session: Session) -> int:
    from lamina.cli.certificate import certificate_document, certificate_lines
    from lamina.cli.progress import shown

    _insist_on_something(arguments)
    check_document_form(arguments.format)
    secrets = _secrets(arguments.secret_file, session)
    platform = platform_of(arguments.platform)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        found = engine.verify_erased(
            arguments.name, secrets=secrets, patterns=arguments.pattern, paths=arguments.path,
            platform=platform, everywhere=arguments.everywhere, image_only=arguments.image_only,
        )
    document = certificate_document(found)
    if arguments.output:
        _write(document, arguments.output, session)
    if arguments.format:
        show_document(session, document, arguments.format)
    elif arguments.output != _STANDARD_INPUT:
        for line in certificate_lines(found):
            session.print(line)
    return {"clean": 0, "found": _FOUND}.get(str(found.verdict), _UNDECIDED)


def _insist_on_something(arguments: Arguments) -> None:
    if not (arguments.secret_file or arguments.pattern or arguments.path):
        raise UsageError("verify-erased needs something to search for: --secret-file, --pattern or --path")
    if arguments.everywhere and arguments.image_only:
        raise UsageError("verify-erased takes --everywhere or --image-only, not both")


def _secrets(files: list[str], session: Session) -> dict[str, bytes]:
    """Contents by the names of their files, which is what the certificate tells of them."""
    found: dict[str, bytes] = {}
    for file in dict.fromkeys(files):
        content = _content(file, session)
        label = "standard input" if file == _STANDARD_INPUT else file.rstrip("/").rpartition("/")[2]
        found[file if label in found else label] = content
    return found


def _content(file: str, session: Session) -> bytes:
    """A little more than a secret may have, so that one that is too long is refused, not cut."""
    from lamina.insight.needles import MAX_SECRET

    limit = MAX_SECRET + 3
    if file == _STANDARD_INPUT:
        return session.input_bytes().read(limit)
    with open(file, "rb") as stream:
        return stream.read(limit)


def _write(document: dict[str, Any], output: str, session: Session) -> None:
    from lamina.cli.output import written

    text = json_text(document, indent=2) + "\n"
    if output == _STANDARD_INPUT:
        session.write(text)
        return
    with written(output, session, "verify-erased", what="a certificate") as out:
        out.write(text.encode("utf-8", "backslashreplace"))


VERIFY_ERASED = Verb(
    _verify,
    usage="[OPTIONS] IMAGE",
    about="""\
Searches every byte that an image still reaches: files that containers see and files that upper layers
hide, what lies between files in the layers' tars, the compressed blobs' own bytes, configuration,
history, labels, annotations and attestations. A secret is searched for as it is and as base64, URL, hex,
UTF-16 and JSON spell it, also inside archives; the answer names the place and never the secret.

Clean means that this image does not hold it. What else in the store does is listed, and fails only with
--everywhere. Copies that were pushed live on in registries: revoke the secret all the same. What is found
in a layer, `lamina squash` leaves out if a later one deleted it; what is found in environment, labels or
history, `lamina squash --redact` replaces.

Exit codes: 0 clean, 1 found, 125 it could not be decided.""",
    arguments=_verify_arguments,
    examples=(
        "lamina verify-erased --secret-file token.txt app:2",
        "lamina verify-erased --path /root/.ssh --pattern 'AKIA[A-Z2-7]{16}' -o certificate.json app:2",
        "lamina verify-erased --everywhere --secret-file token.txt docker://registry.test/app:2",
    ),
    trouble=_UNDECIDED,
)


# -- secrets


def _secrets_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", _IMAGE_HELP)
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.value("--format", metavar="FORMAT", default="",
                 about="'json' (one document) or a Go template for each secret")


def _find_secrets(arguments: Arguments, session: Session) -> int:
    from lamina.cli.certificate import leak_line, leaks_document, leaks_summary
    from lamina.cli.progress import shown

    check_document_form(arguments.format)
    platform = platform_of(arguments.platform)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        found = engine.secrets(arguments.name, platform=platform)
    document = leaks_document(arguments.name, found)
    if arguments.format == "json":
        show_document(session, document, arguments.format)
    elif arguments.format:
        show(session, Listing({}), document["Secrets"], arguments.format)
    else:
        for leak in found.leaks:
            session.print(leak_line(leak))
        session.print(leaks_summary(arguments.name, found))
    for gap in document["Undecided"]:
        session.note(f"note: layer {gap['Layer']} was not searched: {gap['Reason']}")
    return _FOUND if found.leaks else _UNDECIDED if found.undecided else 0


SECRETS = Verb(
    _find_secrets,
    usage="[OPTIONS] IMAGE",
    about="""\
Lists what is likely a secret: private keys, tokens of well-known formats, passwords in .env files and
in the files where programs keep credentials, in every layer, also where an upper layer hides the file,
and in environment, labels and history. Each line has the first four characters, the place, and the rule
in brackets. What is in archives among the files is not searched. A secret of your own, of which you know
the value, is what `lamina verify-erased` looks for.

Exit codes: 0 none, 1 found, 125 not everything could be searched and nothing was found in the rest.""",
    arguments=_secrets_arguments,
    examples=("lamina secrets app:2", "lamina secrets --format '{{.Rule}} {{.Path}}' ./app.tar"),
    trouble=_UNDECIDED,
)
