"""What is pulled for nothing: files, reasons, fixes, a score, and limits that a build can be held to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lamina.cli.arguments import UsageError, parse_size
from lamina.cli.explain import spell_number, spell_size
from lamina.cli.listing import Listing, show
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.quantity import human_size
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.insight.grouping import WasteGroup
    from lamina.insight.waste import Waste, WasteItem, WasteKind

IMAGE_HELP = "a name or an ID here, or docker://REF, oci:DIR, oci-archive:FILE, docker-archive:FILE, ./FILE"
_FIX_WIDTH = 80
_KINDS = ("metadata", "moved", "replaced", "deleted", "marker", "cache", "duplicate")
HEADINGS = {
    "Path": "PATH", "Size": "SIZE", "Files": "FILES", "Kind": "KIND", "Layer": "LAYER",
    "Instruction": "INSTRUCTION", "Other": "OTHER", "OtherInstruction": "OTHER INSTRUCTION",
    "OtherPath": "OTHER PATH", "Changed": "CHANGED", "Fix": "FIX",
}
_COLUMNS = ("Path", "Size", "Files", "Kind", "Layer", "Other", "Fix")


def parse_percent(text: str, option: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%?", text.strip())
    if found is None or float(found[1]) > 100:
        raise UsageError(f"{option}: expected a share of all bytes such as 5%, got {text!r}")
    return float(found[1])


def _arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", IMAGE_HELP)
    parser.value("--fail-over", metavar="PERCENT", default="",
                 about="exit with 1 if more than this share of all bytes, in percent, is wasted")
    parser.value("--fail-over-bytes", metavar="SIZE", default="",
                 about="exit with 1 if more than this is wasted, such as 10MB")
    parser.values("--kind", metavar="KIND",
                  about=f"only this kind, for totals and limits too; may be repeated ({', '.join(_KINDS)})")
    parser.flag("--no-group", about="one row a file, not one a directory")
    parser.flag("--no-trunc", about="show whole fixes")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.value("--format", metavar="FORMAT", default="",
                 about="'table', 'json' (one document, with every file) or a Go template for each row")


def _waste(arguments: Arguments, session: Session) -> int:
    from lamina.cli.progress import shown

    limits = _Limits(arguments)
    kinds = _kinds(arguments.kind)
    platform = platform_of(arguments.platform)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        found = engine.waste(arguments.name, platform=platform)
    if kinds:
        found = found.only(kinds)
    _show(found, arguments, session)
    complaints = limits.broken_by(found)
    session.flush()  # the list comes first where both go to one log
    for text in complaints:
        session.complain(text)
    return 1 if complaints else 0


def _kinds(words: Iterable[str]) -> frozenset[WasteKind]:
    from lamina.errors import nearest
    from lamina.insight.waste import WasteKind

    for word in words:
        if word not in _KINDS:
            suggestion = nearest(word, _KINDS) or f" (one of {', '.join(_KINDS)})"
            raise UsageError(f"--kind: there is no kind {word!r}{suggestion}")
    return frozenset(map(WasteKind, words))


class _Limits:
    """Read before anything is looked at: a gate that cannot be read must not cost a download first."""

    def __init__(self, arguments: Arguments) -> None:
        percent, size = arguments.fail_over, arguments.fail_over_bytes
        self._percent = parse_percent(percent, "--fail-over") if percent else None
        self._bytes = parse_size(size, "--fail-over-bytes") if size else None

    def broken_by(self, found: Waste) -> list[str]:
        complaints = []
        if self._percent is not None and found.percent > self._percent:
            complaints.append(
                f"waste: {found.percent:.3g}% of all bytes are wasted, {found.percent - self._percent:.3g} "
                f"points over the limit of {self._percent:g}%"
            )
        if self._bytes is not None and found.wasted_bytes > self._bytes:
            complaints.append(
                f"waste: {human_size(found.wasted_bytes)} are wasted, "
                f"{human_size(found.wasted_bytes - self._bytes)} over the limit of {human_size(self._bytes)}"
            )
        return complaints


def _show(found: Waste, arguments: Arguments, session: Session) -> None:
    from lamina.insight.grouping import alone, group_items

    form = arguments.format.strip()
    if form == "json":
        session.print(json_text(document_of(arguments.name, found), indent=2))
        return
    is_table = not form or form.startswith("table")
    groups = alone(found.items) if arguments.no_group else group_items(found.items)
    spell: dict[str, Callable[[object], str]] = {
        "Size": spell_size, "Other": spell_number, "Changed": _listed,
    }
    if not arguments.no_trunc:
        spell["Fix"] = _brief
    listing = Listing(HEADINGS, _COLUMNS, spell=spell, right=("Size", "Files", "Layer", "Other"))
    if groups or not is_table:
        show(session, listing, (_row(group, is_table=is_table) for group in groups), arguments.format)
    if is_table:
        for line in summary(found):
            session.print(line)


def _row(group: WasteGroup, *, is_table: bool) -> Mapping[str, object]:
    """A table shows beside a path where its content is too, and with a kind what is different."""
    item = group.item
    path, other = _absolute(group.path, group.files), _absolute(group.other_path, group.files)
    kind = str(item.kind)
    if is_table and kind in ("duplicate", "moved"):
        path = f"{path} {'=' if kind == 'duplicate' else '->'} {other}"
    if is_table and kind == "metadata":
        kind = f"{kind} ({', '.join(item.changed) or 'unchanged'})"
    return {
        "Path": path, "Size": group.bytes, "Files": group.files, "Kind": kind, "Layer": item.layer,
        "Instruction": item.instruction, "Other": item.other, "OtherInstruction": item.other_instruction,
        "OtherPath": other if group.other_path else "", "Changed": list(item.changed), "Fix": item.fix,
    }


def _absolute(path: str, files: int) -> str:
    """Of several files the directory, which ends with a slash."""
    return f"/{path}/" if files > 1 and path else f"/{path}"


def summary(found: Waste) -> Iterable[str]:
    total = human_size(found.total_bytes)
    if not found.items:
        yield f"Score 100%: nothing of {total} is wasted"
        return
    count = len(found.items)
    files = "1 file" if count == 1 else f"{count} files"
    yield (f"Score {min(found.score, 99.9):.1f}%: {human_size(found.wasted_bytes)} of {total}, in {files}, "
           "are pulled for nothing")
    if count > 1:
        kinds = sorted(_by_kind(found.items).items(), key=lambda pair: -pair[1]["Bytes"])
        yield "  " + ", ".join(f"{kind} {human_size(counts['Bytes'])}" for kind, counts in kinds)


def document_of(name: str, found: Waste) -> dict[str, Any]:
    return {
        "Image": name,
        "TotalBytes": found.total_bytes,
        "WastedBytes": found.wasted_bytes,
        "Score": round(found.score, 2),
        "Kinds": _by_kind(found.items),
        "Items": [
            {
                "Path": f"/{item.path}", "Kind": str(item.kind), "Size": item.bytes, "Layer": item.layer,
                "Instruction": item.instruction, "Other": item.other,
                "OtherInstruction": item.other_instruction,
                "OtherPath": f"/{item.other_path}" if item.other_path else "",
                "Changed": list(item.changed), "Fix": item.fix,
            }
            for item in found.items
        ],
    }


def _by_kind(items: Iterable[WasteItem]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        row = counts.setdefault(str(item.kind), {"Files": 0, "Bytes": 0})
        row["Files"] += 1
        row["Bytes"] += item.bytes
    return counts


def _listed(value: object) -> str:
    assert isinstance(value, list)
    return ", ".join(map(str, value)) or "-"


def _brief(fix: object) -> str:
    text = visible(str(fix))
    return text if len(text) <= _FIX_WIDTH else text[: _FIX_WIDTH - 1] + "…"


WASTE = Verb(
    _waste,
    usage="[OPTIONS] IMAGE",
    about="""\
Lists bytes that everybody downloads for nothing, with the layer and the one change to the Dockerfile
that saves them, and gives a score: the share of all bytes that is not wasted. KIND says why:

  metadata   the layer OTHER stores the same content again with another mode, owner, time or xattr
  moved      the layer OTHER deletes it here and stores it again elsewhere
  replaced   the layer OTHER has other content at this path
  deleted    the layer OTHER deletes it: it is pulled all the same
  marker     content in an entry that only removes something
  cache      package lists, download caches, logs of installing, temporary files
  duplicate  the lower layer OTHER has the same content (4 KiB or more) at another path

No byte counts twice. Files of one directory with one cause and one fix share a row. Exit codes: 0; 1
when a limit is passed, with a sentence on standard error; 125 when the image could not be judged.""",
    arguments=_arguments,
    examples=(
        "lamina waste app:2",
        "lamina waste --fail-over 5% --fail-over-bytes 20MB app:2",
        "lamina waste --kind deleted --kind cache --no-group docker://redis:7",
        "lamina waste --format json ./app.tar | jq .Score",
    ),
    trouble=125,
)
