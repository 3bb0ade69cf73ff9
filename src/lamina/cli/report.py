"""The report about an image as a file: one HTML page, or the same facts as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.output import OUTPUT_HELP, STREAM, written
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.quantity import human_size
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session

_IMAGE_HELP = "a name or an ID here, or docker://REF, oci:DIR, oci-archive:FILE, docker-archive:FILE, ./FILE"


def _arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", _IMAGE_HELP)
    parser.value("-o", "--output", metavar="FILE", default="", about=OUTPUT_HELP)
    parser.value("--format", metavar="FORMAT", default="html", choices=["html", "json"],
                 about="html (default), or json: what the page is made of")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)


def _report(arguments: Arguments, session: Session) -> None:
    """Where the page goes is opened before the work begins, so that a terminal is refused at once."""
    is_stream = arguments.output in ("", STREAM)
    if is_stream and arguments.format == "json":
        session.write(_text(arguments, session))
        return
    with written(arguments.output, session, "report", what="a page") as out:
        content = _text(arguments, session).encode("utf-8")
        out.write(content)
    if not is_stream and arguments.format == "html":
        session.hint(f"note: {visible(arguments.output)}, {human_size(len(content))}: any browser opens it, "
                     "and it needs no network.")


def _text(arguments: Arguments, session: Session) -> str:
    from lamina.cli.progress import shown

    platform = platform_of(arguments.platform)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        if arguments.format == "html":
            return engine.report_page(arguments.name, platform=platform)
        data = engine.report_data(arguments.name, platform=platform)
    return json_text(data.to_json(), indent=2) + "\n"


REPORT = Verb(
    _report,
    usage="[OPTIONS] IMAGE",
    about="""\
Writes one HTML file that stands alone, to keep beside a build or to send to somebody: the layers drawn
to scale, a map of the files, what is obscured, what is wasted and how to save it, who put each file
there, history and configuration. It opens offline, asks no server for anything, and is readable on a
phone. Layers and tables are there without JavaScript too; the map and the search need it.

Very large images are cut to what weighs most, and the page says what was left out. The same image gives
the same page. --format json prints the same facts; docs/json.md says what the fields mean.""",
    arguments=_arguments,
    examples=(
        "lamina report -o report.html redis:7",
        "lamina report -o app.html docker-archive:app.tar",
        "lamina report --format json app:2 | jq .Image.Score",
    ),
)
