"""What is in an image: which layer has a file, what is hidden, wasted, secret or different."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.core import Core

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

    from lamina.engine.explain import FileRow
    from lamina.insight.certificate import Certificate
    from lamina.insight.comparison import Comparison
    from lamina.insight.leaks import Leaks
    from lamina.insight.provenance import Blame, LayerSummary, Obscured
    from lamina.insight.report import ReportData
    from lamina.insight.usage import Portion
    from lamina.insight.waste import Waste
    from lamina.oci.descriptor import Platform


class QuestionVerbs(Core):
    """See :class:`~lamina.engine.engine.Engine`."""

    # -- questions about layers

    def layers(self, name: str) -> tuple[LayerSummary, ...]:
        """Base first."""
        from lamina.engine import explain

        return explain.layers(self, name)

    def ls(
        self, name: str, path: str = "/", *, layer: int | None = None, recursive: bool = False
    ) -> tuple[FileRow, ...]:
        """The union's files, or one layer's (numbered from 0 at the base), below a directory."""
        from lamina.engine import explain

        return explain.ls(self, name, path, layer=layer, recursive=recursive)

    def cat(self, name: str, path: str, *, layer: int | None = None) -> BinaryIO:
        """The content of a file, as a stream that the caller closes."""
        from lamina.engine import explain

        return explain.cat(self, name, path, layer=layer)

    def blame(self, name: str, path: str) -> Blame:
        """The highest layer that has a path, what it hides, and who deleted it."""
        from lamina.engine import explain

        return explain.blame(self, name, path)

    def obscured(self, name: str) -> tuple[Obscured, ...]:
        """Files of lower layers that no container sees, in the order of layers."""
        from lamina.engine import explain

        return explain.obscured(self, name)

    # -- what is in the bytes

    def verify_erased(
        self,
        name: str,
        *,
        secrets: Mapping[str, bytes] | None = None,
        patterns: Sequence[str] = (),
        paths: Sequence[str] = (),
        platform: Platform | None = None,
        everywhere: bool = False,
        image_only: bool = False,
    ) -> Certificate:
        """Searches every byte that an image reaches; says what the rest of the store still holds.

        ``secrets`` are contents by a label that may be shown. What is elsewhere counts for the verdict with
        ``everywhere``, and is not looked at with ``image_only``.
        """
        from lamina.engine import erasing

        return erasing.verify_erased(
            self, name, secrets=secrets or {}, patterns=patterns, paths=paths, platform=platform,
            everywhere=everywhere, image_only=image_only,
        )

    def secrets(self, name: str, *, platform: Platform | None = None) -> Leaks:
        """Likely secrets in files, seen and hidden, and in the image's documents."""
        from lamina.engine import erasing

        return erasing.secrets(self, name, platform=platform)

    def waste(self, name: str, *, platform: Platform | None = None) -> Waste:
        """Bytes that are pulled for nothing, each file with its reason, its instruction and what to do."""
        from lamina.engine import accounting

        return accounting.waste(self, name, platform=platform)

    def diff(
        self, before: str, after: str, path: str = "/", *, times: bool = False,
        platform: Platform | None = None,
    ) -> Comparison:
        """What is different in a second image: files at and below ``path``, layers, settings."""
        from lamina.engine import accounting

        return accounting.diff(self, before, after, path, times=times, platform=platform)

    def du(
        self, name: str, path: str = "/", *, by: str = "dir", depth: int = 1,
        platform: Platform | None = None,
    ) -> tuple[Portion, ...]:
        """Bytes of files, seen and hidden, by ``layer``, ``dir``, ``extension`` or ``instruction``."""
        from lamina.engine import accounting

        return accounting.du(self, name, path, by, depth=depth, platform=platform)

    def report_data(self, name: str, *, platform: Platform | None = None) -> ReportData:
        """Layers, files, obscured files, waste and settings as values of a bounded size."""
        from lamina.engine import reporting

        return reporting.report_data(self, name, platform=platform)

    def report_page(self, name: str, *, platform: Platform | None = None) -> str:
        """The same as one HTML file that stands alone."""
        from lamina.engine import reporting

        return reporting.report_page(self, name, platform=platform)
