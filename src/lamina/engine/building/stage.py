"""One stage of a build: its instructions in turn, each from the cache if it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lamina.build.arguments import Scope
from lamina.build.cache import StepRecord, explain
from lamina.build.configuration import (
    DEFAULT_PATH,
    argv,
    configured,
    directory,
    environment,
    listed,
    shell,
    told,
    told_run,
)
from lamina.build.failure import DockerfileError, Span
from lamina.build.instruction import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Env,
    From,
    Instruction,
    Maintainer,
    Run,
    Workdir,
    expanded,
)
from lamina.build.key import Ingredients, ingredients
from lamina.build.report import Stage as Progress
from lamina.build.selection import Place
from lamina.build.stages import Stage
from lamina.engine.building.copying import Gathered, gather, owner_of, write_copy, write_directories
from lamina.engine.building.mounts import Mounts, file_document
from lamina.engine.building.platform import insist_runnable
from lamina.engine.building.running import HOSTNAME, Ended, listening, ran
from lamina.engine.building.running import Command as RunCommand
from lamina.engine.building.snapshots import snapshot
from lamina.engine.building.state import BuiltLayer, Origin, StageState
from lamina.errors import Denied, InvalidInput, LaminaError
from lamina.oci.config import MAX_HISTORY, History
from lamina.oci.descriptor import Descriptor
from lamina.runtime.options import ContainerOptions
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.build.layered import Layered
    from lamina.engine.building.build import Build
    from lamina.engine.building.remote import RemoteSource
    from lamina.engine.layering import Fill

_SCRIPT = "/dev/pipes"
_TAIL = 4096
_STEPS = Run | Copy | Add | Workdir


class StepFailed(LaminaError):
    """A command ended with a code that is not 0. ``tail`` is the end of what it wrote."""

    exit_code = 1

    def __init__(self, message: str, span: Span, code: int, tail: bytes) -> None:
        super().__init__(message)
        self.span = span
        self.code = code
        self.tail = tail


class StageBuilder:
    """``state`` grows with each instruction."""

    def __init__(self, build: Build, stage: Stage, state: StageState) -> None:
        self._build = build
        self._stage = stage
        self.state = state
        self._scope = Scope(
            given=build.options.arguments, outer=build.stages.outer,
            arguments=state.arguments, environment=environment(state.config),
        )
        self._file = build.dockerfile.name
        self._position = 0
        self._total = 1

    def run(
        self, triggers: tuple[Instruction, ...], instructions: tuple[Instruction, ...]
    ) -> StageState:
        """What the base wants done comes first. Raises :class:`StepFailed`, and whatever else is wrong with a
        note of the line.
        """
        self._file = f"ONBUILD of {self.state.base.name}"
        self._total = 1 + sum(isinstance(each, _STEPS) for each in (*triggers, *instructions))
        self._position = 1
        self._perform_all(triggers)
        self._file = self._build.dockerfile.name
        self._perform_all(instructions)
        return self.state

    def _perform_all(self, instructions: tuple[Instruction, ...]) -> None:
        if len(instructions) + len(self.state.history) > MAX_HISTORY:
            raise InvalidInput(f"{self._stage.label}: an image's history has at most {MAX_HISTORY} lines")
        for instruction in instructions:
            self._build.course.insist_going()
            try:
                self._perform(instruction)
            except StepFailed:
                raise
            except InvalidInput as error:
                raise DockerfileError.at(instruction.span, error, name=self._file) from None
            except LaminaError as error:
                error.add_note(f"{self._where(instruction)}: {instruction.original}")
                raise

    def _where(self, instruction: Instruction) -> str:
        return f"{self._file}:{instruction.span.first}"

    def _perform(self, instruction: Instruction) -> None:
        escape = self._build.dockerfile.escape
        filled = expanded(instruction, self._scope.lookup, escape=escape)
        match filled:
            case Arg(pairs=pairs):
                for name, default in pairs:
                    self._scope = self._scope.declare(name, default)
                self.state = replace(self.state, arguments=self._scope.arguments)
                self._note(told(filled, self.state.config) if filled.original else "ARG", self.state.config)
            case Run():
                self._run(filled)
            case Copy() | Add():
                self._copy(filled)
            case Workdir():
                self._workdir(filled)
            case From():
                raise AssertionError("FROM opens a stage")
            case _:
                self._configure(filled)

    # -- the config

    def _configure(self, instruction: Instruction) -> None:
        config = configured(self.state.config, instruction, is_command_own=self.state.is_command_own)
        line = told(instruction, self.state.config)
        if isinstance(instruction, Env):
            self._scope = self._scope.set(dict(instruction.pairs))
        if isinstance(instruction, Maintainer):
            self.state = replace(self.state, author=instruction.value)
        if isinstance(instruction, Cmd):
            self.state = replace(self.state, is_command_own=True)
        self._note(line, config)

    def _note(self, text: str, config: Mapping[str, Any]) -> None:
        line = History(created=self._build.time_of(self.state), created_by=text, empty_layer=True)
        self.state = self.state.with_config(config, line)

    # -- WORKDIR

    def _workdir(self, workdir: Workdir) -> None:
        config = configured(self.state.config, workdir)
        path = config["WorkingDir"]
        user = self.state.config.get("User") or ""
        parts = ingredients("WORKDIR", [
            ("the step before it", self.state.chain), ("the directory", path), ("the user", user),
            *self._build.memory.fixed,
        ])

        def fill() -> Fill:
            below = self._below()
            owner = owner_of(user, below) if user else (0, 0)
            return write_directories(path, below, owner, self._build.now_ns)

        self._layer(workdir, parts, told(workdir, self.state.config), lambda _step: self._stored(fill()))
        self.state = replace(self.state, config=config)

    # -- COPY and ADD

    def _copy(self, copy: Copy | Add) -> None:
        build = self._build
        source = copy.from_ if isinstance(copy, Copy) else ""
        keeps_parents = isinstance(copy, Copy) and copy.keeps_parents
        word = "COPY" if isinstance(copy, Copy) else "ADD"
        files, where = build.sources.files_for(source, self._stage)
        place = Place(word, where)
        remote = _remote_sources(build, copy) if isinstance(copy, Add) else []
        gathered = gather(copy, files, build.digests, place=place, remote=remote)
        work = directory(self.state.config, ".")
        parts = ingredients(word, [
            ("the step before it", "" if copy.is_link else self.state.chain),
            *gathered.fixed,
            ("the working directory", work), ("the destination", copy.destination), ("the owner", copy.chown),
            ("the mode", copy.chmod),
            ("the flags", f"{copy.is_link} {keeps_parents} {bool(source)}"),
            *build.memory.fixed,
        ])

        def execute(_step: int) -> Descriptor | None:
            below = None if copy.is_link else self._below()
            return self._stored(write_copy(copy, gathered, below, work, build.now_ns, build.options.latest))

        self._layer(copy, parts, _told_copy(copy), execute, gathered)

    # -- RUN

    def _run(self, run: Run) -> None:
        build = self._build
        self._insist_allowed(run)
        words, scripts = self._words(run)
        arguments = self._scope.for_commands()
        variables = {"PATH": DEFAULT_PATH, **arguments, **self._scope.environment}
        sources = {
            number: build.sources.mount_source(mount.from_, self._stage)
            for number, mount in enumerate(run.mounts) if mount.type == "bind" or mount.from_
        }
        mounts = Mounts(build, run.mounts, self.state.config, sources)
        config, options = self.state.config, build.options
        network = options.network if run.network == "default" else run.network
        parts = ingredients("RUN", [
            ("the step before it", self.state.chain), ("the command", json.dumps(words)),
            *((f"the heredoc {name}", content) for name, content in scripts.items()),
            ("the user", config.get("User") or ""), ("the working directory", directory(config, ".")),
            ("the network", network), ("the security", run.security), *mounts.fixed,
            ("the hosts", json.dumps(options.hosts)), ("the platform", str(self.state.platform)),
            *build.memory.fixed,
        ], arguments=arguments, variables=self._scope.environment)

        def execute(step: int) -> Descriptor | None:
            insist_runnable(self.state.platform, build.engine.platform)
            return self._executed(step, run, words, scripts, variables, mounts, network)

        self._layer(run, parts, told_run(words, arguments), execute)

    def _insist_allowed(self, run: Run) -> None:
        """What weakens the separation takes the consent of who builds, as BuildKit has it."""
        for wanted, name in (
            (run.network == "host", "network.host"), (run.security == "insecure", "security.insecure"),
        ):
            if wanted and name not in self._build.options.allows:
                raise Denied(f"RUN: it asks for {name}, which nobody allowed; build with --allow {name}")

    def _words(self, run: Run) -> tuple[list[str], dict[str, str]]:
        """What is executed, and scripts by name: here-documents that say which program reads them."""
        command: Command = run.command
        if not run.heredocs:
            return argv(command, self.state.config), {}
        text = command.argv[0].strip()
        (first, *more) = run.heredocs
        if text.startswith("<<") and not more and " " not in text:
            if first.content.startswith("#!"):
                return [f"{_SCRIPT}/{first.name}"], {first.name: first.content}
            return [*shell(self.state.config), first.content], {}
        whole = [command.argv[0], *(f"{one.content}{one.name}" for one in run.heredocs)]
        return [*shell(self.state.config), "\n".join(whole) + "\n"], {}

    def _executed(
        self, step: int, run: Run, words: list[str], scripts: Mapping[str, str], variables: Mapping[str, str],
        mounts: Mounts, network: str,
    ) -> Descriptor | None:
        build, options = self._build, self._build.options
        tail = bytearray()

        def output(data: bytes, is_error: bool) -> None:
            build.course.insist_going()
            tail.extend(data)
            del tail[:-_TAIL]
            build.course.say_output(step, data, is_error=is_error)

        with mounts.prepared() as prepared:
            documents = [
                *prepared.documents,
                *(file_document(f"{_SCRIPT}/{name}", text.encode("utf-8", "surrogateescape"), mode=0o755)
                  for name, text in scripts.items()),
            ]
            execution = {
                "Env": listed({**self._scope.proxies(), **variables, **prepared.secrets}),
                "User": self.state.config.get("User") or "", "Cmd": words,
                "WorkingDir": directory(self.state.config, "."),
            }
            command = RunCommand(execution=execution, mounts=documents, options=ContainerOptions(
                networks=() if network == "default" else (network,), hosts=options.hosts, dns=options.dns,
                dns_search=options.dns_search, dns_options=options.dns_options, security=options.security,
                shm_size=options.shm_size, ulimits=options.ulimits, **options.limits,
                is_privileged=run.security == "insecure", has_health_check=False, log_driver="none",
                hostname="" if network == "host" else HOSTNAME,
            ), cgroup_parent=options.cgroup_parent)
            with snapshot(build, self.state.layers) as (key, _):
                with ran(build.engine, key, command, listening(output), build.course.watch) as ended:
                    build.course.insist_going()
                    for note in ended.notes:
                        build.course.note(note)
                    failure = _failure(run, ended, bytes(tail))
                    if failure is None:
                        return self._written(ended)
                self._open_shell(key, command)
                raise failure

    def _written(self, ended: Ended) -> Descriptor | None:
        from lamina.snapshot.changes import write_layer

        latest = self._build.options.latest
        return self._stored(lambda out, builder: write_layer(
            ended.driver, ended.snapshot, out, builder, ended.stubs, latest=latest,
        ).tar_size)

    def _open_shell(self, snapshot: str, command: RunCommand) -> None:
        """In what the command left, with all that it saw, for who wants to look."""
        build = self._build
        if build.options.on_error is None:
            return
        words = list(shell(self.state.config)[:1])
        looking = replace(
            command, execution={**command.execution, "Cmd": words},
            options=replace(command.options, has_terminal=True, is_interactive=True),
        )
        console = build.options.console
        with ran(build.engine, snapshot, looking, build.options.on_error, build.course.watch, console):
            pass

    # -- what all that touch files share

    def _layer(
        self, instruction: Instruction, parts: Ingredients, line: str,
        execute: Callable[[int], Descriptor | None], gathered: Gathered | None = None,
    ) -> None:
        build = self._build
        self._position += 1
        place = f"{self._position}/{self._total}"
        title = build.title(self._stage.label, place, instruction.original)
        site = build.memory.site(self._stage, self._position)
        step = build.course.begin()
        files = gathered.manifest if gathered is not None else None
        key = parts.key
        with build.course.alone_with(key):
            record = build.memory.recall(key, self._stage)
            if record is not None:
                build.course.say(step, Progress.CACHED, title)
            else:
                reason = "" if build.memory.is_uncached(self._stage) else explain(
                    build.cache.nearest(site, instruction.original), parts, files
                )
                with build.course.working(step, title, reason):
                    layer = execute(step)
                record = StepRecord(
                    key=key, site=site, text=instruction.original, ingredients=parts, created=build.now,
                    diff_id=layer.digest if layer else None, layer=layer, files=files,
                )
                build.memory.remember(record)
        made = None
        if record.layer is not None and record.diff_id is not None:
            origin = Origin(
                dockerfile=build.dockerfile.name, stage=self._stage.number, span=instruction.span,
                text=instruction.original, arguments=tuple(self._scope.for_commands()),
            )
            made = BuiltLayer(descriptor=record.layer, diff_id=record.diff_id, origin=origin)
        history = History(
            created=build.text_of(record.created), created_by=line, empty_layer=made is None,
        )
        self.state = self.state.with_layer(made, history, record.created)

    def _stored(self, fill: Fill) -> Descriptor | None:
        from lamina.engine.layering import store_layer

        return store_layer(self._build.engine, fill, lambda digest: self._build.lease.hold([digest]))

    def _below(self) -> Layered | None:
        return self._build.sources.layered(self.state.layers) if self.state.layers else None


def _failure(run: Run, ended: Ended, tail: bytes) -> StepFailed | None:
    if not (ended.exit_code or ended.error):
        return None
    reason = ended.error or f"ended with exit code {ended.exit_code}"
    return StepFailed(f"RUN {' '.join(run.command.argv)}: {reason}", run.span, ended.exit_code, tail)


def _remote_sources(build: Build, add: Add) -> list[RemoteSource]:
    from lamina.engine.building.remote import is_remote, remote_source

    return [remote_source(build, add, each) for each in add.sources if is_remote(each)]


def _told_copy(copy: Copy | Add) -> str:
    """With what was filled in, and without the content of here-documents."""
    flags = [f"--from={copy.from_}"] if isinstance(copy, Copy) and copy.from_ else []
    flags += [f"--chown={copy.chown}"] if copy.chown else []
    flags += [f"--chmod={copy.chmod}"] if copy.chmod else []
    names = [*copy.sources, *(f"<<{one.name}" for one in copy.heredocs)]
    return " ".join(("COPY" if isinstance(copy, Copy) else "ADD", *flags, *names, copy.destination))
