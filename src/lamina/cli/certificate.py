"""The certificate of an erasure as a document and as sentences; and likely secrets in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lamina.cli.images import short_id
from lamina.cli.quantity import human_size
from lamina.cli.terminal import visible

if TYPE_CHECKING:
    from lamina.insight.certificate import Certificate, Elsewhere, Sought
    from lamina.insight.erasure import ErasureFinding, Gap, Searched
    from lamina.insight.leaks import Leak, Leaks

_INSTRUCTION_WIDTH = 100
# One line each is enough of these; the certificate has all.
_SHOWN = 20


# -- sentences


def certificate_lines(found: Certificate) -> Iterator[str]:
    """What was found, what holds it elsewhere, what was not searched, and the verdict."""
    from lamina.insight.certificate import NOTICE

    searched = found.searched
    before = list(_places(found))
    yield from before
    if before:
        yield ""
    yield _verdict(found)
    yield f"  searched for {_sought_list(found.sought)}"
    yield f"  searched in  {_extent(searched)}"
    yield f"  {NOTICE}"


def _places(found: Certificate) -> Iterator[str]:
    searched = found.searched
    for finding in searched.findings:
        yield f"found: {_sought(finding.kind, finding.label, finding.encoding)} in {where(finding)}"
    if searched.omitted:
        yield f"found: {searched.omitted} more, which are not listed"
    for other in found.elsewhere or ():
        yield f"elsewhere: {_elsewhere(other)}"
    yield from _gaps("not searched", searched.not_searched)
    yield from _gaps("undecided", (*searched.undecided, *found.elsewhere_undecided))
    yield from _gaps("unreadable", searched.unreadable)


def where(finding: ErasureFinding) -> str:
    """As in ``layer 3, /root/token, hidden by layer 5: RUN rm /root/token``."""
    parts = []
    if finding.layer is None:
        place = f"{finding.place} of" if finding.field else f"{finding.place},"
        parts += [f"{place} {short_id(str(finding.blob))}"]
        if finding.field:
            parts.append(visible(finding.field))
    else:
        parts.append(f"layer {finding.layer}")
        name = visible("!".join((finding.path, *finding.inside)))
        if finding.place in ("live file", "obscured file", "entry"):
            parts.append(name)
        else:
            parts.append(f"{finding.place} of {name}" if name else str(finding.place))
    is_exact = finding.place not in ("live file", "obscured file", "entry") and not finding.field
    if finding.offset is not None and is_exact:
        parts.append(f"byte {finding.offset}")
    return ", ".join(parts) + _hidden(finding)


def _hidden(finding: ErasureFinding) -> str:
    hider = finding.hidden_by
    if hider is None:
        return ""
    instruction = " ".join(visible(hider.instruction).split())
    if len(instruction) > _INSTRUCTION_WIDTH:
        instruction = instruction[: _INSTRUCTION_WIDTH - 1] + "…"
    return f", hidden by layer {hider.layer}: {instruction or '(its history does not say)'}"


def _sought(kind: str, label: str, encoding: str) -> str:
    encoded = f" ({encoding})" if encoding else ""
    return f'{kind} "{visible(label)}"{encoded}'


def _elsewhere(other: Elsewhere) -> str:
    images = f" of {visible(', '.join(other.images))}" if other.images else ", which no image has"
    place = f", at {visible(other.where)}" if other.where else ""
    subject = short_id(other.subject) if other.subject.startswith("sha") else visible(other.subject)
    times = f", {other.count} times" if other.count > 1 else ""
    what = _sought(other.sought, other.label, other.encoding)
    return f"{what} in {other.kind} {subject}{images}{place}{times}"


def _gaps(word: str, gaps: Sequence[Gap]) -> Iterator[str]:
    for gap in gaps[:_SHOWN]:
        layer = f"layer {gap.layer}, " if gap.layer is not None else ""
        subject = visible(gap.path) or short_id(str(gap.blob))
        yield f"{word}: {layer}{subject}: {visible(gap.reason)}"
    if len(gaps) > _SHOWN:
        yield f"{word}: {len(gaps) - _SHOWN} more, which --format json lists"


def _verdict(found: Certificate) -> str:
    count = len(found.searched.findings) + found.searched.omitted
    subject = f"{visible(found.image)} ({short_id(str(found.root))})"
    if found.verdict == "clean":
        rest = "; the store still holds it elsewhere" if found.elsewhere else ""
        return f"{subject}: clean{rest}"
    if found.verdict == "undecided":
        return f"{subject}: undecided: not everything could be searched, and nothing was found in the rest"
    if not count:
        return f"{subject}: clean, but found elsewhere in the store"
    return f"{subject}: found in {count} place{'s' if count > 1 else ''}"


def _sought_list(sought: Sequence[Sought]) -> str:
    from lamina.insight.needles import ENCODINGS
    from lamina.insight.nested import DEPTH

    names = ", ".join(
        f'{each.kind} "{visible(each.label)}"' + (f" ({each.size} bytes)" if each.size else "")
        for each in sought
    )
    if any(each.size for each in sought):
        names += f"; as {', '.join(ENCODINGS)}"
    if any(each.kind != "path" for each in sought):
        names += f"; in archives {DEPTH} deep"
    return names


def _extent(searched: Searched) -> str:
    layers = {layer.blob for image in searched.images for layer in image.layers}
    return (f"{_counted(len(layers), 'layer')}, {_counted(len(searched.documents), 'document')}, "
            f"{human_size(searched.bytes_searched)}")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def leak_line(leak: Leak) -> str:
    line = f", line {leak.line}" if leak.line is not None else ""
    if leak.line is None and leak.finding.offset is not None and leak.finding.layer is not None:
        line = f", byte {leak.finding.offset}"
    finding = leak.finding
    place = where(finding)
    hidden = _hidden(finding)
    return (f"{leak.title}: {visible(leak.preview)} ({leak.size} characters) in "
            f"{place.removesuffix(hidden) if hidden else place}{line}{hidden}  [{leak.rule}]")


def leaks_summary(name: str, found: Leaks) -> str:
    amount = human_size(found.bytes_searched)
    if found.undecided and not found.leaks:
        return f"{visible(name)}: not everything could be searched; nothing was found in {amount}"
    if not found.leaks:
        return f"{visible(name)}: no likely secrets in {amount}"
    hidden = sum(leak.finding.hidden_by is not None for leak in found.leaks)
    text = f"{visible(name)}: {_counted(len(found.leaks), 'likely secret')} in {amount}"
    return f"{text}, {hidden} of them hidden by upper layers, which erases nothing" if hidden else text


# -- documents


def certificate_document(found: Certificate) -> dict[str, Any]:
    from lamina.insight.certificate import NOTICE, ElsewhereKind
    from lamina.insight.needles import ENCODINGS
    from lamina.insight.nested import DEPTH

    searched = found.searched
    return {
        "Verdict": str(found.verdict),
        "Image": found.image,
        "Names": list(found.names),
        "Root": str(found.root),
        "Time": found.time,
        "Lamina": found.version,
        "SearchedFor": [
            {"Kind": each.kind, "Label": each.label, "Bytes": each.size} for each in found.sought
        ],
        "Encodings": list(ENCODINGS),
        "ArchiveDepth": DEPTH,
        "Images": [
            {
                "Platform": image.platform, "Manifest": str(image.manifest), "Config": str(image.config),
                "Layers": [
                    {"Layer": layer.number, "Digest": str(layer.blob), "DiffID": str(layer.diff_id),
                     "BlobBytes": layer.blob_bytes, "TarBytes": layer.tar_bytes}
                    for layer in image.layers
                ],
            }
            for image in searched.images
        ],
        "Documents": [
            {"Digest": str(each.blob), "MediaType": each.media_type, "Bytes": each.size}
            for each in searched.documents
        ],
        "BytesSearched": searched.bytes_searched,
        "Findings": [_finding_document(finding) for finding in searched.findings],
        "FindingsOmitted": searched.omitted,
        "Everywhere": found.everywhere,
        "ElsewhereSearched": found.elsewhere is not None,
        "Elsewhere": [_elsewhere_document(other) for other in found.elsewhere or ()],
        "BuildCache": [
            _elsewhere_document(other) for other in found.elsewhere or () if other.kind is ElsewhereKind.BUILD
        ],
        "NotSearched": list(map(_gap_document, searched.not_searched)),
        "Undecided": list(map(_gap_document, (*searched.undecided, *found.elsewhere_undecided))),
        "Unreadable": list(map(_gap_document, searched.unreadable)),
        "Notice": NOTICE,
    }


def _elsewhere_document(other: Elsewhere) -> dict[str, Any]:
    return {
        "Kind": str(other.kind), "Subject": other.subject, "Images": list(other.images),
        "What": other.sought, "Label": other.label, "Encoding": other.encoding, "Where": other.where,
        "Count": other.count,
    }


def _finding_document(finding: ErasureFinding) -> dict[str, Any]:
    return {"What": finding.kind, "Label": finding.label, "Encoding": finding.encoding,
            **_place_document(finding)}


def _place_document(finding: ErasureFinding) -> dict[str, Any]:
    hider = finding.hidden_by
    return {
        "Place": str(finding.place),
        "Digest": str(finding.blob),
        "Platform": finding.platform,
        "Layer": finding.layer,
        "DiffID": "" if finding.diff_id is None else str(finding.diff_id),
        "Instruction": finding.instruction,
        "Path": finding.path,
        "Inside": list(finding.inside),
        "Field": finding.field,
        "Offset": finding.offset,
        "HiddenBy": None if hider is None else {
            "Layer": hider.layer, "Instruction": hider.instruction, "Path": hider.path,
            "Reason": hider.reason,
        },
    }


def _gap_document(gap: Gap) -> dict[str, Any]:
    return {"Digest": str(gap.blob), "Layer": gap.layer, "Path": gap.path, "Reason": gap.reason}


def leaks_document(name: str, found: Leaks) -> dict[str, Any]:
    return {
        "Image": name,
        "Platform": str(found.image.config.platform),
        "Manifest": str(found.image.descriptor.digest),
        "BytesSearched": found.bytes_searched,
        "Secrets": [
            {"Rule": leak.rule, "Title": leak.title, "Preview": leak.preview, "Length": leak.size,
             "Line": leak.line, **_place_document(leak.finding)}
            for leak in found.leaks
        ],
        "Undecided": list(map(_gap_document, found.undecided)),
    }
