"""Stages: what a name means, by where it stands."""

from __future__ import annotations

from lamina.build.stages import Stages, split_stages
from lamina.build.syntax import parse


def stages(text: str) -> Stages:
    return split_stages(parse(text), {}, {})


def test_a_number_is_a_stage_for_copies_and_an_image_for_from() -> None:
    found = stages("FROM a\nFROM b\nCOPY --from=0 /x /x\nFROM 0\nFROM 1 AS last\n")
    assert [stage.needs for stage in found.all] == [(), (0,), (), ()]
    assert found.named("0", 4) is None
    assert found.find("0", 4) is found.all[0]


def test_the_last_of_a_name_counts_in_any_case() -> None:
    found = stages("FROM a AS Same\nFROM b AS same\nFROM SAME\n")
    assert found.all[2].needs == (1,)
