"""What layers do to each other: who added what, which file hides which, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina.cli.files import split_path
from lamina.cli.images import FORMAT_HELP, short_id
from lamina.cli.listing import Listing, show
from lamina.cli.quantity import human_size
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb
from lamina.layer.entry import Kind

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.insight.provenance import Blame, LayerSummary, Obscured

_INSTRUCTION_WIDTH = 60


def shortened(instruction: str) -> str:
    """On one line of a table; heredocs and continued lines are long."""
    text = " ".join(instruction.split())
    return text if len(text) <= _INSTRUCTION_WIDTH else text[: _INSTRUCTION_WIDTH - 1] + "…"


def spell_size(size: object) -> str:
    assert isinstance(size, int)
    return human_size(size)


def spell_number(value: object) -> str:
    return "-" if value is None else str(value)


def _names(names: object) -> str:
    assert isinstance(names, Sequence)
    return ", ".join(map(str, names)) or "-"


def spell_digest(digest: object) -> str:
    return short_id(str(digest))


def spell_instruction(instruction: object) -> str:
    return shortened(str(instruction))


# -- layers

LAYER_HEADINGS = {
    "Layer": "LAYER", "DiffID": "DIFF ID", "Digest": "PULLED AS", "Compressed": "COMPRESSED", "Size": "SIZE",
    "Added": "ADDED", "Changed": "CHANGED", "Hidden": "HIDES", "HiddenBytes": "HIDDEN BYTES",
    "SharedWith": "SHARED WITH", "Instruction": "INSTRUCTION",
}
_LAYER_COLUMNS = ("Layer", "DiffID", "Digest", "Compressed", "Size", "Added", "Changed", "Hidden",
                  "SharedWith", "Instruction")


def _layers_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", "a name, an ID, or the beginning of an ID")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)
    parser.flag("--no-trunc", about="show whole digests and instructions")


def _layers(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        layers = engine.layers(arguments.name)
    spell: dict[str, Callable[[object], str]] = {
        "Compressed": spell_size, "Size": spell_size, "SharedWith": _names,
    }
    if not arguments.no_trunc:
        spell |= {"DiffID": spell_digest, "Digest": spell_digest, "Instruction": spell_instruction}
    listing = Listing(LAYER_HEADINGS, _LAYER_COLUMNS, spell=spell,
                      right=("Layer", "Compressed", "Size", "Added", "Changed", "Hidden"))
    show(session, listing, map(_layer_row, layers), arguments.format)
    if not arguments.format:
        session.hint(_layers_hint(layers))


def _layer_row(layer: LayerSummary) -> Mapping[str, object]:
    return {
        "Layer": layer.number, "DiffID": str(layer.diff_id), "Digest": str(layer.digest),
        "Compressed": layer.compressed, "Size": layer.size, "Added": layer.files_added,
        "Changed": layer.files_changed, "Hidden": layer.files_hidden, "HiddenBytes": layer.bytes_hidden,
        "SharedWith": list(layer.shared_with), "Instruction": layer.instruction,
    }


def _layers_hint(layers: Sequence[LayerSummary]) -> str:
    hidden = sum(layer.bytes_hidden for layer in layers)
    text = ("note: base first. DIFF ID names a layer's uncompressed tar (inspect lists it); PULLED AS names\n"
            "      the compressed blob that travels (pull prints it). One layer, two names.")
    if hidden:
        text += f"\n      {human_size(hidden)} are hidden by layers above: `lamina obscured` lists them."
    return text


LAYERS = Verb(
    _layers,
    usage="[OPTIONS] IMAGE",
    about="""\
