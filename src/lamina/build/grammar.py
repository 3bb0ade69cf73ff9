"""One logical line into one instruction."""

from __future__ import annotations

from lamina.build.failure import DockerfileError, Span
from lamina.build.flags import BadFlag, Flags
from lamina.build.instruction import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    RunMount,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
    parse_mount,
)
from lamina.build.shape import json_strings, split_blanks, split_flags, split_keyword, split_quoted
from lamina.build.source import Line, heredoc_opened
from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")
_NO_TRIGGERS = ("from", "onbuild", "maintainer")


class Clause:
    """A line taken apart: ``keyword`` as written, ``flags``, and ``text``, the arguments."""

    def __init__(self, line: Line, escape: str, name: str, start: int = 0) -> None:
        """``start`` is where in the line it begins: an ONBUILD holds another instruction."""
        self.line, self.escape, self.name, self.start = line, escape, name, start
        self.original = line.text[start:]
        self.keyword, offset = split_keyword(self.original)
        self.reader = _READERS.get(self.keyword.lower())
        if self.reader is None:
            self._fail_as_unknown()
        self.flags = Flags(self.keyword)
        found, offset = split_flags(line.text, start + offset)
        self.offset, self.text = offset, line.text[offset:]
        for flag, place in found:
            self._add(flag, place)

    def _add(self, flag: str, place: int) -> None:
        try:
            self.flags.add(flag, place)
        except BadFlag as error:
            self.fail(str(error), at=error.place)

    def _fail_as_unknown(self) -> NoReturn:
        import difflib  # noqa: PLC0415 - only somebody who misspelled something pays for it

        known = [word.upper() for word in _READERS]
        # Keywords are few and short, so more is a slip of the finger here than elsewhere.
        near = difflib.get_close_matches(self.keyword.upper(), known, n=1, cutoff=0.6)
        raise DockerfileError(
            f"unknown instruction: {self.keyword}", span=self._span(self.start), name=self.name,
            suggestion=f"did you mean {near[0]}?" if near else "",
        )

    def _span(self, offset: int) -> Span:
        return self.line.at(min(offset, max(len(self.line.text) - 1, 0)))

    def fail(self, message: str, *, at: int | None = None, expected: str = "") -> NoReturn:
        """``at`` is a place in the line, that of the arguments if nothing is said."""
        raise DockerfileError(
            message, span=self._span(self.offset if at is None else at), name=self.name, expected=expected,
        )

    def where(self) -> dict[str, Any]:
        """What every instruction has."""
        return {"span": self.line.span, "original": self.original, "keyword": self.keyword}

    def read(self) -> Instruction:
        assert self.reader is not None
        try:
            return self.reader(self)
        except DockerfileError:
            raise
        except BadFlag as error:
            self.fail(str(error), at=error.place)
        except InvalidInput as error:
            self.fail(str(error))


def read_instruction(line: Line, escape: str, *, name: str) -> Instruction:
    return Clause(line, escape, name).read()


def _only(clause: Clause) -> str:
    if not clause.text:
        clause.fail(f"{clause.keyword.upper()} needs an argument", at=clause.start)
    return clause.text


def _from(clause: Clause) -> From:
    words = split_blanks(_only(clause))
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _is_stage_name(name):
            place = clause.offset + clause.text.rindex(words[2])
            clause.fail(f"{words[2]} cannot be the name of a stage", at=place,
                        expected="a letter, then letters, digits and _-.")
    elif len(words) == 1:
        name = ""
    else:
        clause.fail("FROM takes an image, and a name after AS", expected="FROM image [AS name]")
    return From(image=words[0], name=name, platform=clause.flags.text("platform"), **clause.where())


