"""Which ranges of layers to merge, over images that share some: what it saves, and what is better left alone.

Images form a tree of layers: where two of them have the same lowest layers, they share a path from the
root. A stretch of that tree without a branch and without an image that ends in it belongs to the same
images from its first layer to its last; merging inside it breaks no shared prefix, and gives all of those
images the same new layer. Merging across its ends would store and pull again what was shared.

Within a stretch, the cheapest partition is found by dynamic programming. Its cost is what all pulls move
and what the store keeps, in compressed bytes, and for each layer that is lost what a merge must be
``worth``: layers are for sharing, caching and looking into. Bytes that a merge saves are those of files
that a later layer of the range hides; they are estimated from the files' sizes and the layer's ratio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise
from operator import add

from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.values import dataclass, field

# What a merge must save in all, in bytes, for each layer that is lost with it.
WORTH = 1_000_000
# Layers that are planned together, which takes their number cubed: 256 take a fifth of a second, and docker
# stacks no more than 127. A longer stretch is planned in parts.
MAX_STRETCH = 256


class Unreachable(InvalidInput):
    """The limit of layers cannot be kept without breaking a shared prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLayer:
    """``size`` is compressed, as it is pulled and stored."""

    diff_id: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImage:
    """``pulls`` weighs it. ``hidden``: of a pair of layers, the bytes of the lower that the upper one hides.

    An image with no pulls stays as it is, and so does every layer that it has.
    """

    name: str
    pulls: int
    layers: Sequence[PlannedLayer]
    hidden: Mapping[tuple[int, int], int] = field(default_factory=dict)


class Reason(StrEnum):
    SAVES = "saves bytes"
    LIMIT = "keeps the limit of layers"
    ALONE = "a layer by itself"
    SHARED = "shared with an image that stays as it is"
    NOTHING_HIDDEN = "nothing in it is hidden"
    NOT_WORTH = "saves less than it is worth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Layers ``first`` to ``last`` of all of ``images``: merged, or for ``reason`` left alone.

    ``size_before`` and ``size_after`` are of one pull of the range; ``saved`` counts all pulls and the store.
    """

    images: tuple[str, ...]
    first: int
    last: int
    is_merge: bool
    reason: Reason
    pulls: int
    size_before: int
    size_after: int
    saved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bytes are compressed. ``pulled`` is over all pulls, ``stored`` once for each distinct layer."""

    steps: tuple[Step, ...]
    pulls: int
    pulled_before: int
    pulled_after: int
    stored_before: int
    stored_after: int

    @property
    def merges(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.is_merge)

    def ranges_of(self, name: str) -> tuple[tuple[int, int], ...]:
        """What is to be merged in one image, the topmost range first, so that numbers stay right."""
        mine = [(step.first, step.last) for step in self.merges if name in step.images]
        return tuple(sorted(mine, reverse=True))


def plan_squashes(images: Sequence[PlannedImage], *, limit: int = 0, worth: int = WORTH) -> Plan:
    """The cheapest plan; ``limit`` is how many layers an image may have, 0 for any number.

    Raises :class:`Unreachable`, with the least number of layers that can be reached.
    """
    stretches = [_Partition(stretch, worth) for stretch in _stretches(images)]
    if limit:
        _keep_limit(images, stretches, limit)
    steps = [step for partition in stretches for step in partition.steps()]
    order = {image.name: number for number, image in enumerate(images)}
    steps.sort(key=lambda step: (order[step.images[0]], step.first))
    served = [image for image in images if image.pulls]
    pulled = sum(image.pulls * sum(layer.size for layer in image.layers) for image in images)
    stored = sum({layer.diff_id: layer.size for image in served for layer in image.layers}.values())
    return Plan(
        steps=tuple(steps), pulls=sum(image.pulls for image in images),
        pulled_before=pulled,
        pulled_after=pulled - sum(step.pulls * (step.size_before - step.size_after) for step in steps),
        stored_before=stored,
        stored_after=stored - sum(_stored_less(step) for step in steps),
    )


