"""What a stage's config begins with."""

from __future__ import annotations

import pytest

from lamina.build.configuration import DEFAULT_PATH, with_path


@pytest.mark.parametrize(("given", "expected"), [
    ({}, [f"PATH={DEFAULT_PATH}"]), ({"Env": None}, [f"PATH={DEFAULT_PATH}"]),
    ({"Env": ["A=1"]}, ["A=1", f"PATH={DEFAULT_PATH}"]), ({"Env": ["PATH=", "A=1"]}, ["PATH=", "A=1"]),
])
def test_a_base_that_says_nothing_of_path_has_dockers(given: dict[str, list[str] | None], expected: list[str]) -> None:
    assert with_path(given)["Env"] == expected
