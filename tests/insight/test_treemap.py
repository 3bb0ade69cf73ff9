"""Trees folded to so many nodes, and rectangles in proportion: nothing is lost, nothing overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from lamina.insight.treemap import MAX_DEPTH, FileNode, Leaf, Rectangle, fold, squarify
from lamina.layer.entry import Kind


def leaf(path: str, size: int, layer: int = 0) -> Leaf:
    return Leaf(path=path, kind=Kind.FILE, layer=layer, size=size)


def shown(nodes: Sequence[FileNode]) -> dict[str, tuple[int, int, int]]:
    """Path to size, files and layer; what stands for smaller files is called ``*``."""
    paths = [""]
    found = {"/": (nodes[0].size, nodes[0].files, nodes[0].layer)}
    for number, node in enumerate(nodes[1:], 1):
        assert 0 <= node.parent < number, "parents come before their children"
        paths.append(f"{paths[node.parent]}/{node.name or '*'}")
        assert paths[-1] not in found
        found[paths[-1]] = (node.size, node.files, node.layer)
    return found


def leaves(count: int) -> list[Leaf]:
    random = Random(count)
    names = ["usr", "lib", "share", "a", "b", "c"]
    paths = {"/".join(random.choices(names, k=random.randint(0, 5))) + f"/f{number}" for number in range(count)}
    return [leaf(path.lstrip("/"), random.randrange(5000)) for path in sorted(paths)]


def test_everything_is_there_if_it_fits() -> None:
    nodes = fold([leaf("etc/passwd", 10, 2), leaf("etc/x/y", 5), leaf("top", 1)], {"": 0, "etc": 1, "etc/x": 3})
    assert shown(nodes) == {
        "/": (16, 3, 0), "/etc": (15, 2, 1), "/etc/passwd": (10, 1, 2), "/etc/x": (5, 1, 3), "/etc/x/y": (5, 1, 0),
        "/top": (1, 1, 0),
    }
    assert [node.kind for node in nodes] == [
        Kind.DIRECTORY, Kind.DIRECTORY, Kind.FILE, Kind.DIRECTORY, Kind.FILE, Kind.FILE]


def test_nothing_at_all() -> None:
    assert shown(fold([], {})) == {"/": (0, 0, 0)}


def test_the_largest_stay_and_the_rest_is_summed_where_it_was() -> None:
    files = [leaf("a/big", 1000), leaf("a/small", 1), leaf("a/tiny", 2), leaf("b/c/d", 3), leaf("b/c/e", 4)]
    nodes = fold(files, {"a": 4}, limit=6)
    assert shown(nodes) == {
        "/": (1010, 5, 0), "/a": (1003, 3, 4), "/a/big": (1000, 1, 0), "/a/tiny": (2, 1, 0), "/a/*": (1, 1, -1),
        "/*": (7, 2, -1),
    }
    assert [node.kind for node in nodes if not node.name] == [Kind.DIRECTORY, None, None]


def test_wanted_paths_stay_before_larger_ones() -> None:
    files = [leaf("a/big", 1000), leaf("b/small", 1), leaf("c/middle", 10)]
    assert "/b/small" in shown(fold(files, {}, wanted={"b/small"}, limit=5))
    assert "/b/small" not in shown(fold(files, {}, limit=5))


@pytest.mark.parametrize("limit", [2, 3, 10, 57, 400, 5000])
def test_no_byte_is_lost_and_the_limit_holds(limit: int) -> None:
    files = leaves(900)
    nodes = fold(files, {}, limit=limit)
    assert len(nodes) <= limit
    assert nodes[0].size == sum(file.size for file in files)
    assert nodes[0].files == len(files)
    for number, node in enumerate(nodes):
        below = [child for child in nodes if child.parent == number]
        if below:
            assert sum(child.size for child in below) == node.size
            assert sum(child.files for child in below) == node.files


def test_all_of_them_need_no_more_nodes_than_there_are_names() -> None:
    files = leaves(300)
    places = {file.path[:at] for file in files for at, letter in enumerate(file.path) if letter == "/"}
    nodes = fold(files, {}, limit=len(files) + len(places) + 1)
    assert len(nodes) == len(files) + len(places) + 1


def test_paths_without_end_count_for_a_directory_above() -> None:
    files = [leaf("d/" * depth + "f", 1) for depth in (1, MAX_DEPTH, MAX_DEPTH + 1, 2000)]
    nodes = fold(files, {})
    found = shown(nodes)
    assert max(path.count("/") for path in found) == MAX_DEPTH + 1
    deepest = "/d" * MAX_DEPTH
    assert (found[f"{deepest}/f"], found[f"{deepest}/*"]) == ((1, 1, 0), (2, 2, -1))


# -- rectangles


def overlap(one: Rectangle, other: Rectangle) -> float:
    wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return max(0.0, wide) * max(0.0, high)


@pytest.mark.parametrize("sizes", [
    [1], [6, 6, 4, 3, 2, 2, 1], [10**18, 1], [1] * 50, sorted((Random(1).randrange(1, 10**6) for _ in range(99)), reverse=True),
], ids=["one", "the paper's", "a giant and a dwarf", "equal", "any"])
def test_areas_are_in_proportion_and_fill_the_whole(sizes: list[int]) -> None:
    places = squarify(sizes, 600, 400)
    whole = 600 * 400
    for size, place in zip(sizes, places, strict=True):
        assert place.width * place.height == pytest.approx(whole * size / sum(sizes), rel=1e-6, abs=1e-6)
        assert -1e-6 <= place.x <= place.x + place.width <= 600 + 1e-6
        assert -1e-6 <= place.y <= place.y + place.height <= 400 + 1e-6
    assert sum(overlap(one, other) for number, one in enumerate(places) for other in places[:number]) < 1e-3


def test_the_papers_example_is_as_square_as_there() -> None:
    """Bruls et al., figure 5: 6, 6, 4, 3, 2, 2, 1 on 6 by 4 begins with two rectangles of 3 by 2."""
    first, second = squarify([6, 6, 4, 3, 2, 2, 1], 6, 4)[:2]
    assert first == Rectangle(x=0, y=0, width=3, height=2)
    assert second == Rectangle(x=0, y=2, width=3, height=2)


def test_no_sizes_no_rectangles() -> None:
    assert squarify([], 600, 400) == []
