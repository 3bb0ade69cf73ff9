"""Which bytes are wasted, why, and what to do: each stored file for one reason at most."""

from __future__ import annotations

import pytest
from tests.insight.told import Told
from tests.layer import tarbytes

from lamina.insight.duplicates import MIN_DUPLICATE
from lamina.insight.waste import WasteItem, WasteKind
from lamina.layer.entry import Entry
from lamina.testing.images import MTIME, directory, file, hardlink, opaque, symlink, whiteout

BIG = b"b" * MIN_DUPLICATE
OTHER = b"o" * MIN_DUPLICATE


def kinds(told: Told) -> list[tuple[str, str, int, int]]:
    return sorted((str(item.kind), item.path, item.bytes, item.layer) for item in told.waste.items)


def test_nothing_is_wasted() -> None:
    told = Told(("ADD base /", [directory("etc"), file("etc/a", b"one"), file("b", b"two")]), ("COPY c /", [file("c", b"x")]))
    assert (told.waste.items, told.waste.wasted_bytes, told.waste.total_bytes, told.waste.score) == ((), 0, 7, 100.0)
    assert told.read == [], "no two sizes are equal, so nothing can be the same"


def test_an_image_without_a_byte_has_a_full_score() -> None:
    assert Told(("RUN true", [directory("etc")])).waste.score == 100.0


def test_replaced() -> None:
    told = Told(("RUN make", [file("a", b"12345")]), ("RUN make again", [file("a", b"1234567")]))
    assert told.waste.items == (WasteItem(
        kind=WasteKind.REPLACED, path="a", bytes=5, layer=0, instruction="RUN make", other=1,
        other_instruction="RUN make again",
        fix="write its last version at once: join the RUN of layers 0 and 1 with &&",
    ),)
    assert told.waste.score == pytest.approx(100 * (1 - 5 / 12))


def test_deleted_in_each_way() -> None:
    told = Told(
        ("COPY . /", [directory("d"), file("d/a", b"12"), directory("e"), file("e/b", b"123"), directory("f"),
                      file("f/c", b"1234"), file("g", b"12345")]),
        ("RUN rm", [whiteout("d"), directory("e"), opaque("e"), file("f", b""), whiteout("g")]),
    )
    assert kinds(told) == [
        ("deleted", "d/a", 2, 0), ("deleted", "e/b", 3, 0), ("deleted", "f/c", 4, 0), ("deleted", "g", 5, 0),
    ]
    assert [told.item(path, 0).other_path for path in ("d/a", "e/b", "f/c", "g")] == ["d", "e", "f", ""]
    assert told.item("g", 0).fix == "leave it out of layer 0's COPY (.dockerignore), or use RUN --mount=type=bind"


@pytest.mark.parametrize(("again", "changed", "fix"), [
    (file("a", BIG, mode=0o755), ("mode",), "COPY --chmod=755 in layer 0"),
    (file("a", BIG, uid=33, gid=34), ("owner",), "COPY --chown=33:34 in layer 0"),
    (file("a", BIG, mode=0o600, uid=1, mtime=1), ("mode", "owner", "mtime"), "COPY --chown=1:0 --chmod=600 in layer 0"),
    (file("a", BIG, mtime=MTIME + 1), ("mtime",), "do not touch it again in layer 1"),
    (file("a", BIG, xattrs={"security.capability": b"x"}), ("xattrs",),
     "set its xattrs (setcap) in the instruction of layer 0"),
    (file("a", BIG), (), "do not touch it again in layer 1"),
])
def test_metadata(again: Entry, changed: tuple[str, ...], fix: str) -> None:
    told = Told(("COPY a /", [file("a", BIG)]), ("RUN chmod", [again]))
    item = told.item("a", 0)
    assert (item.kind, item.changed, item.fix, item.other) == (WasteKind.METADATA, changed, fix, 1)
    assert told.waste.wasted_bytes == len(BIG)


def test_metadata_of_what_a_run_made() -> None:
    told = Told(("RUN make", [file("a", b"1")]), ("RUN chown", [file("a", b"1", uid=5, mode=0o4755)]))
    assert told.item("a", 0).fix == "chown 5:0 and chmod 4755 in the instruction of layer 0"


def test_copied_twice() -> None:
    told = Told(("COPY package.json /", [file("a", b"1")]), ("COPY . /", [file("a", b"1")]))
    assert told.item("a", 0).fix == "leave it out of layer 1's COPY (.dockerignore, --exclude): layer 0 has it"


def test_the_same_size_is_not_the_same_content() -> None:
    told = Told(("COPY a /", [file("a", BIG)]), ("RUN chmod", [file("a", OTHER, mode=0o600)]))
    assert told.item("a", 0).kind is WasteKind.REPLACED


