from __future__ import annotations

from pathlib import Path

import pytest
from tests.build.made import context, deep

from lamina.build.context import Context
from lamina.build.pattern import InvalidPattern
from lamina.build.selection import NeedsDirectory, Place, SourceNotFound, names_directory, select
from lamina.layer.entry import Kind

TREE = {
    "a.txt": "a", "b.txt": "b", "c.md": "c", "dir/x": "x", "dir/sub/y": "y", "dir/sub/z.md": "z",
    "dir2/w": "w", "link": "-> a.txt", "dirlink": "-> dir", "dir/inner": "-> x", "dangling": "-> none",
    "loop": "-> loop", "home/hom1.txt": "", "home/hom2.md": "", "home/other": "",
}


@pytest.fixture
def opened(tmp_path: Path) -> Context:
    made = context(tmp_path, TREE)
    yield made
    made.close()


def chosen(opened: Context, *words: str, **options: object) -> list[str]:
    *sources, destination = words
    made = select(opened, sources, destination, **options)  # type: ignore[arg-type]
    return [f"{each.node.path} {each.target}" for each in made.entries]


def test_a_file_may_be_named_by_the_destination(opened: Context) -> None:
    made = select(opened, ["a.txt"], "/x")
    assert made.is_single
    assert chosen(opened, "a.txt", "/x") == ["a.txt a.txt"]
    assert not select(opened, ["a.txt"], "/x/").is_single
    assert not select(opened, ["a.txt"], ".").is_single


def test_of_a_directory_the_contents_are_copied(opened: Context) -> None:
    expected = ["dir ", "dir/inner inner", "dir/sub sub", "dir/sub/y sub/y", "dir/sub/z.md sub/z.md", "dir/x x"]
    for source in ("dir", "dir/", "./dir", "/dir", "x/../dir", "../dir"):
        assert chosen(opened, source, "/x/") == chosen(opened, source, "/x") == expected
    assert not select(opened, ["dir"], "/x").is_single


def test_a_destination_that_is_made_has_nothing_of_the_source(tmp_path: Path) -> None:
    with context(tmp_path, {"dir/sub/x": ""}) as opened:
        for path in ("dir", "dir/sub"):
            (tmp_path / path).chmod(0o700)
        modes = [(each.target, each.node.mode) for each in select(opened, ["dir"], "/x/").entries]
    assert modes[:2] == [("", 0o755), ("sub", 0o700)]


def test_the_whole_context(opened: Context) -> None:
    found = chosen(opened, ".", "/x/")
    assert found[0] == " "
    assert len(found) == 20
    assert chosen(opened, "/", "/x") == chosen(opened, "../..", "/x") == found


def test_wildcards(opened: Context) -> None:
    assert chosen(opened, "*.txt", "/x/") == ["a.txt a.txt", "b.txt b.txt"]
    assert chosen(opened, "d*/w", "/x") == ["dir2/w w"]
    assert chosen(opened, "[ab].txt", "/x/") == ["a.txt a.txt", "b.txt b.txt"]
    assert chosen(opened, "dirlink/s*/y", "/x/") == ["dir/sub/y y"]
    assert chosen(opened, "dir2*", "/x") == ["dir2 ", "dir2/w w"]
    assert select(opened, ["c*"], "/x").is_single


def test_two_stars_are_one_where_docker_has_it_so(opened: Context) -> None:
    assert chosen(opened, "**/w", "/x/") == ["dir2/w w"]
    assert chosen(opened, "d**/w", "/x/") == ["dir2/w w"]
    with pytest.raises(SourceNotFound):
        chosen(opened, "**/z.md", "/x/")


def test_symlinks_that_are_named_are_followed_and_others_copied(opened: Context) -> None:
    assert chosen(opened, "link", "/x/") == ["a.txt link"]
    assert chosen(opened, "lin*", "/x/") == ["a.txt link"]
    assert chosen(opened, "dirlink/x", "/x/") == ["dir/x x"]
    assert chosen(opened, "dirlink", "/x/")[:2] == ["dir ", "dir/inner inner"]
    kinds = {each.target: each.node.kind for each in select(opened, ["dir"], "/x").entries}
    assert kinds["inner"] is Kind.SYMLINK


