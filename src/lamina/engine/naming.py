"""Names for containers that were given none: a word for how it is, and a rock."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from lamina.errors import InvalidInput

_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_ATTEMPTS = 20
_KINDS = (
    "agile", "ancient", "bold", "brave", "bright", "brisk", "calm", "careful", "clear", "clever", "cool",
    "cosy", "daring", "deft", "eager", "early", "fair", "fine", "firm", "fond", "frank", "fresh", "gentle",
    "glad", "golden", "grand", "happy", "hardy", "humble", "jolly", "keen", "kind", "light", "lively",
    "loyal", "lucky", "mellow", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plain",
    "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "serene", "sharp", "shiny", "silent",
    "sleek", "smart", "smooth", "solid", "steady", "still", "sunny", "swift", "tidy", "tiny", "vivid", "warm",
    "wise", "witty", "young",
)
_ROCKS = (
    "agate", "amber", "andesite", "anthracite", "aragonite", "arkose", "basalt", "beryl", "breccia",
    "calcite", "chalk", "chert", "clay", "coal", "coquina", "coral", "dacite", "diabase", "diorite",
    "dolerite", "dolomite", "feldspar", "flint", "gabbro", "garnet", "gneiss", "granite", "graphite",
    "gravel", "greywacke", "gypsum", "halite", "hornfels", "jade", "jasper", "kaolin", "lava", "limestone",
    "loess", "magma", "marble", "marl", "mica", "mudstone", "obsidian", "onyx", "opal", "peridotite",
    "porphyry", "pumice", "pyrite", "quartz", "rhyolite", "sandstone", "schist", "scoria", "serpentine",
    "shale", "siltstone", "slate", "soapstone", "syenite", "talc", "topaz", "travertine", "tuff", "zeolite",
)


def check_name(name: str) -> str:
    """Docker's rule. Raises ``InvalidInput``."""
    name = name.removeprefix("/")
    if not re.fullmatch(_NAME, name) or len(name) > 128:
        raise InvalidInput(
            f"{name[:80]!r}: a container's name has 2 to 128 letters, digits, '_', '.' and '-', and begins "
            "with a letter or digit"
        )
    return name


def free_name(is_taken: Callable[[str], bool]) -> str:
    for _ in range(_ATTEMPTS):
        chance = int.from_bytes(os.urandom(8), "big")  # the module random takes a millisecond to import
        name = f"{_KINDS[chance % len(_KINDS)]}_{_ROCKS[(chance >> 32) % len(_ROCKS)]}"
        if not is_taken(name):
            return name
    return f"{name}_{os.urandom(4).hex()}"
