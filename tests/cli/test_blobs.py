"""blobs ls, drop and fetch; what pull, check and system df say of dropped blobs."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.fakes import Command, digest, value

from lamina.content.collect import Finding
from lamina.engine.settings import DROP
from lamina.values import replace


def blob(letter: str, size: int = 1500, repository: str = "docker.io/library/redis") -> Any:
    return value(digest=digest(letter), descriptor=value(size=size), diff_id=digest("d"), repository=repository)


REDIS, APP = blob("a"), blob("b", 2_000_000, "ghcr.io/team/app")
USAGE = (value(type="Dropped Blobs", total=2, active=1, size=0, reclaimable=0),)


def test_ls(command: Command) -> None:
    assert command("blobs", "ls", dropped_blobs=(REDIS, APP)).lines == [
        "BLOB            SIZE   LAYER          COMES BACK FROM",
        "aaaaaaaaaaaa   1.5kB   dddddddddddd   docker.io/library/redis",
        "bbbbbbbbbbbb     2MB   dddddddddddd   ghcr.io/team/app",
    ]
    assert digest("a") in command("blobs", "ls", "--no-trunc", dropped_blobs=(REDIS,)).lines[1]


def test_ls_as_json_is_exact(command: Command) -> None:
    (line,) = command("blobs", "ls", "--format", "json", dropped_blobs=(REDIS,)).lines
    assert json.loads(line) == {"Digest": digest("a"), "Size": 1500, "DiffID": digest("d"),
                                "Repository": "docker.io/library/redis"}


def test_drop(command: Command) -> None:
    result = value(dropped=(REDIS,), kept=(value(digest=digest("c"), reason="in use"),), freed=4096)
    done = command("blobs", "drop", "redis:7", "app", drop_blobs=result)
    assert done.lines == [
        f"dropped: {digest('a')} (1.5kB), which docker.io/library/redis has",
        f"kept: {digest('c')}: in use",
        "Total reclaimed space: 4.096kB",
    ]
    assert done.asked == [("drop_blobs", ("redis:7", "app"), {})]
    assert command("blobs", "drop", "--all", drop_blobs=result).asked == [("drop_blobs", (), {})]
    nothing = command("blobs", "drop", "redis:7", drop_blobs=value(dropped=(), kept=(), freed=0))
    assert nothing.lines == ["Total reclaimed space: 0B"]
    assert nothing.err == "No compressed layer is here that could be dropped.\n"


def test_drop_wants_to_know_of_what(command: Command) -> None:
    for words in ((), ("--all", "redis")):
        done = command("blobs", "drop", *words)
        assert done.code != 0
        assert f"name images, or give --all{', not both' if words else ''}\n" in done.err


def test_fetch(command: Command) -> None:
    done = command("blobs", "fetch", "redis:7", "app", fetch_blobs=lambda _name: (REDIS,))
    assert done.lines == ["Fetched 2 blobs (3kB)"]
    assert command("blobs", "fetch", "redis:7", fetch_blobs=()).lines == ["Fetched 0 blobs (0B)"]


def test_pull_has_the_setting_as_an_option(command: Command) -> None:
    done = command("pull", "-q", "--blobs", "drop-refetchable", "redis", pull=())
    assert done.engines[0].settings.blobs == DROP
    assert done.engines[0].settings.origins["blobs"] == "flag --blobs"
    assert command("pull", "-q", "redis", pull=()).engines[0].settings.blobs == "keep"
    assert command("pull", "--blobs", "all", "redis", pull=()).code != 0


def test_check_says_who_has_them(command: Command) -> None:
    done = command("check", check=iter(()), dropped_blobs=(REDIS,))
    assert done.code == 0
    assert done.err.splitlines() == [
        "Everything is whole.",
        ("1 blob (1.5kB) dropped here; docker.io/library/redis had what is missing "
         "(--online asks whether that is still so)."),
    ]
    others = [blob(letter, 10, f"r.test/{letter}") for letter in "cdef"]
    done = command("check", "--online", check=iter(()), dropped_blobs=tuple(others))
    assert done.err.splitlines()[1] == (
        "4 blobs (40B) dropped here; r.test/c, r.test/d and 2 more have what is missing.")
    assert done.asked[0] == ("check", (), {"repair": False, "online": True})
    gone = value(subject=digest("a"), problem="was dropped here, and nobody serves it", repaired=False, is_decided=True)
    done = command("check", "--online", check=lambda **_: iter((gone,)), dropped_blobs=(REDIS,))
    assert "redis had what is missing." in done.err.splitlines()[-1]
    assert done.code == 1


def test_a_registry_that_cannot_be_asked_is_no_damage(command: Command) -> None:
    silent = Finding(subject="r.test/app", problem="cannot be asked for a blob: no answer", is_decided=False)
    done = command("check", "--online", check=lambda **_: iter((silent,)), dropped_blobs=(REDIS,))
    assert done.code == 125
    assert done.lines == ["r.test/app: cannot be asked for a blob: no answer"]
    assert done.err.splitlines() == [
        "Everything that is here is whole; a registry could not be asked, which is worth another try later.",
        "1 blob (1.5kB) dropped here; docker.io/library/redis had what is missing.",
    ]
    damaged = Finding(subject=digest("a"), problem="damaged")
    done = command("check", "--online", check=lambda **_: iter((damaged, silent)), dropped_blobs=())
    assert done.code == 1
    assert "--repair" in done.err
    assert "could not be asked" in done.err
    repaired = replace(damaged, repaired=True)
    done = command("check", "--online", check=lambda **_: iter((repaired, silent)), dropped_blobs=())
    assert done.code == 125
    assert command("check", "--online", "--format", "json", check=lambda **_: iter((silent,)),
                   dropped_blobs=()).lines == [
        '{"Subject":"r.test/app","Problem":"cannot be asked for a blob: no answer","Repaired":false,"Decided":false}']


def test_df_has_a_line_and_a_column(command: Command) -> None:
    lines = command("system", "df", usage=USAGE, dropped_blobs=(REDIS, APP)).lines
    assert lines[1].split() == ["Dropped", "Blobs", "2", "1", "0B", "0B"]
    images = (value(repository="redis", tag="7", id=digest("a"), created="2024-06-18T09:00:00Z", size=3000,
                    shared=2000, unique=1000, dropped=1500),)
    lines = command("system", "df", "-v", image_usage=images, containers=(), volumes=(), build_cache=()).lines
    assert lines[2].endswith("UNIQUE SIZE   DROPPED")
    assert lines[3].endswith("1kB           1.5kB")
