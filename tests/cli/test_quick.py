"""The short way to ``lamina images`` says what the long way says, and steps aside when it cannot."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.fakes import Terminal

from lamina.cli import quick
from lamina.cli.dispatch import main
from lamina.cli.session import Session
from lamina.content import state
from lamina.content.local import LocalStore
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, Platform
from lamina.oci.manifest import Manifest
from lamina.oci.reference import Reference

PLATFORM = Platform(os="linux", architecture="amd64")


def put_image(store: LocalStore, created: str, names: tuple[str, ...]) -> None:
    config = ImageConfig.build({
        "created": created, "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []},
    })
    manifest = Manifest.build(store.put_bytes(OCI_CONFIG, config.raw), [])
    root = store.put_bytes(manifest.media_type, manifest.raw)
    store.record(root, names=tuple(Reference.parse(name).canonical for name in names), manifest=manifest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = LocalStore.create(tmp_path / "root %#?", platform=PLATFORM)
    put_image(store, "2024-05-01T12:00:00Z", ("redis:7", "redis:latest", "registry.test:5000/a/b:1"))
    put_image(store, "2023-05-01T12:00:00.5Z", ("docker.io/team/app:x",))
    put_image(store, "", ())
    store.close()
    return tmp_path / "root %#?"


def environ_of(root: Path) -> dict[str, str]:
    return {"HOME": str(root.parent), "LAMINA_ROOT": str(root)}


def long_way(words: list[str], root: Path) -> str:
    out = Terminal()
    session = Session(stdin=Terminal(), stdout=out, stderr=Terminal(), environ=environ_of(root), clock=time.time)
    assert main(words, session) == 0
    return out.bytes.decode()


@pytest.mark.parametrize("words", [
    ["images"], ["image", "ls"], ["images", "-q"], ["images", "--no-trunc"], ["images", "--digests"],
    ["images", "-a", "--digests", "--no-trunc"], ["images", "-aq"], ["images", "-q", "--no-trunc"],
], ids=" ".join)
def test_both_ways_say_the_same(root: Path, words: list[str]) -> None:
    text = quick.answer(words, environ_of(root))
    assert text is not None
    assert text == long_way(words, root)
    assert text.count("\n") >= 3


@pytest.mark.parametrize("words", [
    [], ["images", "redis"], ["images", "--format", "json"], ["images", "--filter", "dangling=true"], ["images", "-x"],
    ["--root", "x", "images"], ["history", "redis"], ["images", "--help"], ["image"],
], ids=" ".join)
def test_anything_else_is_left_to_the_engine(root: Path, words: list[str]) -> None:
    assert quick.answer(words, environ_of(root)) is None


def test_settings_are_left_to_those_who_read_them(root: Path) -> None:
    environ = environ_of(root)
    assert quick.answer(["images"], {**environ, "LAMINA_STORAGE_DRIVER": "vfs"}) is None
    assert quick.answer(["images"], {**environ, "DOCKER_DEFAULT_PLATFORM": "linux/arm64"}) is None
    (root.parent / ".config" / "lamina").mkdir(parents=True)
    assert quick.answer(["images"], environ) is None
    assert quick.answer(["images"], {**environ, "XDG_CONFIG_HOME": str(root)}) is not None


def test_no_store_or_a_strange_one_is_left_to_the_engine(root: Path, tmp_path: Path) -> None:
    assert quick.answer(["images"], environ_of(tmp_path / "absent")) is None
    import sqlite3

    connection = sqlite3.connect(root / "state.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert quick.answer(["images"], environ_of(root)) is None
    (root / "state.sqlite").write_bytes(b"not a database at all")
    assert quick.answer(["images"], environ_of(root)) is None


def test_it_knows_the_layout_that_the_store_writes() -> None:
    assert quick.SCHEMA_VERSION == state.SCHEMA_VERSION


_PART = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
_PATH = st.lists(_PART, min_size=1, max_size=3).map("/".join)
_REGISTRY = st.sampled_from(["", "docker.io/", "localhost/", "registry.test:5000/", "library/"])
_SUFFIX = st.sampled_from(["", ":7", ":latest", "@sha256:" + "a" * 64, ":7@sha256:" + "a" * 64])


@given(_REGISTRY, _PATH, _SUFFIX)
def test_familiar_spelling_is_the_references(registry: str, path: str, suffix: str) -> None:
    reference = Reference.parse(registry + path + suffix)
    assert quick.familiar(reference.canonical) == (reference.familiar_name, reference.tag)


def modules_after(*words: str, root: Path) -> set[str]:
    """What a fresh interpreter has imported when the command is done."""
    code = (
        "import sys; from lamina.cli.main import answer\n"
        f"answer({list(words)!r})\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**environ_of(root), "PATH": ""}, capture_output=True,
                          text=True, check=True)
    return set(done.stderr.split())


def test_images_imports_next_to_nothing(root: Path) -> None:
    assert not modules_after("images", root=root) & {
        "argparse", "dataclasses", "inspect", "json", "pathlib", "re", "typing", "lamina.engine.engine",
    }


@pytest.mark.parametrize("words", [("version",), ("help",), ("help", "pull"), ("completion", "bash")], ids=" ".join)
def test_words_alone_import_no_engine(root: Path, words: tuple[str, ...]) -> None:
    assert not modules_after(*words, root=root) & {
        "lamina.engine.engine", "sqlite3", "http.client", "ssl", "rich", "asyncio", "lamina.snapshot.snapshotter", "platform",
    }


@pytest.mark.parametrize("words", [("inspect", "redis:7"), ("history", "redis:7"), ("images", "redis")], ids=" ".join)
def test_verbs_that_only_look_import_no_network_and_no_colours(root: Path, words: tuple[str, ...]) -> None:
    modules_after(*words, root=root)  # the first look at a new state directory tries the storage drivers
    assert not modules_after(*words, root=root) & {
        "http.client", "ssl", "rich", "asyncio", "cheroot", "isal", "zstandard", "subprocess", "concurrent.futures",
    }


@pytest.mark.parametrize("words", [("inspect", "redis:7"), ("history", "redis:7"), ("ps", "--all")], ids=" ".join)
def test_verbs_that_only_look_import_nothing_that_makes_or_runs(root: Path, words: tuple[str, ...]) -> None:
    modules_after(*words, root=root)
    assert not modules_after(*words, root=root) & {
        "dataclasses", "inspect", "random", "secrets", "shutil", "socket", "lamina.runtime.monitor", "lamina.layer.root",
    }


@pytest.mark.parametrize("spelled", [["--root", "{}"], ["--root={}"]])
def test_a_root_on_the_command_line(root: Path, spelled: list[str]) -> None:
    words = [word.format(root) for word in spelled]
    environ = {"HOME": str(root.parent), "LAMINA_ROOT": "/nowhere"}
    assert quick.answer([*words, "images"], environ) == long_way(["images"], root)
    assert quick.answer([*words, "inspect", "redis"], environ) is None
    assert quick.answer(["--root"], environ) is None
