from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from tests.build.made import context, deep, make

from lamina.build.context import Context, ContextNotFound, TooManyLinks
from lamina.build.ignore import Rules
from lamina.build.listing import listing
from lamina.build.rooted import Changing, NotThere, Unreadable
from lamina.build.streamed import empty, is_archive, receive, unpacked
from lamina.errors import InvalidInput
from lamina.layer.entry import Entry, Kind, PathEscapes
from lamina.layer.root import DirectoryRoot, Ownership


def walked(opened: Context, top: str = "") -> list[str]:
    return [node.path for node in opened.walk(top)]


def test_everything_in_the_order_of_names(tmp_path: Path) -> None:
    with context(tmp_path, {"b/z": "", "b.txt": "", "b/a/c": "", "a": "x", "b-c": None}) as opened:
        assert walked(opened) == ["a", "b", "b/a", "b/a/c", "b/z", "b-c", "b.txt"]
        assert walked(opened, "b") == ["b/a", "b/a/c", "b/z"]


def test_a_node_says_what_is_there(tmp_path: Path) -> None:
    make(tmp_path, {"file": "12345", "link": "-> file", "dir": None})
    os.chmod(tmp_path / "file", 0o4751)
    os.utime(tmp_path / "file", ns=(1, 123456789))
    with Context.from_directory(tmp_path) as opened:
        nodes = {node.path: node for node in opened.walk()}
    file, link, directory = nodes["file"], nodes["link"], nodes["dir"]
    assert (file.kind, file.mode, file.size, file.mtime_ns) == (Kind.FILE, 0o4751, 5, 123456789)
    assert (link.kind, link.linkname, link.size) == (Kind.SYMLINK, "file", 0)
    assert (directory.kind, directory.size, directory.name) == (Kind.DIRECTORY, 0, "dir")


def test_whoever_owns_it_in_a_context_it_is_roots(tmp_path: Path) -> None:
    make(tmp_path, {"file": ""})
    os.chown(tmp_path / "file", 12 if os.geteuid() == 0 else -1, -1)
    with Context.from_directory(tmp_path) as opened:
        (node,) = opened.walk()
        assert (node.uid, node.gid) == (0, 0)
        root = opened.look("")
        assert root is not None
        assert (root.mode, root.uid) == (0o755, 0)
    with Context.from_directory(tmp_path, ownership=Ownership.KEEP) as opened:
        (node,) = opened.walk()
        assert node.uid == os.lstat(tmp_path / "file").st_uid


def test_what_the_rules_exclude_is_not_there(tmp_path: Path) -> None:
    tree = {"a/x": "", "a/keep/y": "", "a/other/z": "", "b/x": "", "c.md": "", "d": ""}
    with context(tmp_path, tree, "a\nb\n*.md\n!a/keep\n!b/nothing\n") as opened:
        assert walked(opened) == ["a", "a/keep", "a/keep/y", "d"]
        assert opened.look("a") is not None
        assert opened.look("b") is None
        assert opened.look("a/x") is None
        assert opened.look_behind("a/x") is not None
        assert opened.resolve("c.md") is None


def test_sockets_are_left_out_and_fifos_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        with Context.from_directory(tmp_path) as opened:
            assert [(node.path, node.kind) for node in opened.walk()] == [("fifo", Kind.FIFO)]
            assert opened.look("socket") is None
            with pytest.raises(Unreadable, match=r"^fifo: expected a regular file"):
                opened.open("fifo")
            with pytest.raises(Unreadable, match=r"^fifo: expected a regular file"):
                opened.read("fifo")


def test_names_that_are_no_text_and_of_many_lines(tmp_path: Path) -> None:
    for name in (b"\xff\xfe", b"two\nlines", "ü".encode()):
        (Path(os.fsdecode(bytes(tmp_path) + b"/" + name))).write_bytes(name)
    with Context.from_directory(tmp_path) as opened:
        paths = walked(opened)
        assert paths == ["two\nlines", "ü", "\udcff\udcfe"]
        assert [opened.read(path) for path in paths] == [b"two\nlines", "ü".encode(), b"\xff\xfe"]


def test_a_tree_deeper_than_the_kernel_takes_in_one_path(tmp_path: Path) -> None:
    with deep(tmp_path / "c", 2100) as top, Context.from_directory(top) as opened:
        assert sum(1 for _node in opened.walk()) == 2101


