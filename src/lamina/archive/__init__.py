"""Archives of images: reading whatever another tool saved, and writing what every other tool loads."""

from lamina.archive.source import ArchiveSource
from lamina.archive.writer import ArchiveWriter

__all__ = ["ArchiveSource", "ArchiveWriter"]