def test_several_sources_need_a_directory(opened: Context) -> None:
    assert chosen(opened, "a.txt", "dir2", "/x/") == ["a.txt a.txt", "dir2 ", "dir2/w w"]
    with pytest.raises(NeedsDirectory, match=r"^COPY /x: more than one source"):
        chosen(opened, "a.txt", "b.txt", "/x")
    with pytest.raises(NeedsDirectory, match=r"^COPY \*\.txt: matches several files"):
        chosen(opened, "*.txt", "/x")
    with pytest.raises(NeedsDirectory):
        chosen(opened, "a.txt", "/x", further=1)
    assert chosen(opened, "dir*/sub", "/x") == ["dir/sub ", "dir/sub/y y", "dir/sub/z.md z.md"]


def test_what_is_missing_is_said(opened: Context) -> None:
    with pytest.raises(SourceNotFound) as caught:
        chosen(opened, "a.text", "/x")
    assert str(caught.value) == "COPY a.text: not in the build context; did you mean a.txt?"
    with pytest.raises(SourceNotFound, match=r"^ADD zzz: not in the stage build$"):
        chosen(opened, "zzz", "/x", place=Place("ADD", "the stage build"))
    with pytest.raises(SourceNotFound, match=r"^COPY dangling: not in the build context: the symlink leads to none"):
        chosen(opened, "dangling", "/x")
    with pytest.raises(SourceNotFound, match=r"^COPY ../zzz: not in the build context: '\.\.' does not lead out of it$"):
        chosen(opened, "../zzz", "/x")
    with pytest.raises(SourceNotFound, match=r"^COPY a.txt/b: not in the build context"):
        chosen(opened, "a.txt/b", "/x")
    with pytest.raises(SourceNotFound, match=r"^COPY \\x1b\]31m: "):
        chosen(opened, "\x1b]31m", "/x")


def test_a_wildcard_may_match_nothing_if_something_else_does(opened: Context) -> None:
    assert chosen(opened, "a.txt", "nothing*", "/x/") == ["a.txt a.txt"]
    assert chosen(opened, "nothing*", "/x/", further=1) == []
    with pytest.raises(SourceNotFound, match=r"^COPY nothing\*: not in the build context$"):
        chosen(opened, "nothing*", "/x/")
    with pytest.raises(SourceNotFound):
        chosen(opened, "nothing/*", "also*", "/x/")
    with pytest.raises(SourceNotFound):
        chosen(opened, "a.txt", "nothing", "/x/")


def test_the_rule_that_excludes_a_source_is_named(tmp_path: Path) -> None:
    with context(tmp_path, {"a.log": "", "b.txt": "", "dir/c": "", "link": "-> a.log"}, "# no logs\n*.log\ndir\n") as opened:
        with pytest.raises(SourceNotFound) as caught:
            chosen(opened, "a.log", "/x")
        assert str(caught.value) == "COPY a.log: not in the build context: .dockerignore:2 excludes it (*.log)"
        assert caught.value.rule is not None
        assert caught.value.rule.line == 2
        with pytest.raises(SourceNotFound, match=r"\.dockerignore:3 excludes it \(dir\)"):
            chosen(opened, "dir/c", "/x")
        with pytest.raises(SourceNotFound, match=r"\.dockerignore:2 excludes it"):
            chosen(opened, "*.log", "/x/")
        with pytest.raises(SourceNotFound, match=r"the symlink leads to a.log, which is not"):
            chosen(opened, "link", "/x")
        assert chosen(opened, ".", "/x") == [" ", "b.txt b.txt", "link link"]


def test_exclusions_of_the_instruction(opened: Context) -> None:
    assert chosen(opened, "dir", "/x", exclude=["**/*.md", "inner"]) == ["dir ", "dir/sub sub", "dir/sub/y sub/y", "dir/x x"]
    assert chosen(opened, "dir", "/x", exclude=["sub"]) == ["dir ", "dir/inner inner", "dir/x x"]
    assert chosen(opened, "dir", "/x", exclude=["*", "!sub/y"]) == ["dir ", "dir/sub sub", "dir/sub/y sub/y"]
    assert chosen(opened, "home/hom*", "/x/", exclude=["*.txt"]) == ["home/hom2.md hom2.md"]
    assert chosen(opened, "a.txt", "/x", exclude=["*.txt"]) == []
    with pytest.raises(InvalidPattern):
        chosen(opened, "[", "/x/")


