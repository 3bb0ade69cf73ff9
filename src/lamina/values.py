"""Value classes: the part of ``dataclasses`` that this package uses, at a tenth of the price.

The standard decorator compiles six methods for every class (0.8 ms) and imports ``inspect`` first (8 ms),
which a command that makes a hundred classes to use ten of them cannot afford. Here all methods but
``__init__`` are plain functions over the field names, and ``__init__`` is compiled when a class has made
a few values. A type checker sees the standard decorator, and the standard library's own functions
(``dataclasses.replace``, ``asdict``, ``fields``, ``is_dataclass``) take these values for their own.

Left out because nothing here wants it: ``order``, ``eq=False``, ``InitVar``, inherited fields, keyword-only
marks for single fields, and the generated docstring. A module that asks for one of them fails at import.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from operator import attrgetter

TYPE_CHECKING = False  # a type checker takes it for true; importing typing would cost every command 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import asdict, dataclass, field, fields, replace
    from typing import Any

__all__ = ["asdict", "dataclass", "field", "fields", "replace"]


class _Nothing:
    """What stands for "no default" in a signature, where ``None`` would be a value."""

    def __repr__(self) -> str:
        return "<nothing>"


_NOTHING = _Nothing()
_FIELDS = "__dataclass_fields__"  # the name by which the standard library knows a data class
_SIMPLE = (str, bytes, int, float, complex, type(None))  # what asdict need not copy
_FILLED = 8  # so many values of a class are made before its __init__ is compiled
_shown: set[tuple[int, int]] = set()  # the values whose repr is being made: (value, thread)


class _Field:
    """One field. The names are those of ``dataclasses.Field``: the standard functions read them."""

    __slots__ = ("compare", "given", "given_factory", "init", "kw_only", "name", "repr", "type")

    def __init__(self, default: Any, default_factory: Any, init: bool, shown: bool, compare: bool) -> None:
        self.given, self.given_factory = default, default_factory
        self.init, self.repr, self.compare = init, shown, compare
        self.name, self.type, self.kw_only = "", "", False

    hash = None  # as compare says
    metadata: dict[str, Any] = {}  # noqa: RUF012 - as empty as the standard one

    @property
    def default(self) -> Any:
        return _theirs("MISSING") if self.given is _NOTHING else self.given

    @property
    def default_factory(self) -> Any:
        return _theirs("MISSING") if self.given_factory is _NOTHING else self.given_factory

    @property
    def _field_type(self) -> Any:
        return _theirs("_FIELD")  # what tells fields from class variables in dataclasses.fields


class _Parameters:
    """What ``pprint`` and the standard decorator ask of ``__dataclass_params__``."""

    __slots__ = ("frozen",)
    init = repr = eq = match_args = True
    order = unsafe_hash = False

    def __init__(self, frozen: bool) -> None:
        self.frozen = frozen


_PARAMETERS = {frozen: _Parameters(frozen) for frozen in (False, True)}


def _theirs(name: str) -> Any:
    """A mark of the standard module: only somebody who has imported it can compare with it."""
    return getattr(sys.modules.get("dataclasses"), name, _NOTHING)


def _field(*, default: Any = _NOTHING, default_factory: Any = _NOTHING, init: bool = True,
           repr: bool = True, compare: bool = True) -> _Field:  # noqa: A002 - the standard function's word
    return _Field(default, default_factory, init, repr, compare)


def _dataclass(cls: type | None = None, /, *, frozen: bool = False, slots: bool = False,
               kw_only: bool = False) -> Any:
    def made(cls: type) -> type:
        return _made(cls, frozen, slots, kw_only)

    return made if cls is None else made(cls)


def _made(cls: type, frozen: bool, slots: bool, kw_only: bool) -> type:
    if hasattr(cls, _FIELDS):
        raise TypeError(f"{cls.__qualname__}: a value class does not inherit fields from another")
    body = dict(cls.__dict__)
    known = _read_fields(cls, body, kw_only)
    start = _Start(frozen, slots)
    added = {"__init__": start, **_methods(known, frozen)}
    if frozen and slots:
        added["__getstate__"], added["__setstate__"] = _get_state, _set_state
    for name in added.keys() & body.keys():
        if name != "__hash__" or body[name] is not None:  # None: Python's own, beside a written __eq__
            del added[name]  # written by hand
    if slots:
        for name in (*known, "__dict__", "__weakref__"):
            body.pop(name, None)
        made = type(cls)(cls.__name__, cls.__bases__, {**body, **added, "__slots__": tuple(known)})
        made.__qualname__ = cls.__qualname__
    else:
        made = _with_attributes(cls, known, added)
    start.owner = made
    return made


def _with_attributes(cls: type, known: dict[str, _Field], added: dict[str, Any]) -> type:
    for name, value in added.items():
        setattr(cls, name, value)
    for name, one in known.items():
        if one.given is not _NOTHING:
            setattr(cls, name, one.given)
        elif name in cls.__dict__:
            delattr(cls, name)
    return cls


def _read_fields(cls: type, body: dict[str, Any], kw_only: bool) -> dict[str, _Field]:
    known: dict[str, _Field] = {}
    for name, annotation in cls.__annotations__.items():
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        if kind.startswith(("ClassVar", "typing.ClassVar")):
            continue
        if kind.startswith(("InitVar", "KW_ONLY", "dataclasses.")):
            raise TypeError(f"{cls.__qualname__}.{name}: {annotation} is not supported in a value class")
        one = body.get(name, _NOTHING)
        if not isinstance(one, _Field):
            one = _Field(one, _NOTHING, init=True, shown=True, compare=True)
        if type(one.given).__hash__ is None:
            raise ValueError(f"{cls.__qualname__}.{name}: a mutable default: use default_factory")
        one.name, one.type, one.kw_only = name, annotation, kw_only
        known[name] = one
    return known


def _methods(known: dict[str, _Field], frozen: bool) -> dict[str, Any]:
    key = _key(tuple(name for name, one in known.items() if one.compare))

    def __eq__(self: Any, other: object) -> bool:  # noqa: N807 - becomes a method
        if other.__class__ is not self.__class__:
            return NotImplemented
        return key(self) == key(other)

    def __hash__(self: Any) -> int:  # noqa: N807 - becomes a method
        return hash(key(self))

    added: dict[str, Any] = {
        _FIELDS: known, "__dataclass_params__": _PARAMETERS[frozen],
        "__match_args__": tuple(name for name, one in known.items() if one.init and not one.kw_only),
        "__repr__": _shown_fields, "__eq__": __eq__, "__hash__": __hash__ if frozen else None,
    }
    if frozen:
        added["__setattr__"], added["__delattr__"] = _refuse_to_set, _refuse_to_delete
    return added


def _key(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """What is compared and hashed: always a tuple, whose comparison takes the same object (NaN) for equal."""
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda _value: ()
    only = attrgetter(names[0])
    return lambda value: (only(value),)


def _shown_fields(self: Any) -> str:
    mark = id(self), get_ident()
    if mark in _shown:  # a value that holds itself
        return "..."
    _shown.add(mark)
    try:
        shown = [f"{one.name}={getattr(self, one.name)!r}" for one in _fields(self) if one.repr]
    finally:
        _shown.discard(mark)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _refuse_to_set(_self: Any, name: str, _value: Any) -> None:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - only for who makes the mistake

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - only for who makes the mistake

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in _fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for one, value in zip(_fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)


class _Start:
    """Stands where ``__init__`` belongs, and puts the compiled function there once that pays.

    Compiling takes 0.1 ms, and most classes make a value or two a command: those are filled field by field.
    A descriptor, so that ``inspect.signature`` and ``super().__init__`` get the function itself.
    """

    __slots__ = ("frozen", "left", "owner", "slots")
    owner: type

    def __init__(self, frozen: bool, slots: bool) -> None:
        self.frozen, self.slots, self.left = frozen, slots, _FILLED

    def __get__(self, value: Any, kind: type | None = None) -> Any:
        if value is not None and self.left > 0:
            self.left -= 1
            return lambda *places, **words: self._fill(value, places, words)
        function = _compiled(self.owner, self.frozen, self.slots)
        self.owner.__init__ = function  # type: ignore[misc]
        return function if value is None else function.__get__(value, kind)

    def _fill(self, value: Any, places: tuple[Any, ...], words: dict[str, Any]) -> None:
        known = _fields(self.owner)
        names = [one.name for one in known if one.init and not one.kw_only]
        given = dict(zip(names, places, strict=False))
        if len(places) > len(names) or given.keys() & words.keys():
            return self._complain(value, places, words)
        given |= words
        for one in known:
            if one.init and one.name in given:
                content = given.pop(one.name)
            elif one.given_factory is not _NOTHING:
                content = one.given_factory()
            elif one.given is not _NOTHING:
                content = one.given
            elif one.init:
                return self._complain(value, places, words)
            else:
                continue
            object.__setattr__(value, one.name, content)
        if given:
            return self._complain(value, places, words)
        if hasattr(value, "__post_init__"):
            value.__post_init__()
        return None

    def _complain(self, value: Any, places: tuple[Any, ...], words: dict[str, Any]) -> None:
        """Of a call that is wrong the function itself speaks best."""
        self.left = 0
        self.__get__(value, type(value))(*places, **words)


def _compiled(cls: type, frozen: bool, slots: bool) -> Any:
    """``def __init__``: the one method whose speed and signature ask for source text of its own."""
    known = _fields(cls)
    names: dict[str, Any] = {"_NOTHING": _NOTHING, "_set": object.__setattr__}
    parameters, lines = ["self"], []
    if any(one.init and one.kw_only for one in known):
        parameters.append("*")
    for number, one in enumerate(known):
        default, value = _spelled(one, number, names)
        if one.init:
            parameters.append(one.name + default)
        if not value:
            continue
        if not frozen:
            lines.append(f"  self.{one.name} = {value}")
        elif slots:  # the slot's own setter takes half the time of object.__setattr__
            names[f"_set{number}"] = cls.__dict__[one.name].__set__
            lines.append(f"  _set{number}(self, {value})")
        else:
            lines.append(f"  _set(self, {one.name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append("  self.__post_init__()")
    text = "\n".join((f"def make({', '.join(names)}):", f" def __init__({', '.join(parameters)}):",
                      *(lines or ["  pass"]), " return __init__"))
    made: dict[str, Any] = {}
    exec(text, sys.modules[cls.__module__].__dict__, made)  # noqa: S102 - made from the names of fields alone
    function = made["make"](**names)
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    function.__annotations__ = {one.name: one.type for one in known if one.init} | {"return": None}
    return function


def _spelled(one: _Field, number: int, names: dict[str, Any]) -> tuple[str, str]:
    """The field's default as the signature has it, and the value to set; adds to ``names`` what both need."""
    if one.given_factory is not _NOTHING:
        names[f"_make{number}"] = one.given_factory
        fresh = f"_make{number}()"
        return "=_NOTHING", f"{fresh} if {one.name} is _NOTHING else {one.name}" if one.init else fresh
    if one.given is not _NOTHING:
        names[f"_default{number}"] = one.given
        return f"=_default{number}", one.name if one.init else f"_default{number}"
    return "", one.name if one.init else ""


def _fields(value: Any) -> tuple[_Field, ...]:
    return tuple(getattr(value, _FIELDS).values())


def _replace(value: Any, /, **changes: Any) -> Any:
    for one in getattr(value, _FIELDS).values():
        if not one.init:
            if one.name in changes:
                raise ValueError(f"{one.name}: is made by the class itself and cannot be given")
        elif one.name not in changes:
            changes[one.name] = getattr(value, one.name)
    return value.__class__(**changes)


def _asdict(value: Any) -> dict[str, Any]:
    return {one.name: _plain(getattr(value, one.name)) for one in _fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, _SIMPLE):
        return value
    kind = type(value)
    if hasattr(kind, _FIELDS):
        return _asdict(value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):  # a named tuple
        return kind(*map(_plain, value))
    if isinstance(value, list | tuple):
        return kind(map(_plain, value))
    if isinstance(value, dict):
        return kind((_plain(key), _plain(one)) for key, one in value.items())
    from copy import deepcopy  # noqa: PLC0415 - few records hold anything else

    return deepcopy(value)


if not TYPE_CHECKING:
    asdict, dataclass, field, fields, replace = _asdict, _dataclass, _field, _fields, _replace
