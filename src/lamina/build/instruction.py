"""Instructions as values, and the expansion of variables in those of their fields that take any.

Values of ENV, LABEL and ARG keep their quotes until they are expanded, for a quote decides what is expanded.
"""

from __future__ import annotations

from lamina.build.failure import Span
from lamina.build.mountoption import RunMount, parse_mount
from lamina.build.words import expand, expand_raw, expand_words
from lamina.errors import InvalidInput
from lamina.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Add", "Arg", "Cmd", "Command", "Copy", "Entrypoint", "Env", "Expose", "From", "Healthcheck", "Heredoc",
    "Instruction", "Label", "Maintainer", "OnBuild", "Run", "RunMount", "Shell", "StopSignal", "User",
    "Volume", "Workdir", "expanded", "parse_mount",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A here-document. ``content`` ends in a newline, and has lost its leading tabs if ``is_stripped``."""

    name: str
    content: str
    is_expanded: bool = True
    is_stripped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The shell form is one text, left to a shell."""

    argv: tuple[str, ...]
    is_shell: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class From:
    """``name`` is in lower case, as stages are looked up; ``original`` has it as written."""

    image: str
    name: str = ""
    platform: str = ""
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg:
    """None is no default, which differs from an empty one."""

    pairs: tuple[tuple[str, str | None], ...]
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """``is_legacy``: ``ENV key value``."""

    pairs: tuple[tuple[str, str], ...]
    is_legacy: bool = False
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    pairs: tuple[tuple[str, str], ...]
    is_legacy: bool = False
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command that is ``<<NAME`` alone is a script: the here-document, which may begin with ``#!``."""

    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[RunMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """``heredocs`` are sources too, written inline: a file each, of the here-document's name."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    is_link: bool = False
    keeps_parents: bool = False
    excludes: tuple[str, ...] = ()
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """``unpacks`` is None where nothing was said: archives of the context are unpacked, downloads not."""

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    is_link: bool = False
    excludes: tuple[str, ...] = ()
    keeps_git_dir: bool = False
    checksum: str = ""
    unpacks: bool | None = None
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd:
    command: Command
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint:
    command: Command
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    argv: tuple[str, ...]
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    value: str
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir:
    value: str
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal:
    value: str
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer:
    value: str
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose:
    ports: tuple[str, ...]
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    paths: tuple[str, ...]
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """Times are nanoseconds. They and ``retries`` are 0 where nothing was said: the runtime has its own."""

    is_disabled: bool = False
    command: Command | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
    span: Span
    original: str
    keyword: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild:
    """``trigger`` is the text that an image's config keeps, here-documents and all."""

    trigger: str
    parsed: Instruction
    span: Span
    original: str
    keyword: str


Instruction = (
    From | Arg | Env | Label | Run | Copy | Add | Cmd | Entrypoint | Shell | User | Workdir | StopSignal
    | Maintainer | Expose | Volume | Healthcheck | OnBuild
)


def expanded(
    instruction: Instruction, lookup: Callable[[str], str | None], *, escape: str = "\\",
    used: set[str] | None = None,
) -> Instruction:
    """All variables of an instruction see the values from before it: ``ENV a=1 b=$a`` takes the old ``a``.

    Commands keep theirs for the shell, and FROM is left to whoever knows the arguments before it. Raises
    ``InvalidInput`` without a place.
    """
    def word(text: str) -> str:
        return expand(text, lookup, escape=escape, used=used)

    match instruction:
        case Env() | Label():
            pairs = tuple((word(key), word(value)) for key, value in instruction.pairs)
            _insist(all(key for key, _ in pairs), instruction, "name")
            return replace(instruction, pairs=pairs)
        case Arg():
            return replace(instruction, pairs=tuple(
                (word(key), None if value is None else word(value)) for key, value in instruction.pairs
            ))
        case Copy() | Add():
            return _expanded_copy(instruction, word, lookup, used)
        case Run(mounts=mounts) if mounts:
            return replace(instruction, mounts=tuple(parse_mount(one.raw, word) for one in mounts))
        case User() | Workdir() | StopSignal():
            return replace(instruction, value=word(instruction.value))
        case Volume():
            paths = tuple(map(word, instruction.paths))
            _insist(all(paths), instruction, "path")
            return replace(instruction, paths=paths)
        case Expose():
            return replace(instruction, ports=tuple(
                port for text in instruction.ports
                for port in expand_words(text, lookup, escape=escape, used=used)
            ))
    return instruction


def _insist(is_full: bool, instruction: Env | Label | Volume, what: str) -> None:
    if not is_full:
        keyword = instruction.keyword.upper()
        raise InvalidInput(f"{keyword}: a {what} is empty once its variables are expanded")


def _expanded_copy(
    copy: Copy | Add, word: Callable[[str], str], lookup: Callable[[str], str | None], used: set[str] | None
) -> Instruction:
    changed = replace(
        copy, sources=tuple(map(word, copy.sources)), destination=word(copy.destination),
        chown=word(copy.chown), chmod=word(copy.chmod),
        # In a here-document the escape is the backslash, whatever the directive says.
        heredocs=tuple(
            replace(one, content=expand_raw(one.content, lookup, used=used)) if one.is_expanded else one
            for one in copy.heredocs
        ),
    )
    return replace(changed, checksum=word(changed.checksum)) if isinstance(changed, Add) else changed
