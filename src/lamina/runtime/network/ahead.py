"""Connecting to bridges while the runtime still starts: all that takes is a namespace."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lamina.runtime.network import connecting, namespaces
from lamina.runtime.network.mode import Kind
from lamina.runtime.network.programs import NetworkFailed
from lamina.runtime.network.values import Connected, Held, NetworkPlan
from lamina.values import replace


class Ahead:
    """Made by :func:`begin`; then either ``finish`` or ``abandon`` is called, once."""

    def __init__(self, plan: NetworkPlan, directory: Path, held: Held, child: int, complaint: int) -> None:
        self._plan = plan
        self._directory = directory
        self._held = held
        self._child = child
        self._complaint = complaint

    @property
    def namespace(self) -> str:
        """The path that the runtime is to enter, or ``""``: it makes a namespace as ever."""
        return f"/proc/{os.getpid()}/fd/{self._held.namespace}" if self._child else ""

    def finish(self, pid: int) -> Connected:
        """Like ``connect``, which does it all where nothing could be done ahead."""
        if not self._child:
            return connecting.connect(self._plan, pid, self._directory)
        said = self._wait()
        connected = connecting.read_connected(self._directory)
        if said or connected is None:
            self._undo()
            raise NetworkFailed(said or f"network of {self._plan.name}: what connects it was killed")
        return replace(connected, held=self._held)

    def abandon(self) -> None:
        """The container did not start."""
        if self._child:
            self._wait()
            self._undo()

    def _wait(self) -> str:
        with open(self._complaint, "rb") as stream:
            said = stream.read().decode("utf-8", "replace")
        os.waitpid(self._child, 0)
        return said

    def _undo(self) -> None:
        with contextlib.suppress(Exception):  # what failed first is the one to tell
            connecting.disconnect(self._directory, self._held)


def begin(plan: NetworkPlan, directory: Path) -> Ahead:
    """For root's bridges a child begins at once. Call it before any thread exists.

    Raises what concerns ports: ``PortInUse``, ``PortDenied``.
    """
    if plan.kind is not Kind.NAMED:
        return Ahead(plan, directory, Held(), 0, -1)
    with connecting.claimed_ports(plan) as (ports, claimed), namespaces.new_namespace() as made:
        namespace = os.dup(made)  # not inheritable: the runtime finds it under /proc
        heard, tell = os.pipe()
        monitor = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                os.close(heard)
                connecting.attach(plan, monitor, namespace, directory, ports, is_inside=False)
            except BaseException as error:
                os.write(tell, str(error).encode())
            finally:
                os._exit(0)
        os.close(tell)
        return Ahead(plan, directory, Held(namespace=namespace, others=claimed), child, heard)
