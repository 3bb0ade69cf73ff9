"""Builds that take from elsewhere and go elsewhere: URLs, repositories, streams, outputs, caches in a registry."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.build.made import make
from tests.build.test_git import commit, git, http_backend
from tests.engine.conftest import Registry

from lamina.build.remote import ChecksumMismatch
from lamina.build.report import Stage, StepEvent
from lamina.engine.building.exchange import CONFIG, parse_cache
from lamina.engine.building.options import BuildOptions, BuiltImage
from lamina.engine.building.output import check_outputs, parse_output
from lamina.engine.engine import Engine
from lamina.errors import InvalidInput, LaminaError, NotFound, Unsupported
from lamina.http.message import Request, Response
from lamina.http.server import serve
from lamina.image import Image
from lamina.oci.descriptor import Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
EPOCH = 1_700_000_000


class Builds:
    """What a person does: a context, a build, and a look at what came of it."""

    def __init__(self, engine: Engine, place: Path) -> None:
        self.engine = engine
        self.place = place
        self.events: list[StepEvent] = []
        place.mkdir(exist_ok=True)

    def __call__(self, source: str = "", context: str = "", **options: Any) -> BuiltImage:
        if source:
            (self.place / "Dockerfile").write_text(source)
        self.events = []
        streams = {name: options.pop(name) for name in ("stdin", "stdout") if name in options}
        return self.engine.build(
            context or str(self.place), BuildOptions(**options), report=self.events.append, **streams
        )

    def cached(self) -> int:
        return sum(event.stage is Stage.CACHED for event in self.events)

    def files(self, built: BuiltImage, engine: Engine | None = None) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        out = io.BytesIO()
        (engine or self.engine).export(str(built.root.digest), out)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            return {
                member.name: (member, file.read() if (file := tar.extractfile(member)) else b"")
                for member in tar
            }


@pytest.fixture
def build(engine: Engine, tmp_path: Path) -> Builds:
    return Builds(engine, tmp_path / "context")


class Web:
    """Files by path on loopback, with an ETag each; ``asked`` are the requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.server = serve(self._answer)
        self.url = self.server.url.rstrip("/")

    def _answer(self, request: Request) -> Response:
        path = "/" + request.url.partition("://")[2].partition("/")[2]
        data = self.files.get(path)
        if data is None:
            response = Response(404, {"Content-Length": "0"}, b"")
        elif request.headers.get("If-None-Match") == f'"{Digest.of(data).encoded}"':
            response = Response(304, {"ETag": f'"{Digest.of(data).encoded}"'})
        else:
            headers = {"ETag": f'"{Digest.of(data).encoded}"', "Last-Modified": DATE, "Content-Length": str(len(data))}
            response = Response(200, headers, data)
        self.asked.append((path, response.status))
        return response


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.server.close()


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.uid = len(name), 12
            tar.addfile(info, io.BytesIO(name.encode()))
    return out.getvalue()


# -- ADD from the web


def test_add_of_a_url(build: Builds, web: Web) -> None:
    web.files["/a.txt"] = b"one"
    source = f"FROM scratch\nADD {web.url}/a.txt /in/\n"
    files = build.files(build(source))
    member, data = files["in/a.txt"]
    assert (data, member.mode, member.uid, int(member.mtime)) == (b"one", 0o600, 0, 1445412480)
    assert build.cached() == 0
    web.asked.clear()
    build(source)
    assert (build.cached(), web.asked) == (1, [("/a.txt", 304)])
    web.files["/a.txt"] = b"two"
    built = build(source)
    assert build.files(built)["in/a.txt"][1] == b"two"
    reason = next(event.reason for event in build.events if event.reason)
    assert reason == f"what {web.url}/a.txt holds changed"


