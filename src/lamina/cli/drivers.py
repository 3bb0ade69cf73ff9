"""Storage drivers: which there are, moving to another one, and comparing them on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.cli.images import FORMAT_HELP
from lamina.cli.listing import Listing, check_document_form, show, show_document
from lamina.cli.progress import shown
from lamina.cli.quantity import human_size
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.drivers import DriverRow
    from lamina.engine.migrating import Migration

_DIGITS = 4


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _size(value: object) -> str:
    return "-" if value is None else human_size(float(str(value)), _DIGITS)


# -- storage ls

LISTING = Listing(
    {
        "Name": "DRIVER", "Usable": "USABLE", "InUse": "IN USE", "Snapshots": "SNAPSHOTS",
        "Containers": "CONTAINERS", "Size": "SIZE", "Reason": "WHAT IT DOES, OR WHY IT CANNOT",
    },
    spell={"Usable": _yes, "InUse": _yes, "Size": _size}, right=("Snapshots", "Containers", "Size"),
)


def _ls_arguments(parser: VerbParser) -> None:
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _ls(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        rows = [_row(row) for row in engine.storage_drivers()]
    show(session, LISTING, rows, arguments.format)


def _row(row: DriverRow) -> Mapping[str, object]:
    return {
        "Name": row.name, "Usable": row.is_usable, "InUse": row.is_in_use, "Snapshots": row.snapshots,
        "Containers": row.containers, "Size": row.size, "Reason": row.reason,
    }


STORAGE_LS = Verb(
    _ls,
    usage="[OPTIONS]",
    about="""\
The storage drivers, best first: whether each works here, which one new images and containers get, and what
each has. `lamina info` says why that one is in use.""",
    arguments=_ls_arguments,
    examples=("lamina storage ls", "lamina storage ls --format '{{.Name}} {{.Usable}}'"),
)


# -- storage migrate


def _migrate_arguments(parser: VerbParser) -> None:
    parser.value("--to", metavar="DRIVER", required=True, about="the driver that is to have everything")
    parser.flag("--dry-run", about="say what would be moved, and whether anything is in the way")
    parser.value("--format", metavar="FORMAT", default="", about="'json' or a Go template")


def _migrate(arguments: Arguments, session: Session) -> int:
    """1 where something stayed with an old driver."""
    check_document_form(arguments.format)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        done = engine.migrate_storage(arguments.to, is_dry_run=arguments.dry_run)
    if arguments.format:
        show_document(session, _document(done), arguments.format)
    else:
        _print(done, session)
    return 1 if done.remaining else 0


def _document(done: Migration) -> dict[str, object]:
    return {
        "Target": done.target, "Sources": list(done.sources), "Images": list(done.images),
        "Layers": done.layers, "LayerSize": done.layer_size, "Containers": list(done.containers),
        "ContainerSize": done.container_size, "Freed": done.freed, "Remaining": list(done.remaining),
        "Room": [
            {"Place": room.place, "Needed": room.needed, "Free": room.free} for room in done.rooms
        ],
        "Notes": list(done.notes), "DryRun": done.is_dry_run,
    }


def _print(done: Migration, session: Session) -> None:
    from lamina.cli.terminal import visible

    would = "would be " if done.is_dry_run else ""
    if not done.sources:
        session.print(f"Nothing is with another driver than {visible(done.target)}.")
    else:
        session.print(f"From {', '.join(map(visible, done.sources))} to {visible(done.target)}:")
        session.print(f"  {_images(done, would)}")
        session.print(f"  {_containers(done, would)}")
    for room in done.rooms if done.is_dry_run else ():
        session.print(
            f"  {visible(room.place)} would take about {human_size(room.needed, _DIGITS)}, "
            f"and has {human_size(room.free, _DIGITS)}"
        )
    if done.freed:
        session.print(f"Total reclaimed space: {human_size(done.freed, _DIGITS)}")
    for note in (*done.notes, *done.remaining):
        session.note(f"note: {note}")


def _images(done: Migration, would: str) -> str:
    if not done.images:
        return "no image was unpacked"
    verb = would or ("was " if len(done.images) == 1 else "were ")
    return (
        f"{_counted(len(done.images), 'image')} with {_counted(done.layers, 'layer')} "
        f"({human_size(done.layer_size, _DIGITS)}) {verb}unpacked anew"
    )


def _containers(done: Migration, would: str) -> str:
    if not done.containers:
        return "no container"
    verb = would or ("was " if len(done.containers) == 1 else "were ")
    names = ", ".join(done.containers)
    return (
        f"{_counted(len(done.containers), 'container')} ({human_size(done.container_size, _DIGITS)}) "
        f"{verb}moved: {names}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


STORAGE_MIGRATE = Verb(
    _migrate,
    usage="--to DRIVER [OPTIONS]",
    about="""\
