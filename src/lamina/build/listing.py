"""What a context holds for a build, and what is left out and why: ``context ls``."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.build.context import Context, Node
from lamina.build.ignore import Rule
from lamina.build.rooted import Changing, Unreadable
from lamina.layer.entry import Kind
from lamina.values import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """``rule`` decided; ``None`` where none matches. An excluded directory stands for all below it."""

    path: str
    kind: Kind
    size: int
    is_sent: bool
    rule: Rule | None


def listing(context: Context) -> Iterator[Listed]:
    """What a build gets to see, and what not and why, in the order of :meth:`Context.walk`."""
    rules = context.rules
    held: list[Node] = []
    waiting = context.children("")
    while waiting:
        node = waiting.pop()
        decision = rules.decide(node.path)
        is_directory = node.kind is Kind.DIRECTORY
        if not decision.is_excluded:
            for each in held:
                if node.path.startswith(each.path + "/"):
                    yield Listed(each.path, each.kind, 0, is_sent=True, rule=rules.decide(each.path).rule)
            held.clear()
        elif is_directory and not rules.can_skip(node.path):
            held.append(node)
        else:
            size = _weight(context, node.path) if is_directory else node.size
            yield Listed(node.path, node.kind, size, is_sent=False, rule=decision.rule)
            continue
        if not decision.is_excluded:
            yield Listed(node.path, node.kind, node.size, is_sent=True, rule=decision.rule)
        if is_directory:
            waiting += context.children(node.path)


def _weight(context: Context, directory: str) -> int:
    """Bytes of the files below, as far as this process may look."""
    total = 0
    waiting = [directory]
    while waiting:
        try:
            nodes = context.children(waiting.pop())
        except (Changing, Unreadable):
            continue
        total += sum(node.size for node in nodes)
        waiting += [node.path for node in nodes if node.kind is Kind.DIRECTORY]
    return total
