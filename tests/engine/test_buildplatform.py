"""Whether commands of another kind of machine run here, by what the kernel was told of emulators."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.engine.building import platform as buildplatform
from lamina.errors import Unsupported
from lamina.oci.descriptor import Platform

HOST = Platform(os="linux", architecture="amd64")
# As Debian's qemu-user-static registers them.
ARM64 = "7f454c460201010000000000000000000200b700"
S390X = "7f454c4602020100000000000000000000020016"


def handler(directory: Path, name: str, magic: str, *, state: str = "enabled", flags: str = "OCF") -> None:
    text = f"{state}\ninterpreter /usr/libexec/qemu\nflags: {flags}\noffset 0\nmagic {magic}\nmask ffffffff\n"
    (directory / name).write_text(text)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(buildplatform, "_REGISTRY", tmp_path)
    for name in ("register", "status"):
        (tmp_path / name).write_text("enabled\n")
    return tmp_path


@pytest.mark.parametrize("text", ["linux/amd64", "linux/386"])
def test_ones_own_need_nothing(registry: Path, text: str) -> None:
    buildplatform.insist_runnable(Platform.parse(text), HOST)


@pytest.mark.parametrize(("text", "magic"), [("linux/arm64", ARM64), ("linux/s390x", S390X)])
def test_others_need_an_emulator(registry: Path, text: str, magic: str) -> None:
    platform = Platform.parse(text)
    with pytest.raises(Unsupported, match="qemu-user-static"):
        buildplatform.insist_runnable(platform, HOST)
    handler(registry, "one", magic, state="disabled")
    handler(registry, "two", magic, flags="OC")
    handler(registry, "three", ARM64 if magic == S390X else S390X)
    (registry / "four").write_text("")
    with pytest.raises(Unsupported, match="qemu-user-static"):
        buildplatform.insist_runnable(platform, HOST)
    handler(registry, "five", magic)
    buildplatform.insist_runnable(platform, HOST)


def test_another_system_is_refused(registry: Path) -> None:
    with pytest.raises(Unsupported, match="do not run on linux"):
        buildplatform.insist_runnable(Platform.parse("windows/amd64"), HOST)


def test_a_machine_without_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildplatform, "_REGISTRY", tmp_path / "none")
    with pytest.raises(Unsupported, match="FROM --platform"):
        buildplatform.insist_runnable(Platform.parse("linux/arm64"), HOST)
