"""Networks: how containers reach each other by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError, pairs_of
from lamina.cli.images import FILTER_HELP, FORMAT_HELP, filters_of
from lamina.cli.listing import Listing, show, show_documents
from lamina.cli.several import collected
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.networks import NetworkSummary

NETWORK_LISTING = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv6": "IPV6",
    "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
}
_ONE = "a network's name, or the beginning of its ID"
_SHORT_ID = 12  # docker's


# -- network create


def _create_arguments(parser: VerbParser) -> None:
    parser.positional("name", "NETWORK", "its name")
    parser.value("-d", "--driver", metavar="DRIVER", default="bridge", about="only 'bridge'")
    parser.values("--subnet", metavar="CIDR",
                  about="its addresses (chosen if not given); one each of IPv4 and IPv6")
    parser.values("--gateway", metavar="ADDRESS", about="the host's address in it (the first, if not given)")
    parser.values("--ip-range", metavar="CIDR",
                  about="the part of the subnet that containers get addresses from")
    parser.flag("--internal", about="no way out of it, and none in")
    parser.flag("--ipv6", about="with an IPv6 --subnet; accepted for docker's sake")
    parser.flag("--attachable", about="accepted for docker's sake")
    parser.values("--label", metavar="KEY[=VALUE]", about="a label; may be repeated")
    parser.values("-o", "--opt", metavar="KEY=VALUE",
                  about="com.docker.network.bridge.name (its interface) or com.docker.network.driver.mtu")


def _create(arguments: Arguments, session: Session) -> None:
    if arguments.ipv6 and not any(":" in subnet for subnet in arguments.subnet):
        raise UsageError("--ipv6: which addresses? Give an IPv6 --subnet, such as fd00:1234::/64")
    with session.engine() as engine:
        made = engine.create_network(
            arguments.name, driver=arguments.driver, subnets=tuple(arguments.subnet),
            gateways=tuple(arguments.gateway), ip_ranges=tuple(arguments.ip_range),
            is_internal=arguments.internal, labels=pairs_of(arguments.label), options=pairs_of(arguments.opt),
        )
    session.print(made.id)


NETWORK_CREATE = Verb(
    _create,
    usage="[OPTIONS] NETWORK",
    about="""\
Makes a network and prints its ID. Containers that are started with `--network NETWORK` reach each other
under their names. Needs root: an ordinary user's containers have a network of their own each.""",
    arguments=_create_arguments,
    examples=(
        "lamina network create backend",
        "lamina network create --subnet 10.20.0.0/24 --gateway 10.20.0.254 backend",
        "lamina network create --internal vault",
    ),
)


# -- network ls


def _ls_arguments(parser: VerbParser) -> None:
    parser.values("-f", "--filter", metavar="KEY=VALUE",
                  about=FILTER_HELP + " (driver, id, label, name, type)")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)
    parser.flag("--no-trunc", about="show whole IDs")
    parser.flag("-q", "--quiet", about="show IDs only")


def _ls(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        found = engine.networks(filters_of(arguments.filter))
    rows = [_row(each, is_whole=arguments.no_trunc) for each in found]
    if arguments.quiet and not arguments.format:
        for row in rows:
            session.print(str(row["ID"]))
        return
    show(session, Listing(NETWORK_LISTING, ["ID", "Name", "Driver", "Scope"]), rows, arguments.format)


def _row(each: NetworkSummary, *, is_whole: bool) -> Mapping[str, object]:
    from datetime import UTC, datetime

    return {
        "ID": each.id if is_whole else each.id[:_SHORT_ID], "Name": each.name, "Driver": each.driver,
        "Scope": "local", "IPv6": str(each.has_ipv6).lower(), "Internal": str(each.is_internal).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(each.labels.items())),
        "CreatedAt": f"{datetime.fromtimestamp(each.created, UTC):%Y-%m-%d %H:%M:%S} +0000 UTC",
    }


NETWORK_LS = Verb(
    _ls,
    usage="[OPTIONS]",
    about="Lists networks by name. bridge (the default one), host and none are always there.",
    arguments=_ls_arguments,
    examples=("lamina network ls", "lamina network ls --filter type=custom --format '{{.Name}}'"),
)


# -- network inspect


def _inspect_arguments(parser: VerbParser) -> None:
    parser.positional("names", "NETWORK", _ONE, nargs="+")
    parser.value("-f", "--format", metavar="FORMAT", default="",
                 about="'json' or a Go template such as '{{.Driver}}'")
    parser.flag("-v", "--verbose", about="accepted for docker's sake")


def _inspect(arguments: Arguments, session: Session) -> int:
    """Those found are printed even if others are missing, as docker does it."""
    with session.engine() as engine:
        documents, code = collected(session, arguments.names, engine.inspect_network)
    show_documents(session, documents, arguments.format)
    return code


NETWORK_INSPECT = Verb(
    _inspect,
    usage="[OPTIONS] NETWORK [NETWORK...]",
    about="Prints a JSON array with docker's field names. Containers are those that run on it right now.",
    arguments=_inspect_arguments,
    examples=(
        "lamina network inspect bridge",
        "lamina network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' backend",
    ),
)


# -- network rm


def _rm_arguments(parser: VerbParser) -> None:
    parser.positional("names", "NETWORK", _ONE, nargs="+")
    parser.flag("-f", "--force", about="a missing network is no error")


def _rm(arguments: Arguments, session: Session) -> int:
    """Each one is tried, whatever happened to those before it."""
    from lamina.runtime.network.records import NetworkNotFound

    def remove(name: str) -> None:
        try:
            session.print(visible(engine.remove_network(name)))
        except NetworkNotFound:
            if not arguments.force:
                raise

    with session.engine() as engine:
        _, code = collected(session, arguments.names, remove)
    return code


NETWORK_RM = Verb(
    _rm,
    usage="[OPTIONS] NETWORK [NETWORK...]",
    about="Removes networks. One that a running container is on stays.",
    arguments=_rm_arguments,
    examples=("lamina network rm backend",),
)


# -- network prune


def _prune_arguments(parser: VerbParser) -> None:
    parser.flag("-f", "--force", about="do not ask")
    parser.values("--filter", metavar="KEY=VALUE", about=FILTER_HELP + " (label, until)")


def _prune(arguments: Arguments, session: Session) -> None:
    if not arguments.force and not session.agrees("all networks that no running container is on"):
        return
    with session.engine() as engine:
        removed = engine.prune_networks(filters_of(arguments.filter))
    if removed:
        session.print("Deleted Networks:")
    for name in removed:
        session.print(visible(name))


NETWORK_PRUNE = Verb(
    _prune,
    usage="[OPTIONS]",
    about="Removes the networks that no running container is on. The default one stays.",
    arguments=_prune_arguments,
    examples=("lamina network prune --force --filter until=24h",),
)
