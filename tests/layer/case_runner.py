"""Carries out a layer case on a root and judges what came of it. The host beside the root is watched."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from tests.layer import tarbytes
from tests.layer.layer_cases import Case
from tests.layer.observed import Observed, on_disk

from lamina.layer.apply import apply
from lamina.layer.entry import InvalidLayer, PathEscapes
from lamina.layer.root import Root
from lamina.layer.tarstream import TarReader


class Host:
    """A directory with a root in it and a canary beside the root; ``insist_untouched`` compares."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "root"
        self.outside = top / "HOST"
        self.root.mkdir(mode=0o755)
        self.outside.mkdir(mode=0o750)
        (self.outside / "canary").write_bytes(b"alive")
        (self.outside / "canary").chmod(0o640)
        self._before = self._look()

    def insist_untouched(self) -> None:
        assert self._look() == self._before

    def _look(self) -> Observed:
        found = {path: seen for path, seen in on_disk(self.top).items() if not path.startswith("root")}
        found[""].pop("nanoseconds"), found[""].pop("mtime")  # reading it would be enough on some filesystems
        return found

    def layers(self, case: Case) -> list[bytes]:
        """The case's tars, with the host's real path where the table says ``HOST``."""
        return [tarbytes.tar(*(self._placed(raw) for raw in members)) for members in case.layers]

    def _placed(self, raw: bytes) -> bytes:
        if b"HOST" not in raw:
            return raw
        assert len(raw) == tarbytes.BLOCK or raw[124:135].strip(b"0\0 "), "only short members name the host"
        outside = str(self.outside).encode()
        link, name = raw[157:257].rstrip(b"\0"), raw[:100].rstrip(b"\0")
        link = link.replace(b"/HOST", outside)
        made = tarbytes.pax({"linkpath": link}) if link else b""
        return made + tarbytes.header(
            name, raw[156:157], mode=raw[100:108], uid=raw[108:116], link=link[:100], size=raw[124:136],
        ) + raw[tarbytes.BLOCK :]

    def path(self, path: str) -> str:
        return path.replace("HOST", str(self.outside).strip("/")) if "HOST" in path else path

    def expected(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if "HOST" in wanted.get("to", ""):
            return {**wanted, "to": wanted["to"].replace("/HOST", str(self.outside))}
        return wanted


def run(case: Case, root: Root, host: Host) -> bool:
    """Applies the layers, of which one is refused if the case says so; whether there is a tree to judge."""
    if not case.refused:
        for layer in host.layers(case):
            apply(TarReader(io.BytesIO(layer)), root)
        return True
    assert case.may_refuse
    with pytest.raises((InvalidLayer, PathEscapes)) as caught:
        for layer in host.layers(case):
            apply(TarReader(io.BytesIO(layer)), root)
    assert "\n" not in str(caught.value), "one sentence"
    return len(case.layers) > 1  # what the layers before it made is still there


def judge(case: Case, tree: Observed, host: Host, *, ignoring: tuple[str, ...] = ()) -> None:
    for path, wanted in case.expected.items():
        seen = tree.get(host.path(path))
        if wanted is None:
            assert seen is None, f"{path!r} is there"
            continue
        assert seen is not None, f"{path!r} is missing"
        found = {key: seen.get(key) for key in wanted if key not in ignoring}
        assert found == {key: value for key, value in host.expected(dict(wanted)).items() if key not in ignoring}, path
    for one, other in case.same:
        assert tree[host.path(one)]["inode"] == tree[host.path(other)]["inode"]
