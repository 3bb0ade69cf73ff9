"""A number for each of very many names, in 30 to 60 bytes a name where a dictionary takes 130."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct

_FIRST = 1 << 10
_unpack = Struct("QQ").unpack
_EMPTY = 0xFFFFFFFF


class Numbers:
    """Names are remembered by a keyed hash of 128 bits; two of them are never the same by design or by luck.

    Numbers are below 2 ** 32 - 1. Open addressing with steps of one, at most two thirds full.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(16)
        self._count = 0
        self._mask = _FIRST - 1
        self._keys = array("Q", bytes(16 * _FIRST))
        self._values = _empty(_FIRST)

    def __len__(self) -> int:
        return self._count

    def get(self, name: str) -> int | None:
        value = self._values[self._slot(*self._key(name))]
        return None if value == _EMPTY else value

    def exchange(self, name: str, number: int) -> int | None:
        """The number that it had before."""
        low, high = self._key(name)
        slot = self._slot(low, high)
        before = self._values[slot]
        if before == _EMPTY:
            if 3 * self._count >= 2 * len(self._values):
                self._grow()
                slot = self._slot(low, high)
            self._count += 1
            self._keys[2 * slot], self._keys[2 * slot + 1] = low, high
        self._values[slot] = number
        return None if before == _EMPTY else before

    def numbers(self) -> Iterator[int]:
        return (value for value in self._values if value != _EMPTY)

    def _key(self, name: str) -> tuple[int, int]:
        whole = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16, key=self._secret)
        low, high = _unpack(whole.digest())
        return low, high

    def _slot(self, low: int, high: int) -> int:
        """Where the key is, or where it would be put."""
        keys, values, mask = self._keys, self._values, self._mask
        slot = low & mask
        while values[slot] != _EMPTY and (keys[2 * slot] != low or keys[2 * slot + 1] != high):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        size = 2 * len(values)
        self._mask = size - 1
        self._keys, self._values = array("Q", bytes(16 * size)), _empty(size)
        for place, value in enumerate(values):
            if value != _EMPTY:
                low, high = keys[2 * place], keys[2 * place + 1]
                slot = self._slot(low, high)
                self._keys[2 * slot], self._keys[2 * slot + 1] = low, high
                self._values[slot] = value


def _empty(size: int) -> array[int]:
    return array("I", [_EMPTY]) * size
