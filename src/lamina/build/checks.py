"""What may well be a mistake in a Dockerfile although it can be built: BuildKit's build checks.

Variables of a base image are known only to somebody who has its config. Where nobody gave it, a variable
counts as undefined only if a defined one is spelled nearly so: the base image may define any other.
"""

from __future__ import annotations

from lamina.build.failure import Span
from lamina.build.findings import Finding, Findings
from lamina.build.instruction import Arg, Env, From, Instruction, Label, Maintainer
from lamina.build.shape import split_blanks
from lamina.build.source import Line, read
from lamina.build.stagechecks import Base, Globals, Stage, check_stages
from lamina.build.words import expand
from lamina.errors import InvalidInput, nearest
from lamina.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lamina.build.syntax import Dockerfile

__all__ = ["Base", "Finding", "check"]

_RESERVED = ("context", "scratch")
_SECRET = {
    "apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token",
}
_NO_SECRET = {"public", "file", "version"}  # words beside them: PUBLIC_KEY, TOKEN_FILE


def check(
    dockerfile: Dockerfile, *, is_ignored: Callable[[str], bool] | None = None, target: str = "",
    arguments: Mapping[str, str] | None = None, base: Callable[[str], Base | None] | None = None,
    platform: str = "",
) -> tuple[Finding, ...]:
    """In the order of the lines, without what the file's own directive skips.

    ``is_ignored`` tells whether .dockerignore excludes a path of the context. ``base`` gives what is known of
    an image that FROM names, and ``platform`` is the one that is built for. With a ``target``, only what it
    needs is looked at stage by stage.
    """
    found = Findings(dockerfile.check)
    source = read(dockerfile.text, name=dockerfile.name)
    lines = tuple(zip(source.lines, dockerfile.instructions, strict=True))
    _check_casing(found, lines)
    for line, instruction in lines:
        _check_line(found, line, instruction)
    scope = Globals(_global_arguments(lines), arguments or {}, dockerfile.escape)
    stages = list(_stages(lines))
    _check_names(found, stages)
    for stage in stages:
        _check_from(found, stage, scope)
    check_stages(found, stages, scope, target=target, is_ignored=is_ignored, base=base, platform=platform)
    return found.sorted()


