"""Two images beside each other: files by docker diff's letters, layers, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina.cli.explain import shortened, spell_digest, spell_instruction, spell_number, spell_size
from lamina.cli.listing import Listing, show
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.quantity import human_size, minute_of
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb
from lamina.layer.entry import Kind

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.insight.comparison import Comparison, ConfigChange, FileChange, LayerChange
    from lamina.layer.entry import Entry

_LAYER_HEADINGS = {
    "In": "IN", "Before": "A", "After": "B", "DiffID": "DIFF ID", "Size": "SIZE",
    "Instruction": "INSTRUCTION",
}
_FILE_HEADINGS = {
    "Change": "CHANGE", "Path": "PATH", "Fields": "FIELDS", "Before": "BEFORE", "After": "AFTER",
}


def _arguments(parser: VerbParser) -> None:
    parser.positional("before", "CONTAINER|IMAGE_A",
                      "a container; or an image here, docker://REF, oci:DIR, ./FILE and so on")
    parser.positional("after", "IMAGE_B", "the image to compare an image with", nargs="?")
    parser.positional("path", "PATH", "only files at and below this path", nargs="?")
    parser.value("--by", metavar="WHAT", choices=("file", "layer"), default="file",
                 about="file (the default) or layer: which layers both have, and which only one")
    parser.flag("--times", about="a file whose time alone is different is different too")
    parser.flag("--name-only", about="paths only, one a line")
    parser.flag("--exit-code", about="exit with 1 if files or settings are different")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.value("--format", metavar="FORMAT", default="",
                 about="'table', 'json' (one document) or a Go template such as '{{.Change}} {{.Path}}'")


def _diff(arguments: Arguments, session: Session) -> int:
    from lamina.cli.progress import shown

    if arguments.after is None:
        return _diff_container(arguments, session)
    platform = platform_of(arguments.platform)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        found = engine.diff(
            arguments.before, arguments.after, arguments.path or "/", times=arguments.times, platform=platform
        )
    _show(found, arguments, session)
    return 1 if arguments.exit_code and not found.is_same else 0


def _diff_container(arguments: Arguments, session: Session) -> int:
    """With one name it is docker's diff: what a container changed. Exit codes are docker's too."""
    from lamina.cli.committing import show_changes
    from lamina.runtime.container import ContainerNotFound

    with session.engine() as engine:
        try:
            changes = engine.container_changes(arguments.before)
        except ContainerNotFound as error:
            error.add_note("to compare two images, name both: lamina diff app:1 app:2")
            raise
    show_changes(changes, arguments.format, session)
    return 1 if arguments.exit_code and changes else 0


def _show(found: Comparison, arguments: Arguments, session: Session) -> None:
    form = arguments.format.strip()
    if form == "json":
        session.print(json_text(document_of(arguments.before, arguments.after, found), indent=2))
    elif arguments.by == "layer":
        spell = {"Before": spell_number, "After": spell_number, "DiffID": spell_digest,
                 "Size": spell_size, "Instruction": spell_instruction}
        listing = Listing(_LAYER_HEADINGS, spell=spell, right=("Before", "After", "Size"))
        show(session, listing, map(_layer_row, found.layers), form)
        if not form:
            session.print(layer_total(found.layers))
    elif form:
        show(session, Listing(_FILE_HEADINGS), map(_file_row, found.files), form)
    elif arguments.name_only:
        for change in found.files:
            session.print(visible(f"/{change.path}"))
    else:
        for line in _lines(found):
            session.print(line)


def _lines(found: Comparison) -> Iterator[str]:
    for change in found.files:
        yield file_line(change)
    for setting in found.config:
        yield config_line(setting)
    yield total_line(found)


# -- files


def file_line(change: FileChange) -> str:
    told = ", ".join(_told(change))
    return f"{change.change} {visible('/' + change.path)}" + (f"  ({told})" if told else "")


def _told(change: FileChange) -> Iterator[str]:
    before, after = change.before, change.after
    if before is None or after is None:
        entry = before or after
        assert entry is not None
        yield human_size(entry.size) if entry.kind is Kind.FILE else _kind(entry)
        return
    for field in change.fields:
        yield _told_field(field, before, after)
    if "content" in change.fields and before.size != after.size:
        yield f"{human_size(before.size)} -> {human_size(after.size)}"


def _told_field(field: str, before: Entry, after: Entry) -> str:
    pairs = {
        "kind": (_kind(before), _kind(after)),
        "mode": (f"{before.mode:04o}", f"{after.mode:04o}"),
        "owner": (f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        "mtime": (minute_of(before.mtime), minute_of(after.mtime)),
        "target": (visible(before.linkname), visible(after.linkname)),
        "device": (f"{before.major}:{before.minor}", f"{after.major}:{after.minor}"),
    }
    one, other = pairs.get(field, ("", ""))
    return f"{field} {one} -> {other}" if one != other else field


def _kind(entry: Entry) -> str:
    return entry.kind.name.lower()


def _file_row(change: FileChange) -> dict[str, Any]:
    return {
        "Path": f"/{change.path}", "Change": str(change.change), "Fields": list(change.fields),
        "Before": _entry_row(change.before), "After": _entry_row(change.after),
    }


def _entry_row(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "Kind": _kind(entry), "Size": entry.size, "Mode": f"{entry.mode:04o}", "Uid": entry.uid,
        "Gid": entry.gid, "Mtime": entry.mtime, "Target": entry.linkname, "Xattrs": sorted(entry.xattrs),
    }


def total_line(found: Comparison) -> str:
    totals = totals_of(found)
    if not found.files:
        told = "No file is different"
    else:
        added, changed, removed = totals["Added"], totals["Changed"], totals["Removed"]
        told = (f"{added['Files']} added ({human_size(added['Bytes'])}), {changed['Files']} changed "
                f"({human_size(changed['BytesBefore'])} -> {human_size(changed['BytesAfter'])}), "
                f"{removed['Files']} removed ({human_size(removed['Bytes'])})")
    settings = len(found.config)
    return told + (f"; {settings} {'setting' if settings == 1 else 'settings'} different" if settings else "")


def totals_of(found: Comparison) -> dict[str, dict[str, int]]:
    """Of changed files, the bytes of both sides whatever changed in them."""
    totals = {
        "Added": {"Files": 0, "Bytes": 0},
        "Changed": {"Files": 0, "BytesBefore": 0, "BytesAfter": 0},
        "Removed": {"Files": 0, "Bytes": 0},
    }
    names = {"A": "Added", "C": "Changed", "D": "Removed"}
    for change in found.files:
        row = totals[names[change.change]]
        row["Files"] += 1
        if "Bytes" in row:
            row["Bytes"] += change.bytes_before + change.bytes_after
        else:
            row["BytesBefore"] += change.bytes_before
            row["BytesAfter"] += change.bytes_after
    return totals


# -- settings


def config_line(setting: ConfigChange) -> str:
    letter = "A" if setting.before is None else "D" if setting.after is None else "C"
    name = visible(f"{setting.field}.{setting.name}" if setting.name else setting.field)
    if setting.before is None or setting.after is None:
        value = setting.after if setting.before is None else setting.before
        told = "" if value in ({}, None) else f"  ({_value(value)})"
    else:
        told = f"  ({_value(setting.before)} -> {_value(setting.after)})"
    return f"{letter} config {name}{told}"


def _value(value: Any) -> str:
    return visible(shortened(value if isinstance(value, str) else json_text(value)))


def _config_row(setting: ConfigChange) -> dict[str, Any]:
    return {"Field": setting.field, "Name": setting.name, "Before": setting.before, "After": setting.after}


# -- layers


def _layer_row(layer: LayerChange) -> Mapping[str, object]:
    where = "A" if layer.after is None else "B" if layer.before is None else "both"
    return {
        "In": where, "Before": layer.before, "After": layer.after, "IsPrefix": layer.is_prefix,
        "DiffID": str(layer.diff_id), "Size": layer.size, "Instruction": layer.instruction,
    }


def layer_total(layers: Sequence[LayerChange]) -> str:
    def told(rows: Sequence[LayerChange]) -> str:
        return f"{len(rows)} ({human_size(sum(row.size for row in rows))})"

    both = [layer for layer in layers if layer.before is not None and layer.after is not None]
    first = [layer for layer in layers if layer.after is None]
    second = [layer for layer in layers if layer.before is None]
    return f"layers: {told(both)} in both, {told(first)} only in A, {told(second)} only in B"


def document_of(before: str, after: str, found: Comparison) -> dict[str, Any]:
    return {
        "Before": before,
        "After": after,
        "Totals": totals_of(found),
        "Files": [_file_row(change) for change in found.files],
        "Layers": [dict(_layer_row(layer)) for layer in found.layers],
        "Config": [_config_row(setting) for setting in found.config],
    }


DIFF = Verb(
    _diff,
    usage="[OPTIONS] CONTAINER | IMAGE_A IMAGE_B [PATH]",
    about="""\
With one name, shows what that container changed in its own layer: A for a path that it added, C for one
that it changed, D for one that it deleted.

With two, shows what a container of IMAGE_B sees that one of IMAGE_A does not, by the same letters, and how
a path changed: kind, content, mode, owner, xattrs, target of a symlink, device; mtime with --times. Lines
with the word config are settings: environment, command, entrypoint, labels, user, workdir, ports. Content
is compared byte for byte, unless both images have the same file of the same layer. Exit codes: 0, whether
or not anything is different; 1 with --exit-code if something is; 125 when there was nothing to compare.""",
    arguments=_arguments,
    examples=(
        "lamina diff web", "lamina diff app:1 app:2", "lamina diff --name-only app:1 app:2 /etc",
        "lamina diff --by layer app:1 docker://registry.example/app:2",
        "lamina diff --exit-code --format json app:1 ./app.tar",
    ),
    trouble=125,
)
