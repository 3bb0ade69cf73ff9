"""Carrying out mount instructions on this kernel, and as if it were an older one."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import InvalidInput
from lamina.snapshot import mounting, syscalls
from lamina.snapshot.mountinfo import mounted_on, mounts
from lamina.snapshot.mounting import (
    MountBusy,
    MountDenied,
    MountFailed,
    can_mount,
    mount_all,
    mounted,
    unmount,
)
from lamina.snapshot.snapshotter import Mount, TooManyLayers

pytestmark = pytest.mark.privileged


def below(top: Path) -> list[str]:
    """What is mounted there. Tests beside this one mount elsewhere."""
    return [line.target for line in mounts() if line.target.startswith(str(top))]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "place"
    place.mkdir()
    yield place
    left = below(tmp_path)
    for target in reversed(left):
        syscalls.umount(target, syscalls.MNT_DETACH)
    assert left == []


def lowers(top: Path, count: int) -> tuple[Mount, ...]:
    """Directories with one file each; the first is topmost."""
    made = []
    for number in range(count):
        path = top / f"layer {number}, with: odd\\name"
        path.mkdir()
        (path / str(number)).write_text(str(number))
        (path / "same").write_text(str(number))
        made.append(Mount(type="bind", source=str(path)))
    return tuple(made)


def overlay(layers: tuple[Mount, ...], *options: str) -> Mount:
    return Mount(type="overlay", source="overlay", options=options, layers=layers)


def erofs(tmp_path: Path) -> Mount:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "inside").write_text("image")
    subprocess.run(["mkfs.erofs", "--quiet", tmp_path / "image", tmp_path / "files"], check=True, capture_output=True)
    return Mount(type="erofs", source=str(tmp_path / "image"), options=("ro",))


class Kernels:
    """What to take away from the one we have."""

    @staticmethod
    def this(_monkeypatch: pytest.MonkeyPatch) -> None:
        pass

    @staticmethod
    def before_6_13(monkeypatch: pytest.MonkeyPatch) -> None:
        def declined(_context: int, name: str, _descriptor: int) -> None:
            raise OSError(errno.EINVAL, "no descriptors", name)

        monkeypatch.setattr(syscalls, "fsconfig_descriptor", declined)

    @staticmethod
    def before_6_8(monkeypatch: pytest.MonkeyPatch) -> None:
        """overlayfs has the new calls, and no word for one layer more."""
        Kernels.before_6_13(monkeypatch)
        whole = syscalls.fsconfig_text

        def declined(context: int, name: str, value: str) -> None:
            if name == "lowerdir+":
                raise OSError(errno.EINVAL, "no such option", "lowerdir+")
            whole(context, name, value)

        monkeypatch.setattr(syscalls, "fsconfig_text", declined)

    @staticmethod
    def before_6_5(monkeypatch: pytest.MonkeyPatch) -> None:
        def declined(_context: int, name: str, _descriptor: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "an older filesystem", name)

        monkeypatch.setattr(syscalls, "fsconfig_descriptor", declined)

    @staticmethod
    def before_5_2(monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*_arguments: object) -> int:
            raise OSError(errno.ENOSYS, "no such call")

        monkeypatch.setattr(syscalls, "fsopen", missing)
        monkeypatch.setattr(syscalls, "open_tree", missing)


@pytest.fixture(params=["this", "before_6_13", "before_6_8", "before_6_5", "before_5_2"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    getattr(Kernels, request.param)(monkeypatch)
    return request.param


@pytest.mark.parametrize("count", [2, 130, 500])
def test_layers_in_their_order(kernel: str, place: Path, tmp_path: Path, count: int) -> None:
    with mounted([overlay(lowers(tmp_path, count), "ro")], place) as path:
        assert len(os.listdir(path)) == count + 1
        assert (path / "same").read_text() == "0"
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").touch()


@pytest.mark.parametrize(("option", "shown"), [
    ("noatime", {"noatime"}), ("nodiratime", {"nodiratime", "relatime"}), ("relatime", {"relatime"}), ("strictatime", set()),
])
def test_when_reading_is_noted(kernel: str, place: Path, option: str, shown: set[str]) -> None:
    """A filesystem does not know these: they are the mount's."""
    with mounted([Mount(type="tmpfs", source="tmpfs", options=("nodev", option))], place) as path:
        (line,) = [each for each in mounts() if each.target == str(path)]
        assert "nodev" in line.options
        assert {each for each in line.options if each.endswith("atime")} == shown


def test_writing(kernel: str, place: Path, tmp_path: Path) -> None:
    for name in ("upper, odd", "work"):
        (tmp_path / name).mkdir()
    options = (f"upperdir={tmp_path / 'upper, odd'}", f"workdir={tmp_path / 'work'}", "metacopy=off")
    with mounted([overlay(lowers(tmp_path, 1), *options)], place) as path:
        (path / "same").write_text("mine")
    assert (tmp_path / "upper, odd" / "same").read_text() == "mine"


