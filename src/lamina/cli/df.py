"""What takes space: a line for each kind of thing, or with ``-v`` one for each thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.cli.blobs import told
from lamina.cli.images import FORMAT_HELP, short_id
from lamina.cli.listing import Listing, show
from lamina.cli.quantity import human_size, since
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.listing import Row
    from lamina.cli.session import Session
    from lamina.engine.diskusage import ImageUsage, UsageRow

_DIGITS = 4  # docker's
_USAGE = Listing({
    "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
})
_IMAGES = Listing({
    "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE",
    "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
})
_IMAGES_WITH_DROPPED = Listing({**_IMAGES.headings, "Dropped": "DROPPED"})
_CONTAINERS = Listing({
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE", "RunningFor": "CREATED", "Status": "STATUS", "Names": "NAMES",
})
_VOLUMES = Listing({"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"})
_CACHE = Listing({
    "ID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED",
    "LastUsedSince": "LAST USED", "UsageCount": "USAGE", "Shared": "SHARED",
})


def _arguments(parser: VerbParser) -> None:
    parser.flag("-v", "--verbose", about="one line for each image, container, volume and step of a build")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _df(arguments: Arguments, session: Session) -> None:
    if arguments.verbose:
        _show_each(session, arguments.format)
        return
    with session.engine() as engine:
        rows = [_usage_row(row) for row in engine.usage()]
        dropped = engine.dropped_blobs()
    show(session, _USAGE, rows, arguments.format)
    if dropped:
        session.hint(told(dropped))


def _usage_row(row: UsageRow) -> Mapping[str, object]:
    share = f" ({100 * row.reclaimable // row.size}%)" if row.size else ""
    return {
        "Type": row.type, "TotalCount": str(row.total), "Active": str(row.active),
        "Size": human_size(row.size, _DIGITS),
        "Reclaimable": human_size(row.reclaimable, _DIGITS) + share,
    }


def _show_each(session: Session, form: str) -> None:
    """Docker's four tables. As JSON, or for a template, they are one object of four lists."""
    from lamina.cli.builder import cache_row
    from lamina.cli.ps import container_row
    from lamina.cli.volumes import volume_row
    from lamina.engine.building.usage import own_bytes

    with session.engine() as engine:
        now, cache, images = session.clock(), engine.build_cache(), engine.image_usage()
        found: dict[str, Sequence[Row]] = {
            "Images": [_image_row(row, now) for row in images],
            "Containers": [
                container_row(each, now, is_whole=False)
                for each in engine.containers(shows_all=True, has_sizes=True)
            ],
            "Volumes": [volume_row(volume) for volume in engine.volumes({}, has_sizes=True)],
            "BuildCache": [cache_row(record, now) for record in cache],
        }
    if form.strip() not in ("", "table"):
        show(session, Listing({name: name for name in found}), [found], form)
        return
    listing = _IMAGES_WITH_DROPPED if any(row.dropped for row in images) else _IMAGES
    sections = (
        ("Images space usage:", listing, "Images"), ("Containers space usage:", _CONTAINERS, "Containers"),
        ("Local Volumes space usage:", _VOLUMES, "Volumes"),
        (f"Build cache usage: {human_size(own_bytes(cache), _DIGITS)}", _CACHE, "BuildCache"),
    )
    for title, listing, name in sections:
        session.print(f"{title}\n")
        show(session, listing, found[name], "")
        if name != "BuildCache":
            session.print("")


def _image_row(row: ImageUsage, now: float) -> Mapping[str, object]:
    return {
        "Repository": row.repository or "<none>", "Tag": row.tag or "<none>", "ID": short_id(row.id),
        "CreatedSince": since(row.created, now), "Size": human_size(row.size, _DIGITS),
        "SharedSize": human_size(row.shared, _DIGITS), "UniqueSize": human_size(row.unique, _DIGITS),
        "Dropped": human_size(row.dropped, _DIGITS),
    }


DF = Verb(
    _df,
    usage="[OPTIONS]",
    about="""\
Bytes on disk: what is stored as it came, and what is unpacked. Each layer counts once, however many
images share it. RECLAIMABLE is what the matching prune frees. Dropped blobs take nothing; with -v, DROPPED
is how large they were.""",
    arguments=_arguments,
    examples=("lamina system df", "lamina system df -v", "lamina system df -v --format json"),
)
