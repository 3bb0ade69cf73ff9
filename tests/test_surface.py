"""What people see: the tree of errors as drawn, every verb of the engine explained, no error without a kind."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import lamina
import lamina.errors
from lamina.engine.engine import Engine
from lamina.errors import nearest

SOURCE = Path(lamina.__file__).parent
KINDS = {
    value for value in vars(lamina.errors).values()
    if inspect.isclass(value) and issubclass(value, lamina.errors.LaminaError)
}


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(SOURCE)], "lamina.")
    return sorted(info.name for info in found if info.name != "lamina.__main__" and ".testing" not in info.name)


def raised() -> set[type[Exception]]:
    """Every exception class that the product defines."""
    classes: set[type[Exception]] = set()
    for name in modules():
        module = importlib.import_module(name)
        classes |= {
            value for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == name
        }
    return classes


def test_the_drawing_of_the_error_tree_is_true() -> None:
    drawn = re.findall(r"[├└]── (\w+) +(?:\((\w+)\) +)?(\d+) ", lamina.errors.__doc__ or "")
    assert {name for name, _builtin, _status in drawn} == {
        kind.__name__ for kind in KINDS if kind is not lamina.errors.LaminaError}
    for name, builtin, status in drawn:
        kind = getattr(lamina.errors, name)
        assert kind.status == int(status)
        others = [base.__name__ for base in kind.__bases__ if base is not lamina.errors.LaminaError]
        assert others == ([builtin] if builtin else [])


def test_every_error_inherits_one_kind() -> None:
    for error in raised() - KINDS:
        if issubclass(error, lamina.errors.LaminaError):
            kinds = [kind for kind in error.__mro__ if kind in KINDS and kind is not lamina.errors.LaminaError]
            assert len(kinds) <= 1, f"{error.__module__}.{error.__name__} is of {len(kinds)} kinds"


@pytest.mark.parametrize(("word", "known", "expected"), [
    ("--nmae", ["--name", "--net"], "--name"), ("--mem", ["--memory", "--name"], "--memory"), ("dff", ["df"], "df"),
    ("--x", ["-x"], "-x"), ("--gpus", ["--cpus"], ""), ("CAP_FOO", ["CAP_BPF", "CAP_FOWNER"], ""), ("rm", [], ""),
    ("", ["a"], ""), ("--", ["--a"], ""),
])
def test_only_what_is_really_near_is_suggested(word: str, known: list[str], expected: str) -> None:
    assert nearest(word, known) == (f"; did you mean {expected}?" if expected else "")


def test_every_verb_of_the_engine_is_explained() -> None:
    for name, verb in vars(Engine).items():
        if not name.startswith("_") and inspect.isfunction(verb):
            assert verb.__doc__, f"Engine.{name} needs a docstring"
            assert all(
                parameter.annotation is not parameter.empty
                for key, parameter in inspect.signature(verb).parameters.items() if key != "self"
            ), f"Engine.{name} has a parameter without a type"


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "constants", "misc", "manager"}
    assert [name for name in modules() if drawers & set(name.split("."))] == []
