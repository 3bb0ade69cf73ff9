"""The layers that images are made of, as far as their documents are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.content.catalog import ImageRecord
from lamina.engine import images
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    from lamina.engine.core import Core


def configs_of(engine: Core, roots: Sequence[Descriptor]) -> list[ImageConfig]:
    wanted = {root.digest for root in roots}
    records = engine.store.catalog.records()
    return [config_of(engine, record) for record in records if record.descriptor.digest in wanted]


def config_of(engine: Core, record: ImageRecord) -> ImageConfig:
    image = images.load_sound(engine, record)
    if image is None:  # it holds no layers
        return ImageConfig.build({"rootfs": {"type": "layers", "diff_ids": []}})
    return image.config


def diff_ids_of(engine: Core, roots: Sequence[Descriptor]) -> set[Digest]:
    """The layers that the present platforms of some images are made of."""
    return {diff_id for config in configs_of(engine, roots) for diff_id in config.diff_ids}


def live_chains(engine: Core, roots: Sequence[Descriptor]) -> set[str]:
    return {str(chain_id) for config in configs_of(engine, roots) for chain_id in config.chain_ids}
