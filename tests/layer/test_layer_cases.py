"""Every row of the table of layer cases, in memory and on disk; with owners and devices in tests/privileged."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.layer.case_runner import Host, judge, run
from tests.layer.layer_cases import CASES, MORE, Case
from tests.layer.observed import in_memory, on_disk

from lamina.layer.root import DirectoryRoot, MemoryRoot, Ownership

each = pytest.mark.parametrize("case", CASES + MORE, ids=lambda case: f"{case.number}-{case.name}")


def test_table_is_whole() -> None:
    assert [case.number for case in CASES] == list(range(1, 116))
    assert len({case.name for case in CASES + MORE}) == len(CASES + MORE)


@each
def test_in_memory(case: Case, tmp_path: Path) -> None:
    host = Host(tmp_path)
    root = MemoryRoot()
    if run(case, root, host):
        judge(case, in_memory(root), host)
    host.insist_untouched()


@each
def test_on_disk_with_our_ownership(case: Case, tmp_path: Path) -> None:
    """What needs no rights. Devices are empty files then, and some xattrs stay away."""
    host = Host(tmp_path)
    with DirectoryRoot(host.root, owner=Ownership.IGNORE) as root:
        if run(case, root, host):
            needs_rights = any(wanted and wanted["type"] in "cb" for wanted in case.expected.values())
            ignoring = ("uid", "gid", "type", "device") if needs_rights else ("uid", "gid")
            refused = root.refused_xattrs
            judge(case, on_disk(host.root), host, ignoring=(*ignoring, "xattrs") if refused else ignoring)
    host.insist_untouched()
