"""A Dockerfile's text into instructions: what is wrong with it is said in one sentence, with its place.

Nothing is expanded and no stage is made here. A ``syntax`` directive is noted, and never run: it names a
program of a stranger that would read the file in our stead (CVE-2024-23653).
"""

from __future__ import annotations

from lamina.build.failure import DockerfileError, Span
from lamina.build.grammar import read_instruction, read_trigger
from lamina.build.instruction import Arg, From, Instruction
from lamina.build.source import Directive, Source, read, read_line
from lamina.errors import nearest
from lamina.values import dataclass

_CHECK_OPTIONS = ("skip", "error", "experimental")


@dataclass(frozen=True, slots=True)
class CheckDirective:
    """``# check=skip=NAME,NAME;error=true;experimental=NAME``; both lists may be ``all``."""

    skip: tuple[str, ...] = ()
    skips_all: bool = False
    is_error: bool = False
    experimental: tuple[str, ...] = ()
    runs_experimental: bool = False


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """``text`` is the whole, without a byte-order mark: spans count its lines."""

    instructions: tuple[Instruction, ...]
    escape: str
    syntax: str
    check: CheckDirective
    text: str
    name: str


def parse(data: bytes | str, *, name: str = "Dockerfile") -> Dockerfile:
    """Raises ``DockerfileError`` and nothing else, whatever the bytes are."""
    source = read(data, name=name)
    instructions = tuple(read_instruction(line, source.escape, name=name) for line in source.lines)
    _check_order(instructions, source, name)
    directives = {one.name: one for one in source.directives}
    syntax, check = directives.get("syntax"), directives.get("check")
    return Dockerfile(
        instructions=instructions, escape=source.escape, syntax=syntax.value if syntax else "",
        check=_check_directive(check, name) if check else CheckDirective(), text=source.text, name=name,
    )


def parse_trigger(text: str, *, name: str = "ONBUILD trigger", escape: str = "\\") -> Instruction:
    """The instruction of an ONBUILD that a base image's config holds."""
    return read_trigger(read_line(text, escape, name=name), escape, name=name)


def _check_order(instructions: tuple[Instruction, ...], source: Source, name: str) -> None:
    if not instructions:
        last = max(source.text.count("\n"), 1)
        raise DockerfileError("the file has no instructions", span=Span(1, last), name=name, expected="FROM")
    for one in instructions:
        if isinstance(one, From):
            return
        if not isinstance(one, Arg):
            message = f"{one.keyword.upper()} stands before the first FROM"
            raise DockerfileError(message, span=one.span, name=name, expected="FROM or ARG")
    raise DockerfileError("the file has no FROM", span=instructions[-1].span, name=name, expected="FROM")


def _check_directive(directive: Directive, name: str) -> CheckDirective:
    options = {}
    for field in directive.value.split(";"):
        key, equals, value = (part.strip() for part in field.partition("="))
        if not equals or key not in _CHECK_OPTIONS:
            raise DockerfileError(
                f"the check directive has no option {key!r}", span=directive.span, name=name,
                expected="skip=NAME,... or error=true",
                suggestion=nearest(key, _CHECK_OPTIONS).removeprefix("; "),
            )
        options[key] = value
    error = options.get("error", "false").lower()
    if error not in ("true", "false", "1", "0"):
        message = f"error of the check directive: expected true or false, got {error!r}"
        raise DockerfileError(message, span=directive.span, name=name)
    skip, experimental = (_listed(options.get(key, "")) for key in ("skip", "experimental"))
    return CheckDirective(
        skip=skip, skips_all=_is_all(skip), is_error=error in ("true", "1"), experimental=experimental,
        runs_experimental=_is_all(experimental),
    )


def _listed(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _is_all(names: tuple[str, ...]) -> bool:
    return any(one.lower() == "all" for one in names)
