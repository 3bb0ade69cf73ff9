"""Builds that run no command, as anybody: what comes of them, what they say, and what strangers put into them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.build.made import make
from tests.layer import tarbytes

from lamina.build.failure import DockerfileError
from lamina.build.placing import CannotReplace
from lamina.build.report import Stage, StepEvent
from lamina.engine.building.options import BuildOptions, BuiltImage
from lamina.engine.engine import Engine
from lamina.errors import Denied, InvalidInput, LaminaError
from lamina.image import Image
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, Descriptor
from lamina.oci.manifest import Manifest
from lamina.testing.images import MadeImage, device, directory, fifo, file, make_image, symlink

EPOCH = 1_700_000_000
Files = Mapping[str, "str | None"]


class Builder:
    """One engine, one context, and what the last build reported."""

    def __init__(self, engine: Engine, place: Path) -> None:
        self.engine = engine
        self.place = place
        self.events: list[StepEvent] = []
        place.mkdir(exist_ok=True)

    def build(self, dockerfile: str, files: Files | None = None, **options: Any) -> BuiltImage:
        (self.place / "Dockerfile").write_text(dockerfile)
        make(self.place, files or {})
        self.events = []
        return self.engine.build(self.place, BuildOptions(**options), report=self.events.append)

    def image(self, built: BuiltImage) -> Image:
        return Image.load(self.engine.store, built.root, None)

    def config(self, built: BuiltImage) -> Mapping[str, Any]:
        return self.image(built).config.document

    def layers(self, built: BuiltImage) -> list[bytes]:
        found = []
        for layer in self.image(built).layers:
            with self.engine.layers_store.open_tar(layer.diff_id) as tar:
                found.append(tar.read())
        return found

    def members(self, built: BuiltImage, layer: int = -1) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.layers(built)[layer])) as tar:
            return {member.name: member for member in tar}

    def content(self, built: BuiltImage, path: str, layer: int = -1) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(self.layers(built)[layer])) as tar:
            found = tar.extractfile(path)
            assert found is not None
            return found.read()

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if event.stage is Stage.BEGUN]

    @property
    def hits(self) -> int:
        return sum(event.stage is Stage.CACHED for event in self.events)

    def put(self, name: str, made: MadeImage) -> None:
        made.put(self.engine.store, f"docker.io/library/{name}:latest")


@pytest.fixture
def builder(engine: Engine, tmp_path: Path) -> Builder:
    return Builder(engine, tmp_path / "context")


def refuses(builder: Builder, dockerfile: str, files: Files | None = None, *, word: str = "", **options: Any) -> str:
    """One sentence, no image, no name."""
    before = [record.names for record in builder.engine.store.catalog.records()]
    with pytest.raises(LaminaError) as caught:
        builder.build(dockerfile, files, tags=("refused",), **options)
    assert [record.names for record in builder.engine.store.catalog.records()] == before
    assert word in str(caught.value), str(caught.value)
    return str(caught.value)


# -- what comes of it


def test_what_every_instruction_leaves(builder: Builder) -> None:
    built = builder.build(
        "FROM scratch\nARG V=1\nENV A=$V B='x y'\nLABEL l=$A\nWORKDIR /w/x\nCOPY f .\nUSER 7:8\nEXPOSE 80\n"
        'VOLUME /data\nSTOPSIGNAL SIGINT\nENTRYPOINT ["/f"]\nCMD ["a"]\nSHELL ["/s"]\nHEALTHCHECK CMD true\n'
        "ONBUILD COPY f /g\nMAINTAINER me\n", {"f": "content"}, tags=("one", "two:2"), labels={"given": "1"},
        arguments={"V": "2"},
    )
    document = builder.config(built)
    config = document["config"]
    assert config["Env"][1:] == ["A=2", "B=x y"]
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("7:8", "/w/x", "SIGINT")
    assert (config["Entrypoint"], config["Cmd"], config["Shell"]) == (["/f"], ["a"], ["/s"])
    assert config["Labels"] == {"l": "2", "given": "1"}
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert config["Volumes"] == {"/data": {}}
    assert config["OnBuild"] == ["COPY f /g"]
    assert document["author"] == "me"
    assert [line.get("empty_layer", False) for line in document["history"]].count(False) == 2
    assert builder.content(built, "w/x/f") == b"content"
    assert builder.members(built, 0).keys() == {"w", "w/x"}
    assert {name for record in builder.engine.store.catalog.records() for name in record.names} == {
        "docker.io/library/one:latest", "docker.io/library/two:2",
    }


def test_stages_see_each_other_and_only_the_needed_are_built(builder: Builder) -> None:
    built = builder.build(
        "FROM scratch AS a\nCOPY f /f\nFROM scratch AS unneeded\nCOPY missing /\nFROM scratch AS b\nCOPY g /g\n"
        "FROM a\nCOPY --from=b /g /from-b\nCOPY --from=0 /f /from-a\n", {"f": "1", "g": "2"},
    )
    assert len(builder.layers(built)) == 3
    assert builder.content(built, "from-b", 1) == b"2"
    assert builder.content(built, "from-a", 2) == b"1"


def test_stages_at_once_give_what_stages_in_a_row_give(open_engine: Callable[..., Engine], tmp_path: Path) -> None:
    stages = "".join(f"FROM scratch AS s{n}\nCOPY f{n % 3} /a\nCOPY f{n} /b\nWORKDIR /d{n}\n" for n in range(12))
    text = stages + "FROM scratch\n" + "".join(f"COPY --from=s{n} / /{n}/\n" for n in range(12))
    files = {f"f{n}": str(n) * n for n in range(12)}
    digests = {
        Builder(open_engine(f"root-{workers}"), tmp_path / "context").build(
            text, files, epoch=EPOCH, workers=workers
        ).digest for workers in (1, 2, 8)
    }
    assert len(digests) == 1


def test_one_stage_that_fails_ends_the_others(builder: Builder) -> None:
    stages = "FROM scratch AS a\nCOPY missing /\nFROM scratch AS b\nCOPY f /\n"
    text = f"{stages}FROM scratch\nCOPY --from=b / /\nCOPY --from=a / /\n"
    assert "missing" in refuses(builder, text, {"f": ""})


def test_with_an_epoch_two_roots_give_the_same_image(open_engine: Callable[..., Engine], tmp_path: Path) -> None:
    text = 'FROM scratch\nENV A=1\nCOPY d /d/\nWORKDIR /new/dir\nADD x.tar /x/\nCMD ["a"]\n'
    made = []
    for name in ("one", "two"):
        builder = Builder(open_engine(f"root-{name}"), tmp_path / name)
        (builder.place / "x.tar").write_bytes(tarbytes.tar(tarbytes.member("m", b"1")))
        made.append((builder, builder.build(text, {"d/f": "1", "d/e/g": "2"}, epoch=EPOCH)))
        os.utime(builder.place / "d/f", (EPOCH + 5, EPOCH + 5))
    assert made[0][1].digest == made[1][1].digest
    assert made[0][1].id == made[1][1].id
    times = {member.mtime for layer in range(3) for member in made[0][0].members(made[0][1], layer).values()}
    assert max(times) <= EPOCH


def test_reasons(builder: Builder) -> None:
    text = "FROM scratch\nARG A\nENV E=1\nCOPY d /d\nWORKDIR /w\n"
    builder.build(text, {"d/f": "1", "d/g": "1"})
    assert builder.reasons == ["never built here"] * 2
    builder.build(text, {})
    assert (builder.reasons, builder.hits) == ([], 2)
    builder.build(text, {"d/f": "2"})
    assert builder.reasons == ["f changed", "the step before it changed"]
    builder.build(text.replace("/w", "/v"), {"d/h": "1"})
    assert builder.reasons[0] == "h is new"
    builder.build(text, {"d/f": "1"}, no_cache=True)
    assert builder.reasons == ["", ""]


@pytest.mark.parametrize("change", [
    lambda path: path.chmod(0o600), lambda path: path.write_text("22"),
    lambda path: (path.unlink(), path.symlink_to("x")), lambda path: path.rename(path.with_name("other")),
])
def test_what_a_copy_misses_for(builder: Builder, change: Callable[[Path], object]) -> None:
    text = "FROM scratch\nCOPY d /d\n"
    builder.build(text, {"d/f": "1"})
    change(builder.place / "d/f")
    builder.build(text)
    assert (builder.hits, len(builder.reasons)) == (0, 1)


def test_a_time_alone_is_no_change(builder: Builder) -> None:
    builder.build("FROM scratch\nCOPY d /d\n", {"d/f": "1"})
    os.utime(builder.place / "d/f", (1, 1))
    os.utime(builder.place / "d", (1, 1))
    builder.build("FROM scratch\nCOPY d /d\n")
    assert builder.hits == 1


def test_where_a_copy_goes_is_not_a_joined_text(builder: Builder) -> None:
    """``/a b`` with ``c``, and ``/a`` with ``b c``, are the same when a blank is put between them."""
    base = "FROM scratch\nCOPY --parents a/x ['a b/x'] /\n".replace("['a b/x']", "a*b/x")
    make(builder.place, {"a/x": "", "a b/x": ""})
    first = builder.build(base + 'WORKDIR "/a b"\nCOPY f c\n', {"f": "1"})
    second = builder.build(base + 'WORKDIR /a\nCOPY ["f", "b c"]\n')
    assert builder.members(first).keys() == {"a b", "a b/c"}
    assert builder.members(second).keys() == {"a", "a/b c"}


# -- arguments and triggers


def test_arguments(builder: Builder) -> None:
    text = "ARG V=out\nFROM scratch\nARG V\nARG W=${V:-none}\nENV A=$W\nFROM scratch\nCOPY --from=0 / /\nENV B=$W\n"
    built = builder.build(text, arguments={"V": "given", "UNKNOWN": "x", "HTTP_PROXY": "http://u:p@h"})
    assert builder.config(built)["config"]["Env"][1:] == ["B="]
    assert len(built.warnings) == 1
    assert "UNKNOWN" in built.warnings[0]
    assert "u:p@h" not in str(builder.config(built))


@pytest.mark.parametrize("text", [
    "ENV A=0123456789\n" + "".join(f"ENV A=$A$A$A$A$A$A$A$A # {n}\n" for n in range(20)),
    "ARG A=xxxxxxxxxxxxxxxx\n" + "".join("ARG A=$A$A$A$A$A$A$A$A\n" for _ in range(20)),
    "ENV B=" + "x" * 200_000 + "\nENV C=${B//x/" + "y" * 200_000 + "}\n",
    "LABEL a=" + "${A:-" * 3000 + "}" * 3000 + "\n",
])
def test_expansion_bombs(builder: Builder, text: str) -> None:
    with pytest.raises(InvalidInput):
        builder.build(f"FROM scratch\n{text}")


def test_more_instructions_than_a_history_holds(builder: Builder) -> None:
    assert "10000" in refuses(builder, "FROM scratch\n" + "ENV A=1\n" * 20_000)


def test_triggers_of_a_base_come_first_and_once(builder: Builder) -> None:
    parent = builder.build("FROM scratch\nONBUILD ENV T=1\nONBUILD COPY f /triggered\n", {"f": "1"}, tags=("parent",))
    assert builder.config(parent)["config"]["OnBuild"] == ["ENV T=1", "COPY f /triggered"]
    child = builder.build("FROM parent\nENV U=$T\n", tags=("child",))
    assert builder.config(child)["config"]["Env"][1:] == ["T=1", "U=1"]
    assert "OnBuild" not in builder.config(child)["config"]
    assert builder.content(child, "triggered") == b"1"
    grandchild = builder.build("FROM child\n")
    assert len(builder.layers(grandchild)) == 1


@pytest.mark.parametrize("trigger", [
    "FROM scratch", "ONBUILD ENV A=1", "MAINTAINER x", "nonsense", "", "COPY ../../etc/passwd /p", "ENV A=1\nENV B=2",
    "COPY --from=nowhere:latest / /", "ADD --chmod=999 f /", "COPY <<E /f\nnever ends",
    "RUN --security=insecure true", "RUN --network=host true",
])
def test_triggers_that_nobody_should_obey(builder: Builder, trigger: str) -> None:
    builder.put("base", make_image([{"x": b""}], execution={"OnBuild": [trigger]}))
    with pytest.raises((LaminaError, OSError)) as caught:
        builder.build("FROM base\n", {"f": ""})
    assert str(caught.value)


@pytest.mark.parametrize(("name", "value"), [
    ("Env", [None]), ("Env", [1]), ("Env", "A=1"), ("Env", {"A": "1"}), ("Env", ["A=\0"]), ("Labels", ["a"]),
    ("Labels", {"a": 1}), ("OnBuild", "RUN x"), ("OnBuild", [["RUN"]]), ("OnBuild", {"a": 1}), ("Cmd", [1]),
    ("Entrypoint", {"a": 1}), ("Shell", "sh"), ("Shell", [None]), ("User", 7), ("User", ["x"]), ("WorkingDir", {}),
    ("WorkingDir", 1), ("Volumes", ["/data"]), ("ExposedPorts", "80"), ("Healthcheck", []), ("StopSignal", 9),
])
def test_configs_of_the_wrong_shape(builder: Builder, name: str, value: Any) -> None:
    builder.put("base", make_image([{"x": b""}], execution={name: value}))
    text = 'FROM base\nENV E=1\nLABEL l=1\nEXPOSE 1\nVOLUME /v\nWORKDIR w\nUSER u\nCMD x\nENTRYPOINT ["y"]\nCOPY f /\n'
    assert name in refuses(builder, text, {"f": ""}, word="base")


@pytest.mark.parametrize("config", [
    {"Env": None, "Labels": None, "OnBuild": None, "Cmd": None, "Volumes": None, "User": None, "Shell": None},
    {"Env": [], "OnBuild": [], "WorkingDir": "", "Cmd": "text", "Entrypoint": "text"},
    {"Env": ["", "=", "A", "B=1=2", "B=3"], "WorkingDir": "relative/../../y", "Unknown": [1, {"a": None}]},
])
def test_configs_that_are_odd_but_sound(builder: Builder, config: Mapping[str, Any]) -> None:
    builder.put("base", make_image([{"x": b""}], execution=config))
    built = builder.build("FROM base\nENV E=1\nWORKDIR w\nCOPY f .\nVOLUME /v\nEXPOSE 1\n", {"f": "1"})
    assert "E=1" in builder.config(built)["config"]["Env"]


def test_a_foreign_syntax_is_not_fetched_and_not_run(builder: Builder) -> None:
    built = builder.build("# syntax=evil.example/frontend:1\nFROM scratch\nCOPY f /\n", {"f": ""})
    assert builder.content(built, "f") == b""


def test_an_image_that_imitates_a_step_is_no_hit(open_engine: Callable[..., Engine], tmp_path: Path) -> None:
    """CVE-2024-24557: what counts is what was built here, not what a history says."""
    text, files = "FROM scratch\nCOPY f /f\n", {"f": "good"}
    elsewhere = Builder(open_engine("elsewhere"), tmp_path / "context")
    document = elsewhere.config(elsewhere.build(text, files, epoch=EPOCH))
    evil = make_image([{"f": b"evil"}], execution=document["config"])
    config = ImageConfig.build({**evil.config.document, "history": document["history"], "parent": "sha256:" + "0" * 64})
    described = Descriptor(media_type=OCI_CONFIG, digest=config.digest, size=len(config.raw))
    manifest = Manifest.build(described, [layer.descriptor for layer in evil.layers])
    here = Builder(open_engine("here"), tmp_path / "context")
    here.put("evil", MadeImage(manifest=manifest, config=config, layers=evil.layers))
    built = here.build(text, epoch=EPOCH)
    assert (here.hits, here.content(built, "f")) == (0, b"good")


# -- what is copied from, and to


@pytest.mark.parametrize(("dockerfile", "files"), [
    ("COPY ../outside /x", {}), ("COPY link /x/", {"link": "-> /etc/passwd"}),
    ("COPY link/passwd /x", {"link": "-> /etc"}), ("COPY link/x /x", {"link": "-> ../.."}),
    ("COPY a/../../../etc/passwd /x", {"a": None}), ("ADD link /x", {"link": "-> ../outside"}),
    ("COPY l*k /x/", {"link": "-> /etc/passwd"}),
])
def test_nothing_leads_out_of_the_context(builder: Builder, dockerfile: str, files: Files) -> None:
    (builder.place.parent / "outside").write_text("secret")
    try:
        built = builder.build(f"FROM scratch\n{dockerfile}\n", files)
    except LaminaError:
        return
    assert b"secret" not in builder.layers(built)[-1]
    assert b"root:" not in builder.layers(built)[-1]


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq", "d/.wh.y", ".wh..", ".wh."])
def test_names_that_would_remove_something(builder: Builder, name: str) -> None:
    refuses(builder, "FROM scratch\nCOPY d /d\n", {f"d/{name}": "x"}, word=".wh.")


def test_a_base_whose_whiteouts_come_back(builder: Builder) -> None:
    base = [[file("a", b"1"), directory("d"), file("d/b", b"2")], [file(".wh.a"), file("d/.wh..wh..opq"), file("d/c", b"3")]]
    builder.put("base", make_image(base))
    refuses(builder, "FROM scratch\nCOPY --from=base /a /\n", word="/a")
    built = builder.build("FROM scratch\nCOPY --from=base / /\n")
    assert builder.members(built).keys() == {"d", "d/c"}


PASSWD = b"root:x:0:0::/:/bin/sh\napp:x:7:8::/:/bin/sh\n"


@pytest.mark.parametrize("entries", [
    [fifo("etc/passwd")], [symlink("etc/passwd", "/dev/zero")], [device("etc/passwd", 1, 5)],
    [symlink("etc/passwd", "passwd")], [symlink("etc", "/proc/self/root/etc")], [directory("etc/passwd")],
    [symlink("etc/passwd", "../../../../../../etc/passwd")], [file("etc/passwd", b"\0" * (5 << 20))],
    [file("etc/passwd", b"app:x:4294967296:0::/:\n")], [file("etc/passwd", b"app:x:-1:0::/:\n")],
    [file("etc/passwd", b"app:x:99999999999999999999:0::/:\n")],
])
def test_user_databases_that_are_none(builder: Builder, entries: Sequence[Any]) -> None:
    builder.put("base", make_image([[directory("dev"), *([directory("etc")] if entries[0].path != "etc" else []), *entries]]))
    for text in ("COPY --chown=app f /", "USER app\nWORKDIR /new"):
        assert refuses(builder, f"FROM base\n{text}\n", {"f": ""})


def test_owners_by_name_are_the_bases(builder: Builder) -> None:
    builder.put("base", make_image([[directory("etc"), symlink("etc/passwd", "real"), file("etc/real", PASSWD)]]))
    built = builder.build("FROM base\nCOPY --chown=app f /\nUSER app\nWORKDIR /home/x\n", {"f": ""})
    assert [(one.uid, one.gid) for one in builder.members(built, 1).values()] == [(7, 8)]
    assert {(one.uid, one.gid) for one in builder.members(built, 2).values()} == {(7, 8)}


@pytest.mark.parametrize("owner", ["4294967296", "4294967295:0", "0:4294967296", "-1", "1:-1", "99999999999999999999"])
def test_owners_beyond_the_kernels(builder: Builder, owner: str) -> None:
    refuses(builder, f"FROM scratch\nCOPY --chown={owner} f /\n", {"f": ""})


def test_modes_survive_setuid_and_all(builder: Builder) -> None:
    make(builder.place, {"d/e/s": "1"})
    (builder.place / "d/e/s").chmod(0o6755)
    (builder.place / "d/e").chmod(0o1777)
    built = builder.build("FROM scratch AS a\nCOPY --chown=5:6 d /d\nFROM scratch\nCOPY --from=a / /\n")
    assert builder.members(built)["d/e/s"].mode == 0o6755
    assert builder.members(built)["d/e"].mode == 0o1777
    assert builder.members(built)["d/e/s"].uid == 5


def test_a_destination_through_symlinks_stays_inside(builder: Builder) -> None:
    builder.put("base", make_image([[symlink("out", "../../../../tmp"), symlink("loop", "loop"), directory("tmp")]]))
    built = builder.build("FROM base\nCOPY f /out/x\n", {"f": "1"})
    assert builder.members(built, 1).keys() == {"tmp", "tmp/x"}
    refuses(builder, "FROM base\nCOPY f /loop/x\n", word="symlinks")


@pytest.mark.parametrize("name", ["../../x", "..", "a/../../b", "a/.", ".wh.x", "x" * 256])
def test_documents_whose_names_lead_elsewhere(builder: Builder, name: str) -> None:
    refuses(builder, f"FROM scratch\nCOPY <<{name} /d/\nhi\n{name}\n")


@pytest.mark.parametrize("text", [
    "COPY f /.wh.d/y", "COPY f /.wh..wh..opq", "WORKDIR /.wh.x/y", f"WORKDIR /{'x' * 256}", f"COPY f /{'ä' * 128}/",
])
def test_places_that_no_layer_may_have(builder: Builder, text: str) -> None:
    refuses(builder, f"FROM scratch\n{text}\n", {"f": ""})


def test_things_that_are_no_files(builder: Builder) -> None:
    os.mkfifo(builder.place / "fifo")
    built = builder.build("FROM scratch\nCOPY fifo /a\nADD fifo /b/\n")
    assert builder.members(built)["b/fifo"].isfifo()


# -- archives


def adding(builder: Builder, *members: bytes, text: str = "FROM scratch\nADD a.tar /d/\n") -> BuiltImage:
    (builder.place / "a.tar").write_bytes(tarbytes.tar(*members))
    return builder.build(text)


@pytest.mark.parametrize("members", [
    [tarbytes.member("../../x", b"1")], [tarbytes.member("a/../../x", b"1")],
    [tarbytes.header("l", tarbytes.SYM, link="/etc"), tarbytes.member("l/passwd", b"1")],
    [tarbytes.header("l", tarbytes.SYM, link=".."), tarbytes.header("l/d", tarbytes.DIR), tarbytes.member("l/d/x", b"1")],
    [tarbytes.member("f", b"1"), tarbytes.member("f/x", b"1")],
    [tarbytes.header("d/", tarbytes.DIR), tarbytes.header("d", tarbytes.SYM, link="/etc"), tarbytes.member("d/x", b"1")],
    [tarbytes.header("h", tarbytes.HARD, link="../../../etc/passwd")],
    [tarbytes.header("h", tarbytes.HARD, link="/etc/passwd")], [tarbytes.header("h", tarbytes.HARD, link="h")],
    [tarbytes.member(".wh.x", b"")], [tarbytes.member("d/.wh..wh..opq", b"")],
    [tarbytes.header("x", size=5000) + bytes(512)],
    [tarbytes.header("x", size=tarbytes.base256(-1, 12))], [tarbytes.header("x", size=1 << 32)],
    [tarbytes.pax({"size": "-5"}) + tarbytes.member("x", b"")],
    [tarbytes.pax({"comment": b"x" * (2 << 20)}) + tarbytes.member("a", b"1")],
])
def test_archives_that_lead_somewhere_else(builder: Builder, members: Sequence[bytes]) -> None:
    with pytest.raises(LaminaError):
        adding(builder, *members)
    assert not builder.engine.store.catalog.records()


def test_an_archive_below_a_symlink_of_the_base(builder: Builder) -> None:
    builder.put("base", make_image([[directory("d"), symlink("d/lib", "/usr/lib"), directory("usr"), directory("usr/lib")]]))
    with pytest.raises(CannotReplace, match="symlink"):
        adding(builder, tarbytes.member("lib/x", b"1"), text="FROM base\nADD a.tar /d/\n")


def test_names_that_come_twice(builder: Builder) -> None:
    built = adding(builder, tarbytes.member("x", b"old"), tarbytes.header("h", tarbytes.HARD, link="x"),
                   tarbytes.member("x", b"new"), tarbytes.member("./a//b/./c", b"1"))
    assert builder.content(built, "d/x") == b"new"
    assert builder.content(built, "d/h") == b"old"
    assert builder.content(built, "d/a/b/c") == b"1"


def test_files_with_two_names_in_two_archives(builder: Builder) -> None:
    """Numbers of members say nothing about another archive's."""
    for name in ("one", "two"):
        members = (tarbytes.member(f"{name}-a", name.encode()), tarbytes.header(f"{name}-b", tarbytes.HARD, link=f"{name}-a"))
        (builder.place / f"{name}.tar").write_bytes(tarbytes.tar(*members))
    built = builder.build("FROM scratch\nADD one.tar two.tar /d/\n")
    for name in ("one", "two"):
        assert builder.content(built, f"d/{name}-a") == builder.content(built, f"d/{name}-b") == name.encode()


