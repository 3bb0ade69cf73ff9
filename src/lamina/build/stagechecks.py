"""Build checks that follow a stage from instruction to instruction, and know what is set by then."""

from __future__ import annotations

from lamina.build.instruction import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Run,
    Shell,
    Workdir,
    expanded,
)
from lamina.build.words import expand
from lamina.errors import InvalidInput, nearest
from lamina.values import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lamina.build.findings import Findings

_PLATFORM_ARGUMENTS = {
    f"{side}{part}": value for side in ("TARGET", "BUILD") for part, value in (
        ("PLATFORM", "linux/amd64"), ("OS", "linux"), ("OSVERSION", ""), ("ARCH", "amd64"), ("VARIANT", ""),
    )
} | {"TARGETSTAGE": "default"}
_NEVER_SET = {"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"}  # for the builder to read
_URLS = ("http://", "https://", "git://", "git@", "ssh://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the checks ask of a base image's config."""

    environment: Mapping[str, str]
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    head: From
    instructions: tuple[Instruction, ...]


class Globals:
    """The arguments before the first FROM."""

    def __init__(self, declared: list[Arg], given: Mapping[str, str], escape: str) -> None:
        self.escape, self.given = escape, given
        self._defaults = self._values(declared, {})
        self.values = self._values(declared, given)
        self.names = {key for one in declared for key, _ in one.pairs} | set(_PLATFORM_ARGUMENTS)

    def _values(self, declared: list[Arg], given: Mapping[str, str]) -> dict[str, str]:
        values = dict(_PLATFORM_ARGUMENTS)
        for one in declared:
            for key, default in one.pairs:
                value = given.get(key, self._expand(default, values))
                if value is not None:
                    values[key] = value
        return values

    def _expand(
        self, text: str | None, values: Mapping[str, str], used: set[str] | None = None
    ) -> str | None:
        try:
            return None if text is None else expand(text, values.get, escape=self.escape, used=used)
        except InvalidInput:
            return None

    def expand(self, text: str, used: set[str] | None = None) -> str | None:
        """None where it cannot be expanded: the build will say why."""
        return self._expand(text, self.values, used)

    def by_default(self, text: str) -> str | None:
        return self._expand(text, self._defaults)


@dataclass(slots=True)
class _State:
    """What holds at a point of a stage. A stage that begins with it goes on from there."""

    environment: dict[str, str]
    arguments: dict[str, str | None] = field(default_factory=dict)  # None: declared, and without a value
    knows_base: bool = True
    has_shell: bool = False
    has_workdir: bool = False

    def copy(self) -> _State:
        return replace(self, environment=dict(self.environment), arguments=dict(self.arguments))

    def lookup(self, name: str) -> str | None:
        return self.environment.get(name, self.arguments.get(name))

    def names(self) -> set[str]:
        return {*self.environment, *self.arguments}


def check_stages(
    found: Findings, stages: list[Stage], scope: Globals, *, target: str,
    is_ignored: Callable[[str], bool] | None, base: Callable[[str], Base | None] | None, platform: str,
) -> None:
    review = _Review(found, stages, scope, is_ignored)
    wanted = _needed(stages, scope, target)
    ends: dict[int, _State] = {}
    for number, stage in enumerate(stages):
        image = scope.expand(stage.head.image) or ""
        earlier = _stage_called(stages[:number], image)
        if earlier is None:
            state = review.begin(stage, image, base, platform, is_wanted=number in wanted)
        else:
            state = ends[earlier].copy()
        review.walk(stage, state, is_wanted=number in wanted)
        ends[number] = state


def _stage_called(stages: list[Stage], name: str) -> int | None:
    """The last one of that name, for a later stage hides an earlier one."""
    for number in reversed(range(len(stages))):
        if name and stages[number].head.name == name.lower():
            return number
    return None


def _needed(stages: list[Stage], scope: Globals, target: str) -> set[int]:
    """The stages that ``target`` takes anything from; all of them, where no stage has that name."""
    start = _stage_numbered(stages, target)
    if start is None:
        return set(range(len(stages)))
    needed, waiting = set[int](), [start]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            earlier = stages[:number]
            origins = [_stage_called(earlier, scope.expand(stages[number].head.image) or "")]
            origins += [_stage_numbered(earlier, name) for name in _origins(stages[number])]
            waiting += [one for one in origins if one is not None]
    return needed


def _stage_numbered(stages: list[Stage], name: str) -> int | None:
    if name.isascii() and name.isdigit() and len(name) < 10:
        return int(name) if int(name) < len(stages) else None
    return _stage_called(stages, name)


def _origins(stage: Stage) -> Iterator[str]:
    for one in stage.instructions:
        if isinstance(one, Copy) and one.from_:
            yield one.from_
        elif isinstance(one, Run):
            yield from (mount.from_ for mount in one.mounts if mount.from_)


class _Review:
    def __init__(
        self, found: Findings, stages: list[Stage], scope: Globals, is_ignored: Callable[[str], bool] | None
    ) -> None:
        self._found, self._stages, self._scope, self._is_ignored = found, stages, scope, is_ignored

    def begin(
        self, stage: Stage, image: str, base: Callable[[str], Base | None] | None, platform: str, *,
        is_wanted: bool,
    ) -> _State:
        """At a base image."""
        if image == "scratch":
            return _State({"PATH": ""})
        known = base(image) if base is not None and image else None
        if known is None:
            return _State({"PATH": ""}, knows_base=False)
        expected = (self._scope.expand(stage.head.platform) if stage.head.platform else platform) or ""
        actual = known.platform
        if is_wanted and expected and actual and expected.split("/")[:2] != actual.split("/")[:2]:
            message = f"{image}: expected {expected}, got {actual}"
            self._found.add("InvalidBaseImagePlatform", message, stage.head.span)
        return _State({"PATH": "", **known.environment})

    def walk(self, stage: Stage, state: _State, *, is_wanted: bool) -> None:
        """Changes ``state`` to what holds at the end."""
        last: dict[type, Instruction] = {}
        for instruction in stage.instructions:
            used: set[str] = set()
            try:
                now = expanded(instruction, state.lookup, escape=self._scope.escape, used=used)
            except InvalidInput:
                continue  # the build will say why
            if is_wanted:
                self._check_variables(instruction, used, state)
                self._check(now, state, used)
                self._check_once(instruction, last)
            self._advance(now, state)

    def _advance(self, instruction: Instruction, state: _State) -> None:
        match instruction:
            case Env(pairs=pairs):
                state.environment.update(pairs)
            case Arg(pairs=pairs):
                state.arguments.update((key, self._argument(key, default)) for key, default in pairs)
            case Shell():
                state.has_shell = True
            case Workdir(value=value):
                state.has_workdir = state.has_workdir or value.startswith("/")

    def _argument(self, key: str, default: str | None) -> str | None:
        """What is given counts, then the default, then the value before the first FROM."""
        if key in self._scope.given or default is None:
            return self._scope.given.get(key, self._scope.values.get(key))
        return default

    def _check_variables(self, instruction: Instruction, used: set[str], state: _State) -> None:
        known = state.names()
        for name in sorted(used - known - _NEVER_SET):
            near = nearest(name, known)
            if near or state.knows_base:
                message = f"{instruction.keyword.upper()}: nothing sets ${name}{near}"
                self._found.add("UndefinedVar", message, instruction.span)

    def _check(self, now: Instruction, state: _State, used: set[str]) -> None:
        match now:
            case Cmd() | Entrypoint() if now.command.is_shell and not state.has_shell:
                message = f"{now.keyword.upper()}: in the shell form, signals do not reach the program"
                self._found.add("JSONArgsRecommended", message, now.span)
            case Workdir(value=value) if not state.has_workdir and not value.startswith("/"):
                if used <= state.names():
                    message = f"WORKDIR {value}: relative to what the base image happens to have"
                    self._found.add("WorkdirRelativePath", message, now.span)
            case Expose():
                self._check_ports(now)
            case Copy(from_="") | Add():
                self._check_sources(now)

    def _check_ports(self, expose: Expose) -> None:
        for port in expose.ports:
            *host, container = port.split(":")
            _, _, protocol = container.partition("/")
            if protocol != protocol.lower():
                message = f"EXPOSE {port}: write {protocol} in lower case"
                self._found.add("ExposeProtoCasing", message, expose.span)
            if any(host):
                message = f"EXPOSE {port}: the host's side is for run --publish"
                self._found.add("ExposeInvalidFormat", message, expose.span)

    def _check_sources(self, copy: Copy | Add) -> None:
        if self._is_ignored is None:
            return
        for source in copy.sources:
            parts = [part for part in source.split("/") if part not in ("", ".")]
            if not source.startswith(_URLS) and parts and self._is_ignored("/".join(parts)):
                message = f"{copy.keyword.upper()} {source}: .dockerignore excludes it"
                self._found.add("CopyIgnoredFile", message, copy.span)

    def _check_once(self, instruction: Instruction, last: dict[type, Instruction]) -> None:
        kind = type(instruction)
        if kind not in (Cmd, Entrypoint, Healthcheck):
            return
        earlier = last.get(kind)
        if earlier is not None:
            message = f"{earlier.keyword.upper()}: has no effect, for a later one in this stage replaces it"
            self._found.add("MultipleInstructionsDisallowed", message, earlier.span)
        last[kind] = instruction
