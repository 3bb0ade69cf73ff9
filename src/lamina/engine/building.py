"""Builds: from a Dockerfile and a context to an image with names, from the cache where it can."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.build.arguments import platform_arguments, unused
from lamina.build.cache import BuildCache, StepRecord
from lamina.build.configuration import with_path
from lamina.build.context import Context, Files
from lamina.build.filedigests import FileDigests
from lamina.build.inherited import insist_shapes
from lamina.build.instruction import Instruction
from lamina.build.layered import Layered
from lamina.build.report import Stage as Progress
from lamina.build.report import StepEvent, StepReport, unheard
from lamina.build.stages import Stage, Stages, split_stages
from lamina.build.syntax import Dockerfile, parse, parse_trigger
from lamina.content.lease import Lease
from lamina.engine.buildcontexts import open_context
from lamina.engine.buildexchange import ImportedCache, export_cache, open_caches
from lamina.engine.buildimage import named, write_documents
from lamina.engine.buildmounts import MountSource
from lamina.engine.buildoptions import BuildOptions, BuiltImage
from lamina.engine.buildstage import StageBuilder
from lamina.engine.buildstate import BaseImage, BuiltLayer, StageState, history_of
from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.image import Image
from lamina.oci.config import chain_ids
from lamina.oci.descriptor import Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest
from lamina.oci.reference import Reference
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.layering import Fill

_SCRATCH = "scratch"
_IMAGE_CONTEXT = "docker-image://"
_SECOND = 1_000_000_000


class Cancelled(Exception):
    """Another stage failed, or somebody pressed Ctrl-C: this one stops where it is."""


def build(
    engine: Engine, context: Context, options: BuildOptions, report: StepReport = unheard, *,
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
        builds = []
        for platform in options.platforms or (engine.platform,):
            made = Build(engine, context, options, dockerfile, lease, digests, report, platform, imports)
            stack.callback(made.finish)
            builds.append((made, write_documents(made, made.run())))
        root, manifest = named(builds, options)
        _deliver(engine, options, root, manifest, names, stdout)
        for target in options.cache_to:
            export_cache(builds, target)
        return BuiltImage(
            id=manifest.config.digest if len(builds) == 1 else root.digest, root=root, names=names,
            steps=sum(each.steps for each, _ in builds), cached=sum(each.hits for each, _ in builds),
            size=sum(layer.size for layer in manifest.layers), merged=sum(each.merged for each, _ in builds),
            warnings=tuple(dict.fromkeys(text for each, _ in builds for text in each.warnings)),
        )


def _insist_sensible(engine: Engine, options: BuildOptions) -> None:
    """What can be known to fail before any work is done."""
    is_merging = options.is_squashed or options.is_squashed_all
    if is_merging and not engine.settings.experimental:
        raise Unsupported(
            '--squash: the settings say "experimental": false; set it to true, or leave it out, to squash'
        )
    if (is_merging or options.layers_at) and any(spot.kind == "inline" for spot in options.cache_to):
        raise InvalidInput(
            "--cache-to type=inline: a squashed image lacks its steps' layers; use type=registry,ref=NAME"
        )


def _deliver(
    engine: Engine, options: BuildOptions, root: Descriptor, manifest: Manifest, names: tuple[str, ...],
    stdout: BinaryIO | None,
) -> None:
    """Names the image, and brings it where else it shall go; if only there, it has no record here."""
    is_known = engine.store.catalog.with_digest(root.digest) is not None
    engine.store.record(root, names=names, manifest=manifest)
    if options.outputs:
        from lamina.engine.buildoutput import deliver_build

        for output in options.outputs:
            deliver_build(engine, root, output, names, stdout=stdout)
    if not (names or is_known or options.keeps_image):
        engine.store.forget(root.digest, ())


class Build:
    """One build while it goes on. What stages share is here, safe for their threads."""

    def __init__(
        self, engine: Engine, context: Context, options: BuildOptions, dockerfile: Dockerfile, lease: Lease,
        digests: FileDigests, report: StepReport, platform: Platform, imports: Sequence[ImportedCache] = (),
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
        self.steps = self.hits = self.merged = 0
        self.records: dict[str, StepRecord] = {}
        self._imports = imports
        self._context = context
        self._report = report
        self._started = engine.clock()
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._used: list[str] = []
        self._results: dict[int, StageState] = {}
        self._cancelled = threading.Event()
        self._killers: list[Callable[[], None]] = []
        self._trees: dict[str, Layered] = {}
        self._images: dict[str, StageState] = {}
        self._contexts: dict[str, Context] = {}
        self._stack = ExitStack()
        self._titles: dict[int, tuple[str, float]] = {}
        self._slots = threading.Semaphore(options.workers or engine_workers())
        status = os.fstat(context.descriptor)
        place = f"{status.st_dev} {status.st_ino} {dockerfile.name}"
        self._place = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    # -- the course of things

    def run(self) -> StageState:
        target = self.stages.target(self.options.target)
        needed = self.stages.needed(target)
        if _is_row(needed):
            for stage in needed:
                self._results[stage.number] = self._stage(stage)
        else:
            self._run_together(needed)
        return self._results[target.number]

    def _run_together(self, needed: list[Stage]) -> None:
        """A thread a stage, which waits for those it needs; no more work at once than there are slots."""
        done = {stage.number: threading.Event() for stage in needed}
        failures: list[BaseException] = []

        def work(stage: Stage) -> None:
            try:
                for number in stage.needs:
                    done[number].wait()
                self.insist_going()
                self._results[stage.number] = self._stage(stage)
            except Cancelled:
                pass
            except BaseException as error:
                failures.append(error)
                self.cancel()
            finally:
                done[stage.number].set()

        threads = [threading.Thread(target=work, args=(stage,), daemon=True) for stage in needed]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.cancel()
            for thread in threads:
                thread.join()
            raise
        if failures:
            raise failures[0]

    def _stage(self, stage: Stage) -> StageState:
        try:
            base = self._base(stage)
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
        self._stack.close()
        self.cache.touch(self._used, self.engine.clock())

    # -- bases and sources

    def _base(self, stage: Stage) -> StageState:
        platform = Platform.parse(stage.platform) if stage.platform else self.platform
        other = self.stages.named(stage.base, stage.number)
        if other is not None:
            found = self._results[other.number]
            return replace(found, is_command_own=False)
        if stage.base.lower() == _SCRATCH and stage.base not in self.options.contexts:
            config = with_path({"WorkingDir": "/"})
            return StageState(base=BaseImage(name=_SCRATCH), platform=platform, config=config)
        return self._image(stage.base, platform, stage.label)

    def _image(self, name: str, platform: Platform, label: str) -> StageState:
        asked = self.options.contexts.get(name, name).removeprefix(_IMAGE_CONTEXT)
        key = f"{asked} {platform}"
        with self.alone_with(key):
            if key not in self._images:
                self._images[key] = self._fetched(asked, platform, label)
            return self._images[key]

    def _fetched(self, name: str, platform: Platform, label: str) -> StageState:
        from lamina.engine import creating, images

        step = self.begin()
        with self.working(step, f"[{label} 1] FROM {name}", ""):
            pull = "always" if self.options.pull else "missing"
            record = creating.image_for(self.engine, name, pull, platform)
            self.lease.hold([record.descriptor.digest, record.manifest, record.config])
            image: Image = images.load_record(self.engine, record)
            insist_shapes(image.config.execution, name)
            self.lease.hold([*image.config.diff_ids, *(each.descriptor.digest for each in image.layers)])
        layers = tuple(
            BuiltLayer(descriptor=layer.descriptor, diff_id=layer.diff_id) for layer in image.layers
        )
        document = image.config.document
        base = BaseImage(name=name, digest=str(image.descriptor.digest), document=document)
        return StageState(
            base=base, platform=image.config.platform, config=with_path(image.config.execution),
            layers=layers, history=history_of(document, len(layers)),
            author=str(document.get("author") or ""),
        )

    def files_for(self, name: str, stage: Stage) -> tuple[Files, str]:
        """What ``--from`` means: a stage, another context, or an image; and what messages call it."""
        return self.mount_source(name, stage).files, name or "the build context"

    def mount_source(self, name: str, stage: Stage) -> MountSource:
        if not name:
            return MountSource(files=self._context)
        other = self.stages.find(name, stage.number)
        if other is not None:
            state = self._result(other, name)
        elif name in self.options.contexts and not self.options.contexts[name].startswith(_IMAGE_CONTEXT):
            return MountSource(files=self._named_context(name))
        else:
            state = self._image(name, self.platform, stage.label)
        return MountSource(files=self.layered(state.layers), layers=state.layers, chain=state.chain)

    def _result(self, stage: Stage, name: str) -> StageState:
        """Only a trigger of a base can name a stage that nobody saw coming."""
        if stage.number not in self._results:
            raise InvalidInput(f"ONBUILD: --from={name} names a stage that the target does not need")
        return self._results[stage.number]

    def _named_context(self, name: str) -> Context:
        with self.alone_with(f"context {name}"):
            if name not in self._contexts:
                from lamina.engine.buildcontexts import other_context

                self._contexts[name] = self._stack.enter_context(
                    other_context(self.engine, self.options.contexts[name])
                )
            return self._contexts[name]

    def layered(self, layers: tuple[BuiltLayer, ...]) -> Layered:
        """The union of layers, from their indexes."""
        from lamina.layer.tree import Tree

        diff_ids = [layer.diff_id for layer in layers]
        chain = str([*chain_ids(diff_ids), ""][-2 if diff_ids else -1])
        with self.alone_with(f"tree {chain}"):
            if chain not in self._trees:
                store = self.engine.layers_store
                if not all(store.has_index(diff_id) for diff_id in diff_ids):
                    self._unpack(layers)
                tree = Tree(store.index(diff_id) for diff_id in diff_ids)
                self._trees[chain] = Layered(tree, diff_ids, store.open_data)
            return self._trees[chain]

    def chain_of(self, layers: tuple[BuiltLayer, ...]) -> str:
        """The committed snapshot of a stack, made now if it is not there; empty without layers."""
        if not layers:
            return ""
        from lamina.snapshot.snapshotter import SnapshotNotFound

        chain = str(list(chain_ids(layer.diff_id for layer in layers))[-1])
        with self.alone_with(f"snapshot {chain}"):
            try:
                self.engine.driver.stat(chain)
            except SnapshotNotFound:
                self._unpack(layers)
        return chain

    def _unpack(self, layers: tuple[BuiltLayer, ...]) -> None:
        from lamina.engine.landing import unpack_layers

        unpack_layers(self.engine, [(layer.descriptor, layer.diff_id) for layer in layers])

    def layer_apart(self, digest: Digest, fill: Fill) -> tuple[BuiltLayer, ...]:
        """A layer that belongs to no image: what a bind mount shows. Remembered like a step's."""
        from lamina.engine.layering import store_layer

        def make() -> tuple[Descriptor, Digest]:
            layer = store_layer(self.engine, fill, lambda diff_id: self.lease.hold([diff_id]))
            if layer is None:
                raise InvalidInput("nothing to mount: the source has no files")
            return layer, layer.digest

        return (self.derived("mount", [("the files", str(digest))], make),)

    def derived(
        self, kind: str, fixed: list[tuple[str, str]], make: Callable[[], tuple[Descriptor, Digest]]
    ) -> BuiltLayer:
        """A layer that is no step's own but follows from others, made once."""
        from lamina.build.key import ingredients

        parts = ingredients(kind, fixed)
        with self.alone_with(parts.key):
            record = self.recall(parts.key, None)
            if record is not None and record.layer is not None and record.diff_id is not None:
                return BuiltLayer(descriptor=record.layer, diff_id=record.diff_id)
            layer, diff_id = make()
            self.remember(StepRecord(
                key=parts.key, site="", text=kind, ingredients=parts, created=self.now, diff_id=diff_id,
                layer=layer,
            ))
            return BuiltLayer(descriptor=layer, diff_id=diff_id)

    # -- the cache

    @property
    def fixed(self) -> list[tuple[str, str]]:
        """What changes the bytes of every layer."""
        latest = self.options.latest
        return [] if latest is None else [("the epoch", str(latest))]

    def recall(self, key: str, stage: Stage | None) -> StepRecord | None:
        """Only if its layer is here still; leased before that is looked at."""
        if stage is not None and self.is_uncached(stage):
            return None
        record = self.cache.find(key) or self._imported(key)
        if record is None:
            return None
        if record.layer is not None and record.diff_id is not None:
            self.lease.hold([record.layer.digest, record.diff_id])
            store = self.engine.store
            if not (store.has(record.layer) and self.engine.layers_store.has_index(record.diff_id)):
                return None
        with self._lock:
            self._used.append(key)
            self.records[key] = record
            self.hits += stage is not None
        return record

    def _imported(self, key: str) -> StepRecord | None:
        """From a cache that lies elsewhere, verified before it is believed, and here from now on."""
        for source in self._imports:
            found = source.fetch(key, self.lease)
            if found is not None:
                self.cache.add(found)
                return found
        return None

    def remember(self, record: StepRecord) -> None:
        self.cache.add(record)
        with self._lock:
            self.records[record.key] = record
            self._used.append(record.key)  # now: it was made at the epoch, if there is one

    def is_uncached(self, stage: Stage) -> bool:
        names = {stage.name, str(stage.number)}
        return self.options.no_cache or bool(names.intersection(self.options.no_cache_filter))

    def site(self, stage: Stage, position: int) -> str:
        return f"{self._place} {stage.label} {position}"

    @contextmanager
    def alone_with(self, key: str) -> Iterator[None]:
        """Two stages that do the same do it once."""
        with self._lock:
            lock = self._busy.setdefault(key, threading.Lock())
        with lock:
            yield

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

    # -- saying and stopping

    def begin(self) -> int:
        with self._lock:
            self.steps += 1
            return self.steps

    def say(self, step: int, stage: Progress, title: str, **more: Any) -> None:
        with self._lock:
            self._report(StepEvent(number=step, stage=stage, title=title, **more))

    def say_output(self, step: int, data: bytes, *, is_error: bool) -> None:
        title, began = self._titles[step]
        self.say(step, Progress.OUTPUT, title, data=data, is_error=is_error, seconds=time.monotonic() - began)

    def note(self, text: str) -> None:
        self.say(0, Progress.NOTE, "", text=text)

    @contextmanager
    def working(self, step: int, title: str, reason: str) -> Iterator[None]:
        with self._slots:
            self.insist_going()
            began = time.monotonic()
            self._titles[step] = title, began
            self.say(step, Progress.BEGUN, title, reason=reason)
            try:
                yield
            except BaseException as error:
                self.insist_going()  # it may have failed because of that
                self.say(step, Progress.FAILED, title, text=str(error), seconds=time.monotonic() - began)
                raise
            self.say(step, Progress.DONE, title, seconds=time.monotonic() - began)

    @contextmanager
    def watch(self, kill: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._killers.append(kill)
        try:
            self.insist_going()
            yield
        finally:
            with self._lock:
                self._killers.remove(kill)

    def cancel(self) -> None:
        self._cancelled.set()
        with self._lock:
            killers = list(self._killers)
        for kill in killers:
            try:
                kill()
            except (LaminaError, OSError):
                continue

    def insist_going(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def engine_workers() -> int:
    return os.cpu_count() or 2


def _is_row(stages: list[Stage]) -> bool:
    """Each needs the one before it: then there is nothing to do at once."""
    return all(before.number in stage.needs for before, stage in itertools.pairwise(stages))


__all__ = ["Build", "Cancelled", "build", "open_context"]