def test_overlay_attributes_do_not_come_along(builder: Builder) -> None:
    attributes = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.redirect": "/etc",
                  "SCHILY.xattr.user.mine": "kept"}
    built = adding(builder, tarbytes.pax(attributes) + tarbytes.header("x/", tarbytes.DIR))
    layer = builder.layers(built)[-1]
    assert b"overlay" not in layer
    assert b"user.mine=kept" in layer


def test_a_sparse_giant_and_a_bomb_are_told(builder: Builder) -> None:
    import gzip

    sparse = tarbytes.pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x",
                           "GNU.sparse.realsize": str(1 << 50)}) + tarbytes.member("x", b"1\n0\n1\n".ljust(512, b"\0") + b"x")
    (builder.place / "a.tar").write_bytes(tarbytes.tar(sparse))
    (builder.place / "b.tar.gz").write_bytes(gzip.compress(tarbytes.tar(tarbytes.member("z", bytes(64 << 20)))))
    try:
        built = builder.build("FROM scratch\nADD a.tar /d/\n")
    except LaminaError:
        pass
    else:
        assert builder.members(built)["d/x"].size < 1 << 20
    built = builder.build("FROM scratch\nADD b.tar.gz /d/\n")
    assert builder.members(built)["d/z"].size == 64 << 20


def test_very_many_members(builder: Builder) -> None:
    built = adding(builder, *(tarbytes.header(f"{n:06}") for n in range(20_000)))
    assert len(builder.members(built)) == 20_001


# -- consent


@pytest.mark.parametrize("flag", ["--network=host", "--security=insecure"])
def test_what_weakens_the_walls_takes_consent(builder: Builder, flag: str) -> None:
    with pytest.raises((Denied, DockerfileError), match="allow"):
        builder.build(f"FROM scratch\nRUN {flag} true\n")