def _stored_less(step: Step) -> int:
    return step.saved - step.pulls * (step.size_before - step.size_after)


# -- the tree


@dataclass(slots=True)
class _Node:
    layer: PlannedLayer | None = None
    depth: int = -1
    images: list[PlannedImage] = field(default_factory=list)
    children: dict[Digest, _Node] = field(default_factory=dict)
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Layers from ``first`` on, all in the same images. ``elsewhere`` says which are in other places too."""

    first: int
    layers: tuple[PlannedLayer, ...]
    elsewhere: tuple[bool, ...]
    images: tuple[PlannedImage, ...]

    @property
    def pulls(self) -> int:
        return sum(image.pulls for image in self.images)

    @property
    def is_fixed(self) -> bool:
        """An image that stays as it is has these layers: merged for the others, nothing would be shared."""
        return any(not image.pulls for image in self.images)


def _stretches(images: Iterable[PlannedImage]) -> list[_Stretch]:
    root = _Node()
    places: dict[Digest, int] = {}
    for image in images:
        node = root
        for depth, layer in enumerate(image.layers):
            child = node.children.get(layer.diff_id)
            if child is None:
                child = node.children[layer.diff_id] = _Node(layer, depth)
                places[layer.diff_id] = places.get(layer.diff_id, 0) + 1
            child.images.append(image)
            node = child
        node.is_end = True
    return [_stretch(run, places) for run in _runs(root)]


def _runs(root: _Node) -> Iterator[list[_Node]]:
    waiting = list(root.children.values())
    while waiting:
        run = [waiting.pop()]
        while len(run[-1].children) == 1 and not run[-1].is_end and len(run) < MAX_STRETCH:
            run.extend(run[-1].children.values())
        waiting.extend(run[-1].children.values())
        yield run


def _stretch(run: Sequence[_Node], places: Mapping[Digest, int]) -> _Stretch:
    layers = tuple(node.layer for node in run if node.layer is not None)
    return _Stretch(
        first=run[0].depth, layers=layers, images=tuple(run[0].images),
        elsewhere=tuple(places[layer.diff_id] > 1 for layer in layers),
    )


# -- one stretch


class _Partition:
    """The best partitions of a stretch into any number of pieces, and the one that is chosen."""

    def __init__(self, stretch: _Stretch, worth: int) -> None:
        self.stretch = stretch
        self._worth = worth
        self._gone = _gone_within(stretch)
        self._sizes = list(accumulate((layer.size for layer in stretch.layers), initial=0))
        self._cuts: list[list[int]] = []
        self._costs = self._solve()
        self.is_limited = False
        count = len(stretch.layers)
        self.pieces = count if stretch.is_fixed else self._cheapest(count)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(image.name for image in self.stretch.images)

    def price_of_one_less(self) -> float:
        """What it costs to have one piece less; infinite where there cannot be."""
        if self.pieces == 1 or self.stretch.is_fixed:
            return float("inf")
        return self._costs[self._cheapest(self.pieces - 1)] - self._costs[self.pieces]

    def take_less(self) -> None:
        """One piece less, or several where that is cheaper still."""
        self.pieces = self._cheapest(self.pieces - 1)
        self.is_limited = True

    def steps(self) -> Iterator[Step]:
        borders = self._borders()
        for first, end in pairwise(borders):
            yield self._step(first, end - 1)

    def _solve(self) -> list[float]:
        """``costs[k]`` is the least cost of ``k`` pieces; ``_cuts`` remembers where the last piece begins."""
        count = len(self.stretch.layers)
        ending = [[self._cost(first, last) for first in range(last + 1)] for last in range(count)]
        best: list[float] = [0] + [float("inf")] * count
        costs = [float("inf")]
        self._cuts = [[0] * (count + 1)]
        for pieces in range(1, count + 1):
            following = [float("inf")] * (count + 1)
            cuts = [0] * (count + 1)
            below = pieces - 1  # so many layers at least are in the pieces before the last
            for end in range(pieces, count + 1):
                sums = list(map(add, best[below:end], ending[end - 1][below:]))
                following[end] = min(sums)
                cuts[end] = below + sums.index(following[end])
            best = following
            costs.append(best[count])
            self._cuts.append(cuts)
        return costs

    def _cheapest(self, most: int) -> int:
        """Of equals the one with most pieces: what is not gained is not worth a layer."""
        return max(range(1, most + 1), key=lambda pieces: (-self._costs[pieces], pieces))

    def _borders(self) -> list[int]:
        borders = [len(self.stretch.layers)]
        for pieces in range(self.pieces, 0, -1):
            borders.append(self._cuts[pieces][borders[-1]])
        return borders[::-1]

    def _cost(self, first: int, last: int) -> float:
        return self._bytes(first, last) + self._worth * (last - first)

    def _bytes(self, first: int, last: int) -> int:
        """Over all pulls, and once in the store, where a layer that lies elsewhere too is free alone."""
        after = self._after(first, last)
        is_free = first == last and self.stretch.elsewhere[first]
        return self.stretch.pulls * after + (0 if is_free else after)

    def _before(self, first: int, last: int) -> int:
        return self._sizes[last + 1] - self._sizes[first]

    def _after(self, first: int, last: int) -> int:
        return self._before(first, last) - self._gone[first][last]

    def _step(self, first: int, last: int) -> Step:
        alone = sum(self._bytes(number, number) for number in range(first, last + 1))
        is_merge = last > first
        return Step(
            images=self.names, first=self.stretch.first + first, last=self.stretch.first + last,
            is_merge=is_merge, reason=self._reason(first, last), pulls=self.stretch.pulls,
            size_before=self._before(first, last), size_after=self._after(first, last),
            saved=alone - self._bytes(first, last),
        )

    def _reason(self, first: int, last: int) -> Reason:
        count = len(self.stretch.layers)
        if last > first:
            alone = sum(self._cost(number, number) for number in range(first, last + 1))
            is_cheaper = self._cost(first, last) < alone
            return Reason.SAVES if is_cheaper or not self.is_limited else Reason.LIMIT
        if self.stretch.is_fixed:
            return Reason.SHARED
        if count == 1:
            return Reason.ALONE
        return Reason.NOT_WORTH if self._gone[0][count - 1] else Reason.NOTHING_HIDDEN


def _gone_within(stretch: _Stretch) -> list[list[int]]:
    """``gone[i][j]``: the compressed bytes of layers ``i`` to ``j`` that these layers hide of each other."""
    count, begin = len(stretch.layers), stretch.first
    hidden = stretch.images[0].hidden
    gone = [[0] * count for _ in range(count)]
    for first in range(count - 1, -1, -1):
        of_first = 0
        for last in range(first + 1, count):
            of_first += hidden.get((begin + first, begin + last), 0)
            gone[first][last] = gone[first + 1][last] + min(of_first, stretch.layers[first].size)
    return gone


# -- the limit


def _keep_limit(images: Sequence[PlannedImage], partitions: Sequence[_Partition], limit: int) -> None:
    """The cheapest merge of any image that has too many layers, until none has."""
    left = {id(image): 0 for image in images}
    for partition in partitions:
        for image in partition.stretch.images:
            left[id(image)] += partition.pieces
    over = {id(image): image for image in images if image.pulls and left[id(image)] > limit}
    waiting = [(each.price_of_one_less(), number) for number, each in enumerate(partitions)]
    heapify(waiting)
    while over:
        price, number = heappop(waiting)
        if price == float("inf"):
            least, name = max((left[key], image.name) for key, image in over.items())
            raise Unreachable(
                f"{name}: cannot have {limit} layers without breaking a prefix that other images share; "
                f"{least} is the least"
            )
        cheapest = partitions[number]
        if not any(id(image) in over for image in cheapest.stretch.images):
            continue  # nor will there be: no image gets more layers here
        before = cheapest.pieces
        cheapest.take_less()
        heappush(waiting, (cheapest.price_of_one_less(), number))
        for image in cheapest.stretch.images:
            left[id(image)] -= before - cheapest.pieces
            if left[id(image)] <= limit:
                over.pop(id(image), None)
