"""``lamina images`` without a façade: the one listing that people and shells ask for all day.

Reading one SQLite table and printing it takes a few milliseconds; importing the engine takes dozens. So
the plain form of the command (no name, no filter, no template, no settings file to obey) is answered
here from the same rows, and in the same words, as :mod:`lamina.cli.images` does it with the engine: a
test compares the two. Anything else, and anything unexpected, is left to the engine.
"""

from __future__ import annotations

import os

from lamina.engine.places import SYSTEM_DIRECTORY, configuration_home, default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

# The layout of state.sqlite that the statement below knows (content/state.py).
SCHEMA_VERSION = 4
_STATEMENT = """
SELECT n.name, i.digest, i.config, i.created, i.content_size
FROM images AS i LEFT JOIN names AS n ON n.image = i.digest
ORDER BY i.created DESC, i.digest, n.name
"""
_VERBS = (("images",), ("image", "ls"), ("image", "list"))
_FLAGS = {
    "-q": "quiet", "--quiet": "quiet", "-aq": "quiet", "-qa": "quiet", "--no-trunc": "whole",
    "--digests": "digests", "-a": "all", "--all": "all",
}
# Variables that other settings come from are left to those who check them.
_OTHER_SETTINGS = ("DOCKER_DEFAULT_PLATFORM", "SOURCE_DATE_EPOCH")
_NONE = "<none>"


def answer(words: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """All that is to be printed, or ``None`` when this is not for here."""
    given, rest = _given_root(words)
    flags = _flags(rest)
    root = state_directory(environ, given) if flags is not None else ""
    if flags is None or not root:
        return None
    rows = _rows(os.path.join(root, "state.sqlite"))
    if rows is None:
        return None
    lines = _ids(rows, flags) if "quiet" in flags else _table(rows, flags)
    return "".join(f"{line}\n" for line in lines)


def _given_root(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """``--root DIR`` before the verb, and the words after it."""
    if len(words) > 1 and words[0] == "--root":
        return words[1], words[2:]
    if words and words[0].startswith("--root="):
        return words[0].partition("=")[2], words[1:]
    return "", words


def _flags(words: Sequence[str]) -> set[str] | None:
    """What the words ask for; ``None`` unless it is a plain list of images."""
    for verb in _VERBS:
        if tuple(words[: len(verb)]) == verb:
            rest = words[len(verb) :]
            return {_FLAGS[word] for word in rest} if all(word in _FLAGS for word in rest) else None
    return None


def state_directory(environ: Mapping[str, str], given: str = "") -> str:
    """When nothing but ``LAMINA_ROOT`` or the default can have chosen it; ``""`` if others have a say."""
    if any(name.startswith("LAMINA_") and name != "LAMINA_ROOT" for name in environ):
        return ""
    if any(environ.get(name) for name in _OTHER_SETTINGS):
        return ""
    for directory in (SYSTEM_DIRECTORY, f"{configuration_home(environ)}/lamina"):
        if os.path.exists(directory):
            return ""
    return os.path.abspath(given or environ.get("LAMINA_ROOT") or default_root(environ))


def _rows(path: str) -> Sequence[tuple[str | None, str, str, str, int]] | None:
    import sqlite3

    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(f"file:{quoted(path)}?mode=ro", uri=True)
        if connection.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
            return None
        return connection.execute(_STATEMENT).fetchall()
    except sqlite3.Error:
        return None
    finally:
        if connection is not None:
            connection.close()


def quoted(path: str) -> str:
    """sqlite.org/uri.html: these three would end or change the path."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _ids(rows: Iterable[tuple[str | None, str, str, str, int]], flags: set[str]) -> Iterable[str]:
    return dict.fromkeys(config if "whole" in flags else config[7:19] for _, _, config, _, _ in rows)


def _table(rows: Iterable[tuple[str | None, str, str, str, int]], flags: set[str]) -> Iterable[str]:
    import time

    from lamina.cli.quantity import human_size, since
    from lamina.cli.table import render
    from lamina.cli.terminal import visible

    now = time.time()
    lines = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]]
    for name, digest, config, created, size in rows:
        repository, tag = familiar(name) if name else ("", "")
        image_id = config if "whole" in flags else config[7:19]
        lines.append([visible(repository or _NONE), visible(tag or _NONE), image_id, since(created, now),
                      human_size(size)])
        if "digests" in flags:
            lines[-1].insert(2, digest)
    if "digests" in flags:
        lines[0].insert(2, "DIGEST")
    return render(lines)


def familiar(canonical: str) -> tuple[str, str]:
    """``docker.io/library/redis:7`` as ``redis`` and ``7``: what :class:`Reference` makes of it."""
    name, at, _ = canonical.partition("@")
    path, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        path, tag = name, ""
    path = path.removeprefix("docker.io/") if path.startswith("docker.io/") else path
    official = path.removeprefix("library/")
    if name.startswith("docker.io/library/") and "/" not in official:
        path = official
    return path, tag if not at or tag else ""
