"""Containers as values: the record of what one is, and the state of what has become of it.

The record never changes but for its name and its limits, and is a row of the state file. The state is
``containers/<id>/state.json``, written by the container's monitor alone; that process holds a flock on
``containers/<id>/lock`` as long as it lives, which the kernel lets go whatever becomes of it. So a state can
be believed as it stands while the lock is held, and :func:`observe` tells what is true when it is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from lamina.content.lease import boot_id, process_start
from lamina.errors import Conflict, Denied, NotFound
from lamina.oci.digest import Digest
from lamina.runtime.aftermath import is_begun
from lamina.runtime.options import ContainerOptions
from lamina.values import asdict, dataclass, field, replace

# What docker says of a container whose end nobody saw.
UNKNOWN_EXIT = 255
# How long a monitor may take for what is left to do after the end: undoing a network, above all.
PATIENCE = 20.0
# Files that tell a monitor something by being there: not to start it again, and that it is frozen; and one
# that holds another restart policy than it was started with.
STOPPING = "stopping"
PAUSED = "paused"
RESTART = "restart"
_STEP = 0.005


class ContainerNotFound(NotFound):
    pass


class ContainerRunning(Conflict):
    pass


class ContainerNotRunning(Conflict):
    pass


class NameInUse(Conflict):
    pass


class Status(StrEnum):
    """Docker's words, except that nothing is ever ``removing``: a container is there, or it is not."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"

    @property
    def is_live(self) -> bool:
        return self in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """``image`` is the digest of the root document, ``config`` the image ID, ``image_name`` what was asked.

    ``execution`` is docker's ``Config`` with the image's defaults merged in: Cmd, Entrypoint, Env, User,
    WorkingDir, Labels, ExposedPorts, Volumes, StopSignal, Healthcheck. ``volumes`` are the names of
    the volumes that it uses; of them ``anonymous`` were made for it. ``mounts`` are ContainerMount documents.
    """

    id: str
    name: str
    image: Digest
    image_name: str
    config: Digest
    platform: str
    driver: str
    snapshot: str
    parent: str
    created: float
    execution: Mapping[str, Any]
    options: ContainerOptions
    volumes: tuple[str, ...] = ()
    anonymous: tuple[str, ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        return (*(self.execution.get("Entrypoint") or ()), *(self.execution.get("Cmd") or ()))

    @property
    def stop_signal(self) -> str:
        return self.execution.get("StopSignal") or "SIGTERM"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.execution.get("Labels") or {}

    def to_json(self) -> dict[str, Any]:
        return {**asdict(replace(self, options=ContainerOptions())), "options": self.options.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Container:
        return cls(**{
            **document,
            "image": Digest(document["image"]), "config": Digest(document["config"]),
            "options": ContainerOptions.from_json(document["options"]),
            "volumes": tuple(document["volumes"]), "anonymous": tuple(document["anonymous"]),
            "mounts": tuple(document["mounts"]),
        })


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """Times are seconds since the epoch, 0 for never. ``pid`` is the container's first process, for the host.

    A pid alone lies: ``pid_started`` (clock ticks since boot) and ``boot`` tell whether it is still the same
    process. ``cgroup`` and ``runtime`` are what the end must be cleaned up with.
    """

    status: Status = Status.CREATED
    pid: int = 0
    pid_started: int = 0
    boot: str = ""
    monitor: int = 0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    error: str = ""
    is_oom_killed: bool = False
    is_unattended: bool = False
    was_stopped: bool = False
    restarts: int = 0
    runtime: str = ""
    cgroup: str = ""
    health: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        return self.status.is_live

    @property
    def is_process_alive(self) -> bool:
        return bool(self.pid) and self.boot == boot_id() and process_start(self.pid) == self.pid_started

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ContainerState:
        values: dict[str, Any] = {
            name: Status(value) if name == "status" else value
            for name, value in document.items() if name in cls.__dataclass_fields__
        }
        return cls(**values)


def insist_private(root: Path) -> None:
    """A state directory that others may change says whatever they want, and root would do it."""
    status = os.stat(root)
    if status.st_uid != os.geteuid():
        raise Denied(
            f"{root}: belongs to the user {status.st_uid}, who could change what containers are made of; "
            "choose a state directory of your own"
        )
    if status.st_mode & stat.S_IWOTH:
        raise Denied(f"{root}: everybody may change what containers are made of; `chmod o-w` it")


class ContainerDirectory:
    """``containers/<id>/``: everything of a container that is no row and no snapshot."""

    def __init__(self, root: Path, container_id: str) -> None:
        self.path = root / "containers" / container_id

    @property
    def rootfs(self) -> Path:
        """Where the monitor mounts the filesystem; in every other mount namespace it is empty."""
        return self.path / "rootfs"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def socket(self) -> Path:
        return self.path / "attach"

    def make(self) -> None:
        with self.made():
            pass

    @contextlib.contextmanager
    def made(self) -> Iterator[int]:
        """Makes it, and keeps it locked until the block ends, by when a row should know of it.

        Gives the descriptor of the lock, which a monitor may inherit.
        """
        insist_private(self.path.parent.parent)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        with watched_over(self.path.parent, fcntl.LOCK_SH):
            self.path.mkdir(mode=0o700)
            # Seen by the container's own users as "/" until the mount covers it: harmless, and empty.
            self.rootfs.mkdir(mode=0o755)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        """Gone under its name at once, and then from the disk. For the holder of the lock."""
        from lamina.snapshot.hands import empty_anyhow  # noqa: PLC0415 - at the end only

        doomed = self.path.with_name(f".removing-{os.urandom(8).hex()}")
        with contextlib.suppress(FileNotFoundError), watched_over(self.path.parent, fcntl.LOCK_SH):
            os.rename(self.path, doomed)
            empty_anyhow(doomed)

    def read_state(self) -> ContainerState:
        """As its monitor wrote it last, whether that one still lives or not."""
        try:
            return ContainerState.from_json(json.loads((self.path / "state.json").read_bytes()))
        except FileNotFoundError:
            return ContainerState()
        except ValueError:  # not synced, and so perhaps not whole after a power cut: it ran then
            return ContainerState(status=Status.RUNNING)

    def write_state(self, state: ContainerState) -> None:
        """For the holder of the lock. Readers see the old state or the new one.

        Not synced: after a power cut nothing of what it says would be true, but for the exit, for which
        :meth:`settle_state` is.
        """
        temporary = self.path / f".state.{os.urandom(8).hex()}"
        try:
            temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
            os.replace(temporary, self.path / "state.json")
        except BaseException:  # a full disk, above all
            temporary.unlink(missing_ok=True)
            raise

    def settle_state(self, state: ContainerState) -> None:
        """A state that outlives the machine's power."""
        from lamina.content.durable import write_file  # noqa: PLC0415 - at the end only

        write_file(self.path / "state.json", json.dumps(asdict(state)).encode())

    def lock(self, patience: float = 0.0) -> int:
        """Taken by who starts or removes the container, and inherited by its monitor; the caller closes it.

        Waits up to ``patience`` seconds while the container does not run: then a monitor is about to end, or
        somebody else to be done with it. Raises :class:`ContainerRunning`.
        """
        descriptor = self._open_lock(os.O_CREAT)  # somebody may have removed some of it by hand
        deadline = time.monotonic() + patience
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    # Who only looks holds it for an instant too, but shares it (is_attended).
                    is_running = self.read_state().is_live and self.is_attended()
                    if time.monotonic() >= deadline or is_running:
                        raise ContainerRunning(
                            f"{self.path.name[:12]}: running, or being started or removed"
                        ) from None
                    time.sleep(_STEP)
                else:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise

    @contextlib.contextmanager
    def locked(self, patience: float = 0.0) -> Iterator[None]:
        descriptor = self.lock(patience)
        try:
            yield
        finally:
            os.close(descriptor)

    def is_attended(self) -> bool:
        """Whether somebody holds the lock: a living monitor, or who starts or removes the container."""
        try:
            descriptor = self._open_lock()
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _open_lock(self, more: int = 0) -> int:
        # Nobody else can write here, but a lock is opened by root too: never through a symlink.
        return os.open(self.path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | more, 0o600)


@contextlib.contextmanager
def watched_over(home: Path, kind: int) -> Iterator[None]:
    """Who makes or removes a container's directory shares this lock; who seeks abandoned ones has it alone.

    So whatever has no lock of its own then, and no row, is nobody's.
    """
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def observe(directory: ContainerDirectory) -> ContainerState:
    """What is true now, whatever was written down.

    A container whose monitor died is still running as long as its process is (``is_unattended``), and has
    ended at an unknown moment with an unknown code when that is gone too.
    """
    state = directory.read_state()
    if not (state.is_live or is_begun(directory.path)) or directory.is_attended():
        return state
    again = directory.read_state()  # it may have ended in between
    if not again.is_live:  # if not, its monitor died before the command ran, or after that had ended
        return replace(again, is_unattended=is_begun(directory.path))
    if again.is_process_alive:
        return replace(again, is_unattended=True)
    reason = "the machine was started anew" if again.boot != boot_id() else "its monitor was killed"
    return replace(
        again, status=Status.EXITED, exit_code=UNKNOWN_EXIT, is_unattended=True,
        error=f"nobody saw how it ended: {reason}",
    )
