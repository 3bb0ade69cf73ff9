"""Builds by the command: every form of output, on real builds that need neither a network nor privilege."""

from __future__ import annotations

import io
import json
import re
import socket
import tarfile
from pathlib import Path

import pytest
from tests.cli.fakes import Command, Result, Terminal

from lamina.cli.arguments import Arguments, VerbParser
from lamina.cli.buildflags import read_options
from lamina.cli.building import BUILD
from lamina.cli.session import Session
from lamina.engine.building.options import BuildOptions
from lamina.http.server import serve
from lamina.registry.server import RegistryApp
from lamina.testing.registry import MemoryProvider

DOCKERFILE = "FROM scratch\nCOPY app.py /\nWORKDIR /x\n"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, environ={"LAMINA_STORAGE_DRIVER": "vfs"}, is_real=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return context(tmp_path / "context", DOCKERFILE, {"app.py": "print()\n"})


def context(place: Path, dockerfile: str, files: dict[str, str] | None = None) -> Path:
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text(dockerfile)
    for name, text in (files or {}).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def timeless(text: str) -> str:
    """Times are not asserted."""
    return re.sub(r"\d+\.\ds", "0.0s", text)


def build(command: Command, place: Path, *words: str, code: int = 0) -> Result:
    result = command("build", *words, str(place))
    assert result.code == code, result.err
    return result


# -- plain


def test_plain_lines(command: Command, place: Path) -> None:
    result = build(command, place, "-t", "app")
    assert result.out == ""
    lines = timeless(result.err).splitlines()
    assert lines[:9] == [
        "#1 [stage-0 2/3] COPY app.py /", "#1 not cached: never built here", "#1 DONE 0.0s", "",
        "#2 [stage-0 3/3] WORKDIR /x", "#2 not cached: never built here", "#2 DONE 0.0s", "",
        lines[8],
    ]
    assert re.fullmatch(r"Successfully built sha256:[0-9a-f]{64} \(\S+; 2 steps, 0 cached\)", lines[8])
    assert lines[9:] == ["Successfully tagged app:latest"]


def test_the_second_build_is_cached(command: Command, place: Path) -> None:
    build(command, place)
    assert timeless(build(command, place).err).splitlines()[:6] == [
        "#1 [stage-0 2/3] COPY app.py /", "#1 CACHED", "", "#2 [stage-0 3/3] WORKDIR /x", "#2 CACHED", "",
    ]


def test_a_step_that_is_not_cached_says_why(command: Command, place: Path) -> None:
    build(command, place)
    (place / "app.py").write_text("print(1)\n")
    lines = build(command, place).err.splitlines()
    assert "#1 not cached: app.py changed" in lines
    assert "#2 not cached: the step before it changed" in lines


def test_explain_prints_a_table(command: Command, place: Path) -> None:
    build(command, place)
    (place / "Dockerfile").write_text(DOCKERFILE + "WORKDIR /y\n")
    lines = build(command, place, "--explain").err.splitlines()
    begin = lines.index(next(line for line in lines if line.startswith("STEP")))
    assert [re.split(r" {2,}", timeless(line)) for line in lines[begin : begin + 4]] == [
        ["STEP", "TIME", "CACHE", "INSTRUCTION"],
        ["#1", "cached", "[stage-0 2/4] COPY app.py /"],
        ["#2", "cached", "[stage-0 3/4] WORKDIR /x"],
        ["#3", "0.0s", "never built here", "[stage-0 4/4] WORKDIR /y"],
    ]


def test_no_cache(command: Command, place: Path) -> None:
    build(command, place)
    assert "CACHED" not in build(command, place, "--no-cache").err
    assert "CACHED" in build(command, place, "--no-cache=false").err


# -- quiet, rawjson, and what says so


def test_quiet_prints_the_id_alone(command: Command, place: Path) -> None:
    result = build(command, place, "-q")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", result.out)
    assert result.err == ""
    assert command("images", "-q", "--no-trunc").out == result.out


