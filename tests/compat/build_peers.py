"""The same Dockerfiles built by lamina, docker's two builders and buildah, and what each makes of them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import oracle
from tests.compat.build_cases import Case
from tests.compat.build_contexts import File, Hard, Link, Made
from tests.compat.container_images import base_layer
from tests.compat.peers import PATIENCE, SYSTEM_PATH, program

from lamina.archive.writer import ArchiveWriter
from lamina.content.memory import MemoryStore
from lamina.engine.building.build import build
from lamina.engine.building.contexts import open_context
from lamina.engine.building.options import BuildOptions, Secret
from lamina.engine.engine import Engine
from lamina.errors import LaminaError
from lamina.testing.images import MTIME, directory, file, make_image, make_layer, symlink

# What of a config is compared. An empty field is one that is not there.
_FIELDS = (
    "Env", "Cmd", "Entrypoint", "WorkingDir", "User", "ExposedPorts", "Volumes", "Labels", "Healthcheck",
    "StopSignal", "OnBuild", "Shell",
)
_OF_BUILDAH = "io.buildah.version"
_AT_ONCE = 3

BASES: Mapping[str, Mapping[str, Any]] = {
    "base": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
    "full": {
        "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["word", "two words"], "User": "app:users",
        "Env": ["PATH=/bin:/opt/bin", "COLOUR=red", "SHAPE=round"], "WorkingDir": "/there",
        "Labels": {"maker": "tests", "level": "1"}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGUSR1",
        "Volumes": {"/data": {}},
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000},
    },
    "away": {"Env": ["PATH=/bin"], "WorkingDir": "/srv/made/here"},
    "mute": {},
}


def write_bases(path: Path) -> Path:
    """Busybox, some users, and things to copy onto; the places that engines mount on are there."""
    places = [
        directory("dev"), directory("proc"), directory("sys"),
        *(file(f"etc/{name}") for name in ("hosts", "hostname", "resolv.conf")),
        directory("there", mode=0o2711, uid=5, gid=6), file("there/kept", b"kept\n", mode=0o640, uid=5, gid=6),
        file("there/f", b"older, and longer\n", mode=0o600, uid=7, gid=8), directory("there/sub", mode=0o700),
        file("there/sub/inner", b"inner\n"), directory("there/dir", mode=0o750), file("there/dir/in", b"in\n"),
        symlink("to-there", "there"), symlink("to-file", "there/kept"), symlink("dangling", "nowhere/x"),
        symlink("absolute", "/there"), symlink("climbing", "../../../there"), symlink("round", "round"),
    ]
    layer, store = make_layer([*base_layer(), *places]), MemoryStore()
    with path.open("wb") as out:
        writer = ArchiveWriter(out, "docker-archive")
        for name, config in BASES.items():
            writer.add(store, make_image([layer], execution=config).put(store), [f"{name}:1"])
        writer.finish()
    return path


# -- contexts


def write_context(top: Path, dockerfile: str, files: Mapping[str, Made]) -> None:
    """Everything in it is root's and of one moment in the past, whatever the umask."""
    top.mkdir()
    for name, made in {**files, "Dockerfile": dockerfile}.items():
        _write(top, name, made)
    for place in [*top.rglob("*"), top]:
        os.utime(place, ns=(MTIME, MTIME), follow_symlinks=False)


def _write(top: Path, name: str, made: Made) -> None:
    place = top / name
    missing = [each for each in place.parents if not each.exists()]
    for each in reversed(missing):
        each.mkdir()
        each.chmod(0o755)
    match made:
        case str():
            place.write_text(made)
            place.chmod(0o644)
        case Link(text=text):
            place.symlink_to(text)
        case Hard(name=other):
            place.hardlink_to(top / other)
        case File(data=None):
            place.mkdir(exist_ok=True)
            place.chmod(made.mode)
        case File(data=data):
            assert data is not None
            place.write_bytes(data)
            place.chmod(made.mode)
            for key, value in made.xattrs.items():
                os.setxattr(place, key, value)


# -- what came of it


@dataclass(frozen=True)
class Failed:
    said: str


