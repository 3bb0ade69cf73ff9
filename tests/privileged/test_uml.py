"""The machine that other tests run in keeps what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.places import wait_for
from tests.privileged.uml import REPOSITORY, Guest, GuestDied

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("uml")]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    disk = tmp_path_factory.mktemp("disks") / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    with Guest(disks=[disk], modules=["dm-thin-pool"]) as guest:
        yield guest


def test_it_answers_with_output_and_exit_code(guest: Guest) -> None:
    done = guest.run("uname -r; echo bad >&2; exit 3")
    assert done.returncode == 3
    assert done.output == f"{os.listdir('/usr/lib/uml/modules')[0]}\nbad\n"
    assert "thin" in guest.check("cat /proc/modules")
    assert guest.python("import lamina, sys; print(sys.argv[1:])", "one", "two").output == "['one', 'two']\n"


def test_its_root_is_ours_and_what_it_writes_is_not(guest: Guest) -> None:
    name = f"/usr/lamina-{os.urandom(8).hex()}"
    guest.check(f"cmp {__file__} {REPOSITORY}/tests/privileged/test_uml.py; echo x > {name}; test -e {name}")
    assert not Path(name).exists()
    (guest.shared / "ours").write_text("for the guest")
    assert guest.check(f"cat {guest.shared}/ours; echo back > {guest.shared}/theirs") == "for the guest"
    assert (guest.shared / "theirs").read_text() == "back\n"


def test_scripts_run_side_by_side(guest: Guest) -> None:
    waiting = guest.begin("until test -e /tmp/go; do sleep 0.05; done; echo gone")
    guest.check("touch /tmp/go")
    assert waiting.wait().output == "gone\n"


def test_disks_keep_what_was_written_when_it_is_killed(guest: Guest) -> None:
    guest.check("mkfs.ext4 -q /dev/ubda; mount /dev/ubda /mnt; echo kept > /mnt/file; sync /mnt/file")
    pid = guest.pid
    guest.kill()
    assert guest.check("mount /dev/ubda /mnt; cat /mnt/file; umount /mnt") == "kept\n"
    assert guest.pid != pid
    assert not [name for name in os.listdir("/proc") if name.isdigit() and _group(name) == pid]
    with pytest.raises(GuestDied, match="nothing after 1"):
        guest.run("echo slow; sleep 1000", timeout=1)
    assert guest.run("echo again").output == "again\n"


def _group(pid: str) -> int:
    try:
        return os.getpgid(int(pid))
    except ProcessLookupError:
        return 0


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    code = (
        "from tests.privileged.uml import Guest; import os\n"
        "guest = Guest(memory='128M'); guest.start(); print(guest.home, guest.pid, flush=True); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    home, pid = done.stdout.split()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text())
    subprocess.run(["rm", "-r", home], check=True)
