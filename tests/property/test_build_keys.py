"""Laws of cache keys: what differs has another key, whatever strangers wrote, and what is the same has the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.build.made import make

from lamina.build.checksum import decode, digest_selection, encode
from lamina.build.context import Context
from lamina.build.key import Ingredients, first_difference, ingredients
from lamina.build.selection import whole_tree
from lamina.engine.building.options import BuildOptions
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings

# Few letters, and those that joined texts are torn at: so that texts often nearly meet.
TEXTS = st.text(alphabet="a \n\0=:,|\udcff\"'/", max_size=6)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), max_size=4).map(tuple)
NAMES = st.text(alphabet="ab =\n\udcff-", min_size=1, max_size=4)
VARIABLES = st.dictionaries(TEXTS, TEXTS, max_size=3)


@given(PAIRS, PAIRS)
def test_two_lists_have_one_key_only_if_they_are_one(one: Any, other: Any) -> None:
    assert (Ingredients(one).key == Ingredients(other).key) == (one == other)


@given(PAIRS)
def test_a_boundary_that_moves_is_another_list(pairs: Any) -> None:
    """Every way to cut the same characters differently."""
    for number, (name, value) in enumerate(pairs):
        for cut in range(len(value) + 1):
            moved = (name + value[:cut], value[cut:])
            if moved != (name, value):
                assert Ingredients((*pairs[:number], moved, *pairs[number + 1 :])).key != Ingredients(pairs).key
    if len(pairs) > 1:
        joined = (*pairs[:-2], (pairs[-2][0], pairs[-2][1] + pairs[-1][0] + pairs[-1][1]))
        assert Ingredients(joined).key != Ingredients(pairs).key


@given(VARIABLES, VARIABLES, VARIABLES, VARIABLES)
def test_arguments_are_no_variables(a: Any, b: Any, c: Any, d: Any) -> None:
    one, other = ingredients("RUN", [], arguments=a, variables=b), ingredients("RUN", [], arguments=c, variables=d)
    assert (one.key == other.key) == ((a, b) == (c, d))
    assert bool(first_difference(one, other)) == ((a, b) != (c, d))


@given(VARIABLES)
def test_the_order_of_variables_says_nothing(variables: Any) -> None:
    backwards = dict(reversed(variables.items()))
    assert ingredients("RUN", [], variables=variables).key == ingredients("RUN", [], variables=backwards).key


@given(PAIRS)
def test_ingredients_survive_their_text(pairs: Any) -> None:
    assert Ingredients.from_text(Ingredients(pairs).to_text()) == Ingredients(pairs)


@given(st.dictionaries(st.text(alphabet="a/\udcff\n ", min_size=1, max_size=5), st.binary(min_size=8, max_size=8), max_size=5))
def test_manifests_survive_their_bytes(manifest: Mapping[str, bytes]) -> None:
    texts = {path: digest.hex() for path, digest in manifest.items()}
    assert decode(encode(texts)) == texts


# -- trees


def nodes(children: Any) -> Any:
    return st.dictionaries(NAMES, children, max_size=3)


FILES = st.tuples(st.binary(max_size=3), st.sampled_from((0o644, 0o755, 0o4755, 0o600)))
LINKS = st.text(alphabet="ab/.", min_size=1, max_size=4)
TREES = st.recursive(st.one_of(FILES, LINKS), nodes, max_leaves=6)
ROOTS = st.dictionaries(NAMES, TREES, max_size=3)


def write(top: str, tree: Mapping[str, Any]) -> None:
    for name, node in tree.items():
        path = os.path.join(top, name)
        if isinstance(node, dict):
            os.mkdir(path)
            write(path, node)
        elif isinstance(node, str):
            os.symlink(node, path)
        else:
            with open(path, "wb") as file:
                file.write(node[0])
            os.chmod(path, node[1])


@contextmanager
def written(tree: Mapping[str, Any]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as top:
        write(top, tree)
        yield top


def digest(top: str) -> str:
    with Context.from_directory(top) as context:
        return str(digest_selection(context, whole_tree(context, "")).digest)


@settings(max_examples=60, deadline=None)
@given(ROOTS, ROOTS)
def test_two_trees_have_one_digest_only_if_they_are_one(one: Any, other: Any) -> None:
    with written(one) as first, written(other) as second:
        assert (digest(first) == digest(second)) == (one == other)


@settings(max_examples=40, deadline=None)
@given(ROOTS, st.integers(0, 2_000_000_000))
def test_times_are_not_in_it(tree: Any, when: int) -> None:
    with written(tree) as top:
        before = digest(top)
        for above, names, files in os.walk(top):
            for name in (*names, *files):
                os.utime(os.path.join(above, name), (when, when), follow_symlinks=False)
        assert digest(top) == before


# -- whole builds


class Bench:
    """One engine, asked again and again whether a step is in the cache."""

    def __init__(self, top: Path) -> None:
        self.context = top / "context"
        make(self.context, {"f": "1", "d/g": "2"})
        given_settings = Settings.load({"HOME": str(top), "LAMINA_STORAGE_DRIVER": "vfs"}, system=top / "etc")
        self.engine = Engine.open(top / "root", settings=given_settings)

    def hits(self, text: str, **options: Any) -> int:
        (self.context / "Dockerfile").write_bytes(os.fsencode(text))
        return self.engine.build(self.context, BuildOptions(**options)).cached


WORDS = st.text(alphabet="ab ", min_size=1, max_size=4).filter(lambda text: text == text.strip())
DESTINATIONS = st.tuples(WORDS, WORDS)


@settings(max_examples=15, deadline=None)
@example(("a b", "c"), ("a", "b c"))
@given(DESTINATIONS, DESTINATIONS)
def test_where_a_copy_goes_is_in_its_key_as_it_stands(one: tuple[str, str], other: tuple[str, str]) -> None:
    """``--link``: nothing but the destination tells the two apart."""
    with tempfile.TemporaryDirectory() as top:
        bench = Bench(Path(top))
        try:
            texts = [f'FROM scratch\nWORKDIR "/{place}"\nCOPY --link ["f", "{name}"]\n' for place, name in (one, other)]
            assert bench.hits(texts[0]) == 0
            assert bench.hits(texts[1]) == (one[0] == other[0]) + (one == other)
        finally:
            bench.engine.close()


CHANGES: dict[str, Any] = {
    "content": lambda context: (context / "d/g").write_text("3"),
    "mode": lambda context: (context / "d/g").chmod(0o600),
    "directory's mode": lambda context: (context / "d/e").chmod(0o700),
    "name": lambda context: (context / "d/g").rename(context / "d/h"),
    "kind": lambda context: ((context / "d/g").unlink(), (context / "d/g").symlink_to("2")),
    "new": lambda context: (context / "d/new").write_text(""),
    "gone": lambda context: (context / "d/g").unlink(),
    "hard link": lambda context: ((context / "d/x").unlink(), os.link(context / "d/g", context / "d/x")),
    "xattr": lambda context: os.setxattr(context / "d/g", "user.mine", b"1"),
}


def test_every_change_of_an_input_misses_and_a_time_hits(tmp_path: Path) -> None:
    for name, change in CHANGES.items():
        top = tmp_path / name
        top.mkdir()
        bench = Bench(top)
        try:
            make(bench.context, {"d/x": "2", "d/e/y": ""})
            text = "FROM scratch\nCOPY d /d\n"
            assert bench.hits(text) == 0
            for path in (bench.context / "d/g", bench.context / "d"):
                os.utime(path, (7, 7))
            assert bench.hits(text) == 1, name
            change(bench.context)
            assert bench.hits(text) == 0, name
            assert bench.hits(text) == 1, name
        finally:
            bench.engine.close()


def test_every_change_of_a_flag_misses(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        texts = [
            "COPY d /d", "COPY d /e", "COPY --chown=1 d /d", "COPY --chown=1:0 d /d", "COPY --chmod=700 d /d",
            "COPY --link d /d", "COPY --parents d /d", "COPY d/g /d", "COPY d/g /d/", "ADD d /d", "COPY f d/g /d/",
            "COPY d/g f /d/", "COPY <<d /d\n1\nd", "COPY <<d /d\n2\nd", "COPY <<e /d\n1\ne", "WORKDIR /d", "WORKDIR /e",
        ]
        for text in texts:
            assert bench.hits(f"FROM scratch\n{text}\n") == 0, text
        for text in texts:
            assert bench.hits(f"FROM scratch\n{text}\n") == 1, text
        assert bench.hits("FROM scratch\nCOPY d /d\n", epoch=1) == 0
        assert bench.hits("FROM scratch\nCOPY d /d\n", epoch=2) == 0
        assert bench.hits("FROM scratch\nCOPY d /d\n", epoch=1) == 1
    finally:
        bench.engine.close()


def test_arguments_count_where_they_are_used(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        text = "FROM scratch\nARG A\nCOPY f /$A\n"
        assert bench.hits(text, arguments={"A": "x"}) == 0
        assert bench.hits(text, arguments={"A": "y"}) == 0
        assert bench.hits(text, arguments={"A": "x"}) == 1
        assert bench.hits("FROM scratch\nARG B\nCOPY f /x\n", arguments={"B": "1"}) == 1
        assert bench.hits("FROM scratch\nARG B\nCOPY f /x\n", arguments={"B": "2"}) == 1
    finally:
        bench.engine.close()