def test_rawjson_is_one_object_a_line(command: Command, place: Path) -> None:
    build(command, place, "-q")
    (place / "Dockerfile").write_text(DOCKERFILE + "WORKDIR /y\n")
    documents = [json.loads(line) for line in build(command, place, "--progress", "rawjson").err.splitlines()]
    vertexes = [vertex for document in documents for vertex in document["vertexes"]]
    assert [vertex["name"] for vertex in vertexes] == [
        "[stage-0 2/4] COPY app.py /", "[stage-0 3/4] WORKDIR /x", "[stage-0 4/4] WORKDIR /y",
        "[stage-0 4/4] WORKDIR /y"]
    assert [vertex.get("cached", False) for vertex in vertexes] == [True, True, False, False]
    assert ["completed" in vertex for vertex in vertexes] == [True, True, False, True]
    assert vertexes[2]["digest"] == vertexes[3]["digest"] != vertexes[1]["digest"]
    assert vertexes[3]["reason"] == "never built here"


def test_the_environment_may_ask_for_a_kind_of_progress(command: Command, place: Path) -> None:
    command.environ["BUILDKIT_PROGRESS"] = "rawjson"
    assert build(command, place).err.startswith("{")
    assert build(command, place, "--progress", "plain").err.startswith("#1")
    command.environ["BUILDKIT_PROGRESS"] = "loud"
    assert "BUILDKIT_PROGRESS: expected one of" in build(command, place, code=125).err


def test_a_terminal_gets_no_line_that_goes_away_again(command: Command, place: Path) -> None:
    """What is done stays; the frame of what runs is gone in the end."""
    command.is_terminal = True
    command.environ["TERM"] = "xterm"
    result = build(command, place, "-t", "app")
    assert "✔" in result.err
    assert "COPY app.py /" in result.err
    assert "not cached: never built here" in result.err
    assert result.err.endswith("Successfully tagged app:latest\n")
    assert "CACHED" in build(command, place).err


# -- files about what came of it


def test_files_about_the_image(command: Command, place: Path, tmp_path: Path) -> None:
    iid, metadata = tmp_path / "iid", tmp_path / "metadata"
    build(command, place, "-t", "a", "-t", "b:1", "--iidfile", str(iid), "--metadata-file", str(metadata))
    document = json.loads(metadata.read_bytes())
    assert iid.read_text() == document["containerimage.config.digest"]
    assert document["image.name"] == "docker.io/library/a:latest,docker.io/library/b:1"
    assert document["containerimage.descriptor"]["digest"] == document["containerimage.digest"]
    assert [(step["number"], step["cached"], step["reason"]) for step in document["lamina.build.steps"]] == [
        (1, False, "never built here"), (2, False, "never built here")]
    inspected = json.loads(command("inspect", "b:1").out)[0]
    assert inspected["Id"] == iid.read_text()


