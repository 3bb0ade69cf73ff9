"""Names of containers: which there may be, and which are made up."""

from __future__ import annotations

import pytest

from lamina.engine.naming import check_name, free_name
from lamina.errors import InvalidInput


@pytest.mark.parametrize("name", ["web", "a1", "A.b-c_d", "0x", "a" * 128])
def test_names(name: str) -> None:
    assert check_name(name) == name
    assert check_name(f"/{name}") == name


@pytest.mark.parametrize("name", [
    "", "a", "/", "//web", "-web", ".web", "_web", "we b", "web\n", "web/x", "é1", "web:1", "a" * 129, "we\x1bb", "..",
])
def test_names_that_there_cannot_be(name: str) -> None:
    with pytest.raises(InvalidInput, match="a container's name has 2 to 128 letters"):
        check_name(name)


def test_a_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name("x" * 100_000)
    assert len(str(caught.value)) < 300


def test_made_up_names_are_names() -> None:
    found = {free_name(lambda _: False) for _ in range(100)}
    assert len(found) > 50
    assert all(check_name(name) == name for name in found)


def test_a_made_up_name_is_free() -> None:
    taken: set[str] = set()
    for _ in range(500):
        name = free_name(taken.__contains__)
        assert name not in taken
        taken.add(name)


def test_there_is_a_name_even_if_all_are_taken() -> None:
    name = free_name(lambda name: name.count("_") == 1)
    assert check_name(name) == name
    assert name.count("_") == 2
