"""docker's flags for a build, and the value that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.cli.arguments import UsageError, pairs_of
from lamina.cli.buildattest import read_attestations
from lamina.cli.buildforeign import add_foreign_arguments
from lamina.cli.platforms import platform_of
from lamina.cli.runoptions import read_bytes, read_processors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.building.options import BuildOptions
    from lamina.engine.building.output import Output
    from lamina.oci.descriptor import Platform

EPOCH = "SOURCE_DATE_EPOCH"
PROGRESS = ("auto", "plain", "tty", "quiet", "none", "rawjson")
PULLS = ("missing", "always", "never", "newer")
_FORMS = ("oci", "docker", "json")


def add_build_arguments(parser: VerbParser) -> None:
    parser.positional("context", "PATH|URL|-", "a directory, a git repository, an archive or a Dockerfile "
                      "behind a URL, or either of them on standard input")
    _add_input(parser)
    _add_image(parser)
    _add_cache(parser)
    _add_commands(parser)
    _add_results(parser)
    add_foreign_arguments(parser)


def _add_input(parser: VerbParser) -> None:
    parser.value("-f", "--file", metavar="FILE", default="",
                 about="the Dockerfile (Dockerfile or Containerfile in PATH); - is standard input")
    parser.value("--target", metavar="STAGE", default="", about="build this stage, and what it needs")
    parser.values("--build-arg", metavar="NAME[=VALUE]",
                  about="a value for an ARG; NAME alone takes your variable")
    parser.values("--build-context", metavar="NAME=PLACE",
                  about="one more context: a directory, a URL, or docker-image://NAME")
    parser.values("--secret", metavar="SECRET",
                  about="for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE")
    parser.values("--ssh", metavar="default|ID[=SOCKET]",
                  about="an ssh agent for RUN --mount=type=ssh (SSH_AUTH_SOCK)")


def _add_image(parser: VerbParser) -> None:
    parser.values("-t", "--tag", metavar="NAME[:TAG]", about="a name for the image; may be repeated")
    parser.values("--label", metavar="KEY=VALUE", about="a label")
    parser.values("--annotation", metavar="KEY=VALUE", about="an annotation of the manifest")
    parser.values("--platform", metavar="PLATFORM[,...]",
                  about="os/architecture[/variant] instead of this machine's; several make an index")
    parser.value("--arch", metavar="NAME", default="", about="the architecture alone, as podman has it")
    parser.value("--os", metavar="NAME", default="", about="the operating system alone")
    parser.value("--variant", metavar="NAME", default="", about="the architecture's variant")
    parser.value("--format", metavar="FORMAT", default="", choices=_FORMS,
                 about="oci (default) or docker; with --check, json")
    parser.flag("--squash", about="merge the layers that this build makes into one")
    parser.flag("--squash-all", about="merge all layers, the base image's too")
    parser.values("--layers-at", metavar="LINE[,...]",
                  about="lines of the Dockerfile after which a layer ends; what is between becomes one "
                        "(also a comment '# lamina: layer')")
    parser.value("--compression", metavar="KIND", choices=("none", "gzip", "zstd"), default="none",
                 about="of new layers as they are stored: none (default; push compresses them), gzip or zstd")
    parser.value("--compression-level", metavar="N", type=int, default=None,
                 about="gzip 1 to 9, zstd 1 to 22")
    parser.value("--timestamp", metavar="SECONDS", type=int, default=None,
                 about="as SOURCE_DATE_EPOCH, since 1970")
    parser.add_argument("--rewrite-timestamp", action="store_true", default=None,
                        help="with SOURCE_DATE_EPOCH: no file is newer (the default; =false keeps times)")
    parser.word("--provenance", metavar="true|false|mode=...", bare="true", default="true",
                about="annotate layers with the instructions that made them (the default; =false leaves it)")
    parser.word("--sbom", metavar="true|false|generator=...", bare="true", default="false",
                about="list beside the image what it is made of (SPDX), as syft or trivy find it; a "
                      "generator is one of them, a path, or an image")
    parser.values("--attest", metavar="type=sbom|...",
                  about="the same in docker's longer words: type=sbom[,generator=...] or type=provenance")


def _add_cache(parser: VerbParser) -> None:
    parser.flag("--no-cache", about="do every step anew")
    parser.values("--no-cache-filter", metavar="STAGE[,...]", about="do every step of these stages anew")
    parser.values("--cache-from", metavar="NAME|...",
                  about="take steps from a build cache in a registry, too: NAME, or type=registry,ref=NAME")
    parser.values("--cache-to", metavar="NAME|...",
                  about="write the build cache there: NAME, or type=registry,ref=NAME,mode=max; with "
                        "type=inline the image's own config holds it")
    parser.word("--pull", metavar="WHEN", bare="always", default="missing",
                about="ask the registry for newer base images; =missing (default), =never, or =newer, which "
                      "takes what is here if no registry answers")


def _add_commands(parser: VerbParser) -> None:
    parser.value("--network", metavar="NETWORK", default="default", about="of RUN: default, none or host")
    parser.values("--allow", metavar="RIGHT", about="what RUN may ask for: network.host, security.insecure")
    parser.values("--add-host", metavar="NAME:IP", about="a line of /etc/hosts")
    parser.values("--dns", metavar="IP", about="a name server")
    parser.values("--dns-search", metavar="DOMAIN", about="a domain to search")
    parser.values("--dns-option", metavar="OPTION", about="an option of resolv.conf(5)")
    parser.values("--security-opt", metavar="OPTION",
                  about="of RUN: no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined")
    parser.value("--cgroup-parent", metavar="NAME", default="", about="the control group that holds RUN's")
    parser.value("--shm-size", metavar="SIZE", default=None, about="of /dev/shm (64m)")
    parser.values("--ulimit", metavar="NAME=SOFT[:HARD]", about="such as nofile=1024:2048")
    parser.value("-m", "--memory", metavar="SIZE", default=None, about="at most this much memory")
    parser.value("--memory-swap", metavar="SIZE", default=None,
                 about="memory and swap together; -1 for no limit")
    parser.value("--cpus", metavar="NUMBER", default=None, about="at most this many CPUs")
    parser.value("--cpu-period", metavar="MICROSECONDS", type=int, default=None, about="of the CPU's quota")
    parser.value("--cpu-quota", metavar="MICROSECONDS", type=int, default=None, about="in each period")
    parser.value("-c", "--cpu-shares", metavar="NUMBER", type=int, default=None, about="a weight (1024)")
    parser.value("--cpuset-cpus", metavar="LIST", default="", about="such as 0-2,4")
    parser.value("--cpuset-mems", metavar="LIST", default="", about="memory nodes")
    parser.value("--jobs", metavar="N", type=int, default=0, about="steps at once (CPUs, at least 4)")
    parser.value("--runtime", metavar="NAME", default="", about="runc, crun, embedded, or a path")


def _add_results(parser: VerbParser) -> None:
    parser.flag("-q", "--quiet", about="no progress; print the image's ID")
    parser.value("--progress", metavar="KIND", default="", choices=PROGRESS,
                 about="auto, plain, tty, quiet, none or rawjson (also BUILDKIT_PROGRESS)")
    parser.value("--on-error", metavar="ACT", choices=("fail", "shell"), default="fail",
                 about="shell: open a shell in what a failed RUN left (needs a terminal)")
    parser.flag("--explain", about="say in the end of every step why it was, or was not, in the cache")
    parser.flag("--check", about="build nothing; say what in the Dockerfile may well be a mistake")
    parser.value("--call", metavar="METHOD", default="build", choices=("build", "check"),
                 about="build (default), or check, which is --check")
    parser.value("--iidfile", metavar="FILE", default="", about="write the image's ID there")
    parser.value("--metadata-file", metavar="FILE", default="", about="write what came of it there, as JSON")
    parser.values("-o", "--output", metavar="PATH|...",
                  about="where the result goes: type=KIND,dest=PATH, where KIND is local, tar, oci, docker, "
                        "image or registry; a path alone is a directory for its files")
    parser.flag("--push", about="push it under its names: --output type=registry")
    parser.flag("--load", about="keep it here, as without --output: --output type=image")


def read_options(arguments: Arguments, session: Session) -> BuildOptions:
    from lamina.engine.building.exchange import parse_cache
    from lamina.engine.building.options import BuildOptions, insist_possible, parse_secret
    from lamina.engine.building.options import pairs_of as given_pairs

    given = given_pairs(arguments.build_arg, "--build-arg")
    epoch = arguments.timestamp if arguments.timestamp is not None else _epoch(given, session)
    has_provenance, sbom = read_attestations(arguments)
    if arguments.rewrite_timestamp and epoch is None:
        raise UsageError(f"--rewrite-timestamp: no time to rewrite to; set {EPOCH}")
    if arguments.annotation and _form(arguments) == "docker":
        raise UsageError("--annotation: images in docker's format have no room for any")
    options = BuildOptions(
        dockerfile=arguments.file, target=arguments.target, arguments=given, tags=tuple(arguments.tag),
        labels=pairs_of(arguments.label), annotations=_annotations(arguments.annotation),
        platforms=tuple(_platforms(arguments)), pull=_pull(arguments.pull),
        no_cache=arguments.no_cache or not arguments.layers,
        no_cache_filter=tuple(_listed(arguments.no_cache_filter)),
        contexts=_contexts(arguments.build_context),
        secrets={secret.id: secret for secret in map(parse_secret, arguments.secret)},
        agents=_agents(arguments.ssh, session.environ), network=arguments.network,
        allows=tuple(_rights(arguments.allow)), hosts=tuple(arguments.add_host), dns=tuple(arguments.dns),
        dns_search=tuple(arguments.dns_search), dns_options=tuple(arguments.dns_option),
        security=tuple(arguments.security_opt), cgroup_parent=arguments.cgroup_parent.strip("/"),
        shm_size=read_bytes(arguments.shm_size, "--shm-size"), ulimits=tuple(arguments.ulimit),
        memory=read_bytes(arguments.memory, "--memory"),
        memory_swap=read_bytes(arguments.memory_swap, "--memory-swap"),
        cpus=read_processors(arguments.cpus, "--cpus"), cpu_shares=arguments.cpu_shares,
        cpu_period=arguments.cpu_period, cpu_quota=arguments.cpu_quota, cpuset_cpus=arguments.cpuset_cpus,
        cpuset_mems=arguments.cpuset_mems, runtime=arguments.runtime, workers=max(0, arguments.jobs),
        form=_form(arguments), has_provenance=has_provenance, sbom=sbom, epoch=epoch,
        is_rewriting=arguments.rewrite_timestamp, outputs=_outputs(arguments, session),
        cache_from=tuple(parse_cache(text, "--cache-from") for text in arguments.cache_from),
        cache_to=tuple(parse_cache(text, "--cache-to") for text in arguments.cache_to),
        is_squashed=arguments.squash, is_squashed_all=arguments.squash_all,
        layers_at=tuple(_line(text) for text in _listed(arguments.layers_at)),
        compression=arguments.compression, level=_level(arguments),
    )
    insist_possible(options)
    return options


def progress_kind(arguments: Arguments, session: Session) -> str:
    """``plain``, ``tty``, ``quiet`` or ``rawjson``. Raises :class:`UsageError`."""
    from lamina.cli.progress import draws_in_place
    from lamina.cli.terminal import is_terminal

    asked: str = arguments.progress or session.environ.get("BUILDKIT_PROGRESS", "") or "auto"
    if asked not in PROGRESS:
        raise UsageError(f"BUILDKIT_PROGRESS: expected one of {', '.join(PROGRESS)}, got {asked!r}")
    if arguments.quiet and arguments.progress not in ("", "auto", "quiet"):
        raise UsageError(f"--quiet and --progress={asked}: only one of them can be")
    if arguments.quiet or (session.is_quiet and not arguments.progress):
        return "quiet"
    if asked == "none":
        return "quiet"
    if asked == "tty" and not is_terminal(session.stderr):
        raise UsageError("--progress=tty: standard error is no terminal; use plain")
    if asked == "auto":
        return "tty" if draws_in_place(session, session.stderr) else "plain"
    return asked


def _platforms(arguments: Arguments) -> list[Platform]:
    """``--arch`` and its like are podman's: what they leave out is this machine's."""
    parts = arguments.os, arguments.arch, arguments.variant
    if any(parts):
        if arguments.platform:
            raise UsageError("--platform and --arch, --os or --variant: only one way to say it")
        from lamina.engine.core import host_platform

        host = host_platform()
        texts = ["/".join(filter(None, (parts[0] or host.os, parts[1] or host.architecture, parts[2])))]
    else:
        texts = _listed(arguments.platform)
    return [found for found in map(platform_of, texts) if found is not None]


def _pull(text: str) -> str:
    """docker's is a switch, podman's has words."""
    words = {"true": "always", "1": "always", "false": "missing", "0": "missing", "ifnewer": "newer",
             "ifmissing": "missing"}
    asked = words.get(text.lower(), text.lower())
    if asked not in PULLS:
        raise UsageError(f"--pull: expected one of {', '.join(PULLS)}, true or false, got {text!r}")
    return asked


def _form(arguments: Arguments) -> str:
    if arguments.format == "json":
        if not arguments.check:
            raise UsageError("--format=json: only together with --check; an image is oci or docker")
        return "oci"
    return arguments.format or "oci"


def _epoch(given: Mapping[str, str], session: Session) -> int | None:
    text = given.get(EPOCH)
    if text is None:
        return session.settings.source_date_epoch
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UsageError(f"--build-arg {EPOCH}: expected seconds since 1970, got {text!r}")
    return int(text)


def _level(arguments: Arguments) -> int | None:
    level: int | None = arguments.compression_level
    if level is None:
        return None
    highest = {"none": 0, "gzip": 9, "zstd": 22}[arguments.compression]
    if not highest:
        raise UsageError("--compression-level: only together with --compression gzip or zstd")
    if not 1 <= level <= highest:
        raise UsageError(f"--compression-level: expected 1 to {highest}, got {level}")
    return level


def _annotations(texts: Sequence[str]) -> dict[str, str]:
    """docker's ``manifest:`` may stand before a key; other places have none."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        kind, colon, rest = key.partition(":")
        if colon and kind in ("index", "index-descriptor", "manifest-descriptor"):
            raise UsageError(f"--annotation {text}: only manifests are annotated, not {kind}")
        name = rest if colon and kind == "manifest" else key
        if not (equals and name):
            raise UsageError(f"--annotation {text}: expected KEY=VALUE")
        found[name] = value
    return found


