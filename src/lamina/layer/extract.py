"""A layer's tar into an empty directory, fast: four system calls for an ordinary file.

What is fast here is only the ordinary: a new file in a directory that is known. Everything else, and
everything that turns out to be less new, goes through ``lamina.layer.apply``, so that both mean the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from lamina.layer.apply import Applied, Applying, explain
from lamina.layer.entry import WHITEOUT_PREFIX, Entry, Kind
from lamina.layer.root import CREATE, DirectoryRoot, write_all
from lamina.layer.tarstream import TarReader


def extract(
    reader: TarReader, root: DirectoryRoot, on_entry: Callable[[Entry], object] | None = None
) -> Applied:
    """``on_entry`` sees each entry after it was carried out. Not undone when it fails half way.

    In the overlay styles, hard links to what is not in this layer are left out: ``LayerIndex.foreign_links``
    has them, and whoever knows the layers below makes or refuses them.
    """
    applying = Applying(root)
    places, directories, file_kind = applying.places, root.directories, Kind.FILE
    create, close, utime = os.open, os.close, os.utime
    # Whoever needs none of these is done after open, write, utime and close.
    plain_owner, loose_bits = root.plain_owner, root.loose_bits
    for entry in reader:
        path = entry.path
        parent, _, name = path.rpartition("/")
        place = places.get(parent)
        if entry.kind is not file_kind or place is None or WHITEOUT_PREFIX in path or not root.is_plain:
            applying.take(entry, reader.copy_data)
            if on_entry is not None:
                on_entry(entry)
            continue
        try:
            file = create(name, CREATE, entry.mode & 0o777, dir_fd=directories.get(place))
        except FileExistsError:
            applying.take(entry, reader.copy_data)
        except OSError as error:
            explain(error, path)
        else:
            try:
                if entry.size:
                    reader.copy_data(partial(write_all, file))
                if entry.mode & loose_bits or entry.xattrs or (entry.uid, entry.gid) != plain_owner:
                    root.finish_file(file, entry)
                else:
                    utime(file, ns=(entry.mtime, entry.mtime))
            except OSError as error:
                explain(error, path)
            finally:
                close(file)
            applying.count += 1
            applying.size += entry.size
        if on_entry is not None:
            on_entry(entry)
    return applying.finish()
