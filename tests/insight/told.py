"""An image, its tree and its content from instructions and entries, for questions about images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from tests.layer.indexed import index_of_tar

from lamina.content.memory import MemoryStore
from lamina.image import Image
from lamina.insight.comparison import Side
from lamina.insight.waste import Waste, WasteItem, find_waste
from lamina.layer.entry import Entry
from lamina.layer.tree import Tree
from lamina.testing.images import MadeLayer, make_image, make_layer


class Told:
    """Layers are pairs of instruction and entries, or tars. ``read`` collects what was read, in order."""

    def __init__(self, *layers: tuple[str, Iterable[Entry]] | bytes, execution: Mapping[str, Any] | None = None) -> None:
        made = [
            MadeLayer(tar=layer) if isinstance(layer, bytes) else make_layer(list(layer[1]), created_by=layer[0])
            for layer in layers
        ]
        store = MemoryStore()
        self.tars = [layer.tar for layer in made]
        self.image = Image.load(store, make_image(made, execution=execution).put(store), None)
        self.tree = Tree(map(index_of_tar, self.tars))
        self.read: list[tuple[int, int]] = []

    def open_data(self, layer: int, entry: Entry) -> BinaryIO:
        self.read.append((layer, entry.data_offset))
        return io.BytesIO(self.tars[layer][entry.data_offset : entry.data_offset + entry.size])

    @property
    def waste(self) -> Waste:
        return find_waste(self.image, self.tree, self.open_data)

    def item(self, path: str, layer: int) -> WasteItem:
        (found,) = [item for item in self.waste.items if (item.path, item.layer) == (path, layer)]
        return found

    @property
    def side(self) -> Side:
        return Side(image=self.image, tree=self.tree, open_data=self.open_data)
