"""Every row of the table of layer cases as root, with owners and devices, and as nobody at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.layer.case_runner import Host, judge, run
from tests.layer.layer_cases import CASES, MORE, Case
from tests.layer.observed import on_disk

from lamina.layer.root import DirectoryRoot, Ownership

pytestmark = pytest.mark.privileged
each = pytest.mark.parametrize("case", CASES + MORE, ids=lambda case: f"{case.number}-{case.name}")

NOBODY = 65534


@each
def test_as_root(case: Case, tmp_path: Path) -> None:
    host = Host(tmp_path)
    with DirectoryRoot(host.root, owner=Ownership.KEEP) as root:
        if run(case, root, host):
            judge(case, on_disk(host.root), host)
        assert not root.refused_xattrs
    host.insist_untouched()


@contextmanager
def as_nobody() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@each
def test_as_nobody(case: Case, tmp_path: Path) -> None:
    """Modes bind this user: read-only directories must be filled all the same."""
    host = Host(tmp_path)
    os.chown(host.root, NOBODY, NOBODY)
    top = os.open(host.root, os.O_RDONLY)  # the way here is closed to others
    try:
        with as_nobody(), DirectoryRoot(f"/proc/self/fd/{top}/.", owner=Ownership.IGNORE) as root:
            is_done = run(case, root, host)
            refused = root.refused_xattrs
        if is_done:
            needs_rights = any(wanted and wanted["type"] in "cb" for wanted in case.expected.values())
            ignoring = ("uid", "gid", *(("type", "device") if needs_rights else ()), *(("xattrs",) if refused else ()))
            judge(case, on_disk(host.root), host, ignoring=ignoring)
        os.chown(host.root, 0, 0)
        host.insist_untouched()
    finally:
        os.close(top)
