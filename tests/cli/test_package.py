"""``import lamina``: every public name is there, and none costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lamina

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"


def test_the_version_is_the_packages() -> None:
    with PYPROJECT.open("rb") as stream:
        assert tomllib.load(stream)["project"]["version"] == lamina.__version__


@pytest.mark.parametrize("name", lamina.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(lamina, name) is getattr(lamina, name)
    assert name in dir(lamina)


def test_names_come_from_where_they_are_said_to() -> None:
    assert sorted(lamina.__all__) == lamina.__all__
    assert {*lamina._HOMES, "__version__"} == set(lamina.__all__)
    assert lamina.Engine.__module__ == "lamina.engine.engine"


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'lamina' has no attribute 'Motor'"):
        _ = lamina.Motor  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import lamina; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"lamina", "__future__"}
