"""Volumes: data that outlives containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.cli.arguments import pairs_of
from lamina.cli.images import FILTER_HELP, FORMAT_HELP, filters_of
from lamina.cli.listing import Listing, show, show_documents
from lamina.cli.quantity import human_size
from lamina.cli.several import collected, for_each
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.volumes import VolumeSummary

DF_DIGITS = 4  # docker's
VOLUME_LISTING = {
    "Driver": "DRIVER", "Name": "VOLUME NAME", "Labels": "LABELS", "Links": "LINKS",
    "Mountpoint": "MOUNTPOINT", "Scope": "SCOPE", "Size": "SIZE",
}
_ONE = "a volume's name"


# -- volume create


def _create_arguments(parser: VerbParser) -> None:
    parser.positional("name", "VOLUME", "its name; without one it is anonymous", nargs="?")
    parser.value("-d", "--driver", metavar="DRIVER", default="local", about="only 'local'")
    parser.values("--label", metavar="KEY[=VALUE]", about="a label; may be repeated")
    parser.values("-o", "--opt", metavar="KEY=VALUE",
                  about="type, device, o or size, as in mount(8): a tmpfs, or a host directory (o=bind)")


def _create(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        made = engine.create_volume(
            arguments.name or "", labels=pairs_of(arguments.label), options=pairs_of(arguments.opt),
            driver=arguments.driver,
        )
    session.print(made.name)


VOLUME_CREATE = Verb(
    _create,
    usage="[OPTIONS] [VOLUME]",
    about="""\
Makes a volume and prints its name. `lamina run -v NAME:/data` makes one that is missing, too. The first
container that mounts an empty volume fills it with what its image has at that place.""",
    arguments=_create_arguments,
    examples=(
        "lamina volume create data",
        "lamina volume create --opt type=tmpfs --opt o=size=64m scratch",
        "lamina volume create --opt type=none --opt o=bind --opt device=/srv/www www",
    ),
)


# -- volume ls


def _ls_arguments(parser: VerbParser) -> None:
    parser.values("-f", "--filter", metavar="KEY=VALUE",
                  about=FILTER_HELP + " (dangling, driver, label, name)")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)
    parser.flag("-q", "--quiet", about="show names only")


def _ls(arguments: Arguments, session: Session) -> None:
    # Its size takes a walk through a volume, so only who names it gets it, as in docker.
    has_sizes = "Size" in arguments.format
    with session.engine() as engine:
        found = engine.volumes(filters_of(arguments.filter), has_sizes=has_sizes)
    if arguments.quiet and not arguments.format:
        for volume in found:
            session.print(volume.name)
        return
    rows = [volume_row(volume) for volume in found]
    show(session, Listing(VOLUME_LISTING, ["Driver", "Name"]), rows, arguments.format)


def volume_row(volume: VolumeSummary) -> Mapping[str, object]:
    return {
        "Driver": "local", "Name": volume.name, "Scope": "local", "Mountpoint": str(volume.mountpoint),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(volume.labels.items())),
        "Links": str(len(volume.users)), "Size": "N/A" if volume.size is None else human_size(volume.size),
    }


VOLUME_LS = Verb(
    _ls,
    usage="[OPTIONS]",
    about="Lists volumes by name. Those that no container has are found with --filter dangling=true.",
    arguments=_ls_arguments,
    examples=("lamina volume ls", "lamina volume ls -q --filter dangling=true"),
)


# -- volume inspect


def _inspect_arguments(parser: VerbParser) -> None:
    parser.positional("names", "VOLUME", _ONE, nargs="+")
    parser.value("-f", "--format", metavar="FORMAT", default="", about="'json' or a Go template such as "
                 "'{{.Mountpoint}}'")


def _inspect(arguments: Arguments, session: Session) -> int:
    """Those found are printed even if others are missing, as docker does it."""
    with session.engine() as engine:
        documents, code = collected(session, arguments.names, engine.inspect_volume)
    show_documents(session, documents, arguments.format)
    return code


VOLUME_INSPECT = Verb(
    _inspect,
    usage="[OPTIONS] VOLUME [VOLUME...]",
    about="Prints a JSON array with docker's field names. Mountpoint is where the files are on this machine.",
    arguments=_inspect_arguments,
    examples=("lamina volume inspect data", "lamina volume inspect -f '{{.Mountpoint}}' data"),
)


# -- volume rm


def _rm_arguments(parser: VerbParser) -> None:
    parser.positional("names", "VOLUME", _ONE, nargs="+")
    parser.flag("-f", "--force", about="a missing volume is no error")


def _rm(arguments: Arguments, session: Session) -> int:
    with session.engine() as engine:
        return for_each(
            session, arguments.names, lambda name: engine.remove_volume(name, force=arguments.force)
        )


VOLUME_RM = Verb(
    _rm,
    usage="[OPTIONS] VOLUME [VOLUME...]",
    about="Removes volumes with everything in them. One that a container has, running or not, stays.",
    arguments=_rm_arguments,
    examples=("lamina volume rm data", "lamina volume rm $(lamina volume ls -q --filter dangling=true)"),
)


# -- volume prune


def _prune_arguments(parser: VerbParser) -> None:
    parser.flag("-a", "--all", about="volumes with a name too")
    parser.flag("-f", "--force", about="do not ask")
    parser.values("--filter", metavar="KEY=VALUE", about=FILTER_HELP + " (label)")


def _prune(arguments: Arguments, session: Session) -> int:
    what = "all volumes" if arguments.all else "anonymous volumes"
    if not arguments.force and not session.agrees(f"{what} that no container has"):
        return 0
    with session.engine() as engine:
        pruned = engine.prune_volumes(filters_of(arguments.filter), all_volumes=arguments.all)
    if pruned.names:
        session.print("Deleted Volumes:")
        for name in pruned.names:
            session.print(name)
        session.print("")
    session.print(f"Total reclaimed space: {human_size(pruned.freed, DF_DIGITS)}")
    return 0


VOLUME_PRUNE = Verb(
    _prune,
    usage="[OPTIONS]",
    about="Removes the anonymous volumes that no container has, and with --all those that have a name.",
    arguments=_prune_arguments,
    examples=("lamina volume prune", "lamina volume prune --all --force --filter label=temporary"),
)