def test_a_failed_build_leaves_no_id_of_an_earlier_one(command: Command, place: Path, tmp_path: Path) -> None:
    iid = tmp_path / "iid"
    build(command, place, "--iidfile", str(iid))
    (place / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    build(command, place, "--iidfile", str(iid), code=1)
    assert not iid.exists()


# -- failures


@pytest.mark.parametrize(("dockerfile", "excerpt", "sentence"), [
    ("FROM scratch\nCPOY a b\n", [">>> 2 | CPOY a b", "      | ^"],
     "lamina: Dockerfile:2: unknown instruction: CPOY; did you mean COPY?"),
    ("FROM scratch\nCOPY --form=x a /\n", [">>> 2 | COPY --form=x a /", "      |      ^"],
     "lamina: Dockerfile:2: unknown flag of COPY: --form; did you mean --from?"),
    ("FROM scratch\nWORKDIR ${X:?is missing}\n", [">>> 2 | WORKDIR ${X:?is missing}"],
     "lamina: Dockerfile:2: X: is missing"),
    ("FROM scratch\nCOPY nothing \\\n  /\n", [">>> 2 | COPY nothing \\", "      | ^", ">>> 3 |   /"],
     "lamina: COPY nothing: not in the build context"),
])
def test_a_mistake_is_shown_where_it_is(
    command: Command, tmp_path: Path, dockerfile: str, excerpt: list[str], sentence: str
) -> None:
    result = build(command, context(tmp_path / "context", dockerfile), code=1)
    lines = result.err.splitlines()
    begin = lines.index(excerpt[0])
    assert lines[begin : begin + len(excerpt)] == excerpt
    assert sentence in lines[begin:]


def test_without_a_shell_the_build_failed_and_not_lamina(command: Command, tmp_path: Path) -> None:
    """There is no shell in scratch: 127 would speak of a command of the user's own."""
    result = command("build", str(context(tmp_path / "context", "FROM scratch\nCOPY gone /\n")))
    assert result.code == 1


def test_what_comes_from_strangers_is_made_visible(command: Command, tmp_path: Path) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY a\x1bcb /\n", {"a\x1bcb": ""})
    assert "\x1b" not in build(command, place, "--explain").err
    (place / "Dockerfile").write_text("FROM scratch\nCOPY gone\x1bc /\n")
    assert "\x1b" not in build(command, place, code=1).err


@pytest.mark.parametrize(("words", "said"), [
    (("--progress", "tty"), "--progress=tty: standard error is no terminal"),
    (("-q", "--progress", "plain"), "only one of them can be"),
    (("--progress", "loud"), "--progress: invalid choice"),
    (("--format", "json"), "--format=json: only together with --check"),
    (("--ssh", "default"), "SSH_AUTH_SOCK is not set"),
    (("--ssh", "id=/dev/null"), "/dev/null is no agent's socket"),
    (("--ssh", "id=/nowhere"), "/nowhere: no such file or directory"),
    (("--layers-at", "0"), "--layers-at: expected the number of a line, got '0'"),
    (("--layers-at", "3,x"), "got 'x'"),
    (("--allow", "everything"), "--allow everything: expected one of network.host, security.insecure"),
    (("--annotation", "index:a=b"), "only manifests are annotated"),
    (("--annotation", "a"), "expected KEY=VALUE"),
    (("--build-context", "x"), "--build-context x: expected NAME=PLACE"),
    (("--build-arg", "SOURCE_DATE_EPOCH=now"), "expected seconds since 1970, got 'now'"),
    (("--rewrite-timestamp",), "no time to rewrite to"),
    (("-q", "-o", "-"), "--quiet: the ID would be printed into the output"),
    (("--memory", "much"), "--memory: expected a size"),
    (("--sqash",), "unknown option --sqash; did you mean --squash?"),
    (("--push",), "--push: the image needs a name"),
    (("--iidfile", "/nowhere/iid"), "/nowhere/iid: its directory is not there"),
    (("--compression-level", "3"), "only together with --compression"),
    (("--compression", "gzip", "--compression-level", "10"), "expected 1 to 9, got 10"),
    (("--annotation", "a=b", "--format", "docker"), "no room for any"),
    (("--secret", "foo"), "--secret foo: expected id=NAME"),
    (("--output", "type=floppy"), "expected type= one of"),
    (("--pull=sometimes",), "--pull: expected one of missing, always"),
    (("--sbom=maybe",), "--sbom: expected true, false or KEY=VALUE"), (("--sbom=scanner=x",), "--sbom: no such key scanner"),
    (("--attest", "type=signature"), "expected type=sbom or type=provenance"), (("--attest", "sbom"), "--attest: expected"),
    (("--provenance=mode=some",), "expected the mode min or max"), (("--provenance=level=1",), "no such key level"),
    (("--sbom", "--format", "docker"), "docker's format has no place for it"),
    (("--compression", "zstd", "--format", "docker"), "docker's format has no such layers"),
    (("--cgroup-parent", "../x"), "not a control group's name"), (("--isolation", "hyperv"), "only Windows"),
    (("--platform", "arm64", "--arch", "arm64"), "only one way"), (("--call", "outline"), "--call"),
])
def test_flags_that_cannot_be_followed(command: Command, place: Path, words: tuple[str, ...], said: str) -> None:
    result = command("build", *words, str(place))
    assert result.code in (1, 125)
    assert said in result.err
    assert not (command.home / "root" / "state.sqlite").exists()


# What a flag may be given, and others that it goes with; the rest takes "x".
SAMPLES = {
    "--build-arg": ("N=1",), "--build-context": ("n=.",), "--secret": ("id=n,src=f",), "--ssh": ("n=AGENT",),
    "--label": ("k=v",), "--annotation": ("k=v",), "--platform": ("linux/arm64",), "--format": ("docker",),
    "--layers-at": ("3",), "--compression": ("zstd",), "--compression-level": ("5", "--compression", "gzip"),
    "--rewrite-timestamp": ("--build-arg", "SOURCE_DATE_EPOCH=1"), "--allow": ("network.host",), "--shm-size": ("1m",),
    "--memory": ("1g",), "--cpus": ("2",), "--cpu-shares": ("9",), "--push": ("-t", "x"), "--memory-swap": ("2g",),
    "--cpu-period": ("10000",), "--cpu-quota": ("5000",), "--jobs": ("7",), "--timestamp": ("9",), "--attest": ("type=sbom",),
}
# Switches that are on.
OFF = ("--provenance", "--layers")
# A terminal is what --on-error is about: tests/privileged/test_build_cli.py has one.
ABOUT_THE_OUTPUT = {
    "--quiet", "--progress", "--explain", "--check", "--call", "--iidfile", "--metadata-file", "--on-error"}


# Other builders' words: what is said of each that would change something there.
FOREIGN = {
    "--rm": "--rm=false: has no effect", "--force-rm": "--rm=false: has no effect", "--compress": "--compress: has no effect",
    "--disable-compression": "", "--disable-content-trust": "--disable-content-trust=false: has no effect",
    "--skip-unused-stages": "--skip-unused-stages=false: has no effect", "--identity-label": "", "--http-proxy": "",
    "--isolation": "--isolation chroot: has no effect", "--builder": "--builder chroot: has no effect",
    "--retry": "--retry: has no effect", "--retry-delay": "--retry: has no effect",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_flags_that_mean_nothing_here(command: Command, place: Path, name: str) -> None:
    action = VerbParser("build", BUILD)._option_string_actions[name]
    assert action.help is not None
    assert action.help.startswith(("no effect here", "as --r"))
    value = "3" if name == "--retry" else "chroot"
    word = f"{name}={'false' if action.default else 'true'}" if action.nargs == 0 else f"{name}={value}"
    said = build(command, place, word).err
    assert f"note: {FOREIGN[name]}" in said if FOREIGN[name] else "no effect" not in said
    assert "no effect" not in build(command, place, "--rm", "--force-rm", "--isolation", "default").err


@pytest.mark.parametrize(("words", "pull"), [
    ((), "missing"), (("--pull",), "always"), (("--pull=true",), "always"), (("--pull=false",), "missing"),
    (("--pull=Never",), "never"), (("--pull=newer",), "newer"), (("--pull=ifnewer",), "newer"),
])
def test_pull_is_a_switch_and_has_words(words: tuple[str, ...], pull: str) -> None:
    assert options_of(*words).pull == pull


@pytest.mark.parametrize(("words", "provenance", "sbom"), [
    ((), True, None), (("--sbom",), True, ""), (("--sbom=false",), True, None), (("--sbom=generator=a/b:1",), True, "a/b:1"),
    (("--attest", "type=sbom"), True, ""), (("--attest=type=sbom,generator=trivy",), True, "trivy"),
    (("--sbom", "--attest", "type=sbom,disabled=true"), True, None), (("--provenance=false",), False, None),
    (("--provenance=mode=max",), True, None), (("--attest", "type=provenance,mode=min"), True, None),
    (("--attest", "type=provenance,disabled=true", "--sbom=true"), False, ""),
])
def test_attestations(words: tuple[str, ...], provenance: bool, sbom: str | None) -> None:
    found = options_of(*words)
    assert (found.has_provenance, found.sbom) == (provenance, sbom)


def test_podman_says_platforms_in_parts() -> None:
    assert [str(each) for each in options_of("--arch", "arm", "--variant", "v6").platforms] == ["linux/arm/v6"]
    assert str(options_of("--os", "windows").platforms[0]).startswith("windows/")


def options_of(*words: str) -> BuildOptions:
    session = Session(stdin=Terminal(), stdout=Terminal(), stderr=Terminal(), clock=lambda: 0.0, environ={"HOME": "/nowhere"})
    return read_options(VerbParser("build", BUILD).read([*words, "."], Arguments()), session)


def build_flags() -> list[str]:
    names = [action.option_strings[-1] for action in VerbParser("build", BUILD).own if action.option_strings]
    return [name for name in names if name not in ABOUT_THE_OUTPUT and name not in FOREIGN]


@pytest.mark.parametrize("name", build_flags())
def test_no_flag_is_taken_and_ignored(tmp_path: Path, name: str) -> None:
    parser = VerbParser("build", BUILD)
    action = parser._option_string_actions[name]
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        more = [word.replace("AGENT", str(tmp_path / "agent")) for word in SAMPLES.get(name, ())]
        words = [name if name not in OFF else f"{name}=false", *more]
        if action.nargs != 0 and name not in SAMPLES:
            words.append("x")
        asked, without = ([*words, "."], [*(more if action.nargs == 0 else more[1:]), "."])
        session = Session(stdin=Terminal(), stdout=Terminal(), stderr=Terminal(), clock=lambda: 0.0,
                          environ={"HOME": str(tmp_path)})
        assert read_options(parser.read(asked, Arguments()), session) != read_options(
            VerbParser("build", BUILD).read(without, Arguments()), session)


# -- checks

WITH_WARNINGS = "FROM scratch AS Base\nCOPY app.py /\nENV A $B\n"


def test_check(command: Command, place: Path) -> None:
    assert build(command, place, "--check").out == "Check complete: no warnings found.\n"
    (place / "Dockerfile").write_text(WITH_WARNINGS)
    result = build(command, place, "--check", code=1)
    lines = result.lines
    assert lines[0] == "Check complete: 3 warnings found."
    assert lines[2].startswith("WARNING: StageNameCasing - https://")
    assert "Base: write it in lower case" in lines
    assert ">>> 1 | FROM scratch AS Base" in lines
    assert command("images", "-q").out == ""


def test_check_as_json(command: Command, place: Path) -> None:
    (place / "Dockerfile").write_text(WITH_WARNINGS)
    found = json.loads(build(command, place, "--check", "--format", "json", code=1).out)["warnings"]
    assert [each["ruleName"] for each in found] == ["StageNameCasing", "UndefinedVar", "LegacyKeyValueFormat"]
    assert found[1]["location"]["file"] == "Dockerfile"
    assert found[1]["location"]["ranges"][0]["start"]["line"] == 3


def test_check_knows_what_dockerignore_says(command: Command, place: Path) -> None:
    (place / ".dockerignore").write_text("app.py\n")
    assert "CopyIgnoredFile" in build(command, place, "--check", code=1).out


def test_a_build_ends_with_its_warnings(command: Command, place: Path) -> None:
    (place / "Dockerfile").write_text(WITH_WARNINGS)
    lines = build(command, place, "--build-arg", "X=1").err.splitlines()
    begin = lines.index("4 warnings found; `lamina build --check` shows the places:")
    assert lines[begin + 1 :] == [
        " - StageNameCasing: Base: write it in lower case (Dockerfile:1)",
        " - UndefinedVar: ENV: nothing sets $B (Dockerfile:3)",
        " - LegacyKeyValueFormat: ENV A: write ENV A=VALUE (Dockerfile:3)",
        " - --build-arg X: no ARG of the Dockerfile takes it",
    ]


def test_a_directive_makes_warnings_errors(command: Command, place: Path) -> None:
    (place / "Dockerfile").write_text(f"# check=error=true\n{WITH_WARNINGS}")
    result = build(command, place, code=1)
    assert "WARNING: StageNameCasing" in result.err
    assert "it asks for no build while checks find something: StageNameCasing, UndefinedVar" in result.err
    assert command("images", "-q").out == ""


# -- what goes in


def test_a_dockerfile_on_standard_input(command: Command, place: Path) -> None:
    command.input = b"FROM scratch\nCOPY app.py /other\n"
    assert "COPY app.py /other" in build(command, place, "-f", "-").err
    command.input = b"FROM scratch\nWORKDIR /z\n"
    assert "WORKDIR /z" in command("build", "-").err
    assert "the context comes on standard input already" in command("build", "-f", "-", "-").err


def test_a_context_on_standard_input(command: Command, place: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(place, ".")
    command.input = out.getvalue()
    result = command("build", "-q", "-")
    assert (result.code, result.err) == (0, "")
    assert build(command, place).err.count("CACHED") == 2


def test_the_config_of_the_image(command: Command, place: Path) -> None:
    (place / "Dockerfile").write_text("FROM scratch\nARG A\nARG B\nCOPY app.py /$A$B\nENV both=$A$B\n")
    command.environ["B"] = "unused: a name alone takes the process' own"
    build(command, place, "-t", "app", "--build-arg", "A=x", "--label", "k=v=w", "--label", "bare",
          "--annotation", "manifest:note=here")
    found = json.loads(command("inspect", "app").out)[0]
    assert found["Config"]["Labels"] == {"k": "v=w", "bare": ""}
    assert "both=x" in found["Config"]["Env"]


def test_one_epoch_one_image(command: Command, place: Path, tmp_path: Path) -> None:
    ids = set()
    for number, words in enumerate((("--build-arg", "SOURCE_DATE_EPOCH=1000000000"), ())):
        command.environ["LAMINA_ROOT"] = str(tmp_path / f"root{number}")
        if not words:
            command.environ["SOURCE_DATE_EPOCH"] = "1000000000"
        (place / "app.py").write_text("print()\n")
        ids.add(build(command, place, "-q", *words).out)
    assert len(ids) == 1
    assert json.loads(command("inspect", ids.pop().strip()).out)[0]["Created"].startswith("2001-09-09T01:46:40")


def test_times_may_be_kept(command: Command, place: Path) -> None:
    command.environ["SOURCE_DATE_EPOCH"] = "1000000000"
    times = [
        command("build", *words, "-o", "-", str(place)).raw
        for words in ((), ("--rewrite-timestamp",), ("--rewrite-timestamp=false",))
    ]
    found = [tarfile.open(fileobj=io.BytesIO(data)).getmember("app.py").mtime for data in times]
    assert found[:2] == [1_000_000_000] * 2
    assert found[2] > 1_600_000_000


def test_fewer_layers(command: Command, place: Path) -> None:
    def layers(*words: str) -> int:
        build(command, place, "-q", "-t", "app", *words)
        return len(json.loads(command("inspect", "app").out)[0]["RootFS"]["Layers"])

    (place / "Dockerfile").write_text(DOCKERFILE + "COPY app.py /again\n")
    assert (layers(), layers("--squash"), layers("--squash-all"), layers("--layers-at", "3")) == (3, 1, 1, 2)


# -- where it goes


def test_a_tar_on_standard_output(command: Command, place: Path) -> None:
    result = build(command, place, "--output", "-")
    assert sorted(tarfile.open(fileobj=io.BytesIO(result.raw)).getnames()) == ["app.py", "x"]
    command.is_terminal = True
    assert "a terminal is no place for it" in build(command, place, "-o", "-", code=1).err


def test_a_directory_of_files(command: Command, place: Path, tmp_path: Path) -> None:
    build(command, place, "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "app.py").read_text() == "print()\n"


def test_push_and_a_cache_for_others(command: Command, place: Path, tmp_path: Path) -> None:
    server = serve(RegistryApp(MemoryProvider()))
    try:
        host = server.url.removeprefix("http://")
        build(command, place, "-t", f"{host}/app:1", "--push", "--cache-to", f"{host}/cache")
        command.environ["LAMINA_ROOT"] = str(tmp_path / "other")
        assert build(command, place, "--cache-from", f"{host}/cache").err.count("CACHED") == 2
        context(place, f"FROM {host}/app:1\nCOPY app.py /more\n")
        lines = build(command, place).err.splitlines()
    finally:
        server.close(patience=0.2)
    assert lines[0] == f"#1 [stage-0 1] FROM {host}/app:1"
    assert lines[1].endswith(f"1: Pulling from {host}/app")
    assert any(line.endswith((": Pull complete", ": Already exists")) for line in lines)


# -- the build cache


def test_du_and_prune(command: Command, place: Path) -> None:
    assert command("builder", "du").lines[-3:] == ["Shared:      0B", "Reclaimable: 0B", "Total:       0B"]
    build(command, place, "-q", "-t", "app")
    build(command, place, "-q", "-t", "app", "--build-arg", "X=1")
    lines = command("builder", "du").lines
    assert re.split(r" {2,}", lines[0]) == ["ID", "RECLAIMABLE", "SIZE", "LAST USED", "DESCRIPTION"]
    assert {re.split(r" {2,}", line)[-1] for line in lines[1:3]} == {"COPY app.py /", "WORKDIR /x"}
    assert lines[-1] == "Total:       0B"
    rows = [json.loads(line) for line in command("builder", "du", "--format", "json").lines]
    assert {(row["CacheType"], row["Shared"], row["InUse"]) for row in rows} == {("regular", "true", "false")}
    assert "USAGE" in command("builder", "du", "-v").lines[0]

    assert command("builder", "prune", "-f").out == "Total reclaimed space: 0B\n"
    command.input = b"n\n"
    refused = command("builder", "prune", "-a")
    assert "all build cache and that no build is using" in refused.err
    assert refused.out == ""
    lines = command("builder", "prune", "-a", "-f").lines
    assert lines[0] == "Deleted build cache objects:"
    assert len(lines) == 5
    assert "CACHED" not in build(command, place).err


def test_prune_takes_what_only_the_cache_holds(command: Command, place: Path) -> None:
    build(command, place, "-q", "-t", "app")
    command("rmi", "app")
    usage = {row["Type"]: row for row in map(json.loads, command("system", "df", "--format", "json").lines)}
    assert (usage["Build Cache"]["TotalCount"], usage["Leftovers"]["Size"]) == ("2", "0B")
    assert usage["Build Cache"]["Size"] != "0B"
    assert command("builder", "prune", "-f", "--keep-storage", "1GB").out == "Total reclaimed space: 0B\n"
    assert command("builder", "prune", "-f", "--filter", "until=24h").out == "Total reclaimed space: 0B\n"
    lines = command("system", "prune", "-f").lines
    assert lines[0] == "Deleted build cache objects:"
    assert usage["Build Cache"]["Size"] in lines[-1]
    assert "CACHED" not in build(command, place).err


@pytest.mark.parametrize("words", [("--filter", "label=x"), ("--keep-storage", "much"), ("--filter", "until=x")])
def test_prune_with_what_it_cannot_follow(command: Command, words: tuple[str, ...]) -> None:
    assert command("builder", "prune", "-f", *words).code in (1, 125)


# -- context ls


@pytest.fixture
def ignoring(place: Path) -> Path:
    context(place, DOCKERFILE, {"junk/big": "x" * 5000, "a.log": "", "keep.log": "kk", ".dockerignore": "junk\n*.log\n!keep.log\n"})
    return place


def test_what_is_in_the_context(command: Command, ignoring: Path) -> None:
    result = command("context", "ls", str(ignoring))
    assert [line.split()[-1] for line in result.lines] == ["PATH", ".dockerignore", "Dockerfile", "app.py", "keep.log"]
    assert result.err == "4 paths, 69B in the context; 2 paths, 5kB left out\n"


def test_what_is_left_out_and_which_line_says_so(command: Command, ignoring: Path) -> None:
    lines = command("context", "ls", "--all", "--sort", "size", str(ignoring)).lines
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    assert cells[:2] == [["SIZE", "SENT", "PATH", "RULE", "RULE AT"], ["5kB", "no", "junk", "junk", ".dockerignore:1"]]
    assert ["2B", "yes", "keep.log", "!keep.log", ".dockerignore:3"] in cells
    assert ["0B", "no", "a.log", "*.log", ".dockerignore:2"] in cells


def test_a_dockerfile_may_have_an_ignore_file_of_its_own(command: Command, ignoring: Path) -> None:
    (ignoring / "Other").write_text("FROM scratch\n")
    (ignoring / "Other.dockerignore").write_text("*\n!app.py\n")
    assert command("context", "ls", "-f", "Other", "--format", "{{.Path}}", str(ignoring)).out == "app.py\n"
    rows = [json.loads(line) for line in command("context", "ls", "-af", "Other", "--format", "json", str(ignoring)).lines]
    assert {row["Place"] for row in rows} == {"Other.dockerignore:1", "Other.dockerignore:2"}


def test_a_context_without_a_dockerfile(command: Command, ignoring: Path) -> None:
    (ignoring / "Dockerfile").unlink()
    assert command("context", "ls", str(ignoring)).code == 0
    assert "no such directory" in command("context", "ls", str(ignoring / "gone")).err
    assert "No: no such Dockerfile" in command("context", "ls", "-f", "No", str(ignoring)).err


# -- completion


def test_completion(command: Command) -> None:
    def words(*asked: str) -> list[str]:
        return [line.partition("\t")[0] for line in command("__complete", *asked).lines]

    assert words("builder", "") == ["du", "prune", "sbom", "build"]
    assert words("build", "--progress", "") == ["auto", "plain", "tty", "quiet", "none", "rawjson"]
    assert words("build", "-f", "") == words("build", "--iidfile", "") == words("build", "") == [":files"]
    assert words("build", "--squ") == ["--squash", "--squash-all"]
    assert words("image", "b") == ["build"]