def _stages(lines: tuple[tuple[Line, Instruction], ...]) -> Iterator[Stage]:
    starts = [number for number, (_, one) in enumerate(lines) if isinstance(one, From)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        head = lines[start][1]
        assert isinstance(head, From)
        yield Stage(head, tuple(one for _, one in lines[start + 1:end]))


def _global_arguments(lines: tuple[tuple[Line, Instruction], ...]) -> list[Arg]:
    found: list[Arg] = []
    for _, one in lines:
        if isinstance(one, From):
            break
        if isinstance(one, Arg):
            found.append(one)
    return found


def _check_casing(found: Findings, lines: tuple[tuple[Line, Instruction], ...]) -> None:
    keywords = [one.keyword for _, one in lines]
    is_lower = sum(map(str.islower, keywords)) > sum(map(str.isupper, keywords))
    for _, one in lines:
        if one.keyword != (one.keyword.lower() if is_lower else one.keyword.upper()):
            case = "lower" if is_lower else "upper"
            message = f"{one.keyword}: most instructions are in {case} case"
            found.add("ConsistentInstructionCasing", message, one.span)


def _check_line(found: Findings, line: Line, instruction: Instruction) -> None:
    if line.empty_lines:
        first, last = line.empty_lines[0], line.empty_lines[-1]
        message = f"{instruction.keyword.upper()}: an empty line stands within it"
        found.add("NoEmptyContinuation", message, Span(first, last))
    match instruction:
        case Maintainer():
            found.add("MaintainerDeprecated", "MAINTAINER: use a label instead", instruction.span)
        case From():
            _check_as(found, instruction)
            if instruction.name:
                _check_comment(found, line, instruction, [instruction.name])
        case Arg():
            _check_comment(found, line, instruction, [key for key, _ in instruction.pairs])
            _check_secrets(found, instruction, [key for key, _ in instruction.pairs])
        case Env() | Label():
            if isinstance(instruction, Env):
                _check_secrets(found, instruction, [key for key, _ in instruction.pairs])
            if instruction.is_legacy:
                keyword, name = instruction.keyword.upper(), instruction.pairs[0][0]
                message = f"{keyword} {name}: write {keyword} {name}=VALUE"
                found.add("LegacyKeyValueFormat", message, instruction.span)


def _check_as(found: Findings, instruction: From) -> None:
    if not instruction.name:
        return
    written_as, written_name = split_blanks(instruction.original)[-2:]
    if written_name != instruction.name:
        found.add("StageNameCasing", f"{written_name}: write it in lower case", instruction.span)
    keyword = instruction.keyword
    is_mismatch = (keyword.islower() and not written_as.islower()) or (
        keyword.isupper() and not written_as.isupper()
    )
    if is_mismatch:
        found.add("FromAsCasing", f"{written_as}: its {keyword} is in another case", instruction.span)


def _check_comment(found: Findings, line: Line, instruction: From | Arg, names: list[str]) -> None:
    if not line.comments or line.comments[-1].split(" ")[0].lower() in map(str.lower, names):
        return
    shown = names[0] if len(names) == 1 else "NAME"
    keyword = instruction.keyword.upper()
    message = f"{keyword}: the comment above should be '# {shown} ...', or have an empty line below"
    found.add("InvalidDefinitionDescription", message, instruction.span)


def _check_secrets(found: Findings, instruction: Arg | Env, names: list[str]) -> None:
    for name in names:
        words = set(name.lower().split("_"))
        if words & _SECRET and not words & _NO_SECRET:
            message = f"{instruction.keyword.upper()} {name}: a secret here is for all who get the image"
            found.add("SecretsUsedInArgOrEnv", message, instruction.span)


def _check_names(found: Findings, stages: list[Stage]) -> None:
    seen: set[str] = set()
    for stage in stages:
        name, span = stage.head.name, stage.head.span
        if name in _RESERVED:
            found.add("ReservedStageName", f"{name}: means something else already", span)
        if name in seen:
            found.add("DuplicateStageName", f"{name}: an earlier stage has this name", span)
        seen.update([name] if name else [])


def _check_from(found: Findings, stage: Stage, scope: Globals) -> None:
    head = stage.head
    used: set[str] = set()
    for text in (head.image, head.platform):
        scope.expand(text, used=used)
    for name in sorted(used - scope.names):
        near = nearest(name, scope.names)
        message = f"FROM {head.image}: no ARG before the first FROM declares {name}{near}"
        found.add("UndefinedArgInFrom", message, head.span)
    if "$" in head.image and not _is_image(scope.by_default(head.image)):
        message = f"FROM {head.image}: names no image unless build arguments are given"
        found.add("InvalidDefaultArgInFrom", message, head.span)
    if head.platform:
        _check_platform(found, head, scope)


def _is_image(name: str | None) -> bool:
    """None is a name that cannot be made out, of which the build itself will say why."""
    try:
        return name is None or bool(Reference.parse(name))
    except InvalidInput:
        return False


def _check_platform(found: Findings, head: From, scope: Globals) -> None:
    used: set[str] = set()
    try:
        shown = expand(head.platform, {"TARGETPLATFORM": "?"}.get, escape=scope.escape, used=used)
    except InvalidInput:
        return
    if used == {"TARGETPLATFORM"} and shown == "?":
        found.add("RedundantTargetPlatform", f"--platform={head.platform}: FROM takes it anyway", head.span)
    if not used and not any(part in head.name for part in shown.split("/")[:2]):
        message = f"--platform={head.platform}: fixed, whatever platform is built for"
        found.add("FromPlatformFlagConstDisallowed", message, head.span)