@dataclass(frozen=True)
class Image:
    """``files`` by path; ``linked`` are the names that are one file."""

    files: Mapping[str, Mapping[str, Any]]
    linked: frozenset[frozenset[str]]
    config: Mapping[str, Any]


Built = Image | Failed


def differences(ours: Built, theirs: Built) -> list[str]:
    """Lines, ours first. Two failures are the same."""
    if isinstance(ours, Failed) or isinstance(theirs, Failed):
        if isinstance(ours, Failed) and isinstance(theirs, Failed):
            return []
        failed = ours if isinstance(ours, Failed) else theirs
        who = "we fail" if isinstance(ours, Failed) else "they fail"
        return [f"{who}: {failed.said.strip()[-600:]}"]  # type: ignore[union-attr]
    lines = []
    for path in sorted({*ours.files, *theirs.files} - {""}):
        a, b = ours.files.get(path), theirs.files.get(path)
        if a is None or b is None:
            lines.append(f"/{path}: {'only theirs' if a is None else 'only ours'}: {_short(a or b or {})}")
        elif a != b:
            lines.append(f"/{path}: " + ", ".join(
                f"{key} {_plain(key, a.get(key))} and {_plain(key, b.get(key))}"
                for key in {**a, **b} if a.get(key) != b.get(key)
            ))
    if ours.linked != theirs.linked:
        lines.append(f"links: {_names(ours.linked)} and {_names(theirs.linked)}")
    for name in _FIELDS:
        a, b = ours.config.get(name), theirs.config.get(name)
        if a != b:
            lines.append(f"config {name}: {json.dumps(a)} and {json.dumps(b)}")
    return lines


def _names(groups: frozenset[frozenset[str]]) -> list[str]:
    return sorted(" = ".join(sorted(group)) for group in groups)


def _plain(key: str, value: Any) -> Any:
    return f"{value:04o}" if key == "mode" and isinstance(value, int) else value


def _short(node: Mapping[str, Any]) -> str:
    return " ".join(str(_plain(key, node.get(key))) for key in ("type", "mode", "uid", "gid"))


def read_archive(path: Path, began: float) -> dict[str, Image]:
    """Images of a docker archive by their ids. ``began``: files not older than that are new, and no more."""
    found = {}
    with tarfile.open(path) as tar:
        listed = json.load(_member(tar, "manifest.json"))

        @functools.cache
        def union(layers: tuple[str, ...]) -> oracle.Tree:
            if not layers:
                return {"": oracle.Node("directory")}
            with tarfile.open(
                fileobj=_member(tar, layers[-1]), encoding="utf-8", errors="surrogateescape"
            ) as layer:
                return oracle.apply(union(layers[:-1]), layer)

        for one in listed:
            document = json.load(_member(tar, one["Config"]))
            tree = union(tuple(one["Layers"]))
            found[one["Config"].removesuffix(".json").rpartition("/")[2]] = Image(
                files={name: _values(node, began) for name, node in tree.items()},
                linked=frozenset(oracle.linked(tree)), config=_config(document),
            )
    return found


