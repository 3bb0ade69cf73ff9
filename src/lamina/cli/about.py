"""About this installation: its settings with their origins, and its version."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import lamina
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session

FORMAT_HELP = "'json' or a Go template such as '{{.Version}}'"


def _info_arguments(parser: VerbParser) -> None:
    parser.value("-f", "--format", metavar="FORMAT", default="", about="'json' or a Go template")


def _info(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        document = engine.info()
    _print_document(document, arguments.format, session)


def _print_document(document: Mapping[str, Any], form: str, session: Session) -> None:
    if form == "json":
        session.print(json_text(document))
    elif form:
        from lamina.cli.template import Template

        session.print(Template(form).render(document))
    else:
        for line in indented(document):
            session.print(line)


def indented(document: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """``Key: value`` lines; what is inside something is indented, as ``docker info`` has it."""
    for key, value in document.items():
        yield from _line(visible(str(key)), value, depth)


def _line(key: str, value: Any, depth: int) -> Iterator[str]:
    space = " " * depth
    if isinstance(value, Mapping):
        yield f"{space}{key}:"
        yield from indented(value, depth + 1)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        yield f"{space}{key}:"
        for item in value:
            yield f"{space} {_flat(item)}"
    else:
        yield f"{space}{key}: {_flat(value)}"


def _flat(value: Any) -> str:
    """A setting is one line with its origin, a driver one with its reason; other values are themselves."""
    if isinstance(value, Mapping):
        if {"Key", "Value", "Origin"} <= value.keys():
            return visible(f"{value['Key']}: {value['Value']}  ({value['Origin']})")
        if {"Name", "Usable", "Reason"} <= value.keys():
            text = f"{value['Name']}: {value['Reason'] or ('usable' if value['Usable'] else 'no')}"
            return visible("; ".join((text, *(f"weaker: {each}" for each in value.get("Weaker", ())))))
        return " ".join(f"{visible(str(key))}={_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value)) or "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return visible(str(value))


INFO = Verb(
    _info,
    usage="[OPTIONS]",
    about="""\
Every setting with its value and where that came from (an option, a LAMINA_* variable, a file, or the
default), which storage driver was chosen, and why the others were not.""",
    arguments=_info_arguments,
    examples=("lamina info", "lamina --storage-driver vfs info --format json"),
)


def _version_arguments(parser: VerbParser) -> None:
    parser.value("-f", "--format", metavar="FORMAT", default="", about=FORMAT_HELP)
    parser.flag("--short", about="one line")


def _version(arguments: Arguments, session: Session) -> None:
    if arguments.short:
        session.print(f"lamina version {lamina.__version__}")
        return
    machine = os.uname()
    _print_document({
        "Version": lamina.__version__,
        # Not from `platform`: its import is a twentieth of this whole command.
        "Python": f"{sys.version.split()[0]} ({sys.implementation.name})",
        "Os": machine.sysname.lower(),
        "Arch": machine.machine,
        "KernelVersion": machine.release,
    }, arguments.format, session)


VERSION = Verb(
    _version,
    usage="[OPTIONS]",
    about="The version of lamina, and of what it runs on.",
    arguments=_version_arguments,
    examples=("lamina version", "lamina version --format '{{.Version}}'"),
)
