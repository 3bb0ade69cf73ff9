"""The way that a path leads through symlinks which stay inside a root, as after a ``chroot``."""

from __future__ import annotations

from collections.abc import Iterator

MAX_HOPS = 40  # path_resolution(7)


class Way:
    """Goes through a path name by name; who walks says what is at each place.

    Iterating gives the canonical path of each next name, until there is no more. Whoever gets one calls
    :meth:`enter` to go on from there, or :meth:`follow` with the text of the symlink that is there; after
    neither, the next name stands in the same directory. ``..`` ends at the root.
    """

    __slots__ = ("_hops", "_names", "_places")

    def __init__(self, path: str) -> None:
        self._places = [""]
        self._names = path.split("/")[::-1]
        self._hops = 0

    def __iter__(self) -> Iterator[str]:
        names, places = self._names, self._places
        while names:
            name = names.pop()
            if name == "..":
                del places[max(1, len(places) - 1):]
            elif name not in ("", "."):
                yield f"{places[-1]}/{name}" if places[-1] else name

    @property
    def place(self) -> str:
        """Where it has led so far."""
        return self._places[-1]

    @property
    def has_more(self) -> bool:
        """Whether anything follows, if only a slash, which asks for a directory."""
        return bool(self._names)

    @property
    def is_last(self) -> bool:
        """Whether no name follows."""
        return all(name in ("", ".") for name in self._names)

    def enter(self, place: str) -> None:
        self._places.append(place)

    def follow(self, text: str) -> bool:
        """Whether it could be: false after too many symlinks."""
        self._hops += 1
        if text.startswith("/"):
            del self._places[1:]
        self._names.extend(text.split("/")[::-1])
        return self._hops <= MAX_HOPS
