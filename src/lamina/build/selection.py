"""What ``COPY src... dst`` names: which files, and what each is called at the destination.

As BuildKit has it: of a directory the contents are copied, a wildcard stands for what it matches, symlinks on
the way to a source and at its end are followed inside the context, those found in a directory stay symlinks.
Where BuildKit says nothing we complain: when all wildcards together match nothing, and when a source of
``--parents`` is not there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence

from lamina.build.context import Files, Node
from lamina.build.failure import printable
from lamina.build.ignore import Rule, Rules
from lamina.build.pattern import Pattern, has_wildcards, pattern, single_star, unescaped
from lamina.errors import InvalidInput, NotFound, nearest
from lamina.layer.entry import Kind, ancestors
from lamina.values import dataclass, replace


class SourceNotFound(NotFound):
    """``rule`` is what excludes it, where one does."""

    def __init__(self, message: str, rule: Rule | None = None) -> None:
        super().__init__(message)
        self.rule = rule


class NeedsDirectory(InvalidInput):
    """Several files, and a destination that is to be one."""


@dataclass(frozen=True, slots=True)
class Selected:
    """``target`` is relative to the destination.

    ``""`` is the destination itself, where a directory's contents follow. BuildKit makes a missing one anew:
    ``node`` shows root's directory with mode 0755, whatever the source's is. Names of one file stay so within
    one ``group``: each source is one, for what was copied twice is two files.
    """

    node: Node
    target: str
    group: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """In the order in which it is written: parents first, and what comes later replaces what came before.

    ``is_single``: one file, and the destination may be its name. Where the destination is a directory, it
    goes into that under ``target``; otherwise the destination is the file.
    """

    entries: tuple[Selected, ...]
    is_single: bool


@dataclass(frozen=True, slots=True)
class Place:
    """What the words of messages are: ``COPY``, and where it looks."""

    instruction: str = "COPY"
    where: str = "the build context"


def select(
    context: Files, sources: Sequence[str], destination: str, *, keeps_parents: bool = False,
    exclude: Iterable[str] = (), further: int = 0, place: Place | None = None,
) -> Selection:
    """Plans only. ``further`` counts the instruction's sources that are no paths: URLs, here-documents.

    Raises :class:`SourceNotFound`, :class:`NeedsDirectory`, ``InvalidInput`` for a malformed pattern.
    """
    place = place or Place()
    is_directory = names_directory(destination)
    if len(sources) + further > 1 and not is_directory:
        raise NeedsDirectory(f"{place.instruction} {printable(destination)}: more than one source needs a "
                             "directory as destination, which ends in '/'")
    match = _match_with_parents if keeps_parents else _match
    matches = {source: match(context, source, place) for source in sources}
    if sources and not further and not any(matches.values()):
        raise _not_found(context, next(iter(matches)), place)
    tops = [_made_anew(top) for found in matches.values() for top in found]
    files = sum(top.node.kind is not Kind.DIRECTORY for top in tops)
    if files and len(tops) > 1 and not (is_directory or keeps_parents):
        raise NeedsDirectory(f"{place.instruction} {printable(sources[0])}: matches several files, and so "
                             "needs a directory as destination, which ends in '/'")
    whole = [
        each if keeps_parents else replace(each, group=number)
        for number, top in enumerate(tops) for each in _whole(context, top, keeps_parents)
    ]
    return Selection(
        tuple(_without(dict.fromkeys(whole) if keeps_parents else whole, Rules.of(exclude))),
        is_single=files == 1 and not (is_directory or keeps_parents),
    )


def whole_tree(context: Files, path: str) -> Selection:
    """What is at a path and everything below it. Raises :class:`SourceNotFound`."""
    (top,) = _match_literally(context, _cleaned(path), Place("", "the filesystem"), path)
    is_single = top.node.kind is not Kind.DIRECTORY
    return Selection(tuple(_whole(context, top, has_parents=False)), is_single)


def names_directory(destination: str) -> bool:
    """By its text alone: ``/x/.`` is a name like any other, for all builders."""
    return destination == "." or destination.endswith("/")


# -- sources


def _match(context: Files, source: str, place: Place) -> list[Selected]:
    path = _cleaned(source)
    if not has_wildcards(path):
        return _match_literally(context, path, place, source)
    names = path.split("/")
    first = next(number for number, name in enumerate(names) if has_wildcards(name))
    base = context.resolve("/".join(names[:first]))
    if base is None:
        return []
    parts = [single_star(name) for name in names[first:]]
    return [
        top for each in _expand(context, base, parts)
        if context.look(each) is not None for top in _match_literally(context, each, place, each)
    ]


def _match_literally(context: Files, path: str, place: Place, source: str) -> list[Selected]:
    """The name is the source's own, also where a symlink leads elsewhere."""
    for spelling in dict.fromkeys((path, unescaped(path))):
        found = context.resolve(spelling)
        node = None if found is None else context.look(found)
        if node is not None:
            is_directory = node.kind is Kind.DIRECTORY
            return [Selected(node, "" if is_directory else posixpath.basename(spelling))]
    raise _not_found(context, source, place)