def _contexts(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise UsageError(f"--build-context {text}: expected NAME=PLACE")
        found[name.lower()] = place
    return found


def _agents(texts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    import os
    import stat

    from lamina.engine.building.agent import agent_of

    found: dict[str, str] = {}
    for text in texts:
        name, socket = agent_of(text, dict(environ))
        if not socket:
            raise UsageError(f"--ssh {text}: SSH_AUTH_SOCK is not set; start an agent, or give {name}=SOCKET")
        try:
            is_socket = stat.S_ISSOCK(os.stat(socket).st_mode)
        except OSError as error:
            raise UsageError(f"--ssh {text}: {socket}: {(error.strerror or str(error)).lower()}") from None
        if not is_socket:
            raise UsageError(f"--ssh {text}: {socket} is no agent's socket; give a key to one with ssh-add")
        found[name] = socket
    return found


def _rights(texts: Sequence[str]) -> list[str]:
    known = ("network.host", "security.insecure")
    for text in _listed(texts):
        if text not in known:
            raise UsageError(f"--allow {text}: expected one of {', '.join(known)}")
    return _listed(texts)


def _outputs(arguments: Arguments, session: Session) -> tuple[Output, ...]:
    if not (arguments.output or arguments.push or arguments.load):
        return ()
    from lamina.cli.terminal import is_terminal
    from lamina.engine.building.output import Output, check_outputs, parse_output

    found = [parse_output(text) for text in arguments.output]
    found += [Output(kind="registry", is_pushed=True)] if arguments.push else []
    found += [Output(kind="image")] if arguments.load else []
    check_outputs(found, arguments.tag, is_terminal=is_terminal(session.stdout))
    if arguments.quiet and any(output.destination == "-" for output in found):
        raise UsageError("--quiet: the ID would be printed into the output; give that dest=FILE")
    return tuple(found)


def _line(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 10):
        raise UsageError(f"--layers-at: expected the number of a line, got {text!r}")
    return int(text)


def _listed(texts: Sequence[str]) -> list[str]:
    """Each may be several, with commas."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]