Moves everything to another storage driver: images become mountable by it, stopped containers keep every file
that they wrote, and what the old driver took is freed. Each container is moved as a whole or not at all; a
migration that was interrupted is finished by running it again. Nothing may run, or be mounted, meanwhile.
What surely does not fit on the disk is refused; --dry-run shows what it would take. --storage-opt gives the
driver's options.""",
    arguments=_migrate_arguments,
    examples=(
        "lamina storage migrate --to overlay2 --dry-run",
        "lamina storage migrate --to zfs --storage-opt zfs.fsname=tank/lamina",
    ),
)


# -- storage bench


def _milliseconds(value: object) -> str:
    return f"{float(str(value)) * 1000:.1f}ms"


BENCH_LISTING = Listing(
    {
        "Driver": "DRIVER", "Stack": "STACK", "Create": "CREATE", "Write": "WRITE", "Diff": "DIFF",
        "Commit": "COMMIT", "Remove": "REMOVE", "Size": "SIZE", "Layers": "LAYERS",
        "Containers": "CONTAINERS",
    },
    ("Driver", "Stack", "Create", "Write", "Diff", "Commit", "Remove", "Size"),
    spell={**dict.fromkeys(("Stack", "Create", "Write", "Diff", "Commit", "Remove"), _milliseconds),
           "Size": _size},
    right=("Stack", "Create", "Write", "Diff", "Commit", "Remove", "Size"),
)


def _bench_arguments(parser: VerbParser) -> None:
    parser.value("--drivers", metavar="NAME[,NAME...]", default="", about="only these (all that work)")
    parser.value("--layers", metavar="COUNT", type=int, default=10,
                 about="of the image that they make mountable (default: 10)")
    parser.value("--containers", metavar="COUNT", type=int, default=50,
                 about="made of that image (default: 50)")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _bench(arguments: Arguments, session: Session) -> None:
    names = [name for name in arguments.drivers.split(",") if name]
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        done = engine.bench_storage(names, layers=arguments.layers, containers=arguments.containers)
    rows = [
        {"Driver": row.driver, "Layers": row.layers, "Containers": row.containers, "Stack": row.stack,
         "Create": row.create, "Write": row.write, "Diff": row.diff, "Commit": row.commit,
         "Remove": row.remove, "Size": row.size}
        for row in done.rows
    ]
    show(session, BENCH_LISTING, rows, arguments.format)
    for candidate in done.left_out:
        session.note(f"note: without {candidate.name}: {candidate.reason}")


STORAGE_BENCH = Verb(
    _bench,
    usage="[OPTIONS]",
    about="""\
Compares the storage drivers that work here, on the filesystem of the state directory: how long it takes until
a stack of layers of a mebibyte each can be mounted (STACK), and for one container to create it, to write a
file of 4 KiB, to list what changed, to commit that and to remove it; and the bytes that it takes. What is
here is left alone, and nothing stays. It does not begin where the disk could become full.""",
    arguments=_bench_arguments,
    examples=(
        "lamina storage bench",
        "lamina storage bench --drivers overlay2,vfs --layers 100 --containers 200 --format json",
    ),
)
