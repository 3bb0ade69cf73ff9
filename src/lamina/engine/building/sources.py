"""What the stages of a build begin with and copy from: images, other stages, other contexts."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from lamina.build.configuration import with_path
from lamina.build.context import Context, Files
from lamina.build.inherited import insist_shapes
from lamina.build.layered import Layered
from lamina.build.stages import Stage
from lamina.engine.building.mounts import MountSource
from lamina.engine.building.state import BaseImage, BuiltLayer, StageState, history_of
from lamina.errors import InvalidInput, NotFound, Unavailable
from lamina.image import Image
from lamina.oci.config import chain_ids
from lamina.oci.descriptor import Platform
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.content.catalog import ImageRecord
    from lamina.engine.building.build import Build

_SCRATCH = "scratch"
_IMAGE_CONTEXT = "docker-image://"


class Sources:
    """Each is had once, whichever stage asks first. ``results`` are the stages that are done, by number."""

    def __init__(self, build: Build, context: Context) -> None:
        self.results: dict[int, StageState] = {}
        self._build = build
        self._course = build.course
        self._context = context
        self._trees: dict[str, Layered] = {}
        self._images: dict[str, StageState] = {}
        self._contexts: dict[str, Context] = {}
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def base_of(self, stage: Stage) -> StageState:
        platform = Platform.parse(stage.platform) if stage.platform else self._build.platform
        other = self._build.stages.named(stage.base, stage.number)
        if other is not None:
            found = self.results[other.number]
            return replace(found, is_command_own=False)
        if stage.base.lower() == _SCRATCH and stage.base not in self._build.options.contexts:
            config = with_path({"WorkingDir": "/"})
            return StageState(base=BaseImage(name=_SCRATCH), platform=platform, config=config)
        return self.image(stage.base, platform, stage.label)

    def image(self, name: str, platform: Platform, label: str) -> StageState:
        asked = self._build.options.contexts.get(name, name).removeprefix(_IMAGE_CONTEXT)
        key = f"{asked} {platform}"
        # By name alone: what it means in the store changes when it is pulled for another platform.
        with self._course.alone_with(f"image {asked}"):
            if key not in self._images:
                self._images[key] = self._fetched(asked, platform, label)
            return self._images[key]

    def _fetched(self, name: str, platform: Platform, label: str) -> StageState:
        from lamina.engine import images

        step = self._course.begin()
        with self._course.working(step, self._build.title(label, "1", f"FROM {name}"), ""):
            record = self._record(asked=name, platform=platform)
            self._build.lease.hold([record.descriptor.digest, record.manifest, record.config])
            image: Image = images.load_record(self._build.engine, record)
            insist_shapes(image.config.execution, name)
            blobs = [layer.descriptor.digest for layer in image.layers]
            self._build.lease.hold([*image.config.diff_ids, *blobs])
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

    def _record(self, asked: str, platform: Platform) -> ImageRecord:
        from lamina.engine import creating

        engine, pull = self._build.engine, self._build.options.pull
        if pull != "newer":
            return creating.image_for(engine, asked, pull, platform)
        try:
            return creating.image_for(engine, asked, "always", platform)
        except (Unavailable, NotFound):
            return creating.image_for(engine, asked, "never", platform)

    def files_for(self, name: str, stage: Stage) -> tuple[Files, str]:
        """What ``--from`` means: a stage, another context, or an image; and what messages call it."""
        return self.mount_source(name, stage).files, name or "the build context"

    def mount_source(self, name: str, stage: Stage) -> MountSource:
        if not name:
            return MountSource(files=self._context)
        other = self._build.stages.find(name, stage.number)
        if other is not None:
            state = self._result(other, name)
        elif not self._build.options.contexts.get(name, _IMAGE_CONTEXT).startswith(_IMAGE_CONTEXT):
            return MountSource(files=self._named_context(name))
        else:
            state = self.image(name, self._build.platform, stage.label)
        return MountSource(files=self.layered(state.layers), layers=state.layers, chain=state.chain)

    def _result(self, stage: Stage, name: str) -> StageState:
        """Only a trigger of a base can name a stage that nobody saw coming."""
        if stage.number not in self.results:
            raise InvalidInput(f"ONBUILD: --from={name} names a stage that the target does not need")
        return self.results[stage.number]

    def _named_context(self, name: str) -> Context:
        with self._course.alone_with(f"context {name}"):
            if name not in self._contexts:
                from lamina.engine.building.contexts import other_context

                self._contexts[name] = self._stack.enter_context(
                    other_context(self._build.engine, self._build.options.contexts[name])
                )
            return self._contexts[name]

    def layered(self, layers: tuple[BuiltLayer, ...]) -> Layered:
        """The union of layers, from their indexes."""
        from lamina.layer.tree import Tree

        diff_ids = [layer.diff_id for layer in layers]
        chain = str([*chain_ids(diff_ids), ""][-2 if diff_ids else -1])
        with self._course.alone_with(f"tree {chain}"):
            if chain not in self._trees:
                store = self._build.engine.layers_store
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
        with self._course.alone_with(f"snapshot {chain}"):
            try:
                self._build.engine.driver.stat(chain)
            except SnapshotNotFound:
                self._unpack(layers)
        return chain

    def _unpack(self, layers: tuple[BuiltLayer, ...]) -> None:
        from lamina.engine.landing import unpack_layers

        unpack_layers(self._build.engine, [(layer.descriptor, layer.diff_id) for layer in layers])
