"""What of the driver devicemapper needs no device-mapper: options, what the kernel says, superblocks, the probe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.snapshot.devicemapper.driver import OPTIONS, open_driver, try_driver
from lamina.snapshot.devicemapper.pool import PoolSource, PoolStatus, read_status
from lamina.snapshot.devicemapper.settings import read_settings
from lamina.snapshot.devicemapper.superblock import checksum, mark_for_recovery, read_superblock
from lamina.snapshot.drivers import read_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.snapshotter import DriverUnavailable, TellsProblems


def test_defaults_are_dockers_but_for_discard() -> None:
    found = read_settings({})
    assert (found.base_size, found.loop_data_size, found.loop_metadata_size) == (10 << 30, 100 << 30, 2 << 30)
    assert (found.filesystem, found.min_free_space, found.has_loop, found.block_size) == ("ext4", 10, False, 1 << 16)
    assert found.mount_options == ("discard",)


@pytest.mark.parametrize(("text", "size"), [
    ("20G", 20 << 30), ("512m", 512 << 20), ("1.5GB", 3 << 29), ("1TiB", 1 << 40), ("1073741824", 1 << 30),
])
def test_sizes(text: str, size: int) -> None:
    assert read_settings({"basesize": text}).base_size == size


@pytest.mark.parametrize(("options", "message"), [
    ({"basesize": "large"}, "dm.basesize: expected a size such as 512m or 10G, got 'large'"),
    ({"basesize": "0"}, "dm.basesize: expected a size"),
    ({"fs": "btrfs"}, "dm.fs=btrfs: expected one of ext4, xfs"),
    ({"min_free_space": "100%"}, "dm.min_free_space: expected a percentage below 100"),
    ({"allow_loop": "perhaps"}, "dm.allow_loop: expected true or false"),
    ({"blocksize": "70K"}, "dm.blocksize: expected a multiple of 64K"),
    ({"datadev": "/dev/sdb"}, "dm.datadev and dm.metadatadev belong together"),
    ({"datadev": "/dev/sdb", "metadatadev": "/dev/sdc", "thinpooldev": "pool"}, "give one of them"),
])
def test_what_is_no_option(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_settings(options)


@given(st.dictionaries(st.sampled_from(OPTIONS), st.text()))
def test_any_text_is_refused_or_read(options: dict[str, str]) -> None:
    try:
        found = read_settings(options)
    except InvalidInput:
        return
    assert found.base_size > 0
    assert found.min_free_space < 100


def test_options_go_by_dockers_prefix() -> None:
    assert read_options(["dm.basesize=20G"]) == {"devicemapper.basesize": "20G"}
    with pytest.raises(InvalidInput, match="the driver devicemapper has thinpooldev"):
        read_options(["dm.use_deferred_removal=true"])


def test_what_a_pool_says_of_itself() -> None:
    said = "7 131/4096 40/16384 - rw discard_passdown queue_if_no_space - 1024"
    assert read_status(said) == PoolStatus(
        mode="rw", used=40, total=16384, used_metadata=131, total_metadata=4096, is_queueing=True
    )
    said = "0 117/1024 768/768 - out_of_data_space discard_passdown error_if_no_space needs_check 256"
    found = read_status(said)
    assert (found.mode, found.needs_check, found.is_queueing) == ("out_of_data_space", True, False)
    assert read_status("Fail") == PoolStatus(mode="fail")
    assert read_status("Error") == PoolStatus(mode="fail")


def made(path: Path, size: int, *command: str) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    subprocess.run([*command, path], check=True, capture_output=True)
    return path


UUID = "0d6a0a2e-6dfb-4a3c-9a9b-8f2d6d1b1c11"


def test_superblocks(tmp_path: Path) -> None:
    ext4 = read_superblock(made(tmp_path / "ext4", 64 << 20, "mkfs.ext4", "-q", "-U", UUID))
    assert ext4 is not None
    assert (ext4.uuid, ext4.size, ext4.is_at_rest, ext4.has_errors) == (UUID, 64 << 20, True, False)
    assert 0 < ext4.size - ext4.free < 32 << 20
    assert ext4.inodes == 11  # lost+found is the first that is nobody's reserved one
    xfs = read_superblock(made(tmp_path / "xfs", 320 << 20, "mkfs.xfs", "-q", "-m", f"uuid={UUID}"))
    assert xfs is not None
    assert (xfs.uuid, xfs.size, xfs.is_at_rest, xfs.inodes) == (UUID, 320 << 20, False, 3)
    assert read_superblock(made(tmp_path / "nothing", 1 << 20, "true")) is None
    assert read_superblock(made(tmp_path / "empty", 0, "true")) is None


def test_a_mark_for_recovery_is_one_that_others_believe(tmp_path: Path) -> None:
    path = made(tmp_path / "ext4", 64 << 20, "mkfs.ext4", "-q", "-O", "metadata_csum")
    mark_for_recovery(path)
    found = read_superblock(path)
    assert found is not None
    assert not found.is_at_rest
    told = subprocess.run(["dumpe2fs", "-h", path], capture_output=True, text=True, check=True)
    assert "needs_recovery" in told.stdout
    assert "checksum" not in told.stderr
    assert subprocess.run(["e2fsck", "-p", path], capture_output=True, check=False).returncode == 0
    found = read_superblock(path)
    assert found is not None
    assert found.is_at_rest


def test_the_checksum_is_crc32c() -> None:
    assert checksum(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # the check value of RFC 3720's CRC


ROOT = Identity(ownership=Ownership.KEPT, is_entered=True, may_mount=True, is_initial=True)
LOOP = {"allow_loop": "true"}


def reason(identity: Identity, options: dict[str, str]) -> str:
    hands = Hands(identity)
    try:
        return try_driver(Path("/nonexistent"), hands, options)
    finally:
        hands.close()


def test_the_probe_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    user = Identity(ownership=Ownership.SINGLE, is_entered=False, may_mount=True, is_initial=False)
    assert reason(user, LOOP).startswith("needs root")
    assert reason(ROOT, {}).startswith("needs a thin pool: dm.thinpooldev=/dev/mapper/NAME")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert reason(ROOT, LOOP) == "needs mkfs.ext4"
    assert reason(ROOT, {**LOOP, "fs": "xfs"}) == "needs mkfs.xfs"


def test_the_probe_says_that_the_kernel_has_no_device_mapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.snapshot.devicemapper import ioctl

    monkeypatch.setattr(ioctl, "_CONTROL", tmp_path / "control")
    assert reason(ROOT, LOOP) == "needs device-mapper in the kernel (modprobe dm_mod): No such file or directory"


def test_a_pool_is_made_of_blank_devices_and_goes_to_no_others(tmp_path: Path) -> None:
    """``/dev/sdb`` may be another disk after a boot."""
    data, metadata, other = (tmp_path / name for name in ("data", "metadata", "other"))
    for path in (data, metadata, other):
        path.write_bytes(bytes(8192))

    def claim(first: Path, *, may_begin: bool) -> None:
        settings = read_settings({"datadev": str(first), "metadatadev": str(metadata)})
        PoolSource(settings, tmp_path, "token")._claim(str(first), str(metadata), may_begin=may_begin)

    claim(other, may_begin=True)
    claim(data, may_begin=True)  # nothing was in that one
    for path in (data, metadata, other):
        path.write_bytes(b"precious")
    claim(data, may_begin=False)
    with pytest.raises(DriverUnavailable, match=f"the pool is on {data} and {metadata}, and not on {other} and"):
        claim(other, may_begin=False)
    with pytest.raises(DriverUnavailable, match=f"{other} holds something already"):
        claim(other, may_begin=True)


def test_who_keeps_a_pool_in_files_is_warned(tmp_path: Path) -> None:
    for name in ("layers", "snapshots"):
        (tmp_path / name).mkdir()
    cautions = []
    state = State(tmp_path / "state.sqlite")
    for options in ({}, {"allow_loop": "true"}):
        driver = open_driver(state, LayerStore(tmp_path), Hands(Identity(ownership=Ownership.KEPT)), options)
        assert isinstance(driver, TellsProblems)
        assert list(driver.problems()) == []
        cautions.append(driver.caution)
        driver.close()
    state.close()
    assert cautions[0] == ""
    assert "a power cut can lose" in cautions[1]
