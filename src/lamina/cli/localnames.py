"""The names that completion offers, read without opening a store: none at all rather than an error."""

from __future__ import annotations

import os
import re

from lamina.cli import quick

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.session import Session

_MOST = 5000
_OURS = ("bridge", "host", "none")
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")


def image_names(session: Session) -> list[str]:
    """As people type them."""
    names = _column(session, f"SELECT name FROM names ORDER BY name LIMIT {_MOST}")  # noqa: S608 - our number
    return [":".join(filter(None, quick.familiar(name))) for name in names if "@" not in name]


def container_names(session: Session) -> list[str]:
    """Newest first, as ``ps`` lists them."""
    return _column(session, f"SELECT name FROM containers ORDER BY created DESC LIMIT {_MOST}")  # noqa: S608


def volume_names(session: Session) -> list[str]:
    """Those that somebody has named."""
    return [name for name in _listed(session, "volumes") if not _ANONYMOUS.fullmatch(name)]


def network_names(session: Session) -> list[str]:
    made = {name.removesuffix(".json") for name in _listed(session, "networks") if name.endswith(".json")}
    return sorted(made.union(_OURS))


def _root(session: Session) -> str:
    chosen = session.flags.get("data-root") or quick.state_directory(session.environ) or session.settings.root
    return str(chosen)


def _listed(session: Session, directory: str) -> list[str]:
    try:
        found = os.listdir(os.path.join(_root(session), directory))
    except OSError:
        return []
    return sorted(name for name in found if not name.startswith(".") and name != "lock")


def _column(session: Session, statement: str) -> list[str]:
    import sqlite3

    path = quick.quoted(os.path.join(_root(session), "state.sqlite"))
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)
        return [str(name) for (name,) in connection.execute(statement)]
    except sqlite3.Error:
        return []
    finally:
        if connection is not None:
            connection.close()
