"""The build cache: one row for each step that was ever done here, found by its key.

Only what this store built itself is in it. A pulled image that claims to come from the same steps is no
match, whatever its history says (CVE-2024-24557).
"""

from __future__ import annotations

from collections.abc import Mapping

from lamina.build.checksum import Change, Difference, decode, differences, encode
from lamina.build.key import Ingredients, first_difference
from lamina.content.state import State
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.values import dataclass

_COLUMNS = "key, site, text, ingredients, files, diff_id, blob, media_type, size, created, used, uses"
_NAMED_FILES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What came of a step. ``diff_id`` and ``layer`` are ``None`` where it changed no file.

    ``site`` is where the step stands (which file, which stage, how many steps before it), ``text`` the
    instruction: by them the nearest record is found when there is none with the right key. ``files`` says
    which files went in, by their targets. Times are seconds since the epoch.
    """

    key: str
    site: str
    text: str
    ingredients: Ingredients
    created: float
    diff_id: Digest | None = None
    layer: Descriptor | None = None
    files: Mapping[str, str] | None = None
    used: float = 0.0
    uses: int = 0


class BuildCache:
    def __init__(self, state: State) -> None:
        self._state = state

    def find(self, key: str) -> StepRecord | None:
        rows = self._state.rows(f"SELECT {_COLUMNS} FROM builds WHERE key = ?", (key,))  # noqa: S608 - ours
        return _record(rows[0]) if rows else None

    def add(self, record: StepRecord) -> None:
        """Two builds may do the same step at once: the last one stays, and both layers are right."""
        layer = record.layer
        with self._state.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO builds VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (record.key, record.site, record.text, record.ingredients.to_text(),
                 encode(record.files) if record.files is not None else b"",
                 record.diff_id or "", layer.digest if layer else "", layer.media_type if layer else "",
                 layer.size if layer else 0, record.created, record.created, 0),
            )

    def touch(self, keys: list[str], now: float) -> None:
        """They were of use: the least recently used go first."""
        if keys:
            with self._state.transaction(is_durable=False) as connection:
                connection.executemany(
                    "UPDATE builds SET used = ?, uses = uses + 1 WHERE key = ?", [(now, key) for key in keys]
                )

    def walk(self) -> list[StepRecord]:
        """The one used last comes first."""
        rows = self._state.rows(f"SELECT {_COLUMNS} FROM builds ORDER BY used DESC, key")  # noqa: S608 - ours
        return [_record(row) for row in rows]

    def remove(self, keys: list[str]) -> None:
        with self._state.transaction() as connection:
            connection.executemany("DELETE FROM builds WHERE key = ?", [(key,) for key in keys])

    def nearest(self, site: str, text: str) -> StepRecord | None:
        """The step that stood at the same place last, or else one with the same words."""
        for column, value in (("site", site), ("text", text)):
            rows = self._state.rows(
                f"SELECT {_COLUMNS} FROM builds WHERE {column} = ? ORDER BY used DESC LIMIT 1",  # noqa: S608 - ours
                (value,),
            )
            if rows:
                return _record(rows[0])
        return None


def explain(old: StepRecord | None, new: Ingredients, files: Mapping[str, str] | None) -> str:
    """Why there is no record for a step, in a phrase."""
    if old is None:
        return "never built here"
    name = first_difference(old.ingredients, new)
    if name == "the files":
        changed = differences(old.files or {}, files or {})
        if changed:
            return _named(changed)
    if not name:
        return "its layer was removed"
    return name if name.endswith(("is new", "is gone")) else f"{name} changed"


def _named(changed: list[Difference]) -> str:
    """Directories change with what is in them, and say less."""
    shown = [
        each for each in changed
        if not any(other is not each and other.path.startswith(f"{each.path}/") for other in changed)
    ] if len(changed) < 1000 else changed
    words = {Change.ADDED: "is new", Change.REMOVED: "is gone", Change.CHANGED: "changed"}
    texts = [f"{each.path or 'the directory itself'} {words[each.change]}" for each in shown[:_NAMED_FILES]]
    more = len(shown) - len(texts)
    return ", ".join(texts) + (f", and {more} more" if more > 0 else "")


def _record(row: tuple[object, ...]) -> StepRecord:
    key, site, text, parts, files, diff_id, blob, media_type, size, created, used, uses = row
    assert isinstance(files, bytes)
    layer = None
    if blob:
        layer = Descriptor(media_type=str(media_type), digest=Digest(str(blob)), size=int(str(size)))
    return StepRecord(
        key=str(key), site=str(site), text=str(text), ingredients=Ingredients.from_text(str(parts)),
        created=float(str(created)), diff_id=Digest(str(diff_id)) if diff_id else None, layer=layer,
        files=decode(files) if files else None, used=float(str(used)), uses=int(str(uses)),
    )
