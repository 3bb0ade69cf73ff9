"""Imports point sideways within a room, or down. The three wings do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "lamina"

# What a room may import besides itself. Listing is by hand: a new room is one more line.
GROUND = {"errors", "events", "oci", "values"}
WINGS = GROUND | {"content", "layer", "http"}
MEETINGS = WINGS | {"image", "archive", "convert", "registry", "insight", "squashed"}
FLOORS = {
    "errors": set(),
    "values": set(),
    "events": {"values"},
    "oci": {"errors", "values"},
    "content": GROUND,
    "layer": GROUND,
    "http": GROUND,
    "image": WINGS,
    "archive": WINGS | {"image", "convert"},
    "convert": WINGS | {"image"},
    "squashed": WINGS | {"image", "convert"},
    "registry": WINGS | {"image"},
    "insight": WINGS | {"image"},
    "snapshot": MEETINGS,
    "runtime": MEETINGS | {"snapshot"},
    "build": MEETINGS | {"snapshot", "runtime"},
    "engine": MEETINGS | {"snapshot", "runtime", "build"},
    "cli": MEETINGS | {"snapshot", "runtime", "build", "engine"},
    "testing": MEETINGS | {"snapshot", "runtime", "build", "engine"},
}


def imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names = [node.module or ""]
            if node.module == "lamina":
                names = [f"lamina.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("lamina.")}
    return rooms


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.relative_to(SOURCE).parts not in (
        ("__init__.py",), ("__main__.py",))]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_look_down(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert room in FLOORS, f"{room} is a new room: give it a line in FLOORS"
    upwards = imports(path) - FLOORS[room] - {room}
    assert not upwards, f"{room} must not import {sorted(upwards)}"


def test_who_does_the_work_does_not_know_the_facade() -> None:
    """An engine is its verbs, verbs call modules, and those know the core: no circle but through it."""
    for path in sorted((SOURCE / "engine").rglob("*.py")):
        if path.name == "engine.py" or path.parent.name == "verbs":
            continue
        text = path.read_text()
        assert "lamina.engine.engine" not in text, path
        assert "lamina.engine.verbs" not in text, path
