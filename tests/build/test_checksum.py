from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.build.made import age, make

from lamina.build import checksum
from lamina.build.checksum import (
    RACY_NS,
    Change,
    Difference,
    Digested,
    MemoryDigests,
    decode,
    differences,
    digest_selection,
    digest_tree,
    encode,
)
from lamina.build.context import Context, StatKey
from lamina.build.filedigests import NAME, FileDigests
from lamina.build.rooted import Unreadable
from lamina.build.selection import SourceNotFound, select
from lamina.errors import InvalidInput
from lamina.layer.root import Ownership


def digested(top: Path, *, source: str = ".", ownership: Ownership | None = None) -> Digested:
    with Context.from_directory(top, ownership=ownership) as opened:
        return digest_selection(opened, select(opened, [source], "/x/"))


def tree(top: Path) -> Path:
    top.mkdir(parents=True, exist_ok=True)
    return make(top, {"file": "content", "dir/a": "1", "dir/b": "2", "link": "-> file", "empty": None})


def test_the_same_files_give_the_same_digest(tmp_path: Path) -> None:
    assert digested(tree(tmp_path / "1")) == digested(tree(tmp_path / "2"))


def test_times_do_not_matter(tmp_path: Path) -> None:
    before = digested(tree(tmp_path))
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, ns=(0, 1), follow_symlinks=False)
    assert digested(tmp_path) == before


