"""How rows are shown: docker's table, ``json`` (one object a line), or a template of the user's.

A row is a mapping from docker's field names to values. Verbs that docker has give the texts that docker
gives (``133MB``); our own give exact values, and ``spell`` says how a table writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.cli.table import MINIMUM, render
from lamina.cli.terminal import json_text, visible

if TYPE_CHECKING:
    from lamina.cli.session import Session

Row = Mapping[str, object]
Spell = Mapping[str, Callable[[object], str]]


class Listing:
    """The fields of one kind of row: their headings, those shown by default, and how a table spells them.

    A table with columns to the ``right`` is one of ours, and sets its columns close; the others are docker's.
    """

    __slots__ = ("headings", "right", "shown", "spell")

    def __init__(
        self,
        headings: Mapping[str, str],
        shown: Sequence[str] = (),
        *,
        spell: Spell | None = None,
        right: Sequence[str] = (),
    ) -> None:
        self.headings = headings
        self.shown = tuple(shown) or tuple(headings)
        self.spell = spell or {}
        self.right = right

    def lines(self, rows: Iterable[Row], form: str = "") -> Iterator[str]:
        """``form`` is the text after ``--format``. Raises ``TemplateError`` before the first line."""
        form = form.strip(" ")
        if form in ("", "table"):
            return iter(self._table(rows))
        if form == "json":
            return (json_text(dict(row)) for row in rows)
        if form.startswith(("table ", "table\t", "table\\t")):
            return iter(self._chosen_table(rows, form[len("table") :].strip(" ")))
        return _by_template(rows, form)

    def _table(self, rows: Iterable[Row]) -> list[str]:
        cells = [[self.headings[field] for field in self.shown]]
        cells += [[self._cell(row, field) for field in self.shown] for row in rows]
        right = [number for number, field in enumerate(self.shown) if field in self.right]
        return render(cells, right, 0 if right else MINIMUM)

    def _cell(self, row: Row, field: str) -> str:
        value = row[field]
        spell = self.spell.get(field)
        return visible(spell(value) if spell is not None else str(value))

    def _chosen_table(self, rows: Iterable[Row], form: str) -> list[str]:
        """The headings are what the same template makes of the headings, as docker does it."""
        from lamina.cli.template import Template

        template = Template(form)
        texts = [template.render(self.headings)]
        texts += [template.render({field: _one_line(value) for field, value in row.items()}) for row in rows]
        return render(text.split("\t") for text in texts)


def _by_template(rows: Iterable[Row], form: str) -> Iterator[str]:
    from lamina.cli.template import Template

    template = Template(form)
    return (template.render(row) for row in rows)


def _one_line(value: object) -> object:
    return visible(value) if isinstance(value, str) else value


def show(session: Session, listing: Listing, rows: Iterable[Row], form: str = "") -> None:
    for line in listing.lines(rows, form):
        session.print(line)


def check_document_form(form: str) -> None:
    """For verbs whose answer is one document and has no table: asked before any work is done."""
    from lamina.cli.arguments import UsageError
    from lamina.cli.template import Template

    if form.strip(" ").startswith("table"):
        raise UsageError("--format: expected 'json' or a Go template; without it there are sentences")
    Template(form)


def show_documents(session: Session, documents: Sequence[Row], form: str) -> None:
    """What docker's ``inspect`` prints: an array, or for each one a line."""
    if not form:
        session.print(json_text(documents, indent=4))
    else:
        show(session, Listing({}), documents, form)


def show_document(session: Session, document: Row, form: str) -> None:
    if form.strip(" ") == "json":
        session.print(json_text(document, indent=2))
    else:
        show(session, Listing({}), [document], form)
