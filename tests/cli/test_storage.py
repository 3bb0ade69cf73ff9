"""system df, prune, check, info, version."""

from __future__ import annotations

import json

import pytest
from tests.cli.fakes import Command, digest, value

import lamina
from lamina.content.collect import Finding
from lamina.errors import Unavailable

USAGE = (
    value(type="Images", total=3, active=1, size=1_234_567_890, reclaimable=617_283_945),
    value(type="Containers", total=0, active=0, size=0, reclaimable=0),
)


def test_df(command: Command) -> None:
    assert command("system", "df", usage=USAGE).lines == [
        "TYPE         TOTAL     ACTIVE    SIZE      RECLAIMABLE",
        "Images       3         1         1.235GB   617.3MB (50%)",
        "Containers   0         0         0B        0B",
    ]
    first = json.loads(command("system", "df", "--format", "json", usage=USAGE).lines[0])
    assert first == {"Type": "Images", "TotalCount": "3", "Active": "1", "Size": "1.235GB",
                     "Reclaimable": "617.3MB (50%)"}


EACH = {
    "image_usage": (value(
        repository="redis", tag="7", id=digest("a"), created="2024-06-18T09:00:00Z", size=3000, shared=2000, unique=1000,
        dropped=0,
    ),),
    "containers": (), "volumes": (
        value(name="data", labels={}, mountpoint="/x", users=("a", "b"), size=5000),
    ), "build_cache": (value(
        id="f" * 64, type="regular", text="RUN make", size=700, own=200, created=0.0, used=0.0, uses=3, is_busy=False,
        is_shared=True, diff_id=digest("b"),
    ),),
}


def test_df_verbose(command: Command) -> None:
    lines = command("system", "df", "-v", **EACH).lines
    assert lines[:10] == [
        "Images space usage:", "",
        "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE      SHARED SIZE   UNIQUE SIZE",
        "redis        7         aaaaaaaaaaaa   2 weeks ago   3kB       2kB           1kB",
        "", "Containers space usage:", "",
        "CONTAINER ID   IMAGE     COMMAND   LOCAL VOLUMES   SIZE      CREATED   STATUS    NAMES",
        "", "Local Volumes space usage:",
    ]
    assert lines[11:16] == [
        "VOLUME NAME   LINKS     SIZE", "data          2         5kB", "", "Build cache usage: 200B", "",
    ]
    assert [line.split()[:3] for line in lines[16:]] == [["CACHE", "ID", "CACHE"], ["ffffffffffff", "regular", "700B"]]
    (document,) = map(json.loads, command("system", "df", "-v", "--format", "json", **EACH).lines)
    assert {name: len(rows) for name, rows in document.items()} == {
        "Images": 1, "Containers": 0, "Volumes": 1, "BuildCache": 1,
    }
    assert command("system", "df", "-v", "--format", "{{range .Volumes}}{{.Name}} {{.Size}}{{end}}", **EACH).lines == ["data 5kB"]


PRUNED = value(removed=(value(kind="Untagged", subject="a:1"), value(kind="Deleted", subject=digest("a"))), freed=13_256)


@pytest.mark.parametrize("answer", [b"y\n", b"YES\n"])
def test_prune_asks(command: Command, answer: bytes) -> None:
    command.input = answer
    result = command("image", "prune", prune=PRUNED)
    assert "WARNING! This will remove all images without a name" in result.err
    assert result.lines == [
        "Deleted Images:", "untagged: a:1", f"deleted: {digest('a')}", "", "Total reclaimed space: 13.26kB",
    ]


@pytest.mark.parametrize("answer", [b"", b"\n", b"n\n", b"yup\n"])
def test_prune_without_a_yes_does_nothing(command: Command, answer: bytes) -> None:
    command.input = answer
    result = command("image", "prune", prune=PRUNED)
    assert (result.code, result.out, result.asked) == (0, "", [])
    command.input = answer
    result = command("prune", prune=PRUNED)
    assert (result.code, result.out, result.asked) == (0, "", [])


def test_prune_takes_containers_first(command: Command) -> None:
    result = command(
        "system", "prune", "-f", "--volumes", prune=PRUNED, prune_containers=(("c" * 64,), 1000),
        prune_networks=("backend",), prune_volumes=value(names=("v",), freed=500),
        prune_builds=value(ids=("e" * 64,), freed=40),
    )
    assert [verb for verb, _, _ in result.asked] == [
        "prune_containers", "prune_networks", "prune_volumes", "prune", "prune_builds"]
    assert result.lines == [
        "Deleted Containers:", "c" * 64, "", "Deleted Networks:", "backend", "", "Deleted Volumes:", "v", "",
        "Deleted Images:", "untagged: a:1", f"deleted: {digest('a')}", "", "Deleted build cache objects:", "e" * 12, "",
        "Total reclaimed space: 14.8kB",
    ]


