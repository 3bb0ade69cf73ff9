"""Cache keys: what a step depends on, by name, so that a miss can be explained by the first that differs.

Every part is hashed with its length before it: no two lists of ingredients give the same bytes, whatever
strangers put into them (SECURITY: joined strings collided in other builders).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping

from lamina.values import dataclass

# A change of what steps do with the same ingredients changes every key: then this does.
_DOMAIN = b"lamina build step 1\n"
_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Ingredients:
    """In the order in which a person would look for the difference."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        whole = hashlib.sha256(_DOMAIN + _LENGTH.pack(len(self.pairs)))
        for name, value in self.pairs:
            for text in (name, value):
                data = text.encode("utf-8", "surrogateescape")
                whole.update(_LENGTH.pack(len(data)) + data)
        return whole.hexdigest()

    def to_text(self) -> str:
        return json.dumps(self.pairs)

    @classmethod
    def from_text(cls, text: str) -> Ingredients:
        return cls(tuple((name, value) for name, value in json.loads(text)))


def ingredients(
    kind: str, fixed: Iterable[tuple[str, str]], *, variables: Mapping[str, str] | None = None,
    arguments: Mapping[str, str] | None = None,
) -> Ingredients:
    """``variables`` and ``arguments`` are each an ingredient of its own: a reason should name one."""
    return Ingredients((
        ("instruction", kind), *fixed,
        *((f"the argument {name}", value) for name, value in sorted((arguments or {}).items())),
        *((f"the variable {name}", value) for name, value in sorted((variables or {}).items())),
    ))


def first_difference(old: Ingredients, new: Ingredients) -> str:
    """The name of the first ingredient that is not the same in both; empty if none is.

    What both have is compared first: a command that changed explains more than a variable that came with it.
    """
    before, after = dict(old.pairs), dict(new.pairs)
    for name, value in new.pairs:
        if name in before and before[name] != value:
            return name
    for name, _ in new.pairs:
        if name not in before:
            return f"{name}, which is new"
    for name, _ in old.pairs:
        if name not in after:
            return f"{name}, which is gone"
    return ""