def test_a_checksum_spares_the_request(build: Builds, web: Web) -> None:
    web.files["/a"] = b"content"
    source = f"FROM scratch\nADD --checksum={Digest.of(b'content')} {web.url}/a /b\n"
    assert build.files(build(source))["b"][1] == b"content"
    web.asked.clear()
    build(source)
    assert (build.cached(), web.asked) == (1, [])
    before = list(build.engine.store.catalog.records())
    with pytest.raises(ChecksumMismatch):
        build(f"FROM scratch\nADD --checksum={Digest.of(b'other')} {web.url}/a /b\n")
    assert list(build.engine.store.catalog.records()) == before


def test_an_archive_from_the_web_is_unpacked_only_if_asked(build: Builds, web: Web) -> None:
    web.files["/x.tar.gz"] = archive("inner/file")
    assert "x.tar.gz" in build.files(build(f"FROM scratch\nADD {web.url}/x.tar.gz /\n"))
    files = build.files(build(f"FROM scratch\nADD --unpack=true {web.url}/x.tar.gz /u/\n"))
    assert files["u/inner/file"][0].uid == 12


def test_what_is_not_there(build: Builds, web: Web) -> None:
    with pytest.raises(NotFound):
        build(f"FROM scratch\nADD {web.url}/none /\n")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    top = tmp_path / "repositories" / "x"
    top.mkdir(parents=True)
    git(top, "init", "-q")
    commit(top, "one", Dockerfile="FROM scratch\nCOPY file /\n", file="one", sub__deep="1")
    git(top.parent, "clone", "-q", "--bare", "x", "x.git")
    with serve(http_backend(top.parent, "")) as server:
        yield top, f"{server.url.rstrip('/')}/x.git"


def test_add_of_a_repository(build: Builds, repository: tuple[Path, str]) -> None:
    _, url = repository
    source = f"FROM scratch\nADD {url}#:sub /in/\n"
    files = build.files(build(source))
    assert files["in/deep"][1] == b"1"
    assert not any(".git" in name for name in files)
    build(source)
    assert build.cached() == 1


def test_a_repository_as_the_context(build: Builds, repository: tuple[Path, str]) -> None:
    place, url = repository
    assert build.files(build(context=url))["file"][1] == b"one"
    commit(place, "two", file="two")
    git(place, "push", "-q", "../x.git", "HEAD:refs/heads/main")
    assert build.files(build(context=f"{url}#main"))["file"][1] == b"two"


# -- other contexts


