"""squash and its plan on the command line: what is asked of the engine, and what people read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fakes import Command, digest

from lamina.engine.bases import Base
from lamina.engine.merging import Sharing, SquashedImage, SquashOptions
from lamina.engine.planning import Planned, PlanOptions
from lamina.engine.squashing import Squashed
from lamina.insight.planner import Plan, Reason, Step
from lamina.oci.digest import Digest
from lamina.squashed import Redaction

IMAGE = SquashedImage(
    platform="linux/amd64", source=Digest(digest("a")), image_id=Digest(digest("b")), digest=Digest(digest("c")),
    ranges=((1, 3),), base=Base(layers=1, id=digest("d"), found="base:1, the longest here"), layers_before=4, layers_after=2,
    size_before=5_000_000, size_after=3_000_000, entries_before=30, entries_after=20,
    shared_with=(Sharing(image="sister:1", layers=2, size=700_000),), shared_size=700_000,
    lost=("COPY token /root/", "RUN make\x1b[2J", "RUN make\x1b[2J"),
)
DONE = Squashed(name="app:1", target="app:2", digest=Digest(digest("c")), images=(IMAGE,), seconds=1.26)
NOTHING = replace(IMAGE, ranges=(), lost=(), shared_with=(), shared_size=0, layers_after=4, size_after=5_000_000)


def done(image: SquashedImage, **changes: Any) -> Squashed:
    return replace(DONE, images=(image,), **changes)


def test_what_was_done_and_what_it_costs(command: Command) -> None:
    result = command("squash", "app:1", "-t", "app:2", squash=DONE)
    assert result.asked == [("squash", ("app:1", "app:2"), {"options": SquashOptions(), "platform": None})]
    assert result.lines == [
        "Layers 1 to 3 become one; 1 layer below kept (base:1, the longest here).",
        "  layers    4 -> 2",
        "  size      5MB -> 3MB (2MB gone)",
        "  entries   30 -> 20",
        "  shared    2 layers (700kB) with sister:1, which keeps them",
        "  re-added  700kB are kept twice now: alone, and in the new layer",
        "  lost      3 layers to look into, share and pull alone; history still has:",
        "            COPY token /root/",
        "            RUN make\\x1b[2J (2 times)",
        "  cache     the build cache is untouched: it is keyed by the layers as they were",
        "Squashed in 1.3 s: app:2",
    ]


@pytest.mark.parametrize(("words", "expected"), [
    (("--from", "2", "--to", "3"), SquashOptions(first="2", last="3")), (("-n", "3"), SquashOptions(count=3)),
    (("--all", "-m", "why"), SquashOptions(is_all=True, message="why")), (("--base", "b:1"), SquashOptions(base="b:1")),
    (("--redact", "a", "--redact", "b"), SquashOptions(redact=("a", "b"))), (("--dry-run",), SquashOptions(is_dry=True)),
    (("--compression", "zstd"), SquashOptions(compression="zstd")),
    (("--created", "2025-06-01T00:00:00Z"), SquashOptions(created="2025-06-01T00:00:00Z")),
])
def test_options(command: Command, words: tuple[str, ...], expected: SquashOptions) -> None:
    assert command("squash", *words, "app:1", squash=DONE).asked[0][2]["options"] == expected


def test_the_time_of_the_environment(command: Command) -> None:
    command.environ["SOURCE_DATE_EPOCH"] = "1717200000"
    assert command("squash", "app:1", squash=DONE).asked[0][2]["options"].created == "2024-06-01T00:00:00Z"


@pytest.mark.parametrize(("words", "message"), [
    ((), "squash needs IMAGE"), (("a", "b"), "expected one image, got 2"), (("-n", "-1", "a"), "-n: expected a number"),
    (("--all", "-n", "2", "a"), "-n and --all choose layers in different ways"), (("-n", "x", "a"), "-n"),
    (("--all", "--to", "2", "a"), "--all leaves no layer out"), (("--created", "tomorrow", "a"), "--created: expected a time"),
    (("--created", "2025-06-01", "a"), "--created: expected a time"), (("--created", "2025-06-01 00:00:00", "a"), "--created"),
    (("--created", "2025-06-01T00:00:00", "a"), "--created"), (("--created", "2025-13-01T00:00:00Z", "a"), "--created"),
    (("--plan", "--worth", "9" * 400), "--worth: expected a size"),
    (("--apply", "a"), "--apply goes with --plan"), (("--plan", "-n", "2"), "--plan chooses by itself; -n"),
    (("--plan", "--max-layers", "-2"), "--max-layers: expected"), (("--plan", "--worth", "much"), "--worth: expected a size"),
    (("-n", "0", "a"), "-n: expected a number of layers, got 0"), (("--plan", "-n", "0"), "--plan chooses by itself; -n"),
    (("--worth", "3MB", "a"), "--worth goes with --plan"), (("--suffix", "", "a"), "--suffix goes with --plan"),
    (("--plan", "-m", "why"), "--plan chooses by itself; -m"), (("--plan", "--platform", "arm64"), "; --platform"),
    (("--plan", "--compression", "zstd"), "; --compression"),
    (("--format", "table", "a"), "--format: expected 'json' or a Go template"),
])
def test_command_lines_that_make_no_sense(command: Command, words: tuple[str, ...], message: str) -> None:
    result = command("squash", *words, squash=DONE)
    assert result.code == 125
    assert message in result.err


def test_a_template_is_read_before_anything_is_written(command: Command) -> None:
    result = command("squash", "--format", "{{.Source", "app:1", squash=DONE)
    assert (result.code, result.engines) == (1, [])
    assert "template" in result.err


def test_nothing_to_merge_is_success(command: Command) -> None:
    result = command("squash", "app:1", squash=done(NOTHING))
    assert result.code == 0
    assert result.lines[0] == "Nothing to merge: one layer is one layer already."
    assert result.lines[1:] == ["Unchanged: app:2"]
    bare = done(replace(NOTHING, layers_before=1))
    assert command("squash", "app:1", squash=bare).lines[0] == (
        "Nothing to merge: no layer lies above the base (base:1, the longest here).")


def test_redaction_alone(command: Command) -> None:
    redacted = done(replace(NOTHING, redactions=(Redaction(field="config.Env[0]", count=1),)))
    assert command("squash", "--redact", "x", "app:1", squash=redacted).lines[-1] == "Redacted in 1.3 s: app:2"


def test_many_images_that_share(command: Command) -> None:
    sharing = tuple(Sharing(image=f"sister:{number}", layers=1, size=1000) for number in range(300))
    lines = command("squash", "app:1", squash=done(replace(IMAGE, shared_with=sharing))).lines
    assert lines[4] == "  shared    1 layer (1kB) with sister:0, which keeps it"
    assert lines[16:18] == ["            and with 288 more images", "  re-added  700kB are kept twice now: alone, and in the new layer"]


def test_all_layers_need_no_base(command: Command) -> None:
    flat = done(replace(IMAGE, ranges=((0, 3),), base=Base(layers=0, found="")))
    assert command("squash", "--all", "app:1", squash=flat).lines[0] == "Layers 0 to 3 become one; none is kept below."


def test_a_dry_run_says_so(command: Command) -> None:
    tried = done(replace(IMAGE, image_id=None, digest=None), digest=None, target="")
    assert command("squash", "--dry-run", "app:1", squash=tried).lines[-1] == "Nothing was written: this was a dry run."


def test_quiet_prints_the_id(command: Command) -> None:
    assert command("squash", "-q", "app:1", squash=DONE).lines == [digest("b")]


def test_several_platforms_notes_and_redactions(command: Command) -> None:
    second = replace(IMAGE, platform="linux/arm64", redactions=(Redaction(field="config.Env[0]", count=2),))
    both = replace(DONE, images=(IMAGE, second), target="", notes=("2 attestations were left out",))
    result = command("squash", "app:1", squash=both)
    assert result.lines.index("linux/amd64:") < result.lines.index("linux/arm64:")
    assert "  redacted  config.Env[0] (2 times)" in result.lines
    assert result.lines[-1] == "Squashed in 1.3 s: bbbbbbbbbbbb, bbbbbbbbbbbb"
    assert "2 attestations were left out" in result.err


def test_as_json(command: Command) -> None:
    document = json.loads(command("squash", "--format", "json", "app:1", squash=DONE).out)
    image = document["Images"][0]
    assert (document["Target"], image["SizeGone"], image["Ranges"]) == ("app:2", 2_000_000, [{"From": 1, "To": 3}])
    assert image["SharedWith"] == [{"Image": "sister:1", "Layers": 2, "Size": 700_000}]


# -- plans

MERGE = Step(images=("app:1", "other:1", "third:1", "fourth:1"), first=1, last=3, is_merge=True, reason=Reason.SAVES,
             pulls=12, size_before=50_000_000, size_after=40_000_000, saved=130_000_000)
KEEP = replace(MERGE, images=("app:1",), first=4, last=4, is_merge=False, reason=Reason.NOTHING_HIDDEN)
BYSTANDER = replace(KEEP, images=("x",), pulls=0, first=0, last=0)
PLAN = Plan(steps=(MERGE, KEEP, replace(KEEP, first=5, last=5), BYSTANDER), pulls=12, pulled_before=900_000_000,
            pulled_after=780_000_000, stored_before=80_000_000, stored_after=70_000_000)


def test_a_plan(command: Command) -> None:
    result = command("squash", "--plan", "app:1", plan_squashes=Planned(plan=PLAN))
    assert result.asked == [("plan_squashes", ([("app:1", 1)],), {"options": PlanOptions()})]
    assert result.lines == [
        "merge  layers 1 to 3 of app:1, other:1, third:1 and 1 more: 50MB -> 40MB, 10MB less a pull (saves bytes)",
        "keep   layers 4 to 5 of app:1: nothing in it is hidden",
        "12 pulls: 900MB -> 780MB to move, and 80MB -> 70MB to store.",
    ]


def test_a_plan_with_nothing_in_it(command: Command) -> None:
    idle = replace(PLAN, steps=(KEEP,))
    assert command("squash", "--plan", plan_squashes=Planned(plan=idle)).lines[-1].startswith("Nothing is worth merging")
    none = replace(PLAN, steps=())
    assert command("squash", "--plan", plan_squashes=Planned(plan=none)).lines == [
        "Nothing to plan: no image with layers was named, or is here."]


def test_references_with_pull_counts(command: Command, tmp_path: Path) -> None:
    (tmp_path / "pulls").write_text("# of last month\napp:1 250\n\ndocker://registry.example/other  # new\n")
    result = command("squash", "--plan", "--references", str(tmp_path / "pulls"), "--max-layers", "9", "--worth", "5kB",
                     "--apply", "--suffix", "", plan_squashes=Planned(plan=PLAN, done=(DONE,)))
    assert result.asked[0][1] == ([("app:1", 250), ("docker://registry.example/other", 1)],)
    assert result.asked[0][2]["options"] == PlanOptions(limit=9, worth=5000, is_applied=True, suffix="")
    assert result.lines[-1] == "Squashed in 1.3 s: app:2"
    command.input = b"app:1 7\n"
    assert command("squash", "--plan", "--references", "-", plan_squashes=Planned(plan=PLAN)).asked[0][1] == ([("app:1", 7)],)


def test_a_plan_has_a_time_and_can_be_quiet(command: Command) -> None:
    command.environ["SOURCE_DATE_EPOCH"] = "1717200000"
    result = command("squash", "--plan", "--apply", "-q", plan_squashes=Planned(plan=PLAN, done=(DONE,)))
    assert result.asked[0][2]["options"] == PlanOptions(is_applied=True, created="2024-06-01T00:00:00Z")
    assert result.lines == [digest("b")]


@pytest.mark.parametrize("line", ["app:1 many", "app:1 1 2", "app:1 -4", "app:1 " + "9" * 400, "app:1 " + "9" * 5000])
def test_references_that_cannot_be_read(command: Command, line: str) -> None:
    command.input = f"ok:1 1\n{line}\n".encode()
    result = command("squash", "--plan", "--references", "-", plan_squashes=Planned(plan=PLAN))
    assert (result.code, "line 2: expected IMAGE COUNT" in result.err) == (125, True)


def test_notes_of_a_plan_that_was_applied(command: Command) -> None:
    noted = replace(DONE, notes=("one platform only",))
    assert "app:1: one platform only" in command("squash", "--plan", "--apply", plan_squashes=Planned(plan=PLAN, done=(noted,))).err


def test_a_plan_as_json(command: Command) -> None:
    document = json.loads(command("squash", "--plan", "--format", "json", plan_squashes=Planned(plan=PLAN)).out)
    assert document["Steps"][0]["Saved"] == 130_000_000
    assert document["Steps"][0]["Reason"] == "saves bytes"
