"""Squash: layers merged into one, what was gained, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.cli.explain import shortened
from lamina.cli.images import short_id
from lamina.cli.listing import check_document_form, show_document
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.progress import shown
from lamina.cli.quantity import human_size
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.merging import Sharing, SquashedImage
    from lamina.engine.squashing import Squashed

# Engines in Go read no other spelling of a time, and refuse an image that has one.
_RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_SHOWN = 12  # instructions, and images that share; --format json has all
LOCATION_HELP = """\
An image is a name or an ID in the store, docker://REF in a registry, oci:DIR[:NAME] in a layout, or
oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], ./FILE in a file."""


def _arguments(parser: VerbParser) -> None:
    parser.positional("names", "IMAGE", "the image: in the store, a registry, an archive or a layout; "
                      "with --plan any number, or none for all that are here", nargs="*")
    parser.value("-t", "--tag", metavar="NEW", default="",
                 about="where the result goes: a name, or docker://REF, oci:DIR:NAME, oci-archive:FILE:NAME, "
                       "docker-archive:FILE:NAME; without it an image here that has no name")
    parser.value("-f", "--from", metavar="LAYER", dest="first", default="",
                 about="the lowest layer to merge: its number in `lamina layers`, or (the beginning of) its "
                       "diff id or digest")
    parser.value("--to", metavar="LAYER", dest="last", default="", about="the highest one (default: the top)")
    parser.value("-n", metavar="N", dest="count", type=int, default=None, about="merge the N topmost layers")
    parser.flag("--all", about="merge all layers, the base image's too")
    parser.value("--base", metavar="IMAGE", default="", about="keep the layers of this image, merge the rest")
    parser.value("-m", "--message", metavar="TEXT", default="", about="what history says made the new layer")
    parser.values("--redact", metavar="PATTERN",
                  about="replace what matches this regular expression in environment, labels, history and "
                        "annotations; may be repeated")
    parser.value("--compression", metavar="KIND", choices=["none", "gzip", "zstd"], default="none",
                 about="of the new layer as it is stored: none (default; push compresses it), gzip or zstd")
    parser.value("--created", metavar="TIME", default="",
                 about="RFC 3339 time of the new image (default: SOURCE_DATE_EPOCH, else now)")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.flag("--dry-run", about="say what would be merged and what it would cost, and write nothing")
    parser.flag("--plan", about="find the ranges worth merging: of one image, several, or all that are here")
    parser.flag("--apply", about="with --plan: do it, under new tags")
    parser.value("--max-layers", metavar="N", type=int, default=0,
                 about="with --plan: no image may have more layers")
    parser.value("--worth", metavar="SIZE", default=None,
                 about="with --plan: what a merge must save in all, for each layer that is lost "
                       "(default 1MB)")
    parser.value("--references", metavar="FILE", default="",
                 about="with --plan: lines of an image and how often it is pulled; - is standard input")
    parser.value("--suffix", metavar="TEXT", default=None,
                 about="with --apply: what is added to a tag (default -squashed); '' replaces the image "
                       "under its own")
    parser.flag("-q", "--quiet", about="print the new image's ID alone")
    parser.value("--format", metavar="FORMAT", default="", about="'json' or a Go template")


def _squash(arguments: Arguments, session: Session) -> None:
    check_document_form(arguments.format)
    if arguments.plan:
        from lamina.cli.plan import plan

        plan(arguments, session)
        return
    from lamina.engine.merging import SquashOptions

    name = _only_name(arguments)
    _insist_on_one_range(arguments)
    session.is_quiet = session.is_quiet or arguments.quiet
    options = SquashOptions(
        first=arguments.first, last=arguments.last, count=arguments.count or 0, is_all=arguments.all,
        base=arguments.base, message=arguments.message, created=created_of(arguments, session),
        compression=arguments.compression, redact=tuple(arguments.redact), is_dry=arguments.dry_run,
    )
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        done = engine.squash(
            name, arguments.tag, options=options, platform=platform_of(arguments.platform)
        )
    for note in done.notes:
        session.note(f"note: {note}")
    if arguments.format:
        show_document(session, squashed_row(done), arguments.format)
    elif arguments.quiet:
        print_ids(done, session)
    else:
        for text in squashed_lines(done):
            session.print(text)


def print_ids(done: Squashed, session: Session) -> None:
    for image in done.images:
        session.print(str(image.image_id or image.source))


def _only_name(arguments: Arguments) -> str:
    from lamina.cli.arguments import UsageError

    for option, is_given in (
        ("--apply", arguments.apply), ("--max-layers", arguments.max_layers != 0),
        ("--references", arguments.references != ""), ("--worth", arguments.worth is not None),
        ("--suffix", arguments.suffix is not None),
    ):
        if is_given:
            raise UsageError(f"squash: {option} goes with --plan")
    if len(arguments.names) != 1:
        error = UsageError("squash needs IMAGE" if not arguments.names else
                           f"squash: expected one image, got {len(arguments.names)}")
        error.add_note("`lamina squash --plan` looks at several, or at all that are here")
        raise error
    return str(arguments.names[0])


def _insist_on_one_range(arguments: Arguments) -> None:
    from lamina.cli.arguments import UsageError

    given = [
        option for option, is_given in (
            ("--from", arguments.first != ""), ("-n", arguments.count is not None), ("--all", arguments.all),
            ("--base", arguments.base != ""),
        ) if is_given
    ]
    if len(given) > 1:
        raise UsageError(f"squash: {' and '.join(given)} choose layers in different ways; give one of them")
    if arguments.count is not None and arguments.count < 1:
        raise UsageError(f"-n: expected a number of layers, got {arguments.count}")
    if arguments.all and arguments.last:
        raise UsageError("squash: --all leaves no layer out; --to does")


def created_of(arguments: Arguments, session: Session) -> str:
    from lamina.cli.archives import creation_time
    from lamina.cli.arguments import UsageError

    if not arguments.created:
        return creation_time(session) or ""
    if not _is_rfc_3339(arguments.created):
        raise UsageError(
            f"--created: expected a time such as 2025-06-01T12:00:00Z, got {arguments.created!r}"
        )
    return str(arguments.created)


def _is_rfc_3339(text: str) -> bool:
    from datetime import datetime

    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _RFC_3339.fullmatch(text) is not None


# -- as documents


def squashed_row(done: Squashed) -> Mapping[str, object]:
    return {
        "Source": done.name, "Target": done.target, "Digest": str(done.digest or ""),
        "Seconds": round(done.seconds, 3), "Notes": list(done.notes),
        "Images": [_image_row(image) for image in done.images],
    }


def _image_row(image: SquashedImage) -> Mapping[str, object]:
    return {
        "Platform": image.platform, "SourceID": str(image.source), "ID": str(image.image_id or ""),
        "Digest": str(image.digest or ""),
        "Ranges": [{"From": first, "To": last} for first, last in image.ranges],
        "Base": {"Layers": image.base.layers, "ID": image.base.id, "Found": image.base.found},
        "LayersBefore": image.layers_before, "LayersAfter": image.layers_after,
        "SizeBefore": image.size_before, "SizeAfter": image.size_after, "SizeGone": image.size_gone,
        "EntriesBefore": image.entries_before, "EntriesAfter": image.entries_after,
        "SharedWith": [
            {"Image": each.image, "Layers": each.layers, "Size": each.size} for each in image.shared_with
        ],
        "SharedSize": image.shared_size, "LostInstructions": list(image.lost),
        "Redactions": [{"Field": each.field, "Count": each.count} for each in image.redactions],
        "BuildCache": "kept",
    }


# -- in words


def squashed_lines(done: Squashed) -> Iterator[str]:
    for image in done.images:
        if len(done.images) > 1:
            yield f"{image.platform}:"
        yield from _image_lines(image)
    if done.digest is None:
        yield "Nothing was written: this was a dry run."
        return
    yield f"{_outcome(done)}: {visible(done.target) or _ids(done)}"


def _outcome(done: Squashed) -> str:
    if any(image.ranges for image in done.images):
        return f"Squashed in {done.seconds:.1f} s"
    if any(image.redactions for image in done.images):
        return f"Redacted in {done.seconds:.1f} s"
    return "Unchanged"


def _ids(done: Squashed) -> str:
    return ", ".join(short_id(str(image.image_id)) for image in done.images)


def _image_lines(image: SquashedImage) -> Iterator[str]:
    if not image.ranges:
        yield _nothing(image)
    else:
        yield from _merge_lines(image)
    for redaction in image.redactions:
        yield f"  redacted  {visible(redaction.field)}{_times(redaction.count)}"


def _nothing(image: SquashedImage) -> str:
    above = image.layers_before - image.base.layers
    if above <= 0:
        return f"Nothing to merge: no layer lies above the base{_found(image)}."
    return "Nothing to merge: one layer is one layer already."


def _merge_lines(image: SquashedImage) -> Iterator[str]:
    kept = f"{count_of(image.base.layers, 'layer')} below kept" if image.base.layers else "none is kept below"
    for first, last in image.ranges[:-1]:
        yield f"Layers {first} to {last} become one."
    first, last = image.ranges[-1]
    yield f"Layers {first} to {last} become one; {kept}{_found(image)}."
    yield f"  layers    {image.layers_before} -> {image.layers_after}"
    sizes = f"{human_size(image.size_before)} -> {human_size(image.size_after)}"
    yield f"  size      {sizes} ({_gone(image.size_gone)})"
    yield f"  entries   {image.entries_before} -> {image.entries_after}"
    yield from _cost_lines(image)


def _found(image: SquashedImage) -> str:
    return f" ({visible(image.base.found)})" if image.base.found else ""


def _gone(size: int) -> str:
    return f"{human_size(size)} gone" if size >= 0 else f"{human_size(-size)} more"


def _cost_lines(image: SquashedImage) -> Iterator[str]:
    """The price: what layers were good for."""
    yield from map(_shared_line, image.shared_with[:_SHOWN])
    if len(image.shared_with) > _SHOWN:
        yield f"            and with {len(image.shared_with) - _SHOWN} more images"
    if image.shared_size:
        yield f"  re-added  {human_size(image.shared_size)} are kept twice now: alone, and in the new layer"
    yield from _lost_lines(image.lost)
    yield "  cache     the build cache is untouched: it is keyed by the layers as they were"


def _shared_line(sharing: Sharing) -> str:
    layers = count_of(sharing.layers, "layer")
    them = "it" if sharing.layers == 1 else "them"
    size, image = human_size(sharing.size), visible(sharing.image)
    return f"  shared    {layers} ({size}) with {image}, which keeps {them}"


def _lost_lines(instructions: Sequence[str]) -> Iterator[str]:
    """Layers that cannot be looked at alone any more, equal ones together."""
    texts = [visible(shortened(text)) or "(a layer without history)" for text in instructions]
    counted = {text: texts.count(text) for text in texts}
    lost = count_of(len(texts), "layer")
    yield f"  lost      {lost} to look into, share and pull alone; history still has:"
    for text, count in list(counted.items())[:_SHOWN]:
        yield f"            {text}{_times(count)}"
    if len(counted) > _SHOWN:
        yield f"            and {len(counted) - _SHOWN} more"


def _times(count: int) -> str:
    return "" if count == 1 else f" ({count} times)"


def count_of(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


SQUASH = Verb(
    _squash,
    usage="[OPTIONS] IMAGE | --plan [IMAGE...]",
    about=f"""\
