"""``lamina squash --plan``: which layers to merge, why, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError, parse_size
from lamina.cli.listing import show_document
from lamina.cli.progress import shown
from lamina.cli.quantity import human_size
from lamina.cli.squash import count_of, created_of, print_ids, squashed_lines, squashed_row
from lamina.cli.terminal import visible

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments
    from lamina.cli.session import Session
    from lamina.engine.planning import Planned
    from lamina.insight.planner import Plan, Step

_NAMES = 3
_COUNT_DIGITS = 15
_LINE_LIMIT = 100_000  # of a list of references: more is a mistake, or somebody's attack


def plan(arguments: Arguments, session: Session) -> None:
    from lamina.engine.planning import SUFFIX, PlanOptions
    from lamina.insight.planner import WORTH

    _refuse_other_ways(arguments)
    session.is_quiet = session.is_quiet or arguments.quiet
    wanted = [(name, 1) for name in arguments.names] + _references(arguments.references, session)
    options = PlanOptions(
        limit=arguments.max_layers,
        worth=WORTH if arguments.worth is None else parse_size(arguments.worth, "--worth"),
        is_applied=arguments.apply, suffix=SUFFIX if arguments.suffix is None else arguments.suffix,
        created=created_of(arguments, session),
    )
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        found = engine.plan_squashes(wanted, options=options)
    for done in found.done:
        for note in done.notes:
            session.note(f"note: {done.name}: {note}")
    if arguments.format:
        show_document(session, _row(found), arguments.format)
        return
    if arguments.quiet:
        for done in found.done:
            print_ids(done, session)
        return
    for text in _lines(found):
        session.print(text)
    if found.plan.merges and not arguments.apply:
        session.hint("note: --apply does it, under new tags")


def _refuse_other_ways(arguments: Arguments) -> None:
    given = [
        option for option, is_given in (
            ("--from", arguments.first != ""), ("--to", arguments.last != ""),
            ("-n", arguments.count is not None), ("--all", arguments.all), ("--base", arguments.base != ""),
            ("-t", arguments.tag != ""), ("-m", arguments.message != ""),
            ("--redact", arguments.redact != []), ("--compression", arguments.compression != "none"),
            ("--platform", arguments.platform != ""), ("--dry-run", arguments.dry_run),
        ) if is_given
    ]
    if given:
        raise UsageError(f"squash: --plan chooses by itself; {given[0]} does not go with it")
    if arguments.max_layers < 0:
        raise UsageError(f"--max-layers: expected a number of layers, got {arguments.max_layers}")


def _references(file: str, session: Session) -> list[tuple[str, int]]:
    """Lines such as ``app:1 250``; what follows a ``#`` is a comment, and a missing count is 1."""
    if not file:
        return []
    if file == "-":
        return _parse(session.stdin)
    with open(file, encoding="utf-8", errors="surrogateescape") as lines:
        return _parse(lines)


def _parse(lines: Iterator[str]) -> list[tuple[str, int]]:
    found = []
    for number, line in enumerate(lines, 1):
        if number > _LINE_LIMIT:
            raise UsageError(f"--references: more than {_LINE_LIMIT} lines")
        words = line.partition("#")[0].split()
        if not words:
            continue
        count = words[1] if len(words) > 1 else "1"
        if len(words) > 2 or not count.isdecimal() or len(count) > _COUNT_DIGITS:
            raise UsageError(f"--references: line {number}: expected IMAGE COUNT, got {line.strip()[:80]!r}")
        found.append((words[0], int(count)))
    return found


# -- as a document


def _row(found: Planned) -> Mapping[str, object]:
    plan = found.plan
    return {
        "Pulls": plan.pulls, "PulledBefore": plan.pulled_before, "PulledAfter": plan.pulled_after,
        "StoredBefore": plan.stored_before, "StoredAfter": plan.stored_after,
        "Steps": [_step_row(step) for step in plan.steps],
        "Applied": [squashed_row(done) for done in found.done],
    }


def _step_row(step: Step) -> Mapping[str, object]:
    return {
        "Images": list(step.images), "From": step.first, "To": step.last, "Merge": step.is_merge,
        "Reason": str(step.reason), "Pulls": step.pulls, "SizeBefore": step.size_before,
        "SizeAfter": step.size_after, "Saved": step.saved,
    }


# -- in words


def _lines(found: Planned) -> Iterator[str]:
    plan = found.plan
    mine = [step for step in plan.steps if step.pulls]
    if not mine:
        yield "Nothing to plan: no image with layers was named, or is here."
        return
    for _sort, alike in groupby(mine, key=_sort_of):
        steps = list(alike)
        yield from map(_merge_line, steps) if steps[0].is_merge else [_keep_line(steps)]
    yield from _totals(plan)
    for done in found.done:
        yield ""
        yield f"{visible(done.name)}:"
        yield from squashed_lines(done)


def _merge_line(step: Step) -> str:
    one = step.size_before - step.size_after
    saving = (f"{human_size(step.size_before)} -> {human_size(step.size_after)}, "
              f"{human_size(one)} less a pull")
    return f"merge  layers {step.first} to {step.last} of {_names(step.images)}: {saving} ({step.reason})"


def _sort_of(step: Step) -> tuple[bool, tuple[str, ...], str]:
    return step.is_merge, step.images, str(step.reason)


def _keep_line(steps: Sequence[Step]) -> str:
    """Neighbours that are left alone for the same reason."""
    first, last = steps[0].first, steps[-1].last
    which = f"layer {first}" if first == last else f"layers {first} to {last}"
    return f"keep   {which} of {_names(steps[0].images)}: {steps[0].reason}"


def _names(names: Sequence[str]) -> str:
    shown_names = [visible(name) for name in names[:_NAMES]]
    more = len(names) - len(shown_names)
    return ", ".join(shown_names) + (f" and {more} more" if more else "")


def _totals(plan: Plan) -> Iterator[str]:
    if not plan.merges:
        yield "Nothing is worth merging: layers are better shared than merged."
        return
    pulled = f"{human_size(plan.pulled_before)} -> {human_size(plan.pulled_after)}"
    stored = f"{human_size(plan.stored_before)} -> {human_size(plan.stored_after)}"
    yield f"{count_of(plan.pulls, 'pull')}: {pulled} to move, and {stored} to store."