def test_parents_are_kept(opened: Context) -> None:
    assert chosen(opened, "dir/sub/y", "/x", keeps_parents=True) == ["dir dir", "dir/sub dir/sub", "dir/sub/y dir/sub/y"]
    assert chosen(opened, "dir2", "a.txt", "/x/", keeps_parents=True) == ["dir2 dir2", "dir2/w dir2/w", "a.txt a.txt"]
    assert chosen(opened, "**/*.md", "/x/", keeps_parents=True) == [
        "c.md c.md", "dir dir", "dir/sub dir/sub", "dir/sub/z.md dir/sub/z.md", "home home", "home/hom2.md home/hom2.md"]
    assert chosen(opened, "d*r/x", "/x/", keeps_parents=True) == ["dir dir", "dir/x dir/x"]
    assert not select(opened, ["a.txt"], "/x", keeps_parents=True).is_single


def test_the_pivot_of_parents(opened: Context) -> None:
    assert chosen(opened, "dir/./sub/y", "/x", keeps_parents=True) == ["dir/sub sub", "dir/sub/y sub/y"]
    assert chosen(opened, "./dir/./*/y", "/x", keeps_parents=True) == ["dir/sub sub", "dir/sub/y sub/y"]
    assert chosen(opened, "dirlink/./x", "/x", keeps_parents=True) == ["dir/x x"]
    assert chosen(opened, "dir2/./", "/x", keeps_parents=True) == ["dir2 ", "dir2/w w"]
    assert chosen(opened, "dir/./inner", "/x/", keeps_parents=True) == ["dir/inner inner"]
    with pytest.raises(SourceNotFound):
        chosen(opened, "dirlink/x", "/x", keeps_parents=True)
    with pytest.raises(SourceNotFound):
        chosen(opened, "none/./x", "/x", keeps_parents=True)


def test_exclusions_with_parents_are_of_whole_paths(opened: Context) -> None:
    assert chosen(opened, "dir", "/x", keeps_parents=True, exclude=["dir/sub", "**/inner"]) == ["dir dir", "dir/x dir/x"]


def test_parents_of_a_directory_that_is_partly_excluded(tmp_path: Path) -> None:
    with context(tmp_path, {"a/b/c": "", "a/b/d": "", "a/e": ""}, "*\n!a/b/c\n") as opened:
        assert chosen(opened, "a", "/x", keeps_parents=True) == ["a a", "a/b a/b", "a/b/c a/b/c"]
        assert chosen(opened, "a/b/*", "/x/") == ["a/b/c c"]


def test_names_with_special_characters(tmp_path: Path) -> None:
    with context(tmp_path, {"a[1].txt": "", "b*": "", "two\nlines": "", "back\\slash": ""}) as opened:
        assert chosen(opened, "a[[]1].txt", "/x") == ["a[1].txt a[1].txt"]
        assert chosen(opened, "b\\*", "/x") == ["b* b*"]
        assert chosen(opened, "back\\slash", "/x") == ["back\\slash back\\slash"]
        assert chosen(opened, "two?lines", "/x") == ["two\nlines two\nlines"]


def test_which_destinations_are_directories() -> None:
    assert [names_directory(text) for text in ("/x", "/x/", ".", "./", "..", "/x/.", "/x/..", "", "x.")] == [
        False, True, True, True, False, False, False, False, False]


def test_a_pattern_of_a_thousand_levels(tmp_path: Path) -> None:
    with deep(tmp_path / "c", 1000) as top, Context.from_directory(top) as opened:
        assert [each.target for each in select(opened, ["/".join(["*"] * 1001)], "/x").entries] == ["f"]
        assert len(select(opened, ["**/f"], "/x", keeps_parents=True).entries) == 1001


def test_each_source_is_a_group_of_its_own(tmp_path: Path) -> None:
    with context(tmp_path, {"d/a": "a", "d/b": "b", "f": "f", "g1": "g"}) as found:
        entries = select(found, ["d", "f", "g*"], "/x/").entries
    assert [(each.target, each.group) for each in entries] == [("", 0), ("a", 0), ("b", 0), ("f", 1), ("g1", 2)]
