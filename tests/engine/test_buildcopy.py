"""ADD: what is unpacked, what is copied, and in which order."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from lamina.build.checksum import MemoryDigests
from lamina.build.context import Context
from lamina.build.instruction import Add
from lamina.build.selection import Place
from lamina.build.syntax import parse
from lamina.engine.building.copying import gather
from lamina.testing.images import file, tar_of

TAR = tar_of([file("f", b"packed")])
FILES = {
    "a.tar": TAR, "b.tgz": gzip.compress(TAR), "c.tbz": bz2.compress(TAR), "d.txz": lzma.compress(TAR),
    "none": bytes(10240), "text.gz": gzip.compress(b"text" * 400), "short.gz": gzip.compress(b"x"), "plain": b"plain",
    "cut.gz": gzip.compress(TAR)[:20], "twice.gz": gzip.compress(gzip.compress(TAR)), "empty": b"",
}


def parts(top: Path, line: str) -> list[tuple[bool, list[str]]]:
    for name, data in FILES.items():
        (top / name).write_bytes(data)
    (add,) = parse(f"FROM x\n{line}").instructions[1:]
    assert isinstance(add, Add)
    with Context.from_directory(str(top)) as context:
        found = gather(add, context, MemoryDigests(), place=Place("ADD"))
    return [(part.is_archive, [each.target for each in part.selection.entries]) for part in found.parts]


@pytest.mark.parametrize("name", ["a.tar", "b.tgz", "c.tbz", "d.txz"])
def test_tars_are_unpacked_however_they_are_compressed(tmp_path: Path, name: str) -> None:
    assert parts(tmp_path, f"ADD {name} /x/") == [(True, [name])]


@pytest.mark.parametrize("name", ["none", "text.gz", "short.gz", "plain", "cut.gz", "twice.gz", "empty"])
def test_what_holds_no_tar_is_copied(tmp_path: Path, name: str) -> None:
    assert parts(tmp_path, f"ADD {name} /x/") == [(False, [name])]


def test_sources_keep_their_order(tmp_path: Path) -> None:
    """What comes later replaces what came before, packed or not."""
    assert parts(tmp_path, "ADD a.tar plain empty b.tgz text.gz /x/") == [
        (True, ["a.tar"]), (False, ["plain", "empty"]), (True, ["b.tgz"]), (False, ["text.gz"]),
    ]