def test_the_context_on_standard_input(build: Builds) -> None:
    out = io.BytesIO()
    make(build.place, {"a": "1", "b": "2", ".dockerignore": "b\n"})
    (build.place / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(build.place, arcname=".")
    files = build.files(build(context="-", stdin=io.BytesIO(out.getvalue())))
    assert "a" in files
    assert "b" not in files


def test_a_dockerfile_on_standard_input(build: Builds) -> None:
    built = build(context="-", stdin=io.BytesIO(b"FROM scratch\nCOPY <<E /e\nx\nE\n"))
    assert build.files(built)["e"][1] == b"x\n"
    make(build.place, {"a": "1"})
    built = build(context=str(build.place), stdin=io.BytesIO(b"FROM scratch\nCOPY a /\n"), dockerfile="-")
    assert build.files(built)["a"][1] == b"1"


def test_a_context_behind_a_url(build: Builds, web: Web) -> None:
    web.files["/c.tar.gz"] = archive("Dockerfile2", "x")
    web.files["/Dockerfile"] = b"FROM scratch\nCOPY <<E /e\ny\nE\n"
    with pytest.raises(NotFound, match="Dockerfile"):
        build(context=f"{web.url}/c.tar.gz")
    assert build.files(build(context=f"{web.url}/Dockerfile"))["e"][1] == b"y\n"


def test_further_contexts(build: Builds, tmp_path: Path) -> None:
    make(tmp_path / "more", {"m": "more", "n": "no", ".dockerignore": "n"})
    built = build("FROM scratch\nCOPY --from=other . /\n", contexts={"other": str(tmp_path / "more")})
    files = build.files(built)
    assert files["m"][1] == b"more"
    assert "n" not in files


def test_a_context_in_the_place_of_an_image(build: Builds) -> None:
    build("FROM scratch\nCOPY <<E /base\nx\nE\n", tags=("own:1",))
    built = build("FROM far.example/none:1\n", contexts={"far.example/none:1": "docker-image://own:1"})
    assert build.files(built)["base"][1] == b"x\n"


# -- outputs


def test_files_of_the_result(build: Builds, tmp_path: Path) -> None:
    make(build.place, {"a": "1"})
    place = tmp_path / "out"
    make(place, {"kept": "k"})
    before = len(build.engine.store.catalog.records())
    build("FROM scratch\nCOPY a /d/\n", outputs=(parse_output(str(place)),))
    assert (place / "d" / "a").read_text() == "1"
    assert (place / "kept").read_text() == "k"
    assert len(build.engine.store.catalog.records()) == before


def test_a_tar_on_standard_output(build: Builds) -> None:
    out = io.BytesIO()
    build("FROM scratch\nCOPY <<E /e\nx\nE\n", outputs=(parse_output("-"),), stdout=out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["e"]


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_archives(build: Builds, tmp_path: Path, kind: str, open_engine: Callable[..., Engine]) -> None:
    path = tmp_path / "image.tar"
    built = build(
        "FROM scratch\nCOPY <<E /e\nx\nE\n", tags=("a:1",), outputs=(parse_output(f"type={kind},dest={path}"),)
    )
    other = open_engine("other")
    assert other.load(path) == ("a:1",)
    assert build.files(built, other if kind == "oci" else build.engine)["e"][1] == b"x\n"


def test_a_layout(build: Builds, tmp_path: Path) -> None:
    build("FROM scratch\n", tags=("a:1",), outputs=(parse_output(f"type=oci,tar=false,dest={tmp_path / 'l'}"),))
    assert json.loads((tmp_path / "l" / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_a_registry(build: Builds, registry: Registry) -> None:
    built = build(
        "FROM scratch\nCOPY <<E /e\nx\nE\n", tags=(f"{registry.host}/a/b:1",), outputs=(parse_output("type=registry"),)
    )
    root = registry.repository("a/b").resolve("1")
    image = Image.load(registry.repository("a/b"), root, None)
    assert image.id == built.id
    assert image.layers[0].descriptor.media_type.endswith("+gzip")


@pytest.mark.parametrize(("text", "word"), [
    ("type=none", "expected type="), ("type=local", "directory"), ("type=local,dest=-", "directory"),
    ("type=tar,destination=x", "no such key"), ("type=registry,dest=x", "takes no dest"), ("type=image,push=maybe", "maybe"),
    ('type=tar,"dest', "quotes"),
])
def test_outputs_that_make_no_sense(text: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        parse_output(text)


def test_what_is_known_to_fail(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs a name"):
        check_outputs([parse_output("type=registry")], (), is_terminal=False)
    with pytest.raises(InvalidInput, match="terminal"):
        check_outputs([parse_output("-")], (), is_terminal=True)
    check_outputs([parse_output("-"), parse_output("type=registry,name=x")], (), is_terminal=False)


# -- caches in a registry

THREE = "FROM scratch AS one\nCOPY a /\nFROM scratch\nCOPY --from=one a /b\nCOPY c /\n"


@pytest.mark.parametrize(("mode", "cached"), [("max", 3), ("min", 2)])
def test_what_others_built_is_not_built_again(
    build: Builds, registry: Registry, open_engine: Callable[..., Engine], mode: str, cached: int
) -> None:
    make(build.place, {"a": "1", "c": "3"})
    spot = parse_cache(f"type=registry,ref={registry.host}/cache:1,mode={mode}", "--cache-to")
    first = build(THREE, cache_to=(spot,))
    other = Builds(open_engine("other"), build.place)
    second = other(cache_from=(parse_cache(f"{registry.host}/cache:1", "--cache-from"),))
    assert other.cached() == cached
    assert second.id == first.id
    assert other.files(second)["c"][1] == b"3"
    third = Builds(open_engine("other"), build.place)
    third()
    assert third.cached() == 3


def test_the_cache_in_the_image(build: Builds, registry: Registry, open_engine: Callable[..., Engine]) -> None:
    make(build.place, {"a": "1", "c": "3"})
    name = f"{registry.host}/app:1"
    build(THREE, tags=(name,), outputs=(parse_output("type=registry"),), cache_to=(parse_cache("type=inline", "--cache-to"),))
    other = Builds(open_engine("other"), build.place)
    other(cache_from=(parse_cache(name, "--cache-from"),))
    assert other.cached() == 2


def test_a_cache_that_lies_is_not_believed(
    build: Builds, registry: Registry, open_engine: Callable[..., Engine]
) -> None:
    make(build.place, {"a": "1", "c": "3"})
    spot = parse_cache(f"type=registry,ref={registry.host}/cache:1,mode=max", "--cache-to")
    build(THREE, cache_to=(spot,))
    repository = registry.repository("cache")
    root = repository.resolve("1")
    manifest = Manifest.parse(repository.open(root).read(), root.media_type)
    assert manifest.config.media_type == CONFIG
    document = json.loads(repository.open(manifest.config).read())
    for record in document["records"]:
        record["diffID"] = str(Digest.of(b"something else"))
    forged = json.dumps(document).encode()
    changed = json.loads(manifest.raw)
    changed["config"] |= {"digest": Digest.of(forged), "size": len(forged)}
    raw = json.dumps(changed).encode()
    for media_type, data in ((CONFIG, forged), (root.media_type, raw)):
        described = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))
        repository.put(described, io.BytesIO(data))
    repository.tag("1", described)
    other = Builds(open_engine("other"), build.place)
    built = other(cache_from=(parse_cache(f"{registry.host}/cache:1", "--cache-from"),))
    assert other.cached() == 0
    assert other.files(built)["c"][1] == b"3"


def test_no_cache_is_no_failure(build: Builds, registry: Registry) -> None:
    make(build.place, {"a": "1", "c": "3"})
    build(THREE, cache_from=(parse_cache(f"{registry.host}/none:1", "--cache-from"),))
    (note,) = [event.text for event in build.events if event.stage is Stage.NOTE]
    assert "--cache-from" in note


@pytest.mark.parametrize("text", ["type=gha", "type=registry", "ref=x,mode=all", "ref=x,what=y", "ref=UPPER"])
def test_caches_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_cache(text, "--cache-to")


# -- fewer layers

FIVE = """FROM scratch
COPY a /one
COPY a /two
# lamina: layer
COPY a /three
COPY a /four
# lamina: layer
COPY a /five
LABEL x=y
"""


def layers_of(build: Builds, built: BuiltImage) -> list[list[str]]:
    image = Image.load(build.engine.store, built.root, None)
    found = []
    for layer in image.layers:
        with build.engine.layers_store.open_tar(layer.diff_id) as stream:
            tar = io.BytesIO(stream.read())
        found.append(tarfile.open(fileobj=tar).getnames())
    return found


def test_groups(build: Builds) -> None:
    make(build.place, {"a": "1"})
    built = build(FIVE)
    assert layers_of(build, built) == [["one", "two"], ["three", "four"], ["five"]]
    assert built.merged == 2
    again = build()
    assert (build.cached(), again.id) == (5, built.id)
    assert layers_of(build, build(FIVE.replace("# lamina: layer\n", ""), layers_at=(3,))) == [
        ["one", "two"], ["three", "four", "five"]
    ]


def test_squash_keeps_base_cache_and_history(build: Builds) -> None:
    make(build.place, {"a": "1"})
    build("FROM scratch\nCOPY a /base\n", tags=("base:1",))
    source = "FROM base:1\nCOPY a /one\nCOPY a /two\nENV A=b\n"
    plain = build(source)
    built = build(is_squashed=True)
    assert build.cached() == 2
    assert layers_of(build, built) == [["base"], ["one", "two"]]
    history = Image.load(build.engine.store, built.root, None).config.history
    assert sum(not line.empty_layer for line in history) == 2
    assert [line.created_by for line in history][1:4] == ["COPY a /one", "COPY a /two", "ENV A=b"]
    build()
    assert build.cached() == 2
    assert layers_of(build, build(is_squashed_all=True)) == [["base", "one", "two"]]
    assert build(is_squashed=True).id == built.id
    assert plain.id != built.id


def test_squash_that_is_switched_off(build: Builds, open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(build.engine.settings), "experimental", False, raising=False)
    make(build.place, {"a": "1"})
    with pytest.raises(Unsupported, match="set it to true"):
        build("FROM scratch\nCOPY a /\n", is_squashed=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layers(build: Builds, compression: str) -> None:
    make(build.place, {"a": "1" * 10_000})
    plain = build("FROM scratch\nCOPY a /\n")
    built = build(compression=compression)
    (layer,) = Image.load(build.engine.store, built.root, None).layers
    assert layer.descriptor.media_type.endswith(f"+{compression}")
    assert layer.descriptor.size < 1000
    assert built.id == plain.id
    assert build(compression=compression).digest == built.digest


# -- several platforms


def test_an_index_of_two_platforms(build: Builds) -> None:
    platforms = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
    source = "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n"
    make(build.place, {"a": "1"})
    built = build(source, platforms=platforms, tags=("two:1",))
    found = {}
    for platform in platforms:
        image = Image.load(build.engine.store, built.root, platform)
        found[image.config.platform.architecture] = len(image.layers)
    assert found == {"amd64": 1, "arm64": 1}
    document = json.loads(build.engine.store.read_document(built.root))
    assert [each["platform"]["architecture"] for each in document["manifests"]] == ["amd64", "arm64"]


def test_platforms_share_what_is_the_same_for_them(build: Builds) -> None:
    """As with a compiler that runs here for all of them: one of them does it, whichever comes first."""
    platforms = tuple(map(Platform.parse, ("linux/amd64", "linux/arm64", "linux/riscv64")))
    source = (
        "FROM --platform=$BUILDPLATFORM scratch AS made\nCOPY a /made\nFROM scratch\nARG TARGETARCH\n"
        "COPY --from=made /made /\nCOPY a /$TARGETARCH\n"
    )
    make(build.place, {"a": "1"})
    first = build(source, platforms=platforms)
    begun = [event.title for event in build.events if event.stage is Stage.BEGUN]
    assert sum(title.endswith("COPY a /made") for title in begun) == 1
    assert sorted(title.split()[0] for title in begun if title.endswith("COPY a /$TARGETARCH")) == [
        "[linux/amd64", "[linux/arm64", "[linux/riscv64"]
    assert (first.steps, first.cached) == (9, 4)
    numbers = [event.number for event in build.events if event.stage in (Stage.DONE, Stage.CACHED)]
    assert sorted(numbers) == list(range(1, 10))
    again = build(source, platforms=platforms)
    assert (again.steps, again.cached) == (9, 9)
    build(source, platforms=platforms, no_cache=True)
    assert build.cached() == 0


def test_a_platform_that_fails_ends_the_others(build: Builds) -> None:
    platforms = tuple(map(Platform.parse, ("linux/amd64", "linux/arm64")))
    source = "FROM scratch AS amd64\nCOPY a /\nFROM scratch AS arm64\nCOPY nosuch /\nFROM $TARGETARCH\nCOPY a /b\n"
    make(build.place, {"a": "1"})
    with pytest.raises(LaminaError, match="nosuch"):
        build(f"ARG TARGETARCH\n{source}", platforms=platforms, tags=("failed:1",))
    assert build.engine.images() == ()


def test_where_nothing_is(build: Builds, tmp_path: Path) -> None:
    with pytest.raises(LaminaError, match="no such directory"):
        build(context=str(tmp_path / "nowhere"))
    os.makedirs(tmp_path / "empty")
    with pytest.raises(NotFound, match="no Dockerfile here"):
        build(context=str(tmp_path / "empty"))
