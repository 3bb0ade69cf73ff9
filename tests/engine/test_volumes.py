"""Volumes as the engine and the command have them: filters, use, and removal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.cli.arguments import Arguments, VerbParser
from lamina.cli.copying import split_place
from lamina.cli.session import Session
from lamina.cli.verbs import Verb
from lamina.cli.volumes import VOLUME_CREATE, VOLUME_INSPECT, VOLUME_LS, VOLUME_PRUNE, VOLUME_RM
from lamina.engine import volumes
from lamina.engine.engine import Engine
from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.runtime.options import ContainerOptions
from lamina.runtime.volumes import VolumeNotFound
from lamina.testing.images import tar_of


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "state") as engine:
        yield engine


def run(root: Path, verb: Verb, *words: str, answer: str = "") -> tuple[int, str, str]:
    """A verb by itself: exit code, output, and what was said beside it."""
    out, err = io.StringIO(), io.StringIO()
    session = Session(stdin=io.StringIO(answer), stdout=out, stderr=err, environ={"LAMINA_ROOT": str(root)}, clock=lambda: 0.0,
                      open_engine=lambda _settings, _report: Engine.open(root))
    code = verb.run(VerbParser("volume", verb).read(words, Arguments()), session)
    return code or 0, out.getvalue(), err.getvalue()


def names(engine: Engine, in_use: volumes.Users | None = None, **filters: list[str]) -> list[str]:
    found = volumes.volumes(engine, filters=filters, in_use=in_use or {})
    return [volume.name for volume in found]


def test_volumes_are_listed_by_what_filters_say(engine: Engine) -> None:
    volumes.create(engine, "alpha", labels={"tier": "db", "x": ""})
    volumes.create(engine, "beta", labels={"tier": "web"})
    assert names(engine) == ["alpha", "beta"]
    assert names(engine, label=["tier"]) == ["alpha", "beta"]
    assert names(engine, label=["tier=db", "x"]) == ["alpha"]
    assert names(engine, name=["et"]) == ["beta"]
    assert names(engine, driver=["nfs"]) == []
    used = {"alpha": ["web"]}
    assert names(engine, used, dangling=["true"]) == ["beta"]
    assert names(engine, used, dangling=["false"]) == ["alpha"]
    with pytest.raises(InvalidInput, match="not a filter"):
        names(engine, size=["1"])
    with pytest.raises(InvalidInput, match="expected true or false"):
        names(engine, dangling=["maybe"])


def test_a_volume_in_use_stays(engine: Engine) -> None:
    volumes.create(engine, "data")
    with pytest.raises(volumes.VolumeInUse, match="data: in use by web, db"):
        volumes.remove(engine, "data", force=True, in_use={"data": ["web", "db"]})
    assert volumes.remove(engine, "data", in_use={})
    with pytest.raises(VolumeNotFound):
        volumes.remove(engine, "data", in_use={})
    assert not volumes.remove(engine, "data", force=True, in_use={})


def test_prune_takes_anonymous_volumes_and_all_of_them_only_when_told(engine: Engine) -> None:
    volumes.create(engine, "named", labels={"keep": "no"})
    volumes.create(engine, "kept", labels={"keep": "yes"})
    used, idle = volumes.create(engine).name, volumes.create(engine).name
    in_use = {used: ["web"]}
    assert volumes.prune(engine, in_use=in_use).names == (idle,)
    assert volumes.prune(engine, in_use=in_use).names == ()
    pruned = volumes.prune(engine, all_volumes=True, filters={"label!": ["keep=yes"]}, in_use=in_use)
    assert pruned.names == ("named",)
    assert volumes.prune(engine, filters={"all": ["true"]}, in_use=in_use).names == ("kept",)
    assert names(engine) == [used]


def test_usage_counts_what_is_idle(engine: Engine) -> None:
    for name in ("one", "two"):
        volumes.create(engine, name)
        (volumes.store_of(engine).data(name) / "file").write_bytes(b"x" * 100_000)
    total, active, size, reclaimable = volumes.usage(engine, in_use={"one": ["web"]})
    assert (total, active) == (2, 1)
    assert size == 2 * reclaimable >= 200_000


def test_other_drivers_are_refused(engine: Engine) -> None:
    with pytest.raises(Unsupported, match="there is only 'local'"):
        engine.create_volume("x1", driver="rexray")
    assert engine.volumes() == ()


def test_volumes_as_the_facade_tells_them(engine: Engine) -> None:
    engine.import_image(io.BytesIO(tar_of({"file": b"x"})), "app:1")
    engine.create_volume("idle", labels={"a": "b"})
    (volumes.store_of(engine).data("idle") / "file").write_bytes(b"x" * 100_000)
    engine.create("app:1", options=ContainerOptions(command=("x",), volumes=("busy:/data",)), name="web")
    busy, idle = engine.volumes()
    assert (busy.name, busy.users, busy.size) == ("busy", ("web",), None)
    assert (idle.name, idle.users, dict(idle.labels), idle.is_anonymous) == ("idle", (), {"a": "b"}, False)
    assert idle.mountpoint == engine.root / "volumes/idle/_data"
    (idle,) = engine.volumes({"dangling": ["true"]}, has_sizes=True)
    assert idle.size is not None
    assert idle.size >= 100_000


def test_the_verbs_speak_as_docker_does(tmp_path: Path) -> None:
    root = tmp_path / "state"
    assert run(root, VOLUME_CREATE, "--label", "a=b", "data") == (0, "data\n", "")
    anonymous = run(root, VOLUME_CREATE)[1].strip()
    assert len(anonymous) == 64
    code, out, _err = run(root, VOLUME_LS)
    assert out.splitlines()[0].split() == ["DRIVER", "VOLUME", "NAME"]
    assert ["local", "data"] in [line.split() for line in out.splitlines()]
    assert run(root, VOLUME_LS, "-q", "--filter", "name=dat")[1] == "data\n"
    assert run(root, VOLUME_LS, "--format", "{{.Name}} {{.Links}} {{.Size}}", "-f", "label=a")[1].startswith("data 0 ")
    code, out, err = run(root, VOLUME_INSPECT, "data", "missing")
    assert (code, "missing: no such volume" in err) == (1, True)
    (document,) = json.loads(out)
    assert document["Mountpoint"] == str(root / "volumes/data/_data")
    assert (document["Labels"], document["Options"], document["Scope"]) == ({"a": "b"}, None, "local")
    assert run(root, VOLUME_INSPECT, "-f", "{{.Driver}}", "data")[1] == "local\n"
    assert run(root, VOLUME_PRUNE, answer="n\n")[1] == ""
    code, out, err = run(root, VOLUME_PRUNE, answer="y\n")
    assert out.startswith(f"Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: ")
    assert "remove anonymous volumes that no container has" in err
    code, out, err = run(root, VOLUME_RM, "data", "data")
    assert (code, out) == (1, "data\n")
    assert run(root, VOLUME_RM, "-f", "data")[0] == 0


def test_a_place_is_a_containers_only_if_it_does_not_look_like_a_path() -> None:
    assert split_place("web:/etc") == ("web", "/etc")
    assert split_place("web:a:b") == ("web", "a:b")
    for text in ("/a:b", "./a:b", "../a:b", "a", "-"):
        assert split_place(text) == ("", text)
    assert issubclass(VolumeNotFound, NotFound)
