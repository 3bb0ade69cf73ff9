"""Builds: from a Dockerfile and a context to an image with names, from the cache where it can."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from lamina.build.arguments import platform_arguments, unused
from lamina.build.cache import BuildCache
from lamina.build.context import Context
from lamina.build.filedigests import FileDigests
from lamina.build.instruction import Instruction
from lamina.build.report import StepReport, unheard
from lamina.build.stages import Stage, Stages, split_stages
from lamina.build.syntax import Dockerfile, parse, parse_trigger
from lamina.content.lease import Lease
from lamina.engine.building.contexts import open_context
from lamina.engine.building.course import Cancelled, Course
from lamina.engine.building.exchange import ImportedCache, export_cache, open_caches
from lamina.engine.building.image import named, write_documents
from lamina.engine.building.memory import Memory
from lamina.engine.building.options import BuildOptions, BuiltImage, insist_possible
from lamina.engine.building.sbom import Bill, attest
from lamina.engine.building.sources import Sources
from lamina.engine.building.stage import StageBuilder
from lamina.engine.building.state import StageState
from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.oci.descriptor import Descriptor, Platform
from lamina.oci.manifest import Manifest
from lamina.oci.reference import Reference
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.core import Core

_SCRATCH = "scratch"
_IMAGE_CONTEXT = "docker-image://"
_SECOND = 1_000_000_000


def build(
    engine: Core, context: Context, options: BuildOptions, report: StepReport = unheard, *,
    stdout: BinaryIO | None = None,
) -> BuiltImage:
    """The caller opens and closes the context. Nothing has a name before all of it is there.

    ``stdout`` is for outputs that go there.

    Raises ``DockerfileError``, ``StepFailed``, ``SourceNotFound``, and what keeps a base from being had.
    """
    assert options.text is not None, "whoever opens the context reads the Dockerfile"
    _insist_sensible(engine, options)
    names = tuple(Reference.parse(tag).with_default_tag().canonical for tag in options.tags)
    dockerfile = parse(options.text, name=options.dockerfile or "Dockerfile")
    with Lease(engine.store.state, "build") as lease, ExitStack() as stack:
        digests = stack.enter_context(FileDigests(engine.root))
        imports = open_caches(engine, options.cache_from, report)
        course = Course(report, options.workers or engine_workers())
        making = []
        for platform in options.platforms or (engine.platform,):
            making.append(
                Build(engine, context, options, dockerfile, lease, digests, course, platform, imports)
            )
            stack.callback(making[-1].finish)
        builds, bills = [], []
        for made, state in zip(making, _states(making, course), strict=True):
            builds.append((made, write_documents(made, state)))
            if options.sbom is not None:
                bills.append(attest(made, state, builds[-1][1], names, options.sbom))
        root, manifest = named(builds, options, [bill.line for bill in bills])
        _deliver(engine, options, root, manifest, names, stdout, bills)
        for target in options.cache_to:
            export_cache(builds, target)
        return BuiltImage(
            id=manifest.config.digest if len(builds) == 1 else root.digest, root=root, names=names,
            steps=course.steps,
            cached=sum(each.memory.hits for each, _ in builds),
            size=sum(layer.size for layer in manifest.layers), merged=sum(each.merged for each, _ in builds),
            warnings=tuple(dict.fromkeys(text for each, _ in builds for text in each.warnings)),
        )


def _insist_sensible(engine: Core, options: BuildOptions) -> None:
    """What can be known to fail before any work is done."""
    insist_possible(options)
    is_merging = options.is_squashed or options.is_squashed_all
    if is_merging and not engine.settings.experimental:
        raise Unsupported(
            '--squash: the settings say "experimental": false; set it to true, or leave it out, to squash'
        )
    if (is_merging or options.layers_at) and any(spot.kind == "inline" for spot in options.cache_to):
        raise InvalidInput(
            "--cache-to type=inline: a squashed image lacks its steps' layers; use type=registry,ref=NAME"
        )


def _states(builds: Sequence[Build], course: Course) -> list[StageState]:
    """Of each platform. Steps that are the same for several are done by the first that comes to them."""
    if len(builds) == 1:
        return [builds[0].run()]  # in this thread, from which containers start by a fork
    found: dict[int, StageState] = {}

    def work(number: int) -> None:
        found[number] = builds[number].run()

    course.together([functools.partial(work, number) for number in range(len(builds))])
    return [found[number] for number in range(len(builds))]


def _deliver(
    engine: Core, options: BuildOptions, root: Descriptor, manifest: Manifest, names: tuple[str, ...],
    stdout: BinaryIO | None, bills: Sequence[Bill],
) -> None:
    """Names the image, and brings it where else it shall go; if only there, it has no record here."""
    is_known = engine.store.catalog.with_digest(root.digest) is not None
    engine.store.record(root, names=names, manifest=manifest)
    if options.outputs:
        from lamina.engine.building.output import deliver_build

        for output in options.outputs:
            deliver_build(engine, root, output, names, stdout=stdout, bills=bills)
    if not (names or is_known or options.keeps_image):
        engine.store.forget(root.digest, ())


class Build:
    """One build while it goes on. What stages share is here, safe for their threads."""

    def __init__(
        self, engine: Core, context: Context, options: BuildOptions, dockerfile: Dockerfile, lease: Lease,
        digests: FileDigests, course: Course, platform: Platform, imports: Sequence[ImportedCache] = (),
    ) -> None:
        self.engine = engine
        self.options = options
        self.dockerfile = dockerfile
        self.lease = lease
        self.digests = digests
        self.cache = BuildCache(engine.store.state)
        self.platform = platform
        self.stages: Stages = split_stages(
            dockerfile, options.arguments, platform_arguments(engine.platform, self.platform)
        )
        self.warnings = [
            f"--build-arg {name}: no ARG of the Dockerfile takes it"
            for name in unused(options.arguments, self.stages.declared)
        ]
        self.merged = 0
        self._started = engine.clock()
        self.course = course
        self.sources = Sources(self, context)
        self.memory = Memory(self, context, imports)

    # -- the course of things

    def run(self) -> StageState:
        target = self.stages.target(self.options.target)
        needed = self.stages.needed(target)
        if _is_row(needed):
            for stage in needed:
                self.sources.results[stage.number] = self._stage(stage)
        else:
            self._run_together(needed)
        return self.sources.results[target.number]

    def _run_together(self, needed: list[Stage]) -> None:
        """A thread a stage, which waits for those it needs; no more work at once than there are slots."""
        done = {stage.number: threading.Event() for stage in needed}

        def work(stage: Stage) -> None:
            try:
                for number in stage.needs:
                    done[number].wait()
                self.course.insist_going()
                self.sources.results[stage.number] = self._stage(stage)
            finally:
                done[stage.number].set()

        self.course.together([functools.partial(work, stage) for stage in needed])

    def _stage(self, stage: Stage) -> StageState:
        try:
            base = self.sources.base_of(stage)
        except LaminaError as error:
            error.add_note(f"{self.dockerfile.name}:{stage.opening.span.first}: {stage.opening.original}")
            raise
        triggers = self._triggers(base)
        own = {name: value for name, value in base.config.items() if name != "OnBuild"}
        builder = StageBuilder(self, stage, replace(base, config=own))
        return builder.run(triggers, stage.instructions)

    def _triggers(self, base: StageState) -> tuple[Instruction, ...]:
        """What the base wants done first (ONBUILD); its children's children are spared."""
        texts = base.config.get("OnBuild") or []
        return tuple(parse_trigger(text, name=f"ONBUILD of {base.base.name}") for text in texts)

    def finish(self) -> None:
        self.sources.close()
        self.memory.close()

    def title(self, label: str, place: str, text: str) -> str:
        """Of a step. Platforms are named where there are several."""
        where = f"{self.platform} " if len(self.options.platforms) > 1 else ""
        return f"[{where}{label} {place}] {text}"

    # -- time

    @property
    def now(self) -> float:
        return float(self.options.epoch) if self.options.epoch is not None else self.engine.clock()

    @property
    def now_ns(self) -> int:
        """Of directories that are made: the same for the whole build."""
        return int((self.options.epoch if self.options.epoch is not None else self._started) * _SECOND)

    def text_of(self, seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def time_of(self, state: StageState) -> str:
        """Of a line of history that made nothing: of what came before it, so that it stays the same."""
        if self.options.epoch is not None:
            return self.text_of(self.options.epoch)
        if state.changed:
            return self.text_of(state.changed)
        return str(state.base.document.get("created") or self.text_of(0))


def engine_workers() -> int:
    """Steps at once. Many wait for a network or a disk, so a machine of two cores does more than two."""
    return max(4, os.cpu_count() or 1)


def _is_row(stages: list[Stage]) -> bool:
    """Each needs the one before it: then there is nothing to do at once."""
    return all(before.number in stage.needs for before, stage in itertools.pairwise(stages))


__all__ = ["Build", "Cancelled", "build", "open_context"]
