"""A container without a process: a snapshot on an image, which tests write into through its mounts."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.engine.engine import Engine
from lamina.runtime.container import Container, ContainerDirectory
from lamina.runtime.options import ContainerOptions
from lamina.snapshot.mounting import mounted


@dataclass(frozen=True)
class Still:
    engine: Engine
    container: Container
    directory: ContainerDirectory

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        driver = self.engine.driver_named(self.container.driver)
        place = Path(tempfile.mkdtemp(prefix="lamina-still-"))
        try:
            with mounted(driver.mounts(self.container.snapshot), place) as path:
                yield path
        finally:
            place.rmdir()

    def remove(self) -> None:
        self.engine.driver_named(self.container.driver).remove(self.container.snapshot)


def still(engine: Engine, image: str, **execution: Any) -> Still:
    """``execution`` is the container's own ``Config``, by default its image's."""
    loaded, driver = engine.image(image), engine.driver
    from lamina.engine.landing import unpack_present

    unpack_present(engine, loaded)
    parent = driver.commit_layers(loaded.config.diff_ids)
    number = secrets.token_hex(32)
    container = Container(
        id=number, name=f"still-{number[:6]}", image=loaded.descriptor.digest, image_name=image, config=loaded.id,
        platform=str(loaded.config.platform), driver=driver.name, snapshot=f"container-{number}", parent=parent,
        created=0.0, execution=execution or loaded.config.execution, options=ContainerOptions(),
    )
    directory = ContainerDirectory(engine.root, number)
    directory.make()
    driver.prepare(container.snapshot, parent)
    return Still(engine, container, directory)
