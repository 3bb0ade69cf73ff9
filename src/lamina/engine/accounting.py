"""Where an image's bytes are: wasted, different from another image's, or simply many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lamina.engine import images
from lamina.engine.borrowing import borrowed
from lamina.engine.contents import Contents
from lamina.engine.explain import PathNotFound, open_tree
from lamina.errors import InvalidInput
from lamina.insight.comparison import Comparison, Side, compare_images
from lamina.insight.usage import By, Portion, usage_of
from lamina.insight.waste import Waste, find_waste
from lamina.layer.entry import normalise
from lamina.oci.descriptor import Platform

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.layer.tree import Tree


def waste(engine: Core, name: str, *, platform: Platform | None = None) -> Waste:
    with _side(engine, name, platform) as side:
        return find_waste(side.image, side.tree, side.open_data)


def diff(
    engine: Core, before: str, after: str, path: str, *, times: bool, platform: Platform | None = None
) -> Comparison:
    with ExitStack() as stack:
        sides = [stack.enter_context(_side(engine, name, platform)) for name in (before, after)]
        place = _place((before, after), [side.tree for side in sides], path)
        return compare_images(*sides, path=place, times=times)


def du(
    engine: Core, name: str, path: str, by: str, *, depth: int, platform: Platform | None = None
) -> tuple[Portion, ...]:
    if by not in tuple(By):
        raise InvalidInput(f"{by}: expected one of {', '.join(By)}")
    with _side(engine, name, platform) as side:
        place = _place((name,), [side.tree], path)
        return usage_of(side.image, side.tree, By(by), path=place, depth=depth)


@contextmanager
def _side(engine: Core, name: str, platform: Platform | None) -> Iterator[Side]:
    with borrowed(engine, name, platform) as record:
        image = images.load_record(engine, record)
        tree = open_tree(engine, image)
        with Contents(engine, image) as contents:
            yield Side(image=image, tree=tree, open_data=contents.open)


def _place(names: tuple[str, ...], trees: list[Tree], path: str) -> str:
    """The path without symlinks, if the images agree where it leads; or else a path that some layer has."""
    wanted = normalise(path)
    for is_followed in (True, False):
        found = {tree.resolve(wanted, follow=is_followed) for tree in trees} - {None}
        if len(found) == 1:
            return str(found.pop())
    if any(tree.history_of(wanted) for tree in trees):
        return wanted
    raise PathNotFound(f"{path}: no layer of {' or of '.join(names)} has it")
