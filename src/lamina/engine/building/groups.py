"""Which layers of a build become one: all new ones, or those between two marks in the Dockerfile.

Each instruction keeps its own layer in the cache; only the image has fewer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from lamina.build.stages import Stages
from lamina.build.syntax import Dockerfile
from lamina.engine.building.options import BuildOptions
from lamina.engine.building.state import BuiltLayer, StageState

_MARK = re.compile(r"[ \t]*#[ \t]*lamina:[ \t]*layer[ \t]*", re.IGNORECASE)


def ranges(
    state: StageState, options: BuildOptions, dockerfile: Dockerfile, stages: Stages
) -> list[tuple[int, int]]:
    """First and last layer of each range, the topmost first; ranges of one layer are none."""
    layers = state.layers
    if options.is_squashed_all:
        found = [(0, len(layers) - 1)]
    elif options.is_squashed:
        base = sum(layer.origin is None for layer in layers)
        found = [(base, len(layers) - 1)]
    else:
        found = _groups(layers, marks(dockerfile, options.layers_at), _first_lines(stages))
    return sorted(((first, last) for first, last in found if first < last), reverse=True)


def marks(dockerfile: Dockerfile, lines: Sequence[int] = ()) -> list[int]:
    """Lines after which a layer ends: comments ``# lamina: layer`` between instructions, and given ones."""
    inside = {
        line for one in dockerfile.instructions for line in range(one.span.first, one.span.last + 1)
    }
    found = [
        number for number, line in enumerate(dockerfile.text.split("\n"), 1)
        if number not in inside and _MARK.fullmatch(line.rstrip("\r"))
    ]
    return sorted({*found, *lines})


def _first_lines(stages: Stages) -> list[int]:
    return [stage.opening.span.first for stage in stages.all]


def _groups(
    layers: Sequence[BuiltLayer], lines: Sequence[int], openings: Sequence[int]
) -> list[tuple[int, int]]:
    """Layers with the same key are one. Stages without a mark keep theirs apart."""

    def key(pair: tuple[int, BuiltLayer]) -> tuple[int, int, int]:
        number, layer = pair
        if layer.origin is None:
            return -1, 0, number
        stage = layer.origin.stage
        end = openings[stage + 1] if stage + 1 < len(openings) else 1 << 60
        own = [line for line in lines if openings[stage] <= line < end]
        if not own:
            return stage, 0, number
        return stage, 1 + sum(line < layer.origin.span.first for line in own), -1

    found = []
    for _, group in groupby(enumerate(layers), key=key):
        numbers = [number for number, _ in group]
        found.append((numbers[0], numbers[-1]))
    return found