def test_prune_says_that_build_cache_goes(command: Command) -> None:
    for words, said in (((), "build cache that no image shares"), (("--all",), "all build cache")):
        command.input = b"n\n"
        assert said in command("prune", *words).err


def test_prune_by_label_leaves_build_cache(command: Command) -> None:
    nothing = value(removed=(), freed=0)
    result = command("prune", "-f", "--filter", "label=x", prune=nothing, prune_containers=((), 0), prune_networks=())
    assert [verb for verb, _, _ in result.asked] == ["prune_containers", "prune_networks", "prune"]


def test_prune_by_force_with_filters(command: Command) -> None:
    result = command("image", "prune", "-af", "--filter", "until=24h", prune=value(removed=(), freed=0))
    assert (result.out, result.err) == ("Total reclaimed space: 0B\n", "")
    assert result.asked == [("prune", (), {"all_images": True, "filters": {"until": ["24h"]}})]


FINDING = Finding(subject=digest("a"), problem="2 bytes are missing\x1b")
REPAIRED = Finding(subject=digest("b"), problem="unpacked form damaged", repaired=True)


def test_check_of_a_whole_store(command: Command) -> None:
    result = command("check", check=iter(()))
    assert (result.code, result.out, result.err) == (0, "", "Everything is whole.\n")


def test_check_with_findings(command: Command) -> None:
    result = command("check", check=iter((FINDING, REPAIRED)))
    assert result.code == 1
    assert result.lines == [
        f"{digest('a')}: 2 bytes are missing\\x1b", f"{digest('b')}: unpacked form damaged (repaired)",
    ]
    assert result.err.startswith("2 findings, 1 not repaired;")


def test_check_that_repaired_everything(command: Command) -> None:
    result = command("check", "--repair", "-q", check=lambda **_: iter((REPAIRED,)))
    assert (result.code, result.err) == (0, "")
    assert result.asked[0] == ("check", (), {"repair": True, "online": False})


def test_check_as_json(command: Command) -> None:
    result = command("check", "--format", "json", check=iter((FINDING,)))
    assert json.loads(result.out) == {"Subject": digest("a"), "Problem": "2 bytes are missing\x1b", "Repaired": False,
                                      "Decided": True}


def test_check_that_could_not_decide_is_125(command: Command) -> None:
    result = command("check", check=Unavailable("state.sqlite: still locked"))
    assert (result.code, result.err) == (125, "lamina: state.sqlite: still locked\n")


# -- info and version

INFO = {
    "StateDirectory": "/var/lib/lam\x1bina", "Images": 3, "Driver": "overlay2",
    "DriverCandidates": [{"Name": "erofs", "Usable": False, "Reason": "Linux 6.1 is older than 6.12"},
                         {"Name": "overlay2", "Usable": True, "Reason": ""}],
    "RuntimeCandidates": [{"Name": "runc", "Usable": True, "Reason": "/bin/runc", "Weaker": ["it is old", "bare"]}],
    "Identity": {"Rootless": False, "Ownership": "kept"}, "Mirrors": [], "Names": ["a", "b"],
    "Settings": [{"Key": "storage-driver", "Value": "overlay2", "Origin": "LAMINA_STORAGE_DRIVER"}],
}


def test_info(command: Command) -> None:
    assert command("info", info=INFO).lines == [
        "StateDirectory: /var/lib/lam\\x1bina",
        "Images: 3",
        "Driver: overlay2",
        "DriverCandidates:",
        " erofs: Linux 6.1 is older than 6.12",
        " overlay2: usable",
        "RuntimeCandidates:",
        " runc: /bin/runc; weaker: it is old; weaker: bare",
        "Identity:",
        " Rootless: false",
        " Ownership: kept",
        "Mirrors: (none)",
        "Names: a, b",
        "Settings:",
        " storage-driver: overlay2  (LAMINA_STORAGE_DRIVER)",
    ]
    assert json.loads(command("info", "--format", "json", info=INFO).out) == INFO
    assert command("system", "info", "-f", "{{.Driver}}", info=INFO).out == "overlay2\n"


def test_version(command: Command) -> None:
    assert command("version", "--format", "{{.Version}}").out == f"{lamina.__version__}\n"
    assert command("version").lines[0] == f"Version: {lamina.__version__}"