def test_stored_again_as_a_name_of_a_file_of_that_layer() -> None:
    told = Told(("COPY a /", [file("a", BIG)]), ("RUN x", [file("b", BIG, mode=0o600), hardlink("a", "b")]))
    assert (told.item("a", 0).kind, told.item("a", 0).changed) == (WasteKind.METADATA, ("mode",))


def test_a_link_to_a_lower_file_stores_nothing_again() -> None:
    told = Told(("COPY . /", [file("a", BIG), file("b", OTHER)]), ("RUN ln", [hardlink("a", "b")]))
    assert told.item("a", 0).kind is WasteKind.REPLACED


def test_a_chain_of_versions_has_one_reason_for_each() -> None:
    told = Told(
        ("COPY a /", [file("a", b"1")]), ("RUN chmod", [file("a", b"1", mode=0o755)]), ("RUN edit", [file("a", b"2")]),
        ("RUN rm", [whiteout("a")]),
    )
    assert kinds(told) == [("deleted", "a", 1, 2), ("metadata", "a", 1, 0), ("replaced", "a", 1, 1)]
    assert told.waste.wasted_bytes == told.waste.total_bytes


def test_moved() -> None:
    told = Told(("COPY a /", [file("a", BIG)]), ("RUN mv", [whiteout("a"), directory("d"), file("d/new", BIG)]))
    item = told.item("a", 0)
    assert (item.kind, item.other, item.other_path) == (WasteKind.MOVED, 1, "d/new")
    assert item.fix == "COPY it to its last place at once (layer 0)"
    assert len(told.waste.items) == 1, "what was moved is not a duplicate too"


def test_a_small_file_is_moved_if_it_keeps_its_name() -> None:
    told = Told(
        ("RUN x", [directory("d"), file("d/a", b"1"), file("d/b", b"2")]),
        ("RUN mv", [whiteout("d"), directory("e"), file("e/a", b"1"), file("e/c", b"2")]),
    )
    assert kinds(told) == [("deleted", "d/b", 1, 0), ("moved", "d/a", 1, 0)]


def test_of_several_new_places_the_one_with_the_name_counts() -> None:
    told = Told(("RUN x", [file("z", BIG)]), ("RUN mv", [whiteout("z"), file("a", BIG), directory("d"), file("d/z", BIG)]))
    assert told.item("z", 0).other_path == "d/z"


def test_stored_elsewhere_by_a_layer_that_does_not_delete_it_is_not_moved() -> None:
    told = Told(("COPY a /", [file("a", BIG)]), ("RUN cp", [file("b", BIG)]), ("RUN rm", [whiteout("a")]))
    assert kinds(told) == [("deleted", "a", len(BIG), 0)]


def test_duplicate() -> None:
    told = Told(
        ("COPY a /", [file("a", BIG), file("twin", BIG)]), ("RUN cp", [file("b", BIG)]), ("RUN cp", [file("c", BIG)]),
    )
    assert kinds(told) == [("duplicate", "b", len(BIG), 1), ("duplicate", "c", len(BIG), 2)], (
        "within one layer nothing is a duplicate, and the first copy is none")
    item = told.item("b", 1)
    assert (item.other, item.other_path, item.other_instruction) == (0, "a", "COPY a /")
    assert item.fix == "make it a link to the copy of layer 0 (ln -s)"


def test_small_files_and_other_content_are_no_duplicates() -> None:
    told = Told(
        ("COPY a /", [file("a", BIG), file("s", b"small")]), ("RUN cp", [file("b", OTHER), file("t", b"small")]),
    )
    assert told.waste.items == ()


def test_names_of_one_file_are_no_duplicates() -> None:
    told = Told(("COPY a /", [file("a", BIG), hardlink("b", "a")]), ("RUN ln", [hardlink("c", "a")]))
    assert told.waste.items == ()


def test_what_another_name_shows_is_not_wasted() -> None:
    told = Told(("COPY a /", [file("a", BIG), hardlink("b", "a")]), ("RUN rm", [whiteout("a")]))
    assert told.waste.items == ()
    told = Told(("COPY a /", [file("a", BIG), hardlink("b", "a")]), ("RUN rm", [whiteout("a"), whiteout("b")]))
    assert kinds(told) == [("deleted", "a", len(BIG), 0)]


def test_an_obscured_copy_is_counted_once() -> None:
    """Its content is in two other places too."""
    told = Told(
        ("COPY . /", [file("a", BIG), file("b", BIG)]), ("RUN chmod", [file("a", BIG, mode=0o600)]),
        ("RUN cp", [file("c", BIG)]),
    )
    assert kinds(told) == [
        ("duplicate", "a", len(BIG), 1), ("duplicate", "c", len(BIG), 2), ("metadata", "a", len(BIG), 0),
    ]
    assert told.waste.wasted_bytes == 3 * len(BIG) == told.waste.total_bytes - len(BIG)


