"""Restart policies: whom they start again, how often, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.runtime.restart import RestartKind, RestartPolicy, parse_restart


@pytest.mark.parametrize(("text", "kind", "most"), [
    ("", RestartKind.NO, 0), ("no", RestartKind.NO, 0), ("always", RestartKind.ALWAYS, 0),
    ("unless-stopped", RestartKind.UNLESS_STOPPED, 0), ("on-failure", RestartKind.ON_FAILURE, 0),
    ("on-failure:3", RestartKind.ON_FAILURE, 3), ("on-failure:0", RestartKind.ON_FAILURE, 0),
])
def test_policies(text: str, kind: RestartKind, most: int) -> None:
    assert parse_restart(text) == RestartPolicy(kind, most)


@pytest.mark.parametrize("text", [
    "never", "Always", "on-failure:", "on-failure:-1", "on-failure:x", "always:3", "no:1", "on-failure:1:2", " no",
    "on-failure:" + "9" * 5000,
])
def test_policies_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--restart: "):
        parse_restart(text)


@pytest.mark.parametrize(("text", "code", "restarts", "applies"), [
    ("no", 1, 0, False),
    ("always", 0, 1000, True),
    ("unless-stopped", 0, 0, True),
    ("on-failure", 0, 0, False),
    ("on-failure", 1, 1000, True),
    ("on-failure:2", 137, 0, True),
    ("on-failure:2", 137, 1, True),
    ("on-failure:2", 137, 2, False),
])
def test_who_is_started_again(text: str, code: int, restarts: int, applies: bool) -> None:
    assert parse_restart(text).applies(code, restarts) is applies


@given(st.lists(st.floats(0, 100)))
def test_pauses_double_until_a_run_was_long_enough(runs: list[float]) -> None:
    policy, expected = RestartPolicy(RestartKind.ALWAYS), 0.1
    for ran in runs:
        expected = 0.1 if ran >= 10 else expected
        assert policy.delay(ran) == pytest.approx(expected)
        expected = min(2 * expected, 60.0)


def test_a_container_that_cannot_start_is_left_in_peace_for_a_minute() -> None:
    policy = RestartPolicy(RestartKind.ALWAYS)
    pauses = [policy.delay(0.0) for _ in range(20)]
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert max(pauses) == pauses[-1] == 60.0