def test_symlinks_are_resolved_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    tree = {
        "dir/file": "inside", "abs": "-> /dir/file", "up": "-> ../../../dir", "out": "-> ../secret",
        "host": "-> /etc/passwd", "a": "-> b", "b": "-> a", "chain": "-> up",
    }
    with context(tmp_path / "c", tree) as opened:
        assert opened.resolve("abs") == "dir/file"
        assert opened.resolve("chain/file") == "dir/file"
        assert opened.resolve("chain", follow=False) == "chain"
        assert opened.resolve("chain/", follow=False) == "chain"
        assert opened.resolve("chain/../dir") == "dir"
        assert opened.resolve("../../dir/./file") == "dir/file"
        assert opened.resolve("out") is None
        assert opened.resolve("host") is None
        assert opened.resolve("dir/file/x") is None
        assert opened.read("abs") == b"inside"
        for path in ("out", "host", "../secret", str(tmp_path / "secret")):
            with pytest.raises(NotThere):
                opened.read(path)
        with pytest.raises(TooManyLinks, match=r"^a/x: "):
            opened.resolve("a/x")
        with pytest.raises(Unreadable, match=r"^a: cannot be read: too many levels"):
            opened.read("a")


def test_a_directory_that_becomes_a_symlink_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    with context(tmp_path / "c", {"dir/file": "x"}) as opened:
        (tmp_path / "c" / "dir").rename(tmp_path / "c" / "old")
        (tmp_path / "c" / "dir").symlink_to(tmp_path / "outside")
        with pytest.raises(Changing, match=r"^dir: no longer the directory"):
            opened.open("dir/file")
        assert opened.look("dir/file") is None


def test_a_file_that_becomes_a_symlink_meanwhile_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with context(tmp_path / "c", {"file": "x"}) as opened:
        (tmp_path / "c" / "file").unlink()
        (tmp_path / "c" / "file").symlink_to(tmp_path / "secret")
        with pytest.raises(Unreadable, match=r"^file: cannot be read"):
            opened.open("file")


def test_what_changes_while_it_is_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    with context(tmp_path, {"a": "1", "b": "2"}) as opened:
        nodes = {node.path: node for node in opened.walk()}
        (tmp_path / "a").unlink()
        (tmp_path / "b").write_text("longer")
        with pytest.raises(Changing, match=r"^a: went away while it was read$"):
            opened.open("a")
        with pytest.raises(Changing, match=r"^b: changed while the build was reading it$"):
            opened.open_file(nodes["b"])
        (node,) = opened.walk()
        with opened.open_file(node) as file:
            assert file.read() == b"longer"


def test_reading_has_a_limit(tmp_path: Path) -> None:
    with context(tmp_path, {"a": "123456"}) as opened:
        assert opened.read("a", 6) == b"123456"
        with pytest.raises(InvalidInput, match=r"^a: longer than 5 bytes"):
            opened.read("a", 5)


def test_no_such_context(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ContextNotFound, match="no such directory"):
        Context.from_directory(tmp_path / "none")
    with pytest.raises(ContextNotFound, match="not a directory"):
        Context.from_directory(tmp_path / "file")


def test_xattrs_that_a_copy_keeps(tmp_path: Path) -> None:
    make(tmp_path, {"file": "", "plain": ""})
    os.setxattr(tmp_path / "file", "user.mine", b"\0x")
    os.setxattr(tmp_path / "file", "user.overlay.opaque", b"y")
    with Context.from_directory(tmp_path) as opened:
        assert opened.xattrs("file") == {"user.mine": b"\0x"}
        assert opened.xattrs("plain") == {}


# -- listing


def test_the_listing_names_the_rule(tmp_path: Path) -> None:
    tree = {"a/x": "12", "a/y/z": "345", "keep/in/it": "1", "keep/not": "22", "b.md": "1234", "c": "1"}
    with context(tmp_path, tree, "a\n*.md\nkeep\n!keep/in\n!c\n") as opened:
        shown = [(each.path, each.size, each.is_sent, each.rule and each.rule.line) for each in listing(opened)]
    assert shown == [
        ("a", 5, False, 1), ("b.md", 4, False, 2), ("c", 1, True, 5), ("keep", 0, True, 3),
        ("keep/in", 0, True, 4), ("keep/in/it", 1, True, 4), ("keep/not", 2, False, 3),
    ]


def test_the_listing_and_the_walk_agree(tmp_path: Path) -> None:
    tree = {"a/b/c": "", "a/d/e": "", "f/g": "", "h": ""}
    with context(tmp_path, tree, "a\n!a/d/e\nf/g\n") as opened:
        assert [each.path for each in listing(opened) if each.is_sent] == walked(opened)


# -- streams


