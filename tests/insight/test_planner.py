"""The planner: never beaten by any other partition, never breaking a shared prefix, honest about limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.insight.planner import (
    Plan,
    PlannedImage,
    PlannedLayer,
    Reason,
    Unreachable,
    plan_squashes,
)
from lamina.oci.digest import Digest

MB = 1_000_000


def layer(letter: str, size: int = 10 * MB) -> PlannedLayer:
    return PlannedLayer(diff_id=Digest.of(letter.encode()), size=size)


def image(name: str, letters: str, *, pulls: int = 1, hidden: dict[tuple[int, int], int] | None = None) -> PlannedImage:
    return PlannedImage(name=name, pulls=pulls, layers=[layer(letter) for letter in letters], hidden=hidden or {})


def merges(plan: Plan) -> list[tuple[int, int, tuple[str, ...]]]:
    return [(step.first, step.last, step.images) for step in plan.merges]


def test_only_the_range_that_hides_something_is_merged() -> None:
    plan = plan_squashes([image("app", "abcde", hidden={(1, 3): 5 * MB})])
    assert merges(plan) == [(1, 3, ("app",))]
    (step,) = plan.merges
    assert (step.size_before, step.size_after, step.saved) == (30 * MB, 25 * MB, 10 * MB)
    assert step.reason is Reason.SAVES
    assert (plan.pulled_before, plan.pulled_after) == (50 * MB, 45 * MB)
    assert (plan.stored_before, plan.stored_after) == (50 * MB, 45 * MB)
    assert plan.ranges_of("app") == ((1, 3),)


def test_nothing_hidden_nothing_merged() -> None:
    plan = plan_squashes([image("app", "abc")])
    assert merges(plan) == []
    assert {step.reason for step in plan.steps} == {Reason.NOTHING_HIDDEN}


def test_what_saves_too_little_is_left_alone_until_enough_pull_it() -> None:
    few = plan_squashes([image("app", "ab", hidden={(0, 1): 1000})])
    assert merges(few) == []
    assert {step.reason for step in few.steps} == {Reason.NOT_WORTH}
    assert merges(plan_squashes([image("app", "ab", hidden={(0, 1): 1000}, pulls=10_000)])) == [(0, 1, ("app",))]
    assert merges(plan_squashes([image("app", "ab", hidden={(0, 1): 1000})], worth=0)) == [(0, 1, ("app",))]


def test_a_shared_prefix_is_never_broken() -> None:
    hidden = {(0, 3): 9 * MB, (1, 2): 9 * MB}
    plan = plan_squashes([image("app", "abcd", hidden=hidden), image("base", "ab"), image("other", "abx")])
    assert merges(plan) == [], "b is the base's, c and d are the application's: no range may hold both"
    plan = plan_squashes([image("app", "abcd", hidden={(0, 1): 9 * MB, (2, 3): 9 * MB}), image("other", "abxy",
                          hidden={(0, 1): 9 * MB})])
    assert merges(plan) == [(0, 1, ("app", "other")), (2, 3, ("app",))]


def test_an_image_that_nobody_pulls_stays_as_it_is_with_all_that_it_has() -> None:
    plan = plan_squashes([image("app", "abc", hidden={(0, 2): 9 * MB}), image("base", "a", pulls=0)])
    assert merges(plan) == []
    both = {(0, 1): 9 * MB, (2, 3): 9 * MB}
    plan = plan_squashes([image("app", "abcd", hidden=both), image("base", "ab", pulls=0)])
    assert merges(plan) == [(2, 3, ("app",))]
    assert [step.reason for step in plan.steps if step.first < 2] == [Reason.SHARED, Reason.SHARED]
    assert plan.stored_before == 40 * MB
    with pytest.raises(Unreachable, match=r"3 is the least"):
        plan_squashes([image("app", "abcd"), image("base", "ab", pulls=0)], limit=2)
    plan = plan_squashes([image("base", "abc", hidden={(0, 2): 9 * MB}, pulls=0)])
    assert merges(plan) == []


def test_a_layer_that_lies_elsewhere_too_is_stored_once_while_it_stays_alone() -> None:
    """The same layer on two bases: merging it away saves pulls, but makes the store keep its bytes again."""
    stack = image("app", "abc", hidden={(1, 2): 4 * MB})
    alone = plan_squashes([stack], worth=0)
    assert merges(alone) == [(1, 2, ("app",))]
    twice = plan_squashes([stack, image("other", "xb")], worth=0)
    assert merges(twice) == []
    often = plan_squashes([image("app", "abc", hidden={(1, 2): 4 * MB}, pulls=10), image("other", "xb")], worth=0)
    assert merges(often) == [(1, 2, ("app",))]
    assert often.stored_after - often.stored_before == 10 * MB - 4 * MB


def test_a_limit_of_layers() -> None:
    stack = image("app", "abcdefgh", hidden={(2, 3): 2 * MB})
    for limit in range(1, 9):
        plan = plan_squashes([stack], limit=limit)
        left = 8 - sum(step.last - step.first for step in plan.merges)
        assert left <= limit
        assert any(step.first <= 2 and step.last >= 3 for step in plan.merges)
    assert {step.reason for step in plan_squashes([image("app", "abc")], limit=2).merges} == {Reason.LIMIT}


def test_a_limit_may_be_kept_cheaper_by_merging_more_than_it_asks() -> None:
    stack = image("app", "abcd", hidden={(0, 3): MB, (0, 1): MB // 4})
    assert merges(plan_squashes([stack], worth=MB))== []
    assert merges(plan_squashes([stack], worth=MB, limit=3)) in ([(0, 1, ("app",))], [(0, 3, ("app",))])


def test_a_limit_that_only_a_broken_prefix_could_keep() -> None:
    images = [image("base", "a"), image("middle", "ab"), image("app", "abcd")]
    assert plan_squashes(images, limit=3).ranges_of("app") == ((2, 3),)
    with pytest.raises(Unreachable, match=r"app: cannot have 2 layers .* 3 is the least"):
        plan_squashes(images, limit=2)


def test_stacks_as_long_as_a_manifest_may_list() -> None:
    """Of 2,048 layers, which only an attack has, every third hides something of the one below."""
    count = 2048
    stack = PlannedImage(name="app", pulls=1, layers=[layer(str(number)) for number in range(count)],
                         hidden={(number, number + 1): 5 * MB for number in range(0, count - 1, 3)})
    plan = plan_squashes([stack])
    assert len(plan.merges) >= count // 3 - 8
    assert sum(step.last - step.first + 1 for step in plan.steps) == count
    assert sum(1 for _step in plan_squashes([stack], limit=127).steps) == 127


def test_a_limit_over_many_images() -> None:
    images = [PlannedImage(name=f"i{number}", pulls=1, layers=[layer(f"{number}-{depth}") for depth in range(60)])
              for number in range(300)]
    plan = plan_squashes(images, limit=3)
    assert len(plan.steps) == 900


def test_images_of_one_name_keep_the_limit_each() -> None:
    plan = plan_squashes([image("app", "abc"), image("app", "xyzw")], limit=2)
    assert len(plan.steps) == 4


def test_ranges_of_an_image_come_topmost_first() -> None:
    plan = plan_squashes([image("app", "abcdef", hidden={(0, 1): 9 * MB, (3, 5): 9 * MB})])
    assert plan.ranges_of("app") == ((3, 5), (0, 1))


def test_no_images() -> None:
    assert plan_squashes([]).steps == ()


# -- against every other way


def partitions(count: int) -> Iterator[list[tuple[int, int]]]:
    for mask in range(1 << max(count - 1, 0)):
        first, found = 0, []
        for number in range(count):
            if number == count - 1 or mask >> number & 1:
                found.append((first, number))
                first = number + 1
        yield found


def cost(stack: PlannedImage, pieces: Sequence[tuple[int, int]], worth: int) -> int:
    total = 0
    for first, last in pieces:
        size = sum(each.size for each in stack.layers[first : last + 1])
        size -= sum(bytes_ for (low, high), bytes_ in stack.hidden.items() if first <= low and high <= last)
        total += (stack.pulls + 1) * size + worth * (last - first)
    return total


@st.composite
def stacks(draw: st.DrawFn) -> PlannedImage:
    count = draw(st.integers(1, 7))
    hidden = draw(st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1] < count),
        st.integers(0, MB), max_size=6)) if count > 1 else {}
    return PlannedImage(name="app", pulls=draw(st.integers(1, 20)), hidden=hidden,
                        layers=[layer(str(number)) for number in range(count)])


@given(stacks(), st.integers(0, 5 * MB), st.integers(0, 7))
@settings(max_examples=300)
def test_no_other_partition_is_cheaper(stack: PlannedImage, worth: int, limit: int) -> None:
    plan = plan_squashes([stack], worth=worth, limit=limit)
    chosen = [(step.first, step.last) for step in plan.steps]
    assert [number for first, last in chosen for number in range(first, last + 1)] == list(range(len(stack.layers)))
    allowed = [each for each in partitions(len(stack.layers)) if not limit or len(each) <= limit]
    assert cost(stack, chosen, worth) == min(cost(stack, each, worth) for each in allowed)


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=5, unique=True), st.integers(1, 10))
def test_what_was_shared_is_shared_afterwards(stacks_of: list[str], pulls: int) -> None:
    everything = {(low, high): 5 * MB for low in range(6) for high in range(low + 1, 6)}
    images = [PlannedImage(name=f"i{number}", pulls=pulls, hidden=everything,
                           layers=[layer(letters[:depth]) for depth in range(1, len(letters) + 1)])
              for number, letters in enumerate(stacks_of)]
    plan = plan_squashes(images, worth=0)

    def pieces(number: int) -> list[tuple[int, int]]:
        return [(step.first, step.last) for step in sorted(plan.steps, key=lambda step: step.first)
                if f"i{number}" in step.images]

    for one, letters in enumerate(stacks_of):
        for other, others in enumerate(stacks_of):
            common = 0
            while common < min(len(letters), len(others)) and letters[common] == others[common]:
                common += 1
            within = [piece for piece in pieces(one) if piece[1] < common]
            assert within == [piece for piece in pieces(other) if piece[1] < common]
            assert sum(last - first + 1 for first, last in within) == common
