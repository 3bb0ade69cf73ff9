"""images, inspect, history, tag, rmi as docker prints them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.fakes import Command, digest, value

from lamina.errors import NotFound

NOR = "        nor is there a container, network or volume of that name\n"


def summary(**changes: Any) -> SimpleNamespace:
    return value(**{
        "repository": "redis", "tag": "latest", "digest": digest("d"), "id": digest("a"),
        "created": "2024-06-18T09:00:00Z", "size": 117_000_000, "platform": "linux/amd64", "labels": {}, **changes,
    })


IMAGES = (
    summary(),
    summary(tag="7", created="2024-07-03T08:30:00Z", size=1_234_567_890),
    summary(repository="", tag="", id=digest("b"), created="", size=0),
)


def test_table(command: Command) -> None:
    result = command("images", images=IMAGES)
    assert result.code == 0
    assert result.lines == [
        "REPOSITORY   TAG       IMAGE ID       CREATED             SIZE",
        "redis        latest    aaaaaaaaaaaa   2 weeks ago         117MB",
        "redis        7         aaaaaaaaaaaa   About an hour ago   1.23GB",
        "<none>       <none>    bbbbbbbbbbbb   N/A                 0B",
    ]


def test_digests_and_whole_ids(command: Command) -> None:
    result = command("images", "--digests", "--no-trunc", images=IMAGES[:1])
    assert result.lines[0].split() == ["REPOSITORY", "TAG", "DIGEST", "IMAGE", "ID", "CREATED", "SIZE"]
    assert digest("d") in result.lines[1]
    assert digest("a") in result.lines[1]


def test_quiet_gives_each_id_once(command: Command) -> None:
    assert command("images", "-q", images=IMAGES).lines == ["a" * 12, "b" * 12]
    assert command("images", "-q", "--no-trunc", images=IMAGES).lines == [digest("a"), digest("b")]


def test_no_images_are_headings_alone(command: Command) -> None:
    assert command("images", images=()).lines == ["REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"]
    assert command("images", "-q", images=()).out == ""


def test_json_is_one_object_a_line(command: Command) -> None:
    first, *rest = command("images", "--format", "json", images=IMAGES).lines
    assert len(rest) == 2
    assert json.loads(first) == {
        "Repository": "redis", "Tag": "latest", "Digest": digest("d"), "ID": "a" * 12,
        "CreatedSince": "2 weeks ago", "CreatedAt": "2024-06-18 09:00:00 +0000 UTC", "Size": "117MB",
        "Platform": "linux/amd64",
    }


@pytest.mark.parametrize(("form", "lines"), [
    ("{{.Repository}}:{{.Tag}}", ["redis:latest", "redis:7", "<none>:<none>"]),
    ("table {{.ID}}\\t{{.Size}}", [
        "IMAGE ID       SIZE", "aaaaaaaaaaaa   117MB", "aaaaaaaaaaaa   1.23GB", "bbbbbbbbbbbb   0B",
    ]),
    ("table {{.ID}}\t{{upper .Tag}}", [
        "IMAGE ID       TAG", "aaaaaaaaaaaa   LATEST", "aaaaaaaaaaaa   7", "bbbbbbbbbbbb   <NONE>",
    ]),
    ("table", command_table := [
        "REPOSITORY   TAG       IMAGE ID       CREATED             SIZE",
        "redis        latest    aaaaaaaaaaaa   2 weeks ago         117MB",
        "redis        7         aaaaaaaaaaaa   About an hour ago   1.23GB",
        "<none>       <none>    bbbbbbbbbbbb   N/A                 0B",
    ]),
])
def test_formats(command: Command, form: str, lines: list[str]) -> None:
    assert command("images", "--format", form, images=IMAGES).lines == lines


def test_a_wrong_field_is_one_sentence_and_no_output(command: Command) -> None:
    result = command("images", "--format", "{{.Tagg}}", images=IMAGES)
    assert (result.code, result.out) == (1, "")
    assert result.err == "lamina: template: no field .Tagg; did you mean .Tag?\n"


def test_filters_are_collected(command: Command) -> None:
    result = command("images", "-f", "label=a=b", "--filter", "label=c", "-f", "dangling=true", images=())
    assert result.asked[0][2]["filters"] == {"label": ["a=b", "c"], "dangling": ["true"]}


def test_names_from_strangers_are_made_visible(command: Command) -> None:
    hostile = summary(repository="re\x1b[2Jdis", tag="a\u202eb\n")
    for form in ((), ("--format", "table {{.Repository}}\\t{{.Tag}}"), ("--format", "{{.Repository}} {{.Tag}}")):
        result = command("images", *form, images=(hostile,))
        assert "\x1b" not in result.out
        assert "\u202e" not in result.out
        assert "re\\x1b[2Jdis" in result.out


# -- inspect


def test_inspect_prints_an_array(command: Command) -> None:
    result = command("inspect", "a", "b", inspect=lambda name: {"Id": name, "Note": "\x9b"})
    assert json.loads(result.out) == [{"Id": "a", "Note": "\x9b"}, {"Id": "b", "Note": "\x9b"}]
    assert '\n    {\n        "Id": "a",' in result.out
    assert "\\u009b" in result.out


def test_inspect_by_template(command: Command) -> None:
    document = {"Id": "x", "RootFS": {"Layers": ["1", "2"]}}
    result = command("inspect", "-f", "{{range .RootFS.Layers}}{{.}},{{end}}", "a", "b", inspect=document)
    assert result.lines == ["1,2,", "1,2,"]
    assert json.loads(command("inspect", "--format", "json", "a", inspect=document).out) == document


def test_inspect_of_nothing_prints_an_empty_array_and_fails(command: Command) -> None:
    result = command("inspect", "a", inspect=NotFound("a: no such image"))
    assert (result.code, result.out, result.err) == (1, "[]\n", "lamina: a: no such image\n" + NOR)


def test_inspect_explains_the_two_ids_to_people_only(command: Command) -> None:
    assert command("inspect", "a", inspect={}).err == ""
    command.is_terminal = True
    result = command("inspect", "a", inspect={})
    assert "diff ids" in result.err
    assert "`lamina layers a`" in result.err
    assert command("-q", "inspect", "a", inspect={}).err == ""


# -- history


HISTORY = (
    value(id=digest("a"), created="2024-06-18T09:00:00Z", created_by='CMD ["redis-server"]', size=0,
          comment="buildkit.dockerfile.v0", layer=None, tags=("redis:latest",)),
    value(id="<missing>", created="2024-06-18T08:00:00Z",
          created_by="RUN /bin/sh -c set -eux;\tapt-get update;  apt-get install -y things # buildkit",
          size=43_100_000, comment="", layer=1, tags=()),
    value(id="<missing>", created="", created_by="/bin/sh -c #(nop) ADD file:abc in / ", size=74_800_000,
          comment="\x1b[31m", layer=0, tags=()),
)


def test_history(command: Command) -> None:
    assert command("history", "redis", history=HISTORY).lines == [
        "IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT",
        'aaaaaaaaaaaa   2 weeks ago   CMD ["redis-server"]                            0B        buildkit.dockerfile.v0',
        "<missing>      2 weeks ago   RUN /bin/sh -c set -eux; apt-get update; apt…   43.1MB",
        "<missing>      N/A           /bin/sh -c #(nop) ADD file:abc in /             74.8MB    \\x1b[31m",
    ]


def test_history_whole_and_exact(command: Command) -> None:
    result = command("history", "--no-trunc", "--human=false", "--format",
                     "{{.ID}} {{.Size}} {{.CreatedAt}} {{.CreatedBy}}", "redis", history=HISTORY)
    assert result.lines[0] == f'{digest("a")} 0 2024-06-18T09:00:00Z CMD ["redis-server"]'
    assert result.lines[1].endswith("apt-get install -y things # buildkit")


def test_history_quiet(command: Command) -> None:
    assert command("history", "-q", "redis", history=HISTORY).lines == ["a" * 12, "<missing>", "<missing>"]


# -- tag and rmi


def test_tag_is_silent(command: Command) -> None:
    result = command("tag", "redis", "mine:1", tag=None)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert result.asked == [("tag", ("redis", "mine:1"), {})]


def test_rmi_prints_what_went(command: Command) -> None:
    removed = (value(kind="Untagged", subject="redis:7"), value(kind="Deleted", subject=digest("a")))
    result = command("rmi", "redis:7", remove=removed)
    assert result.lines == ["Untagged: redis:7", f"Deleted: {digest('a')}"]


def test_rmi_tries_each_one(command: Command) -> None:
    def remove(name: str, **_options: bool) -> tuple[SimpleNamespace, ...]:
        if name == "b":
            raise NotFound("b: no such image")
        return (value(kind="Untagged", subject=name),)

    result = command("rmi", "a", "b", "c", remove=remove)
    assert (result.code, result.lines) == (1, ["Untagged: a", "Untagged: c"])
    assert result.err == "lamina: b: no such image\n"
    assert command("rmi", "-f", "b", remove=remove).code == 0