def test_cache() -> None:
    told = Told((
        "RUN apt-get install -y curl",
        [file("var/lib/apt/lists/deb", b"12"), file("usr/bin/curl", b"1"), file("var/lib/dpkg/status-old", b"1")],
    ))
    assert kinds(told) == [("cache", "var/lib/apt/lists/deb", 2, 0), ("cache", "var/lib/dpkg/status-old", 1, 0)]
    item = told.item("var/lib/apt/lists/deb", 0)
    assert (item.other, item.other_path) == (None, "var/lib/apt/lists")
    assert item.fix == (
        "rm -rf /var/lib/apt/lists/* in the same RUN, or RUN --mount=type=cache,target=/var/lib/apt/lists"
    )


def test_a_cache_that_was_deleted_too_late_has_the_cache_s_fix() -> None:
    told = Told(("RUN apt-get update", [file("var/lib/apt/lists/deb", b"12")]), ("RUN rm", [whiteout("var/lib/apt/lists")]))
    item = told.item("var/lib/apt/lists/deb", 0)
    assert item.kind is WasteKind.DELETED
    assert item.fix.startswith("rm -rf /var/lib/apt/lists/* in the same RUN")


def test_a_name_outside_the_cache_keeps_the_bytes() -> None:
    """conda and uv link what they install to their caches."""
    link, kept = file("opt/conda/pkgs/x/lib.so", BIG), hardlink("opt/conda/lib/lib.so", "opt/conda/pkgs/x/lib.so")
    assert Told(("RUN conda install x", [link, kept])).waste.items == ()
    assert len(Told(("RUN conda install x", [link])).waste.items) == 1


def test_a_cached_file_is_no_duplicate_and_no_first_copy() -> None:
    told = Told(("RUN x", [file("tmp/a", BIG)]), ("RUN y", [file("b", BIG), file("tmp/c", BIG)]))
    assert kinds(told) == [("cache", "tmp/a", len(BIG), 0), ("cache", "tmp/c", len(BIG), 1)]


def test_a_whiteout_with_content_is_a_marker() -> None:
    told = Told(
        tarbytes.tar(tarbytes.member("a", b"123")), tarbytes.tar(tarbytes.member(".wh.a", b"secret")),
    )
    assert kinds(told) == [("deleted", "a", 3, 0), ("marker", ".wh.a", 6, 1)]
    assert told.waste.wasted_bytes == told.waste.total_bytes


def test_a_path_that_a_layer_lists_twice() -> None:
    told = Told(tarbytes.tar(tarbytes.member("a", b"1"), tarbytes.member("a", b"22")))
    (item,) = told.waste.items
    assert (item.kind, item.path, item.bytes, item.layer, item.other) == (WasteKind.REPLACED, "a", 1, 0, 0)
    assert item.fix == "pack layer 0 again: it lists this path twice"


def test_written_through_a_symlink() -> None:
    """The layers say lib/x; what they write is usr/lib/x."""
    base = [directory("usr"), directory("usr/lib"), file("usr/lib/x", BIG), symlink("lib", "usr/lib")]
    told = Told(("ADD base /", base), ("RUN chmod", [file("lib/x", BIG, mode=0o600)]))
    assert (told.item("usr/lib/x", 0).kind, told.item("usr/lib/x", 0).changed) == (WasteKind.METADATA, ("mode",))


def test_only_some_kinds() -> None:
    told = Told(("RUN x", [file("a", b"1"), file("tmp/b", b"22")]), ("RUN rm", [whiteout("a")]))
    found = told.waste.only(frozenset({WasteKind.CACHE}))
    assert [item.path for item in found.items] == ["tmp/b"]
    assert (found.wasted_bytes, found.total_bytes) == (2, 3)


def test_the_largest_come_first() -> None:
    told = Told(("RUN x", [file("b", b"1"), file("c", b"333"), file("a", b"1")]), ("RUN rm", [opaque("")]))
    assert [item.path for item in told.waste.items] == ["c", "a", "b"]


def test_candidates_are_read_once_and_in_order() -> None:
    told = Told(
        ("COPY . /", [file("c", BIG), file("a", BIG), file("b", OTHER), file("alone", b"x" * 5000)]),
        ("RUN x", [file("b", BIG, mode=0o600), whiteout("a"), file("d", BIG)]),
        ("RUN y", [file("b", BIG), file("e", OTHER)]),
    )
    assert told.waste.wasted_bytes > 0
    read = list(told.read)
    assert read == sorted(set(read))
    assert len(read) == 7, "all files of that size"
