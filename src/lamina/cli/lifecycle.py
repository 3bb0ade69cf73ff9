"""What becomes of containers: stop, kill, restart, wait, pause, rename, update, rm, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.runoptions import add_limits, read_limits
from lamina.cli.several import for_each
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session

_NAMES = "a name, an ID, or the beginning of an ID"


def _names(parser: VerbParser) -> None:
    parser.positional("names", "CONTAINER", _NAMES, nargs="+")


# -- stop, restart, kill, wait


def _stop_arguments(parser: VerbParser) -> None:
    _names(parser)
    parser.value("-t", "--time", "--timeout", metavar="SECONDS", type=int, default=None,
                 about="before SIGKILL (10, or the container's own); -1 waits for ever")
    parser.value("-s", "--signal", metavar="SIGNAL", default="", about="instead of the container's own")


def _stop(arguments: Arguments, session: Session) -> int:
    number = _signal(arguments.signal)
    with session.engine() as engine:
        return for_each(session, arguments.names,
                        lambda name: engine.stop(name, seconds=arguments.time, number=number))


def _restart(arguments: Arguments, session: Session) -> int:
    number = _signal(arguments.signal)

    def restart(name: str) -> None:
        engine.stop(name, seconds=arguments.time, number=number)
        engine.start(name)

    with session.engine() as engine:
        return for_each(session, arguments.names, restart)


def _signal(text: str) -> int:
    from lamina.runtime.signals import parse_signal

    return parse_signal(text) if text else 0


STOP = Verb(
    _stop, usage="[OPTIONS] CONTAINER...",
    about="""\
Sends the container's stop signal (SIGTERM unless it says otherwise), and SIGKILL if that is not enough.""",
    arguments=_stop_arguments, examples=("lamina stop web", "lamina stop -t 2 web cache"),
)
RESTART = Verb(
    _restart, usage="[OPTIONS] CONTAINER...", about="Stops containers and starts them again.",
    arguments=_stop_arguments, examples=("lamina restart web",),
)


def _kill_arguments(parser: VerbParser) -> None:
    _names(parser)
    parser.value("-s", "--signal", metavar="SIGNAL", default="KILL", about="a name or a number (KILL)")


def _kill(arguments: Arguments, session: Session) -> int:
    number = _signal(arguments.signal)
    with session.engine() as engine:
        return for_each(session, arguments.names, lambda name: engine.kill(name, number))


KILL = Verb(
    _kill, usage="[OPTIONS] CONTAINER...", about="Sends a signal to the first process of running containers.",
    arguments=_kill_arguments, examples=("lamina kill web", "lamina kill -s HUP web"),
)


def _wait(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        for name in arguments.names:
            session.print(str(engine.wait(name)))
            session.flush()


WAIT = Verb(
    _wait, usage="CONTAINER...", about="Waits until containers have ended, and prints their exit codes.",
    arguments=_names, examples=("lamina wait job",),
)


# -- pause, unpause, rename, update


def _of_each(about: str, verb: str, example: str) -> Verb:
    def run(arguments: Arguments, session: Session) -> int:
        with session.engine() as engine:
            act: Callable[[str], None] = getattr(engine, verb)
            return for_each(session, arguments.names, act)

    return Verb(run, usage="CONTAINER...", about=about, arguments=_names, examples=(example,))


PAUSE = _of_each("Lets no process of the containers run until `unpause`; their memory stays.", "pause",
                 "lamina pause web")
UNPAUSE = _of_each("Lets paused containers go on.", "unpause", "lamina unpause web")


def _rename_arguments(parser: VerbParser) -> None:
    parser.positional("name", "CONTAINER", _NAMES)
    parser.positional("new", "NAME", "what it is called from now on")


def _rename(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        engine.rename(arguments.name, arguments.new)


RENAME = Verb(
    _rename, usage="CONTAINER NAME", about="Gives a container another name; running ones too.",
    arguments=_rename_arguments, examples=("lamina rename quiet_basalt web",),
)


def _update_arguments(parser: VerbParser) -> None:
    _names(parser)
    add_limits(parser)
    parser.value("--restart", metavar="POLICY", default=None,
                 about="no, always, unless-stopped, on-failure[:N]")


def _update(arguments: Arguments, session: Session) -> int:
    changes = {name: value for name, value in read_limits(arguments).items() if value not in (None, "", ())}
    if changes.pop("has_oom_kill") is False:
        changes["has_oom_kill"] = False
    if arguments.restart is not None:
        changes["restart"] = arguments.restart
    for name, option in (("ulimits", "--ulimit"), ("oom_score_adj", "--oom-score-adj")):
        if name in changes:
            raise UsageError(
                f"update {option}: a running process keeps what it started with; make a new container"
            )
    if not changes:
        raise UsageError("update: which limit is to change? `lamina help update` lists them")

    def change(name: str) -> None:
        for note in engine.update(name, changes):
            session.note(f"note: {note}")

    with session.engine() as engine:
        return for_each(session, arguments.names, change)


UPDATE = Verb(
    _update, usage="[OPTIONS] CONTAINER...",
    about="Changes limits of containers, at once for those that run, and their restart policy.",
    arguments=_update_arguments, examples=("lamina update --memory 512m --cpus 1.5 web",),
)


# -- rm and prune


def _rm_arguments(parser: VerbParser) -> None:
    _names(parser)
    parser.flag("-f", "--force", about="kill them first; those that are not there are fine")
    parser.flag("-v", "--volumes", about="remove their anonymous volumes too")


def _rm(arguments: Arguments, session: Session) -> int:
    from lamina.cli import failures
    from lamina.runtime.container import ContainerNotFound

    with session.engine() as engine:

        def remove(name: str) -> bool:
            try:
                engine.remove_container(name, force=arguments.force, with_volumes=arguments.volumes)
            except ContainerNotFound as error:
                if not arguments.force:
                    raise
                session.flush()
                failures.report(error, session)  # said, but no failure, as with docker
                return False
            return True

        return for_each(session, arguments.names, remove)


RM = Verb(
    _rm, usage="[OPTIONS] CONTAINER...",
    about="Removes containers: the layer of each, and its log. Images and named volumes stay.",
    arguments=_rm_arguments, examples=("lamina rm job", "lamina rm -f $(lamina ps -aq)"),
)


def _prune_arguments(parser: VerbParser) -> None:
    parser.flag("-f", "--force", about="do not ask")
    parser.values("--filter", metavar="KEY=VALUE", about="until=24h, label=KEY[=VALUE], label!=KEY[=VALUE]")


def _prune(arguments: Arguments, session: Session) -> None:
    from lamina.cli.images import filters_of
    from lamina.cli.quantity import human_size

    filters = filters_of(arguments.filter)
    if not arguments.force and not session.agrees("all containers that do not run"):
        return
    with session.engine() as engine:
        removed, freed = engine.prune_containers(filters)
    if removed:
        session.print("Deleted Containers:")
    for container_id in removed:
        session.print(visible(container_id))
    session.print(f"\nTotal reclaimed space: {human_size(freed)}" if removed
                  else f"Total reclaimed space: {human_size(freed)}")


PRUNE = Verb(
    _prune, usage="[OPTIONS]", about="Removes all containers that do not run.",
    arguments=_prune_arguments,
    examples=("lamina container prune -f", "lamina container prune --filter until=24h"),
)