CHANGES = {
    "content": lambda top: (top / "file").write_text("CONTENT"),
    "size": lambda top: (top / "file").write_text("content+"),
    "mode": lambda top: (top / "file").chmod(0o640),
    "setuid": lambda top: (top / "file").chmod(0o4644),
    "directory mode": lambda top: (top / "dir").chmod(0o700),
    "name": lambda top: (top / "file").rename(top / "File"),
    "moved": lambda top: (top / "file").rename(top / "dir" / "file"),
    "link target": lambda top: ((top / "link").unlink(), (top / "link").symlink_to("dir")),
    "kind": lambda top: ((top / "file").unlink(), (top / "file").symlink_to("content")),
    "fifo": lambda top: ((top / "file").unlink(), os.mkfifo(top / "file", 0o644)),
    "swapped": lambda top: ((top / "dir/a").write_text("2"), (top / "dir/b").write_text("1")),
    "added": lambda top: (top / "new").touch(),
    "added directory": lambda top: (top / "new").mkdir(),
    "removed": lambda top: (top / "empty").rmdir(),
    "xattr": lambda top: os.setxattr(top / "file", "user.x", b""),
    "directory xattr": lambda top: os.setxattr(top / "dir", "user.x", b"1"),
    "one file of two": lambda top: ((top / "dir/b").unlink(), os.link(top / "dir/a", top / "dir/b"), (top / "dir/a").write_text("2")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_other_change_matters(tmp_path: Path, change: str) -> None:
    before = digested(tree(tmp_path))
    CHANGES[change](tmp_path)
    assert digested(tmp_path).digest != before.digest


def test_two_names_of_a_file_are_not_two_files(tmp_path: Path) -> None:
    make(tmp_path, {"1/a": "x", "1/b": "x", "2/a": "x"})
    os.link(tmp_path / "2/a", tmp_path / "2/b")
    os.link(tmp_path / "1/a", tmp_path / "elsewhere")
    assert digested(tmp_path, source="1").digest != digested(tmp_path, source="2").digest
    (tmp_path / "elsewhere").unlink()
    make(tmp_path / "3", {"a": "x", "b": "x"})
    assert digested(tmp_path, source="1").digest == digested(tmp_path, source="3").digest


def test_owners_matter_where_they_are_kept(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        before = digested(tree(tmp_path), ownership=Ownership.KEEP), digested(tmp_path)
        os.chown(tmp_path / "file", 7, -1)
        after = digested(tmp_path, ownership=Ownership.KEEP), digested(tmp_path)
        os.chown(tmp_path / "file", 7, 8)
        last = digested(tmp_path, ownership=Ownership.KEEP)
        assert len({before[0].digest, after[0].digest, last.digest}) == 3
        assert before[1] == after[1]
    else:
        assert digested(tree(tmp_path), ownership=Ownership.KEEP) != digested(tmp_path)


def test_an_xattrs_bytes_are_not_taken_for_content(tmp_path: Path) -> None:
    make(tmp_path, {"1/f": "", "2/f": ""})
    os.setxattr(tmp_path / "1/f", "user.x", b"value")
    (tmp_path / "2/f").write_bytes(checksum._xattrs({"user.x": b"value"}))
    contents = {path: digested(tmp_path, source=path).digest for path in ("1", "2")}
    assert contents["1"] != contents["2"]


_CONTENTS = st.dictionaries(st.text("ab", min_size=1, max_size=3), st.text("ab", max_size=3), min_size=1, max_size=4)


@given(_CONTENTS, _CONTENTS)
def test_no_two_lists_of_files_collide(tmp_path_factory: pytest.TempPathFactory, one: dict[str, str], other: dict[str, str]) -> None:
    """Small names and contents of the same letters: bytes that move over a border are all around."""
    top = tmp_path_factory.mktemp("trees")
    digests = [digested(make(top / name, content)).digest for name, content in (("1", one), ("2", other))]
    assert (digests[0] == digests[1]) is (one == other)


def test_a_tree_of_a_filesystem(tmp_path: Path) -> None:
    make(tmp_path, {"usr/bin/tool": "x", "usr/lib": "-> bin", "bin": "-> usr/bin"})
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        assert digest_tree(root, "/bin").digest == digest_tree(root, "usr/bin").digest
        assert list(digest_tree(root, "usr").manifest) == ["", "bin", "bin/tool", "lib"]
        assert digest_tree(root).digest != digest_tree(root, "usr").digest
        before = digest_tree(root, "usr")
        (tmp_path / "usr").chmod(0o700)
        assert digest_tree(root, "usr").digest != before.digest
        with pytest.raises(SourceNotFound, match=r"^\.\./\.\./etc/passwd: not in the filesystem"):
            digest_tree(root, "../../etc/passwd")
    finally:
        os.close(root)


def test_only_what_is_selected_is_read(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1", "b": "1"})
    before = digested(tmp_path, source="a")
    (tmp_path / "b").write_text("2")
    assert digested(tmp_path, source="a") == before


# -- what is remembered


class Counting:
    """A cache that counts what is read anew."""

    def __init__(self) -> None:
        self.inner = MemoryDigests()
        self.fresh = 0

    def get(self, keys: Sequence[StatKey]) -> dict[StatKey, bytes]:
        return self.inner.get(keys)

    def put(self, items: Mapping[StatKey, bytes]) -> None:
        self.fresh += len(items)
        self.inner.put(items)


def remembered(top: Path, cache: checksum.DigestCache, now: int) -> Digested:
    with Context.from_directory(top) as opened:
        return digest_selection(opened, select(opened, ["."], "/x/"), cache, clock=lambda: now)


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    cache, now = Counting(), age(tree(tmp_path))
    first = remembered(tmp_path, cache, now)
    assert cache.fresh == 3
    assert first == remembered(tmp_path, cache, now) == digested(tmp_path)
    assert cache.fresh == 3
    (tmp_path / "dir/a").write_text("changed")
    changed = remembered(tmp_path, cache, age(tmp_path))
    assert cache.fresh == 4
    assert changed == digested(tmp_path) != first


def test_a_change_that_keeps_size_and_mtime_is_seen(tmp_path: Path) -> None:
    cache = MemoryDigests()
    first = remembered(tree(tmp_path), cache, age(tmp_path))
    status = (tmp_path / "file").stat()
    (tmp_path / "file").write_text("CONTENT")
    os.utime(tmp_path / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert remembered(tmp_path, cache, age(tmp_path)) != first


def test_an_xattr_is_seen_although_content_is_remembered(tmp_path: Path) -> None:
    cache = MemoryDigests()
    first = remembered(tree(tmp_path), cache, age(tmp_path))
    os.setxattr(tmp_path / "file", "user.x", b"1")
    assert remembered(tmp_path, cache, age(tmp_path)) == digested(tmp_path) != first


def test_what_is_young_is_not_remembered(tmp_path: Path) -> None:
    tree(tmp_path)
    newest = max((tmp_path / name).stat().st_ctime_ns for name in ("file", "dir/a", "dir/b"))
    oldest = min((tmp_path / name).stat().st_ctime_ns for name in ("file", "dir/a", "dir/b"))
    cache = Counting()
    remembered(tmp_path, cache, oldest + RACY_NS)
    assert cache.fresh == 0
    remembered(tmp_path, cache, newest + RACY_NS + 1)
    assert cache.fresh == 3


def test_a_time_in_the_future_is_not_remembered(tmp_path: Path) -> None:
    now = age(make(tmp_path, {"a": "1"}))
    os.utime(tmp_path / "a", ns=(now * 2, now * 2))
    cache = Counting()
    remembered(tmp_path, cache, now)
    assert cache.fresh == 0


KEYS = [StatKey(1, 2, 3, 4, 5), StatKey(2**64 - 1, 2**63, 0, -1, 10**18), StatKey(1, 7, 0, 0, 0)]


def test_digests_outlive_the_process(tmp_path: Path) -> None:
    with FileDigests(tmp_path) as digests:
        digests.put({KEYS[0]: b"a" * 32, KEYS[1]: b"b" * 32})
    with FileDigests(tmp_path) as digests:
        assert digests.get(KEYS) == {KEYS[0]: b"a" * 32, KEYS[1]: b"b" * 32}
        digests.put({KEYS[0]._replace(size=9): b"c" * 32})
        assert digests.get(KEYS) == {KEYS[1]: b"b" * 32}
        assert digests.get([]) == {}


def test_both_kinds_of_memory_answer_alike(tmp_path: Path) -> None:
    now = age(tree(tmp_path / "c"))
    with FileDigests(tmp_path) as digests:
        assert remembered(tmp_path / "c", digests, now) == remembered(tmp_path / "c", digests, now)
        assert remembered(tmp_path / "c", digests, now) == digested(tmp_path / "c")


@pytest.mark.parametrize("garbage", [b"not a database, but long enough to be looked at" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_broken_file_is_made_anew(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / NAME).write_bytes(garbage)
    with FileDigests(tmp_path) as digests:
        digests.put({KEYS[0]: b"a" * 32})
        assert digests.get(KEYS) == {KEYS[0]: b"a" * 32}


def test_a_file_damaged_in_its_middle_is_made_anew(tmp_path: Path) -> None:
    with FileDigests(tmp_path) as digests:
        digests.put({StatKey(1, number, 0, 0, 0): bytes(32) for number in range(1, 2000)})
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with FileDigests(tmp_path) as digests:
        assert digests.get([StatKey(1, 7, 0, 0, 0)]) == {}
        digests.put({KEYS[0]: bytes(32)})
    with FileDigests(tmp_path) as digests:
        digests.put({KEYS[0]: b"a" * 32})
        assert digests.get(KEYS) == {KEYS[0]: b"a" * 32}


def test_no_file_at_all_bothers_nobody(tmp_path: Path) -> None:
    with FileDigests(tmp_path / "missing") as digests:
        digests.put({KEYS[0]: b"a" * 32})
        assert digests.get(KEYS) == {}
    digests.put({})
    assert digests.get(KEYS) == {}


def test_many_processes_and_one_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from lamina.build.filedigests import FileDigests\n"
        "from lamina.build.context import StatKey\n"
        "digests = FileDigests(pathlib.Path(sys.argv[1]))\n"
        "start = int(sys.argv[2])\n"
        "for turn in range(int(sys.argv[3])):\n"
        "    digests.put({StatKey(start, turn, 0, 0, 0): bytes(32)})\n"
        "    print(turn, flush=True)\n"
    )
    def begin(number: int, turns: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program, tmp_path, str(number), str(turns)], stdout=subprocess.PIPE)

    doomed, others = begin(0, 10**6), [begin(number, 30) for number in (1, 2)]
    assert doomed.stdout is not None
    for _line in range(20):
        doomed.stdout.readline()
    doomed.send_signal(signal.SIGKILL)
    for process in (doomed, *others):
        process.communicate()
    assert [process.returncode for process in others] == [0, 0]
    with FileDigests(tmp_path) as digests:
        for number, count in ((0, 20), (1, 30), (2, 30)):
            keys = [StatKey(number, turn, 0, 0, 0) for turn in range(count)]
            assert len(digests.get(keys)) == count


def test_many_threads(tmp_path: Path) -> None:
    with FileDigests(tmp_path) as digests:
        def act(number: int) -> None:
            for turn in range(20):
                digests.put({StatKey(number, turn, 0, 0, 0): bytes(32)})

        threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(digests.get([StatKey(number, turn, 0, 0, 0) for number in range(4) for turn in range(20)])) == 80


def test_a_file_that_is_no_file_any_more(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1"})
    with Context.from_directory(tmp_path) as opened:
        selection = select(opened, ["a"], "/x")
        (tmp_path / "a").unlink()
        os.mkfifo(tmp_path / "a")
        with pytest.raises(Unreadable, match=r"^a: expected a regular file"):
            digest_selection(opened, selection)


# -- manifests


def test_what_changed_is_named(tmp_path: Path) -> None:
    old = digested(tree(tmp_path)).manifest
    (tmp_path / "dir/a").write_text("x")
    (tmp_path / "new").touch()
    (tmp_path / "empty").rmdir()
    assert differences(old, digested(tmp_path).manifest) == [
        Difference("dir/a", Change.CHANGED), Difference("empty", Change.REMOVED), Difference("new", Change.ADDED)]
    assert differences(old, old) == []


_PATHS = st.binary(max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))


@given(st.dictionaries(_PATHS, st.binary(min_size=8, max_size=8).map(bytes.hex)))
def test_a_manifest_comes_back_as_it_was(manifest: dict[str, str]) -> None:
    assert decode(encode(manifest)) == manifest


@given(st.binary())
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(data)


def test_a_manifest_cut_off_is_refused() -> None:
    whole = encode({"a": "00" * 8, "b": "11" * 8})
    for length in range(len(whole)):
        with pytest.raises(InvalidInput):
            decode(whole[:length])
