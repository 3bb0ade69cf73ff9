"""The commands that the README shows are commands: their verbs exist, and their options are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lamina.cli import verbs
from lamina.cli.arguments import Arguments, VerbParser

TOP = Path(__file__).parent.parent
PAGES = ("README.md", "docs/performance.md", "docs/state-on-disk.md")


def commands() -> list[str]:
    """Lines of console blocks that begin with a prompt, each of their parts that calls lamina."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", (TOP / page).read_text(), re.DOTALL):
            for line in block.splitlines():
                if line.startswith(("$ ", "# ")):
                    parts = re.split(r" && | \| ", re.sub(r"\s+#.*", "", line[2:]))
                    found += [part for part in parts if part.startswith("lamina ")]
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_are_read(line: str) -> None:
    words = shlex.split(line)[1:]
    name, count = verbs.find(words)
    assert name, f"no verb: {line}"
    if name == "help":
        return
    VerbParser(name, verbs.load(name)).read(words[count:], Arguments())


def test_there_are_some() -> None:
    assert any(line.startswith("lamina run ") for line in commands())
    assert len(commands()) > 30


@pytest.mark.parametrize("page", sorted(str(path.relative_to(TOP)) for path in [
    TOP / "README.md", TOP / "CONTRIBUTING.md", *(TOP / "docs").rglob("*.md")]))
def test_what_pages_point_at_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (TOP / page).read_text()):
        assert ((TOP / page).parent / target).exists(), target


def test_walks_name_files_that_there_are() -> None:
    source = TOP / "src/lamina"
    names = {path.name for path in source.rglob("*.py")}
    for name in re.findall(r"`([a-z_/]+\.py)`", (TOP / "docs/walks.md").read_text()):
        assert (source / name).exists() if "/" in name else name in names, name


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\]\((\d{3}-[^)]+\.md)\)", (TOP / "docs/decisions/README.md").read_text())
    assert listed == sorted(path.name for path in (TOP / "docs/decisions").glob("[0-9]*.md"))