def _member(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    assert member is not None, name
    return member


def _values(node: oracle.Node, began: float) -> Mapping[str, Any]:
    """Times of files alone, in whole seconds: new ones are all the same."""
    values = node.values()
    mtime = values.pop("mtime")
    if node.type == "file":
        values["mtime"] = "new" if mtime >= began * 10**9 else mtime // 10**9
    return values


def _config(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = {name: (document.get("config") or {}).get(name) for name in _FIELDS}
    if found["Labels"]:
        found["Labels"] = {key: value for key, value in found["Labels"].items() if key != _OF_BUILDAH}
    return {name: value for name, value in found.items() if value}


# -- the builders


@dataclass(frozen=True)
class Builder:
    """A peer's command. ``arguments`` are those of its ``build``, before what the case asks for."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    save: Callable[[Sequence[str], Path], None] = field(compare=False)

    def build(self, case: Case, context: Path) -> str | Failed:
        """The id of the image."""
        given = [*_flags(case, context.parent), "-t", f"{case.name}:1", str(context)]
        done = subprocess.run(
            [*self.command, *self.arguments, *given], env=dict(self.environment), capture_output=True,
            stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
        )
        if done.returncode:
            return Failed(done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace"))
        return done.stdout.decode().split()[-1].removeprefix("sha256:")


def _flags(case: Case, home: Path) -> Iterator[str]:
    yield from (f"--build-arg={name}={value}" for name, value in case.arguments.items())
    yield from (f"--label={name}={value}" for name, value in case.labels.items())
    if case.target:
        yield f"--target={case.target}"
    for name, value in case.secrets.items():
        place = home / f"secret-{name}"
        place.write_text(value)
        yield f"--secret=id={name},src={place}"


def build_all(builder: Builder, cases: Sequence[Case], home: Path, began: float) -> dict[str, Built]:
    """What a case builds on is built before it."""
    ids: dict[str, str | Failed] = {}

    def one(case: Case) -> None:
        ids[case.name] = builder.build(case, home / case.name / "theirs")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for is_first in (True, False):
            list(pool.map(one, [case for case in cases if bool(case.after) is not is_first]))
    archive = home / f"{builder.name}.tar"
    builder.save(sorted({found for found in ids.values() if isinstance(found, str)}), archive)
    images = read_archive(archive, began)
    archive.unlink()
    return {name: images[found] if isinstance(found, str) else found for name, found in ids.items()}


def build_ours(engine: Engine, cases: Sequence[Case], home: Path, began: float) -> dict[str, Built]:
    found: dict[str, str | Failed] = {}
    for case in sorted(cases, key=lambda case: bool(case.after)):
        options = BuildOptions(
            arguments=case.arguments, labels=case.labels, target=case.target, tags=(f"{case.name}:1",),
            secrets={name: Secret(id=name, value=text.encode()) for name, text in case.secrets.items()},
            network="none",
        )
        try:
            context, options = open_context(str(home / case.name / "ours"), options)
            with context:
                found[case.name] = str(build(engine, context, options).id).removeprefix("sha256:")
        except LaminaError as error:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            tail = getattr(error, "tail", b"").decode(errors="replace")
            found[case.name] = Failed(f"{error}{notes}\n{tail}")
    archive = home / "lamina.tar"
    with archive.open("wb") as out:
        engine.save([f"{name}:1" for name, each in found.items() if isinstance(each, str)], out)
    images = read_archive(archive, began)
    archive.unlink()
    return {name: images[each] if isinstance(each, str) else each for name, each in found.items()}


def docker_builder(socket: Path, home: Path, *, is_buildkit: bool) -> Builder:
    environment = {"PATH": SYSTEM_PATH, "HOME": str(home), "DOCKER_BUILDKIT": str(int(is_buildkit))}
    command = (program("docker"), "-H", f"unix://{socket}")

    def save(ids: Sequence[str], out: Path) -> None:
        subprocess.run([*command, "save", "-o", str(out), *ids], env=environment, check=True)

    return Builder(
        name="buildkit" if is_buildkit else "docker", command=command, environment=environment,
        arguments=("build", "-q", "--network", "none"), save=save,
    )


def buildah_builder(home: Path) -> Builder:
    """Chroot isolation needs no network of its own. Podman saves, for it can put many into one archive."""
    (home / "tmp").mkdir(parents=True)
    environment = {"PATH": SYSTEM_PATH, "HOME": str(home), "TMPDIR": str(home / "tmp")}
    options = ("--root", str(home / "root"), "--runroot", str(home / "run"), "--storage-driver", "overlay")

    def save(ids: Sequence[str], out: Path) -> None:
        subprocess.run(
            [program("podman"), *options, "save", "-q", "-m", "-o", str(out), *ids], env=environment, check=True,
        )

    return Builder(
        name="buildah", command=(program("buildah"), *options), environment=environment,
        arguments=("bud", "-q", "--format", "docker", "--isolation", "chroot", "--pull-never"), save=save,
    )


def load(builder: Builder, archive: Path) -> None:
    if builder.name != "buildah":
        subprocess.run([*builder.command, "load", "-q", "-i", str(archive)], env=dict(builder.environment),
                       check=True, capture_output=True)
        return
    for name in BASES:
        subprocess.run([*builder.command, "pull", "-q", f"docker-archive:{archive}:{name}:1"],
                       env=dict(builder.environment), check=True, capture_output=True)