def test_bind(kernel: str, place: Path, tmp_path: Path) -> None:
    (layer,) = lowers(tmp_path, 1)
    with mounted([layer], place) as path:
        (path / "new").write_text("x")
    with mounted([Mount(type="bind", source=layer.source, options=("ro",))], place, also=("nodev", "nosuid")) as path:
        assert (path / "new").read_text() == "x"
        line = mounted_on(path)
        assert line is not None
        assert {"ro", "nodev", "nosuid"} <= set(line.options)
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").write_text("y")


def test_more_layers_than_the_kernel_takes(kernel: str, place: Path, tmp_path: Path) -> None:
    layers = lowers(tmp_path, 1) * 501
    with pytest.raises(TooManyLayers, match=r"501 layers: overlayfs stacks at most 500"):
        mount_all([overlay(layers)], place)


def test_paths_that_fill_the_page_of_options(kernel: str, place: Path, tmp_path: Path) -> None:
    """Those of what is written too."""
    deep = tmp_path.joinpath(*["d" * 200] * 9)
    deep.mkdir(parents=True)
    for name in ("upper", "work"):
        (deep / name).mkdir()
    options = (f"upperdir={deep / 'upper'}", f"workdir={deep / 'work'}")
    with mounted([overlay(lowers(tmp_path, 400), *options)], place) as path:
        (path / "new").write_text("x")
        assert len(os.listdir(path)) == 402
    assert (deep / "upper" / "new").exists()


def test_layers_that_are_mounts_leave_no_trace(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = erofs(tmp_path)
    for change in (Kernels.this, Kernels.before_6_13):
        with monkeypatch.context() as context:
            change(context)
            with mounted([overlay((*lowers(tmp_path / change.__name__, 1), image), "ro")], place) as path:
                assert (path / "inside").read_text() == "image"
                assert (path / "0").read_text() == "0"
                assert below(tmp_path) == [str(place)]
            assert below(tmp_path) == []


@pytest.fixture(autouse=True)
def parents(tmp_path: Path) -> None:
    for name in ("this", "before_6_13"):
        (tmp_path / name).mkdir()


def test_a_path_longer_than_a_string_may_be(place: Path, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 60] * 5)
    deep.mkdir(parents=True)
    for name in ("upper", "work"):
        (deep / name).mkdir()
    options = (f"upperdir={deep / 'upper'}", f"workdir={deep / 'work'}")
    with mounted([overlay(lowers(deep, 2), *options)], place) as path:
        (path / "new").write_text("x")
    assert (deep / "upper" / "new").exists()


def test_all_or_nothing(place: Path, tmp_path: Path) -> None:
    (place / "inner").mkdir()
    layers = lowers(tmp_path, 2)
    inner = Mount(type="bind", source=layers[0].source, target="inner")
    with mounted([inner], place) as path:
        assert (path / "inner" / "0").exists()
    broken = Mount(type="nothing like it", source="x")
    with pytest.raises(MountFailed, match="no such filesystem"):
        mount_all([inner, broken], place)
    assert mounted_on(place / "inner") is None


@pytest.mark.parametrize("target", ["..", "a/../..", "/etc", "inner/./x", "link/x"])
def test_targets_stay_below(place: Path, tmp_path: Path, target: str) -> None:
    (place / "a").mkdir()
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", place / "link")
    (layer,) = lowers(tmp_path, 1)
    with pytest.raises((InvalidInput, OSError)):
        mount_all([Mount(type="bind", source=layer.source, target=target)], place)


def test_a_busy_mount_says_so(place: Path, tmp_path: Path) -> None:
    mount_all([overlay(lowers(tmp_path, 2), "ro")], place)
    with open(place / "0", encoding="ascii"), pytest.raises(MountBusy, match="in use"):
        unmount(place)
    unmount(place)
    unmount(place)  # nothing there is fine


def test_the_kernel_is_quoted(place: Path, tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match=r"mount overlay overlay over 2 layers: .*nosuchoption"):
        mount_all([overlay(lowers(tmp_path, 2), "nosuchoption=1")], place)
    (tmp_path / "image").write_bytes(bytes(100_000))
    with pytest.raises(MountFailed):
        mount_all([Mount(type="erofs", source=str(tmp_path / "image"), options=("ro",))], place)


def test_trying_leaves_nothing(kernel: str, tmp_path: Path) -> None:
    assert can_mount(overlay(lowers(tmp_path, 2), "ro")) == ""
    assert "no such filesystem" in can_mount(Mount(type="nothing like it", source="x"))
    assert below(tmp_path) == []


def test_without_the_right_to(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_kind: str) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(mounting.syscalls, "fsopen", forbidden)
    with pytest.raises(MountDenied):
        mount_all([overlay(lowers(tmp_path, 2))], place)
