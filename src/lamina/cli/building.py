"""Builds: the verb, from its flags to what it prints in the end."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.buildflags import add_build_arguments, progress_kind, read_options
from lamina.cli.buildforeign import notes_of
from lamina.cli.buildprogress import BuildProgress, Step, last_lines, progress_of
from lamina.cli.quantity import human_size
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb
from lamina.errors import InvalidInput, LaminaError

if TYPE_CHECKING:
    import socket
    from typing import Any

    from lamina.build.context import Context
    from lamina.build.failure import Span
    from lamina.build.findings import Finding
    from lamina.build.syntax import Dockerfile
    from lamina.cli.arguments import Arguments
    from lamina.cli.session import Session
    from lamina.engine.building.options import BuildOptions, BuiltImage
    from lamina.engine.engine import Engine

_RULE = "-" * 20


class ChecksFailed(InvalidInput):
    """The Dockerfile's own directive has findings of the checks be errors."""


def _build(arguments: Arguments, session: Session) -> int | None:
    from lamina.engine.building.contexts import opened_context

    kind = progress_kind(arguments, session)
    arguments.check = arguments.check or arguments.call == "check"
    options = read_options(arguments, session)
    session.is_quiet = session.is_quiet or kind in ("quiet", "rawjson")
    for note in notes_of(arguments):
        session.note(f"note: {note}")
    _make_way(arguments)
    stdin = session.input_bytes() if "-" in (arguments.context, arguments.file) else None
    progress = progress_of(kind, session)
    with (
        session.engine(progress.transfer) as engine,
        opened_context(engine, arguments.context, options, stdin) as (context, options),
    ):
        course = _Course(arguments, session, engine, context, options)
        if arguments.check:
            return course.check()
        course.run(progress, explains=arguments.explain and kind != "rawjson")
    return None


class _Course:
    """One build with its context open, and what is said about it."""

    def __init__(
        self, arguments: Arguments, session: Session, engine: Engine, context: Context, options: BuildOptions
    ) -> None:
        self._arguments = arguments
        self._session = session
        self._engine = engine
        self._context = context
        self._options = options

    def check(self) -> int:
        from lamina.cli.buildchecks import show_findings

        dockerfile = self._parsed()
        findings = self._findings(dockerfile)
        show_findings(self._session, dockerfile, findings, self._arguments.format)
        return 1 if findings else 0

    def run(self, progress: BuildProgress, *, explains: bool) -> None:
        dockerfile = self._parsed()
        self._insist_clean(dockerfile)
        options = self._options
        if self._arguments.on_error == "shell":
            options = self._with_shell(progress)
        try:
            with progress:
                image = self._engine.build(
                    self._context, options, report=progress, stdout=self._output(),
                )
        except LaminaError as error:
            self._explain(error, dockerfile)
            error.exit_code = 1  # 126 and 127 are for a command that one runs oneself
            raise
        finally:
            if explains:
                self._say_lines(_table(progress.steps))
        self._keep(image, progress)
        self._tell(image)
        self._warn(dockerfile, image)

    def _with_shell(self, progress: BuildProgress) -> BuildOptions:
        from lamina.cli.attaching import insist_terminal, raw_terminal, relay_attached, terminal_size
        from lamina.values import replace

        insist_terminal("--on-error shell")

        def open_shell(connection: socket.socket) -> tuple[int, str]:
            progress.make_way()
            self._say_lines(["The command failed. This is a shell in what it left; the build ends with it."])
            self._session.flush()
            with raw_terminal():
                ended = relay_attached(connection, sends_input=True, is_terminal=True, keys=b"")
            return ended or (0, "")

        return replace(self._options, on_error=open_shell, console=terminal_size())

    def _parsed(self) -> Dockerfile:
        from lamina.build.failure import DockerfileError
        from lamina.build.syntax import parse

        try:
            return parse(self._options.text or b"", name=self._options.dockerfile)
        except DockerfileError as error:
            self._excerpt(error.span)
            raise

    def _findings(self, dockerfile: Dockerfile) -> tuple[Finding, ...]:
        from lamina.cli.buildchecks import find

        return find(self._engine, dockerfile, self._context, self._options)

    def _insist_clean(self, dockerfile: Dockerfile) -> None:
        """``# check=error=true``."""
        if not dockerfile.check.is_error:
            return
        findings = self._findings(dockerfile)
        if not findings:
            return
        from lamina.cli.buildchecks import described

        for finding in findings:
            self._say_lines(described(dockerfile, finding))
        rules = ", ".join(dict.fromkeys(finding.rule for finding in findings))
        raise ChecksFailed(f"{dockerfile.name}: it asks for no build while checks find something: {rules}")

    # -- what is said

    def _explain(self, error: LaminaError, dockerfile: Dockerfile) -> None:
        """The end of a command's output, and the lines of the Dockerfile."""
        from lamina.build.failure import DockerfileError
        from lamina.build.instruction import Run
        from lamina.engine.building.scanning import ScanFailed
        from lamina.engine.building.stage import StepFailed

        span = _noted_span(error, dockerfile)
        if isinstance(error, StepFailed):
            # One of a base's ONBUILD counts lines of its own.
            span = error.span if any(one.span == error.span and isinstance(one, Run)
                                     for one in dockerfile.instructions) else None
            tail = last_lines(error.tail)
            self._say_lines([_RULE, *tail, _RULE] if tail else [])
        elif isinstance(error, ScanFailed):
            tail = last_lines(error.tail)
            self._say_lines([_RULE, *tail, _RULE] if tail else [])
        elif isinstance(error, DockerfileError):
            span = error.span if error.name == dockerfile.name else None
        if span is not None:
            self._excerpt(span)

    def _excerpt(self, span: Span) -> None:
        from lamina.build.failure import excerpt

        text = (self._options.text or b"").decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        self._say_lines([*excerpt(text, span, name=self._options.dockerfile).split("\n"), ""])

    def _say_lines(self, lines: list[str]) -> None:
        self._session.stderr.write("".join(f"{line}\n" for line in lines))

    def _tell(self, image: BuiltImage) -> None:
        session = self._session
        if self._arguments.quiet:
            session.print(str(image.id))
            return
        steps = f"{image.steps} step{'' if image.steps == 1 else 's'}, {image.cached} cached"
        fewer = f"{image.merged} {'layer' if image.merged == 1 else 'layers'} fewer"
        merged = f", {fewer}" if image.merged else ""
        session.note(f"Successfully built {image.id} ({human_size(image.size)}; {steps}{merged})")
        for name in image.names:
            session.note(f"Successfully tagged {_familiar(name)}")

    def _warn(self, dockerfile: Dockerfile, image: BuiltImage) -> None:
        if self._session.is_quiet:
            return
        findings = self._findings(dockerfile)
        lines = [
            f"{each.rule}: {each.message} ({visible(dockerfile.name)}:{each.span.first})" for each in findings
        ]
        lines += map(visible, image.warnings)
        if lines:
            more = "; `lamina build --check` shows the places" if findings else ""
            self._session.note(f"\n{len(lines)} warning{'' if len(lines) == 1 else 's'} found{more}:")
        for line in lines:
            self._session.note(f" - {line}")

    # -- what is kept

    def _output(self) -> Any:
        has_output = any(output.destination == "-" for output in self._options.outputs)
        return self._session.output_bytes() if has_output else None

    def _keep(self, image: BuiltImage, progress: BuildProgress) -> None:
        from lamina.cli.output import written

        described = json_text(_metadata(image, progress.steps), indent=2) + "\n"
        for path, text in ((self._arguments.iidfile, image.id), (self._arguments.metadata_file, described)):
            if path:
                with written(path, self._session, "build") as out:
                    out.write(text.encode())