Merges a range of layers into one: by default all layers above the base image, which is found by --base,
by the image's org.opencontainers.image.base annotations, or among the images that are here. Where no base
is known all layers become one. Base, config and history are kept; files that the range added and removed
again are gone, to the last byte. The image itself stays as it is, and so does whatever was pushed of it
before.

{LOCATION_HELP}

A PATTERN is a Python regular expression, and has all the time that it takes: nested repetition can take
for ever on text that an image's author chose.

Sizes are those of the layers uncompressed. Squashing costs what layers are for: the lines `shared`,
`re-added` and `lost` say how much. Nothing to merge is success.

With --plan it finds out which ranges are worth merging: those that hide enough of their own bytes, within
stretches of layers that belong to the same images, so that what is shared stays shared. --references
weighs images by how often they are pulled. Sizes of a plan are compressed ones, and estimates.

Exit codes: 0, 1 for a failure, 125 for a command line that makes no sense.""",
    arguments=_arguments,
    examples=(
        "lamina squash app:1 -t app:squashed",
        "lamina squash --base debian:12 --dry-run app:1",
        "lamina squash -n 3 -m 'three cleanups' app:1 -t app:2",
        "lamina squash --all docker://registry.example/app:1 -t docker://registry.example/app:flat",
        "lamina squash --plan --max-layers 20",
        "lamina squash --plan --references pulls.txt --apply",
        "lamina squash --redact 'ghp_[A-Za-z0-9]+' app:1 -t oci-archive:app.tar:app:1",
    ),
)
