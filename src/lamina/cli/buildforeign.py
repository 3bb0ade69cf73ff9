"""Flags of other builders that mean nothing here: taken, and where it matters, said to be in vain."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.cli.arguments import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser

_IN_VAIN = "no effect here"
_ISOLATIONS = ("", "default", "oci", "rootless", "chroot")


def add_foreign_arguments(parser: VerbParser) -> None:
    parser.flag("--rm", default=True, about=f"{_IN_VAIN}: steps leave nothing but layers")
    parser.flag("--force-rm", default=True, about="as --rm")
    parser.flag("--compress", about=f"{_IN_VAIN}: a context is read where it is")
    parser.flag("--disable-compression", about=f"{_IN_VAIN}: layers are plain, and a push compresses them")
    parser.flag("--disable-content-trust", default=True, about=f"{_IN_VAIN}: no signatures are looked for")
    parser.flag("--layers", default=True, about="=false: as --no-cache, as podman has it")
    parser.flag("--skip-unused-stages", default=True, about=f"{_IN_VAIN}: stages in vain are never built")
    parser.flag("--identity-label", default=True, about=f"{_IN_VAIN}: no label says who built")
    parser.flag("--http-proxy", default=True, about=f"{_IN_VAIN}: proxies are arguments, see --build-arg")
    parser.value("--isolation", metavar="KIND", default="", about=f"{_IN_VAIN}: RUN is a container, as ever")
    parser.value("--builder", metavar="NAME", default="", about=f"{_IN_VAIN}: there is one builder")
    parser.value("--retry", metavar="N", type=int, default=None, about=f"{_IN_VAIN}: pulls are resumed")
    parser.value("--retry-delay", metavar="TIME", default="", about="as --retry")


def notes_of(arguments: Arguments) -> Iterator[str]:
    """What was asked for, and is not done. Raises :class:`UsageError` for what cannot be meant at all."""
    if arguments.isolation in ("hyperv", "process"):
        raise UsageError(f"--isolation {arguments.isolation}: only Windows has it")
    if arguments.isolation not in _ISOLATIONS:
        raise UsageError(
            f"--isolation: expected default, oci, rootless or chroot, got {arguments.isolation!r}"
        )
    if arguments.isolation not in ("", "default", "oci"):
        yield f"--isolation {arguments.isolation}: has no effect; RUN is a container"
    if not (arguments.rm and arguments.force_rm):
        yield "--rm=false: has no effect; steps leave nothing but layers"
    if arguments.compress:
        yield "--compress: has no effect; a context is read where it is"
    if not arguments.disable_content_trust:
        yield "--disable-content-trust=false: has no effect; no signatures are looked for"
    if not arguments.skip_unused_stages:
        yield "--skip-unused-stages=false: has no effect; --target names a stage to build"
    if arguments.builder not in ("", "default"):
        yield f"--builder {arguments.builder}: has no effect; there is one builder"
    if arguments.retry is not None or arguments.retry_delay:
        yield "--retry: has no effect; a pull that was interrupted goes on where it stopped"