def _expand(context: Files, base: str, parts: Sequence[Pattern]) -> Iterator[str]:
    """In the order of names, whatever the rules say; through no symlink."""
    waiting = [(base, 0)]
    while waiting:
        path, depth = waiting.pop()
        if depth == len(parts):
            yield path
            continue
        node = context.look_behind(path)
        if node is not None and node.kind is Kind.DIRECTORY:
            found = context.children(path)
            waiting += [(each.path, depth + 1) for each in found if parts[depth].matches(each.name)]


def _match_with_parents(context: Files, source: str, place: Place) -> list[Selected]:
    """What stands before ``/./`` is not part of the target. No symlink is followed behind it."""
    before, pivot, behind = source.partition("/./")
    base = context.resolve(_cleaned(before)) if pivot else ""
    if base is None:
        raise _not_found(context, source, place)
    path = _cleaned(behind if pivot else source)
    if has_wildcards(path):
        found = _expand_with_parents(context, base, pattern(path))
        return [Selected(node, _below(base, node)) for node in found]
    node = context.look(_join(base, path)) or context.look(_join(base, unescaped(path)))
    if node is None:
        raise _not_found(context, source, place)
    return [Selected(node, _below(base, node))]


def _expand_with_parents(context: Files, base: str, wanted: Pattern) -> Iterator[Node]:
    skipped = len(base) + 1 if base else 0
    inside = None
    for node in context.walk(base, enters=lambda path: wanted.may_match_below(path[skipped:])):
        if inside is not None and node.path.startswith(inside + "/"):
            continue
        if wanted.matches(node.path[skipped:]):
            inside = node.path
            yield node


# -- contents


def _made_anew(top: Selected) -> Selected:
    return top if top.target else Selected(replace(top.node, mode=0o755, uid=0, gid=0), "")


def _whole(context: Files, top: Selected, has_parents: bool) -> Iterator[Selected]:
    base = top.node.path.removesuffix(top.target).rstrip("/")
    if has_parents:
        for each in ancestors(top.target):
            above = context.look(_join(base, each))
            if above is not None:
                yield Selected(above, each)
    yield top
    if top.node.kind is Kind.DIRECTORY:
        for node in context.walk(top.node.path):
            yield Selected(node, _below(base, node) if has_parents else _below(top.node.path, node))


def _below(directory: str, node: Node) -> str:
    return node.path[len(directory) + 1 :] if directory else node.path


def _without(entries: Iterable[Selected], rules: Rules) -> Iterator[Selected]:
    """An excluded directory comes along where something in it is not excluded."""
    held: list[Selected] = []
    for each in entries:
        if rules and each.target and rules.excludes(each.target):
            if each.node.kind is Kind.DIRECTORY:
                held.append(each)
            continue
        yield from (one for one in held if each.target.startswith(one.target + "/"))
        held.clear()
        yield each


# -- what is missing


def _not_found(context: Files, source: str, place: Place) -> SourceNotFound:
    said = f"{place.instruction} {printable(source)}: not in {place.where}".lstrip()
    path = _cleaned(source.replace("/./", "/"))
    rule = _excluding_rule(context, path)
    if rule is not None:
        return SourceNotFound(f"{said}: {rule.place} excludes it ({printable(rule.text)})", rule)
    node = context.look_behind(path)
    if node is not None and node.kind is Kind.SYMLINK:
        return SourceNotFound(f"{said}: the symlink leads to {printable(node.linkname)}, which is not")
    if posixpath.normpath(source).startswith("../"):
        return SourceNotFound(f"{said}: '..' does not lead out of it")
    return SourceNotFound(said + _near(context, path))


def _excluding_rule(context: Files, path: str) -> Rule | None:
    if not context.rules:
        return None
    if has_wildcards(path):
        names = path.split("/")
        found = list(_expand(context, "", [single_star(name) for name in names]))
    else:
        found = [path] if context.look_behind(path) is not None else []
    decisions = map(context.rules.decide, found)
    return next((each.rule for each in decisions if each.is_excluded), None)


def _near(context: Files, path: str) -> str:
    parent, _, name = path.rpartition("/")
    where = context.resolve(parent)
    node = None if where is None else context.look(where)
    if node is None or node.kind is not Kind.DIRECTORY or has_wildcards(name):
        return ""
    return printable(nearest(name, (each.name for each in context.children(node.path))))


def _cleaned(source: str) -> str:
    """From the root of where it looks, which ``..`` does not leave."""
    return posixpath.normpath("/" + source.lstrip("/")).lstrip("/")


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name