One line a layer, base first. Each layer has two names: DIFF ID is the digest of its uncompressed tar,
which inspect lists and by which layers are stored once; PULLED AS is the digest of the compressed blob,
which pull prints. ADDED, CHANGED and HIDES count files against the layers below: new ones, ones that
replace a lower file, and lower ones that no container sees any more because of this layer.""",
    arguments=_layers_arguments,
    examples=("lamina layers redis:7", "lamina layers --format '{{.DiffID}} {{.Digest}}' redis:7"),
)


# -- blame


def _blame_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE[:PATH]", "an image, and a path in it that begins with /")
    parser.positional("path", "PATH", "the same path, as a word of its own", nargs="?")
    parser.value("--format", metavar="FORMAT", default="", about="'json' or a Go template")


def _blame(arguments: Arguments, session: Session) -> None:
    name, path = split_path(arguments.name, arguments.path)
    with session.engine() as engine:
        found = engine.blame(name, path)
    if arguments.format:
        show(session, Listing({}), [_blame_row(found)], arguments.format)
        return
    for text in blame_lines(found):
        session.print(text)


def _blame_row(found: Blame) -> Mapping[str, Any]:
    gone = found.deleted_by
    return {
        "Path": f"/{found.path}",
        "Layer": found.layer,
        "DiffID": str(found.diff_id),
        "Instruction": found.instruction,
        "Place": found.place,
        "Kind": found.kind.name.lower(),
        "Size": found.size,
        "Hides": [
            {"Layer": lower.layer, "DiffID": str(lower.diff_id), "Instruction": lower.instruction,
             "Place": lower.place, "Kind": lower.kind.name.lower(), "Size": lower.size,
             "HiddenBy": lower.hidden_by,
             "Reason": "" if lower.reason is None else str(lower.reason)}
            for lower in found.hides
        ],
        "DeletedBy": None if gone is None else {
            "Layer": gone.layer, "DiffID": str(gone.diff_id), "Instruction": gone.instruction,
            "Path": f"/{gone.path}", "Reason": str(gone.reason),
        },
    }


def blame_lines(found: Blame) -> Iterator[str]:
    """The highest version first, then what became of it, then what it hides."""
    gone = found.deleted_by
    state = ", seen by no container" if gone is not None else ""
    yield f"{visible('/' + found.path)}: {_what(found.kind, found.size)}{state}"
    yield f"  from   layer {found.layer} ({short_id(str(found.diff_id))})"
    yield f"  by     {_instruction(found.instruction)}"
    if found.place:
        yield f"  at     {visible(found.place)}"
    if gone is not None:
        above = "" if gone.path == found.path else f" with {visible('/' + gone.path)}"
        yield f"  gone   {gone.reason}{above} by layer {gone.layer}: {_instruction(gone.instruction)}"
    for lower in found.hides:
        verb = "covers" if lower.reason is None else "hides "
        yield (f"  {verb} layer {lower.layer}'s {_what(lower.kind, lower.size)}, by "
               f"{_instruction(lower.instruction)}" + (f" ({visible(lower.place)})" if lower.place else ""))
    if not found.hides:
        yield "  hides  nothing: no layer below has this path"


def _what(kind: Kind, size: int) -> str:
    if kind is Kind.HARDLINK:
        return f"hard link, {human_size(size)}"
    return f"file, {human_size(size)}" if kind is Kind.FILE else kind.name.lower()


def _instruction(text: str) -> str:
    return visible(" ".join(text.split())) or "(its history does not say)"


BLAME = Verb(
    _blame,
    usage="[OPTIONS] IMAGE[:PATH]",
    about="""\
Names the layer and the instruction that put a file where a container sees it, and each lower version
that it hides. Hidden versions are still in the image, for everybody who pulls it.""",
    arguments=_blame_arguments,
    examples=("lamina blame redis:7 /etc/passwd", "lamina blame app:2:/app/config.json"),
)


# -- obscured

OBSCURED_HEADINGS = {
    "Path": "PATH", "Kind": "KIND", "Size": "SIZE", "Layer": "LAYER", "Instruction": "INSTRUCTION",
    "HiddenBy": "HIDDEN BY", "HiddenByInstruction": "HIDDEN BY INSTRUCTION", "Reason": "REASON",
}


def _obscured_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", "a name, an ID, or the beginning of an ID")
    parser.flag("--no-trunc", about="show whole instructions")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _obscured(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        found = engine.obscured(arguments.name)
    spell: dict[str, Callable[[object], str]] = {"Size": spell_size}
    if not arguments.no_trunc:
        spell["HiddenByInstruction"] = spell_instruction
    listing = Listing(
        OBSCURED_HEADINGS, ("Path", "Size", "Layer", "HiddenBy", "Reason", "HiddenByInstruction"),
        spell=spell, right=("Size", "Layer", "HiddenBy"),
    )
    if found or arguments.format:
        show(session, listing, map(_obscured_row, found), arguments.format)
    if not arguments.format:
        session.print(obscured_total(found))


def _obscured_row(row: Obscured) -> Mapping[str, object]:
    return {
        "Path": f"/{row.path}", "Kind": row.kind.name.lower(), "Size": row.size, "Layer": row.layer,
        "Instruction": row.instruction, "HiddenBy": row.hidden_by,
        "HiddenByInstruction": row.hidden_by_instruction, "Reason": str(row.reason),
    }


def obscured_total(found: Sequence[Obscured]) -> str:
    if not found:
        return "Nothing is obscured: a container sees every file that is stored."
    files = "1 file" if len(found) == 1 else f"{len(found)} files"
    size = human_size(sum(row.size for row in found))
    return f"{files}, {size}: stored and pulled, but seen by no container"


OBSCURED = Verb(
    _obscured,
    usage="[OPTIONS] IMAGE",
    about="""\
Lists what upper layers hide in lower ones: files that were replaced, removed, or emptied away with
their directory. They cost space and can be read by everybody who pulls the image (`lamina cat
--layer`), so a secret that was "removed" in a later layer is here too.""",
    arguments=_obscured_arguments,
    examples=("lamina obscured redis:7", "lamina obscured --format json app:2 | jq .Path"),
)
