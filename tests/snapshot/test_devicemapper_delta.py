"""Where inodes are, as the filesystems' own programs say, and what is read from thin_delta."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.snapshot.devicemapper.delta import Delta, DeltaUnknown, read_delta
from lamina.snapshot.devicemapper.inodetables import Inodes, InodesUnknown, read_inodes


def output(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def image(path: Path, size: int, *command: str | Path) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    output(*command, path)
    return path


def inodes_of(path: Path) -> Inodes:
    def read(place: int, size: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(place)
            return stream.read(size)

    return read_inodes(read)


@pytest.mark.parametrize("arguments", [
    (), ("-O", "64bit"), ("-O", "^64bit"), ("-b", "1024"), ("-I", "128"), ("-O", "^flex_bg"), ("-b", "1024", "-G", "4"),
    ("-O", "bigalloc"), ("-O", "bigalloc", "-b", "4096"), ("-N", "5000"),
])
def test_inodes_of_ext4(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    made = image(tmp_path / "image", 300 << 20, "mkfs.ext4", "-q", "-F", *arguments)
    found = inodes_of(made)
    said = output("dumpe2fs", "-h", made)
    count, block, size = (
        int(re.search(rf"^{name}:\s+(\d+)$", said, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("Inode count", "Block size", "Inode size")
    )
    assert found.size == size
    numbers = [1, 2, count, *(Random(1).randint(1, count) for _ in range(20))]
    script = tmp_path / "script"
    script.write_text("".join(f"imap <{number}>\n" for number in numbers))
    places = re.findall(r"located at block (\d+), offset 0x([0-9a-f]+)", output("debugfs", "-f", script, made))
    assert [found.place(number) for number in numbers] == [int(at) * block + int(more, 16) for at, more in places]


@pytest.mark.parametrize("arguments", [(), ("-i", "size=1024"), ("-b", "size=1024"), ("-d", "agcount=5")])
def test_inodes_of_xfs(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    made = image(tmp_path / "image", 640 << 20, "mkfs.xfs", "-q", *arguments)
    found = inodes_of(made)
    names = ("inodesize", "agcount", "agblocks", "agblklog", "inopblog")
    said = output("xfs_db", "-r", "-c", "sb 0", "-c", f"p {' '.join(names)}", made)
    size, groups, blocks, block_log, inode_log = (int(line.split("=")[1]) for line in said.splitlines())
    assert found.size == size
    chance = Random(1)
    numbers = [128] + [
        (chance.randrange(groups) << block_log | chance.randrange(blocks)) << inode_log | chance.randrange(1 << inode_log)
        for _ in range(20)
    ]
    for number in numbers:
        place = re.search(r"\((\d+)\)", output("xfs_db", "-r", "-c", f"convert inode {number} fsbyte", made))
        assert place is not None
        assert found.place(number) == int(place[1])


def test_forms_whose_inodes_may_be_elsewhere(tmp_path: Path) -> None:
    made = image(tmp_path / "image", 64 << 20, "mkfs.ext4", "-q", "-F", "-O", "meta_bg,^resize_inode")
    with pytest.raises(InodesUnknown, match="may be anywhere"):
        inodes_of(made)
    with made.open("wb") as stream:
        stream.truncate(1 << 20)
    with pytest.raises(InodesUnknown, match="neither ext4 nor xfs"):
        inodes_of(made)


# -- what a pool tells

TOLD = """\
<superblock uuid="" time="2" transaction="0" data_block_size="128" nr_data_blocks="0">
  <diff left="5549390" right="15461751">
    <different begin="4" length="1"/>
    <same begin="5" length="3"/>
    <right_only begin="2112" length="2"/>
    <left_only begin="0" length="1"/>
  </diff>
</superblock>
"""


def test_parts_in_bytes_and_in_order() -> None:
    block = 64 << 10
    assert read_delta(TOLD) == [(0, block), (4 * block, 5 * block), (2112 * block, 2114 * block)]


@pytest.mark.parametrize("text", [
    "", TOLD.replace("same", "perhaps"), TOLD[:-15], TOLD[10:], TOLD.replace('"5549390"', "5").replace("</diff>", "<more/>"),
    TOLD.replace('length="3"', 'length="-3"'),
])
def test_what_is_not_known(text: str) -> None:
    with pytest.raises(DeltaUnknown):
        read_delta(text)


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(DeltaUnknown):
        read_delta(text)


# -- both


def changed(path: Path, number: int, at: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(inodes_of(path).place(number) + at)
        stream.write(data)


def test_inodes_that_differ_where_blocks_are_not_shared(tmp_path: Path) -> None:
    lower = image(tmp_path / "lower", 64 << 20, "mkfs.ext4", "-q", "-F")
    upper = tmp_path / "upper"
    upper.write_bytes(lower.read_bytes())
    inodes = inodes_of(lower)
    changed(upper, 12, 0x0C, b"time")
    changed(upper, 13, 0x08, b"read")
    changed(upper, 8000, 0x0C, b"time")
    for number, expected in ((12, True), (11, False), (13, False), (8000, False)):
        chunk = inodes.place(12) // 65536 * 65536
        delta = Delta(lower, upper, [(0, 1), (chunk, chunk + 65536)])
        assert delta.is_changed(number) is expected
        delta.close()
    delta = Delta(lower, upper, [])
    assert not delta.is_changed(12)
    delta.close()


def test_a_device_that_has_grown(tmp_path: Path) -> None:
    """What the smaller one does not have has changed."""
    lower = image(tmp_path / "lower", 64 << 20, "mkfs.ext4", "-q", "-F")
    upper = tmp_path / "upper"
    upper.write_bytes(lower.read_bytes())
    os.truncate(upper, 512 << 20)
    output("resize2fs", upper)
    changed(upper, (last := 65536 // 2), 0x0C, b"time")
    delta = Delta(lower, upper, [(0, 512 << 20)])
    assert delta.is_changed(last)
    assert not delta.is_changed(13)
    delta.close()
