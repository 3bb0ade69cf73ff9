"""Value classes behave as standard data classes do: each class here is made twice and both must agree."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import pprint
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina import values

T = TypeVar("T")
Pair = namedtuple("Pair", "one two")  # noqa: PYI024 - the plain kind is what asdict knows
FLAGS = [
    {"frozen": frozen, "slots": slots, "kw_only": kw_only}
    for frozen in (False, True) for slots in (False, True) for kw_only in (False, True)
]


def point(module: Any, **flags: bool) -> type:
    """One class with every kind of field in use."""
    def body() -> type:
        class Point:
            """A place."""

            first: int
            second: str = "two"
            third: list[int] = module.field(default_factory=list)
            hidden: float = module.field(default=0.5, repr=False)
            aside: object = module.field(default=None, compare=False)
            shared: ClassVar[int] = 7

            def doubled(self) -> int:
                return self.first * 2

            @property
            def loud(self) -> str:
                return self.second.upper()

            def __str__(self) -> str:
                return f"<{self.first}>"

        return Point

    return module.dataclass(**flags)(body())


def both(make: Callable[..., type], *extra: Any, **flags: bool) -> tuple[type, type]:
    return make(dataclasses, *extra, **flags), make(values, *extra, **flags)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the kind and words of its error."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


scalars = st.one_of(st.integers(-2, 2), st.just(math.nan), st.text("ab", max_size=1))
given_words = st.fixed_dictionaries(
    {"first": scalars},
    optional={"second": scalars, "third": st.lists(scalars, max_size=2), "hidden": scalars, "aside": scalars})
CLASSES = [both(point, **flags) for flags in FLAGS]


@pytest.mark.parametrize("pair", CLASSES, ids=str)
@given(given_words, given_words)
def test_equality_hash_and_repr_are_the_standard_ones(pair: tuple[type, type], one: Any, two: Any) -> None:
    theirs, ours = pair
    assert repr(ours(**one)) == repr(theirs(**one))
    assert (ours(**one) == ours(**two)) == (theirs(**one) == theirs(**two))
    assert (ours(**one) != ours(**two)) == (theirs(**one) != theirs(**two))
    assert outcome(lambda: hash(ours(**one))) == outcome(lambda: hash(theirs(**one)))
    assert values.asdict(ours(**one)).keys() == dataclasses.asdict(theirs(**one)).keys()
    assert repr(values.asdict(ours(**one))) == repr(dataclasses.asdict(theirs(**one)))
    assert repr(values.replace(ours(**one), **two)) == repr(dataclasses.replace(theirs(**one), **two))


@pytest.mark.parametrize("pair", CLASSES, ids=str)
@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "compiled"])
@pytest.mark.parametrize(("positions", "words"), [
    ((), {}), ((1,), {}), ((1, 2, 3, 4, 5), {}), ((1, 2, 3, 4, 5, 6), {}), ((), {"first": 1}), ((1,), {"first": 1}),
    ((), {"first": 1, "fourth": 4}), ((), {"second": 2}), ((1, 2), {"hidden": 3}), ((1,), {"self": 2}),
])
def test_arguments_are_taken_and_refused_alike(
    pair: tuple[type, type], positions: Any, words: Any, is_fresh: bool
) -> None:
    theirs, ours = pair
    if is_fresh:
        ours = point(values, **FLAGS[CLASSES.index(pair)])
        assert not inspect.isfunction(vars(ours)["__init__"])
    else:
        inspect.signature(ours)
        assert inspect.isfunction(vars(ours)["__init__"])
    assert repr(outcome(lambda: ours(*positions, **words))) == repr(outcome(lambda: theirs(*positions, **words)))


def test_the_constructor_is_compiled_after_a_few_values() -> None:
    kind = point(values, frozen=True, slots=True)
    made = [kind(number) for number in range(20)]
    assert inspect.isfunction(vars(kind)["__init__"])
    assert [value.first for value in made] == list(range(20))
    assert len({id(value.third) for value in made}) == 20


@pytest.mark.parametrize("pair", CLASSES, ids=str)
def test_classes_look_alike(pair: tuple[type, type]) -> None:
    theirs, ours = pair
    assert ours.__match_args__ == theirs.__match_args__
    assert getattr(ours, "__slots__", None) == getattr(theirs, "__slots__", None)
    assert (ours.__doc__, ours.__qualname__, ours.__module__) == (theirs.__doc__, theirs.__qualname__, theirs.__module__)
    assert ours.shared == 7
    assert getattr(ours, "second", None).__class__ is getattr(theirs, "second", None).__class__
    assert hasattr(ours, "third") == hasattr(theirs, "third")
    made = ours(first=3)
    assert (made.doubled(), made.loud, str(made)) == (6, "TWO", "<3>")
    assert hasattr(made, "__dict__") == hasattr(theirs(first=3), "__dict__")
    assert [one.name for one in values.fields(ours)] == [one.name for one in dataclasses.fields(theirs)]


@pytest.mark.parametrize("pair", CLASSES, ids=str)
def test_the_signature_is_known_before_the_first_value(pair: tuple[type, type]) -> None:
    theirs = pair[0]
    ours = values.dataclass(**FLAGS[CLASSES.index(pair)])(type("Fresh", (), {
        "__annotations__": {"first": "int", "second": "str"}, "second": "two", "__module__": __name__}))
    expected = inspect.signature(theirs).parameters
    assert [one.kind for one in inspect.signature(ours).parameters.values()] == [
        expected["first"].kind, expected["second"].kind]
    assert inspect.signature(ours).parameters["second"].default == "two"
    assert get_type_hints(ours.__init__) == {"first": int, "second": str, "return": type(None)}


@pytest.mark.parametrize("pair", CLASSES, ids=str)
@pytest.mark.parametrize("change", [
    lambda value: setattr(value, "first", 2), lambda value: setattr(value, "unknown", 2),
    lambda value: delattr(value, "first"), lambda value: delattr(value, "unknown"),
])
def test_changes_are_refused_alike(pair: tuple[type, type], change: Callable[[Any], None]) -> None:
    theirs, ours = (outcome(lambda kind=kind: change(kind(first=1))) for kind in pair)
    assert (ours is None) == (theirs is None)
    if ours is not None and FLAGS[CLASSES.index(pair)]["frozen"]:
        assert ours[0] is dataclasses.FrozenInstanceError
        assert ours == theirs or theirs[0] is TypeError  # theirs asks the class from before the slots


def test_a_value_of_another_class_is_another_value() -> None:
    one, two = (values.dataclass(frozen=True)(type(name, (), {"__annotations__": {"a": "int"}, "__module__": __name__}))
                for name in ("One", "Two"))
    assert one(1) != two(1)
    assert one(1) != (1,)
    assert one(1).__eq__(1) is NotImplemented


@pytest.mark.parametrize("names", [(), ("a",), ("a", "b")])
def test_few_fields_compare_and_hash_as_the_standard_ones(names: tuple[str, ...]) -> None:
    def make(module: Any) -> type:
        body = {"__annotations__": dict.fromkeys(names, "float"), "__module__": __name__}
        return module.dataclass(frozen=True, slots=True)(type("Few", (), body))

    theirs, ours = both(make)
    numbers = [math.nan, 2.0][:len(names)]
    assert ours(*numbers) == ours(*numbers)  # the same NaN
    assert hash(ours(*numbers)) == hash(theirs(*numbers))
    assert repr(ours(*numbers)) == repr(theirs(*numbers))


def test_methods_written_by_hand_stay() -> None:
    def make(module: Any) -> type:
        class Hand:  # noqa: PLW1641 - the decorator adds the hash
            a: int

            def __init__(self) -> None:
                object.__setattr__(self, "a", 5)

            def __eq__(self, other: object) -> bool:
                return isinstance(other, int)

            def __repr__(self) -> str:
                return "by hand"

        return module.dataclass(frozen=True, slots=True)(Hand)

    for kind in both(make):
        assert (repr(kind()), kind() == 3, hash(kind())) == ("by hand", True, hash((5,)))


def test_what_is_made_after_the_fields() -> None:
    def make(module: Any) -> type:
        class After:
            given: int
            kept: dict[str, int] = module.field(default_factory=dict, init=False, repr=False, compare=False)
            made: int = module.field(init=False)

            def __post_init__(self) -> None:
                self.made = self.given + 1

        return module.dataclass(slots=True)(After)

    theirs, ours = both(make)
    for kind, module in ((theirs, dataclasses), (ours, values), (ours, dataclasses)):
        value = kind(3)
        assert (value.made, value.kept) == (4, {})
        assert value.kept is not kind(3).kept
        assert module.replace(value, given=7).made == 8
        with pytest.raises((TypeError, ValueError), match="made"):
            module.replace(value, made=1)
    assert repr(ours(1)) == repr(theirs(1))


def test_a_cached_property_keeps_its_value() -> None:
    def make(module: Any) -> type:
        class Cached:
            number: int

            @cached_property
            def object(self) -> object:
                return SimpleNamespace()

        return module.dataclass(frozen=True, kw_only=True)(Cached)

    value = make(values)(number=1)
    assert value.object is value.object


def test_a_generic_value() -> None:
    @values.dataclass(frozen=True, slots=True)
    class Box(Generic[T]):
        content: T

    assert Box[int](1) == Box(1)
    assert dataclasses.replace(Box(1), content=2) == Box(2)


def test_values_match_patterns() -> None:
    kind = point(values, frozen=True, slots=True)
    match kind(4, "four"):
        case kind(first, second):
            assert (first, second) == (4, "four")
        case other:
            raise AssertionError(other)


def test_a_value_that_holds_itself_has_an_end() -> None:
    value = point(values, slots=True)(1)
    value.second = [value]
    assert repr(value).endswith(".Point(first=1, second=[...], third=[], aside=None)")


def test_the_standard_functions_take_our_values() -> None:
    kind = point(values, frozen=True, slots=True, kw_only=True)
    value = kind(first=1, third=[2])
    assert dataclasses.is_dataclass(value)
    assert [one.name for one in dataclasses.fields(value)] == ["first", "second", "third", "hidden", "aside"]
    assert dataclasses.asdict(value) == values.asdict(value)
    assert dataclasses.astuple(value) == (1, "two", [2], 0.5, None)
    assert dataclasses.replace(value, first=3) == kind(first=3, third=[2])
    assert dataclasses.fields(value)[0].default is dataclasses.MISSING
    assert dataclasses.fields(value)[1].default == "two"
    assert dataclasses.fields(value)[2].default_factory is list
    assert "Point(first=1" in pprint.pformat(value)


def test_asdict_goes_into_what_it_finds_and_copies_it() -> None:
    def make(module: Any) -> Any:
        kind = point(module, frozen=True, slots=True)
        inner = kind(1, "in", [9])
        return kind(inner, (inner, [inner]), [{"key": inner, inner.second: Pair(inner, {1, 2})}], aside=b"x")

    theirs, ours = both(make)
    assert values.asdict(ours) == dataclasses.asdict(theirs) == dataclasses.asdict(ours)
    assert values.asdict(ours)["third"][0]["in"].two is not ours.third[0]["in"].two


@values.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    number: int
    names: Mapping[str, int] = values.field(default_factory=dict)


def test_values_are_pickled_and_copied() -> None:
    value = Kept(number=1, names={"a": 1})
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert again == value
        assert again is not value


def test_threads_may_make_the_first_value_together() -> None:
    kind = point(values, frozen=True, slots=True)
    gate, made = threading.Barrier(8), []

    def run(number: int) -> None:
        gate.wait()
        made.append(kind(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(value.first for value in made) == list(range(8))


@pytest.mark.parametrize("annotation", ["dataclasses.InitVar[int]", "InitVar[int]", "KW_ONLY"])
def test_what_is_not_supported_fails_at_once(annotation: str) -> None:
    body = {"__annotations__": {"a": annotation}, "__module__": __name__}
    with pytest.raises(TypeError, match=r"X\.a: .*not supported"):
        values.dataclass(frozen=True)(type("X", (), body))


@pytest.mark.parametrize("parent", [Kept, dataclasses.make_dataclass("Parent", ["a"])])
def test_fields_are_not_inherited(parent: type) -> None:
    with pytest.raises(TypeError, match="does not inherit"):
        values.dataclass(frozen=True)(type("Child", (parent,), {"__annotations__": {"b": "int"}}))


@pytest.mark.parametrize("default", [[], {}, set(), MappingProxyType({}) if sys.version_info < (3, 12) else []])
def test_a_mutable_default_is_refused(default: object) -> None:
    body = {"__annotations__": {"a": "object"}, "a": default, "__module__": __name__}
    with pytest.raises(ValueError, match="default_factory"):
        values.dataclass(type("X", (), body))


def test_making_a_value_class_imports_nothing_dear() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from lamina.values import asdict, dataclass, field, replace\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class A:\n    a: 'int' = field(default=1)\n"
        "replace(A(), a=2); asdict(A()); repr(A()); hash(A()); assert A() == A()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, 'src')\n{code}"],
                          capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "_operator", "lamina", "lamina.values", "operator"}