def archive(*members: tuple[str, bytes | str | None]) -> bytes:
    """Bytes are a file, a string is a symlink's target, ``None`` a directory."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return made.getvalue()


@pytest.mark.parametrize("compress", [
    bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress], ids=["plain", "gzip", "bzip2", "xz", "zstd"])
def test_a_tar_however_it_is_compressed(tmp_path: Path, compress: object) -> None:
    data = compress(archive(("./dir/file", b"content"), ("./.wh.x", b"no whiteout"), ("link", "dir")))  # type: ignore[operator]
    assert is_archive(data[:512])
    with unpacked(io.BytesIO(data), tmp_path) as opened:
        (place,) = tmp_path.iterdir()
        assert place.stat().st_mode & 0o777 == 0o700
        assert walked(opened) == [".wh.x", "dir", "dir/file", "link"]
        assert opened.read("link/file") == b"content"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("members", [
    [("../escape", b"x")],
    [("a/../../escape", b"x")],
    [("link", "/"), ("link/escape", b"x")],
    [("link", ".."), ("link/escape", b"x")],
    [("link", "../escape"), ("link", b"x")],
])
def test_hostile_members_stay_inside(tmp_path: Path, members: list[tuple[str, bytes | str | None]]) -> None:
    (tmp_path / "here").mkdir()
    with contextlib.suppress(PathEscapes):
        unpacked(io.BytesIO(archive(*members)), tmp_path / "here").close()
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]
    assert not Path("/escape").exists()


def test_a_broken_tar_leaves_nothing_behind(tmp_path: Path) -> None:
    data = gzip.compress(archive(("a", b"x" * 5000)))
    with pytest.raises(InvalidInput):
        unpacked(io.BytesIO(data[:-20]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dockerfile_instead_of_a_context(tmp_path: Path) -> None:
    for text in (b"FROM scratch\n", b"", b"#" * 100_000):
        received = receive(io.BytesIO(text), tmp_path)
        with received.context as opened:
            assert received.dockerfile == text
            assert walked(opened) == []


def test_a_context_instead_of_a_dockerfile(tmp_path: Path) -> None:
    received = receive(io.BytesIO(archive(("Dockerfile", b"FROM scratch"))), tmp_path)
    with received.context as opened:
        assert received.dockerfile is None
        assert opened.read("Dockerfile") == b"FROM scratch"


def test_an_endless_dockerfile_is_not_read_to_its_end(tmp_path: Path) -> None:
    class Endless:
        def read(self, size: int = -1, /) -> bytes:
            return b"#" * size

    with pytest.raises(InvalidInput, match="longer than a Dockerfile may be"):
        receive(Endless(), tmp_path)


def test_an_empty_context(tmp_path: Path) -> None:
    with empty(tmp_path) as opened:
        opened.rules = Rules.parse("x")
        assert walked(opened) == []
    assert list(tmp_path.iterdir()) == []


# -- whose files


def test_owners_that_are_noted_beside_the_files(tmp_path: Path) -> None:
    make(tmp_path, {"sub/plain": ""})
    with DirectoryRoot(tmp_path, owner=Ownership.IGNORE) as root:
        root.begin()
        root.make("file", Entry("file", uid=5, gid=6), lambda _write: None)
        root.make("device", Entry("device", Kind.CHAR, uid=0, gid=7, major=1, minor=3), lambda _write: None)
        root.make("link", Entry("link", Kind.SYMLINK, 0o777, uid=8, gid=9, linkname="file"), lambda _write: None)
    with Context.from_directory(tmp_path, ownership=Ownership.IGNORE) as opened:
        found = {node.path: (node.kind, node.uid, node.gid, node.rdev) for node in opened.walk()}
        assert opened.xattrs("file") == {}
    assert found == {
        "file": (Kind.FILE, 5, 6, 0), "device": (Kind.CHAR, 0, 7, os.makedev(1, 3)), "link": (Kind.SYMLINK, 8, 9, 0),
        "sub": (Kind.DIRECTORY, 0, 0, 0), "sub/plain": (Kind.FILE, 0, 0, 0),
    }


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[None]:
    """Somebody who may not read everything, for as long as the test runs."""
    is_root = os.geteuid() == 0
    if is_root:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    yield
    if is_root:
        os.seteuid(0)


def test_what_may_not_be_read_is_said_in_a_sentence(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    make(tmp_path, {"file": "x", "dir/below": "x", "ok": "x"})
    (tmp_path / "file").chmod(0)
    (tmp_path / "dir").chmod(0)
    with Context.from_directory(tmp_path) as opened:
        request.getfixturevalue("ordinary")
        with pytest.raises(Unreadable, match=r"^file: cannot be read: permission denied$"):
            opened.open("file")
        with pytest.raises(Unreadable, match=r"^dir: cannot be read: permission denied$"):
            list(opened.walk())
        with pytest.raises(Unreadable, match=r"^dir/below: cannot be read: permission denied$"):
            opened.look("dir/below")
        opened.rules = Rules.parse("dir\n")
        assert walked(opened) == ["file", "ok"]
        assert [each.path for each in listing(opened) if not each.is_sent] == ["dir"]
    if os.getuid():
        (tmp_path / "dir").chmod(0o700)


def test_many_threads_see_all_of_it(tmp_path: Path) -> None:
    """Stages that are built at once: who listed a directory while another did missed what the other had."""
    tree = {f"d{number % 7}/e/f{number}": str(number) for number in range(400)}
    with context(tmp_path / "c", tree) as made:
        wanted = [node.path for node in made.walk()]
        seen: list[list[str]] = []

        def look() -> None:
            seen.extend([node.path for node in made.walk()] for _ in range(10))

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 80
    assert all(each == wanted for each in seen)
