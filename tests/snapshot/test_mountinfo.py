"""Reading the kernel's list of mounts."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.snapshot.mountinfo import mounted_on, mounts

LINES = r"""36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue
65 43 0:39 / /tmp/a\040b\011c\134d ro,nodev,relatime - overlay overlay ro,upperdir=/x\054y,workdir=/w
70 43 0:40 /sub/tree /bind rw shared:7 master:3 propagate_from:2 - btrfs /dev/sdb rw
71 43 0:41 / /plain ro - tmpfs tmpfs rw
"""


def test_fields(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(LINES)
    one, two, three, four = mounts(tmp_path / "mountinfo")
    assert (one.number, one.target, one.type, one.source, one.root) == (36, "/mnt", "ext4", "/dev/root", "/")
    assert "errors=continue" in one.options
    assert "noatime" in one.options
    assert two.target == "/tmp/a b\tc\\d"
    assert "upperdir=/x,y" in two.options
    assert (three.root, three.type) == ("/sub/tree", "btrfs")
    assert four.type == "tmpfs"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(b"71 43 0:41 / /pl\xff\xfein ro - tmpfs tmpfs rw\n")
    (line,) = mounts(tmp_path / "mountinfo")
    assert os.fsencode(line.target) == b"/pl\xff\xfein"


def test_this_machine(tmp_path: Path) -> None:
    found = mounted_on(Path("/proc"))
    assert found is not None
    assert found.type == "proc"
    assert mounted_on(tmp_path) is None
