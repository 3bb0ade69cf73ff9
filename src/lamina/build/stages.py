"""A Dockerfile's stages, and which of them a target needs."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.build.arguments import Scope
from lamina.build.failure import DockerfileError
from lamina.build.instruction import Arg, Copy, From, Instruction, Run
from lamina.build.syntax import Dockerfile
from lamina.build.words import expand
from lamina.errors import InvalidInput, nearest
from lamina.values import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """``base`` and ``platform`` have their arguments filled in. ``needs`` are the numbers of other stages."""

    number: int
    name: str
    base: str
    platform: str
    opening: From
    instructions: tuple[Instruction, ...]
    needs: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """What progress calls it."""
        return self.name or f"stage-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """``outer`` are the arguments before the first FROM, with the platform's."""

    all: tuple[Stage, ...]
    outer: Mapping[str, str]
    declared: frozenset[str]

    def named(self, name: str, before: int) -> Stage | None:
        """As FROM has it, where a number is an image's name. The last of several with the same name."""
        for stage in reversed(self.all[:before]):
            if stage.name and stage.name == name.lower():
                return stage
        return None

    def find(self, name: str, before: int) -> Stage | None:
        """By name, or by number as ``COPY --from=0`` has it."""
        found = self.named(name, before)
        if found is not None:
            return found
        if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < before:
            return self.all[int(name)]
        return None

    def target(self, name: str) -> Stage:
        if not name:
            return self.all[-1]
        found = self.find(name, len(self.all))
        if found is None:
            known = [stage.name for stage in self.all if stage.name]
            raise InvalidInput(f"--target {name}: no such stage{nearest(name.lower(), known)}"
                               + (f" (there is {', '.join(known)})" if known else ""))
        return found

    def needed(self, target: Stage) -> list[Stage]:
        """All that ``target`` needs and itself, in the order of the file: the others never run."""
        wanted, waiting = set[int](), [target.number]
        while waiting:
            number = waiting.pop()
            if number not in wanted:
                wanted.add(number)
                waiting.extend(self.all[number].needs)
        return [stage for stage in self.all if stage.number in wanted]


def split_stages(
    dockerfile: Dockerfile, given: Mapping[str, str], automatic: Mapping[str, str]
) -> Stages:
    """``given`` are the command line's arguments, ``automatic`` the platform's.

    Raises :class:`DockerfileError` with the line.
    """
    scope = Scope(given=given, outer=automatic, arguments=dict(automatic))
    declared: set[str] = set()
    groups: list[tuple[From, list[Instruction]]] = []
    for instruction in dockerfile.instructions:
        if isinstance(instruction, From):
            groups.append((instruction, []))
        elif groups:
            groups[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            scope = _declared(scope, instruction, dockerfile)
        if isinstance(instruction, Arg):
            declared |= {name for name, _ in instruction.pairs}
    outer = {**automatic, **scope.arguments}
    made: list[Stage] = []
    for number, (opening, instructions) in enumerate(groups):
        stage = Stage(
            number=number, name=opening.name, base=_filled(opening.image, opening, scope, dockerfile),
            platform=_filled(opening.platform, opening, scope, dockerfile), opening=opening,
            instructions=tuple(instructions),
        )
        known = Stages(all=tuple(made), outer=outer, declared=frozenset())
        made.append(_with_needs(stage, known))
    return Stages(all=tuple(made), outer=outer, declared=frozenset(declared))


def _declared(scope: Scope, instruction: Arg, dockerfile: Dockerfile) -> Scope:
    for name, default in instruction.pairs:
        value = default
        if default is not None:
            try:
                value = expand(default, scope.lookup, escape=dockerfile.escape)
            except InvalidInput as error:
                raise DockerfileError.at(instruction.span, error, name=dockerfile.name) from None
        scope = scope.declare(name, value)
    return scope


def _filled(text: str, opening: From, scope: Scope, dockerfile: Dockerfile) -> str:
    if not text:
        return ""
    try:
        found = expand(text, scope.lookup, escape=dockerfile.escape)
    except InvalidInput as error:
        raise DockerfileError.at(opening.span, error, name=dockerfile.name) from None
    if not found:
        raise DockerfileError(
            f"{opening.original}: {text} is empty here", span=opening.span, name=dockerfile.name,
            suggestion="give the argument a default before the first FROM, or --build-arg",
        )
    return found


def _with_needs(stage: Stage, before: Stages) -> Stage:
    names = []
    for instruction in stage.instructions:
        if isinstance(instruction, Copy) and instruction.from_:
            names.append(instruction.from_)
        elif isinstance(instruction, Run):
            names += [mount.from_ for mount in instruction.mounts if mount.from_]
    found = [
        before.named(stage.base, stage.number), *(before.find(name, stage.number) for name in names),
    ]
    return replace(stage, needs=tuple(dict.fromkeys(each.number for each in found if each is not None)))
