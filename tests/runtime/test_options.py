"""What was asked of a container goes through JSON and back unchanged."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.runtime.options import ContainerOptions

TEXTS = st.lists(st.text(), max_size=3).map(tuple)
BY_TYPE = {
    "str": st.text(), "bool": st.booleans(), "tuple[str, ...]": TEXTS, "tuple[str, ...] | None": st.none() | TEXTS,
    "int | None": st.none() | st.integers(), "float | None": st.none() | st.floats(allow_nan=False, allow_infinity=False),
}
OPTIONS = st.fixed_dictionaries(
    {}, optional={field.name: BY_TYPE[str(field.type)] for field in fields(ContainerOptions)}
).map(lambda values: ContainerOptions(**values))


@given(OPTIONS)
def test_options_survive_json(options: ContainerOptions) -> None:
    assert ContainerOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_only_what_was_asked_for_is_written() -> None:
    assert ContainerOptions().to_json() == {}
    assert ContainerOptions(user="app", has_oom_kill=False).to_json() == {"user": "app", "has_oom_kill": False}


def test_no_entrypoint_is_not_the_images_entrypoint() -> None:
    taken_away = ContainerOptions(entrypoint=())
    assert ContainerOptions.from_json(taken_away.to_json()).entrypoint == ()
    assert ContainerOptions.from_json({}).entrypoint is None


def test_words_of_a_newer_lamina_are_left_out() -> None:
    assert ContainerOptions.from_json({"user": "app", "gpus": ["all"]}) == ContainerOptions(user="app")


@pytest.mark.parametrize("change", [{"user": "x"}, {"memory": 0}, {"networks": ("host",)}])
def test_a_change_is_a_new_value(change: dict[str, Any]) -> None:
    options = ContainerOptions()
    assert replace(options, **change) != options
    assert options == ContainerOptions()