def _noted_span(error: LaminaError, dockerfile: Dockerfile) -> Span | None:
    """Of the instruction that a note names, as the builder adds it to what is not the Dockerfile's fault."""
    places = {f"{dockerfile.name}:{one.span.first}: ": one.span for one in dockerfile.instructions}
    for note in getattr(error, "__notes__", ()):
        for place, span in places.items():
            if note.startswith(place):
                return span
    return None


def _make_way(arguments: Arguments) -> None:
    """An ID from an earlier build must not be taken for this one's, should this one fail."""
    import os

    for path in (arguments.iidfile, arguments.metadata_file):
        if not path or arguments.check:
            continue
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise UsageError(f"{path}: its directory is not there")
        if os.path.isfile(path):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _metadata(image: BuiltImage, steps: list[Step]) -> dict[str, Any]:
    """docker's names, and ours for what docker does not tell."""
    root = image.root
    return {
        **({"containerimage.config.digest": image.id} if image.id != root.digest else {}),
        "containerimage.descriptor": {"mediaType": root.media_type, "digest": root.digest, "size": root.size},
        "containerimage.digest": root.digest,
        "image.name": ",".join(image.names),
        "lamina.build.steps": [
            {"number": step.number, "title": step.title, "cached": _is_cached(step), "reason": step.reason,
             "seconds": round(step.seconds, 3)}
            for step in steps
        ],
        "lamina.build.warnings": list(image.warnings),
    }


def _table(steps: list[Step]) -> list[str]:
    from lamina.cli.table import render

    rows = [("STEP", "TIME", "CACHE", "INSTRUCTION")]
    rows += [
        (f"#{step.number}", "" if _is_cached(step) else f"{step.seconds:.1f}s", _cache_words(step),
         visible(step.title))
        for step in steps
    ]
    return ["", *render(rows, minimum=0)] if steps else []


def _cache_words(step: Step) -> str:
    if _is_cached(step):
        return "cached"
    return visible(step.reason) if step.reason else "-"


def _is_cached(step: Step) -> bool:
    from lamina.build.report import Stage

    return step.stage is Stage.CACHED


def _familiar(name: str) -> str:
    from lamina.oci.reference import Reference

    return Reference.parse(name).familiar


BUILD = Verb(
    _build,
    usage="[OPTIONS] PATH|URL|-",
    about="""\
Carries out a Dockerfile, each step from the cache if it is there. What a step is made from decides that:
its instruction, the layers below it, and the content of the files that go in, but not their times. For a
step that is not cached the progress says why, in a phrase. Progress is on standard error; 1 is the exit
code of a build that failed, and of a --check that found something.""",
    arguments=add_build_arguments,
    examples=(
        "lamina build -t app .",
        "lamina build -f deploy/Dockerfile --target test --build-arg VERSION=1.2 .",
        "lamina build --secret id=token,src=token.txt --explain -t app .",
        "lamina build --check .",
        "lamina build -o type=local,dest=out https://github.com/example/app.git#main",
        "tar -c . | lamina build -q -",
    ),
)
