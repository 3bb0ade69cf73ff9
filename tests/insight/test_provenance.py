"""Who put a file there, what it hides, what nobody sees."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.layer.indexed import index_of_tar

from lamina.content.memory import MemoryStore
from lamina.image import Image
from lamina.insight.provenance import (
    Blame,
    Deletion,
    LayerSummary,
    Obscured,
    Version,
    blame,
    obscured,
    summarise,
)
from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import Reason, Tree
from lamina.testing.images import directory, file, hardlink, make_image, make_layer, opaque, symlink, whiteout


class Story:
    """An image and its tree. Layers are pairs: instruction, entries."""

    def __init__(self, *layers: tuple[str, Iterable[Entry]]) -> None:
        self.layers = [make_layer(list(entries), created_by=created_by) for created_by, entries in layers]
        store = MemoryStore()
        self.image = Image.load(store, make_image(self.layers).put(store), None)
        self.tree = Tree(index_of_tar(layer.tar) for layer in self.layers)

    def blame(self, path: str) -> Blame:
        found = blame(self.image, self.tree, path)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def story() -> Story:
    return Story(
        ("/bin/sh -c #(nop) ADD file:1 in / ", [
            directory("etc"), file("etc/passwd", b"root"), file("etc/secret", b"hunter2"), symlink("conf", "etc"),
            directory("var"), directory("var/cache"), file("var/cache/big", b"x" * 900),
        ]),
        ("RUN /bin/sh -c useradd me # buildkit", [directory("etc", mode=0o700), file("etc/passwd", b"root me")]),
        ("RUN rm secrets", [whiteout("etc/secret"), opaque("var/cache"), file("etc/passwd", b"root me you")]),
        ("COPY app /", [file("var/cache/big", b"y"), hardlink("etc/alias", "etc/passwd")]),
    )


def test_blame_names_layer_and_instruction(story: Story) -> None:
    ids = [layer.diff_id for layer in story.layers]
    assert story.blame("etc/passwd") == Blame(
        path="etc/passwd", layer=2, diff_id=ids[2], instruction="RUN rm secrets", kind=Kind.FILE, size=11,
        hides=(
            Version(layer=1, diff_id=ids[1], instruction="RUN useradd me", kind=Kind.FILE, size=7, hidden_by=2,
                    reason=Reason.REPLACED),
            Version(layer=0, diff_id=ids[0], instruction="ADD file:1 in /", kind=Kind.FILE, size=4, hidden_by=1,
                    reason=Reason.REPLACED),
        ),
        deleted_by=None,
    )


def test_blame_of_what_is_gone(story: Story) -> None:
    found = story.blame("etc/secret")
    assert (found.layer, found.size, found.hides) == (0, 7, ())
    assert found.deleted_by == Deletion(
        layer=2, diff_id=story.layers[2].diff_id, instruction="RUN rm secrets", path="etc/secret", reason=Reason.DELETED,
    )


def test_blame_of_what_came_back(story: Story) -> None:
    found = story.blame("var/cache/big")
    assert (found.layer, found.deleted_by) == (3, None)
    assert [(version.layer, version.hidden_by, version.reason) for version in found.hides] == [(0, 2, Reason.OPAQUE)]


def test_blame_of_a_directory_lists_who_set_its_attributes(story: Story) -> None:
    found = story.blame("etc")
    assert (found.layer, found.kind) == (1, Kind.DIRECTORY)
    assert [(version.layer, version.hidden_by, version.reason) for version in found.hides] == [(0, 1, None)]


def test_blame_goes_through_symlinks_but_not_the_last(story: Story) -> None:
    assert story.blame("conf/passwd").path == "etc/passwd"
    assert story.blame("conf/secret").deleted_by is not None
    assert story.blame("conf").kind is Kind.SYMLINK


def test_blame_of_a_hard_link_shows_its_file(story: Story) -> None:
    found = story.blame("etc/alias")
    assert (found.layer, found.kind, found.size) == (3, Kind.FILE, 11)


def test_blame_of_nothing(story: Story) -> None:
    assert blame(story.image, story.tree, "nowhere") is None
    assert blame(story.image, story.tree, "nowhere/at/all") is None
    assert blame(story.image, story.tree, "etc/passwd/x") is None


def test_blame_of_a_root_that_no_layer_lists(story: Story) -> None:
    assert (story.blame("").kind, story.blame("").layer) == (Kind.DIRECTORY, 0)


def test_obscured_files_come_with_the_reason(story: Story) -> None:
    first, run, rm = "ADD file:1 in /", "RUN useradd me", "RUN rm secrets"

    def row(path: str, size: int, layer: int, instruction: str, by: tuple[int, str], reason: Reason) -> Obscured:
        return Obscured(path=path, kind=Kind.FILE, size=size, layer=layer, instruction=instruction,
                        hidden_by=by[0], hidden_by_instruction=by[1], reason=reason)

    assert obscured(story.image, story.tree) == (
        row("etc/passwd", 4, 0, first, (1, run), Reason.REPLACED),
        row("etc/passwd", 7, 1, run, (2, rm), Reason.REPLACED),
        row("etc/secret", 7, 0, first, (2, rm), Reason.DELETED),
        row("var/cache/big", 900, 0, first, (2, rm), Reason.OPAQUE),
    )


def test_summaries(story: Story) -> None:
    layers, image = story.layers, story.image
    rows = summarise(image, story.tree, shared_with={layers[0].diff_id: ("other:1",)})
    assert rows[0] == LayerSummary(
        number=0, diff_id=layers[0].diff_id, digest=layers[0].descriptor.digest, instruction="ADD file:1 in /",
        compressed=len(layers[0].blob), size=len(layers[0].tar), files_added=4, files_changed=0, files_hidden=0,
        bytes_hidden=0, shared_with=("other:1",),
    )
    assert [(row.files_added, row.files_changed, row.files_hidden, row.bytes_hidden) for row in rows] == [
        (4, 0, 0, 0), (0, 1, 1, 4), (0, 1, 3, 914), (2, 0, 0, 0),
    ]
    assert rows[1].shared_with == ()


def test_what_layers_hide_is_what_is_obscured(story: Story) -> None:
    rows, hidden = summarise(story.image, story.tree), obscured(story.image, story.tree)
    assert sum(row.files_hidden for row in rows) == len(hidden)
    assert sum(row.bytes_hidden for row in rows) == sum(row.size for row in hidden)


def test_silent_history_is_an_empty_instruction() -> None:
    story = Story(("", [file("a")]))
    assert story.blame("a").instruction == ""