def _is_stage_name(name: str) -> bool:
    return name.isascii() and name[:1].isalpha() and not name.strip("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def _arg(clause: Clause) -> Arg:
    pairs = []
    for word in split_quoted(_only(clause), clause.escape):
        key, equals, value = word.partition("=")
        if not key:
            clause.fail("ARG needs a name before the =")
        pairs.append((key, value if equals else None))
    return Arg(pairs=tuple(pairs), **clause.where())


def _pairs(clause: Clause) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Of ENV and LABEL; and whether they are in the old form, where blanks part one name from its value."""
    keyword = clause.keyword.upper()
    words = split_quoted(_only(clause), clause.escape)
    if "=" not in words[0]:
        key, start = split_keyword(clause.text)
        if start >= len(clause.text):
            clause.fail(f"{keyword} needs a value for {key}", expected=f"{keyword} {key}=VALUE")
        return ((key, clause.text[start:]),), True
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            message = f"{keyword} needs a name before the =" if equals else f"{word} has no ="
            place = clause.offset + max(clause.text.find(word), 0)
            clause.fail(message, at=place, expected=f"{keyword} NAME=VALUE ...")
        pairs.append((key, value))
    return tuple(pairs), False


def _env(clause: Clause) -> Env:
    pairs, is_legacy = _pairs(clause)
    return Env(pairs=pairs, is_legacy=is_legacy, **clause.where())


def _label(clause: Clause) -> Label:
    pairs, is_legacy = _pairs(clause)
    return Label(pairs=pairs, is_legacy=is_legacy, **clause.where())


def _command(clause: Clause, text: str) -> Command:
    words = json_strings(text)
    if words is not None:
        return Command(argv=words, is_shell=False)
    if not text:
        clause.fail(f"{clause.keyword.upper()} needs a command", at=clause.start)
    return Command(argv=(text,), is_shell=True)


def _run(clause: Clause) -> Run:
    command = _command(clause, clause.text)
    if not command.argv:
        clause.fail("RUN needs a command")
    return Run(
        command=command, heredocs=clause.line.heredocs,
        mounts=_mounts(clause),
        network=clause.flags.choice("network", _NETWORKS),
        security=clause.flags.choice("security", _SECURITIES), **clause.where(),
    )


def _mounts(clause: Clause) -> tuple[RunMount, ...]:
    found = []
    for text, place in clause.flags.placed("mount"):
        try:
            found.append(parse_mount(text))
        except InvalidInput as error:
            clause.fail(str(error), at=place)
    return tuple(found)


def _cmd(clause: Clause) -> Cmd:
    return Cmd(command=_command_or_none(clause), **clause.where())


def _entrypoint(clause: Clause) -> Entrypoint:
    return Entrypoint(command=_command_or_none(clause), **clause.where())


def _command_or_none(clause: Clause) -> Command:
    """Without any, a shell that is told nothing, as all builders have it."""
    return _command(clause, clause.text) if clause.text else Command(argv=("",), is_shell=True)


def _shell(clause: Clause) -> Shell:
    words = json_strings(_only(clause))
    if not words:
        clause.fail("SHELL takes the exec form", expected='SHELL ["program", "argument", ...]')
    return Shell(argv=words, **clause.where())


def _copied(clause: Clause) -> dict[str, Any]:
    """What COPY and ADD share."""
    keyword = clause.keyword.upper()
    listed = json_strings(clause.text)
    words = split_blanks(clause.text) if listed is None else list(listed)
    if len(words) < 2:
        expected = f"{keyword} SOURCE... DESTINATION"
        place = clause.offset if words else clause.start
        clause.fail(f"{keyword} needs a source and a destination", at=place, expected=expected)
    sources, heredocs = words[:-1], clause.line.heredocs
    if listed is None:
        if _opened(words[-1]) is not None:
            clause.fail("the destination cannot be a here-document")
        sources = [word for word in sources if _opened(word) is None]
        if len(words) - 1 - len(sources) != len(heredocs):
            clause.fail("the name of a here-document must be one word, and its quotes must match")
    return {
        "sources": tuple(sources), "heredocs": heredocs, "destination": words[-1],
        "chown": clause.flags.text("chown"), "chmod": clause.flags.text("chmod"),
        "is_link": clause.flags.is_true("link"), "excludes": clause.flags.listed("exclude"), **clause.where(),
    }


def _opened(word: str) -> Heredoc | None:
    try:
        return heredoc_opened(word) if "<<" in word else None
    except InvalidInput:
        return None


def _copy(clause: Clause) -> Copy:
    origin = clause.flags.text("from")
    if "$" in origin:
        clause.fail("--from takes no variables", expected="a stage's name; its FROM may use them")
    return Copy(from_=origin, keeps_parents=clause.flags.is_true("parents"), **_copied(clause))


def _add(clause: Clause) -> Add:
    return Add(
        keeps_git_dir=clause.flags.is_true("keep-git-dir"), checksum=clause.flags.text("checksum"),
        unpacks=clause.flags.truth("unpack"), **_copied(clause),
    )


def _user(clause: Clause) -> User:
    return User(value=_only(clause), **clause.where())


def _workdir(clause: Clause) -> Workdir:
    return Workdir(value=_only(clause), **clause.where())


def _stop_signal(clause: Clause) -> StopSignal:
    return StopSignal(value=_only(clause), **clause.where())


def _maintainer(clause: Clause) -> Maintainer:
    return Maintainer(value=_only(clause), **clause.where())


def _expose(clause: Clause) -> Expose:
    return Expose(ports=tuple(split_blanks(_only(clause))), **clause.where())


def _volume(clause: Clause) -> Volume:
    listed = json_strings(_only(clause))
    paths = tuple(map(str.strip, split_blanks(clause.text) if listed is None else listed))
    if not paths or not all(paths):
        clause.fail("VOLUME needs a path, which cannot be empty")
    return Volume(paths=paths, **clause.where())


def _healthcheck(clause: Clause) -> Healthcheck:
    kind, start = split_keyword(_only(clause))
    rest = clause.text[start:]
    if kind.upper() == "NONE":
        if rest:
            clause.fail("HEALTHCHECK NONE takes no arguments", at=clause.offset + start)
        return Healthcheck(is_disabled=True, **clause.where())
    if kind.upper() != "CMD":
        clause.fail(f"HEALTHCHECK knows no {kind}", expected="CMD or NONE")
    command = _command(clause, rest)
    if not command.argv:
        clause.fail("HEALTHCHECK CMD needs a command")
    flags = clause.flags
    return Healthcheck(
        command=command, interval=flags.duration("interval"), timeout=flags.duration("timeout"),
        start_period=flags.duration("start-period"), start_interval=flags.duration("start-interval"),
        retries=flags.count("retries"), **clause.where(),
    )


def _onbuild(clause: Clause) -> OnBuild:
    _only(clause)
    inner = Clause(clause.line, clause.escape, clause.name, clause.offset)
    if inner.keyword.lower() in _NO_TRIGGERS:
        inner.fail(f"{inner.keyword.upper()} cannot be a trigger of ONBUILD", at=inner.start)
    bodies = "".join(f"\n{one.content}{one.name}" for one in clause.line.heredocs)
    return OnBuild(trigger=clause.text + bodies, parsed=inner.read(), **clause.where())


def read_trigger(line: Line, escape: str, *, name: str) -> Instruction:
    """As ``read_instruction``; for what an image's config holds, and a stranger may have written there."""
    clause = Clause(line, escape, name)
    if clause.keyword.lower() in _NO_TRIGGERS:
        clause.fail(f"{clause.keyword.upper()} cannot be a trigger of ONBUILD", at=0)
    return clause.read()


_READERS: dict[str, Callable[[Clause], Instruction]] = {
    "add": _add, "arg": _arg, "cmd": _cmd, "copy": _copy, "entrypoint": _entrypoint, "env": _env,
    "expose": _expose, "from": _from, "healthcheck": _healthcheck, "label": _label, "maintainer": _maintainer,
    "onbuild": _onbuild, "run": _run, "shell": _shell, "stopsignal": _stop_signal, "user": _user,
    "volume": _volume, "workdir": _workdir,
}
