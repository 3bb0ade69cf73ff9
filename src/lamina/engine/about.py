"""What ``lamina info`` says: the settings in force, where each came from, and why this driver and runtime."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lamina.engine.drivers import chosen

if TYPE_CHECKING:
    from lamina.engine.core import Core


def info(engine: Core) -> dict[str, Any]:
    from lamina.runtime.runtime import candidates
    from lamina.runtime.weaknesses import weaknesses

    records = engine.store.catalog.records()
    machine = os.uname()
    driver = chosen(engine)
    identity = engine.driver.identity
    return {
        "StateDirectory": str(engine.root),
        "Images": len({record.config for record in records}),
        "Names": sum(len(record.names) for record in records),
        "Driver": driver.name,
        "DriverReason": driver.reason,
        "DriverNotes": list(driver.notes),
        "DriverCandidates": [
            {"Name": found.name, "Usable": found.is_usable, "Reason": found.reason,
             "InUse": found.name == driver.name}
            for found in driver.candidates
        ],
        "DroppedBlobs": len(engine.store.dropped_blobs()),
        "Runtime": _runtime(engine),
        "RuntimeCandidates": [
            {"Name": found.name, "Usable": found.is_usable, "Reason": found.reason,
             "Weaker": list(weaknesses(found))}
            for found in candidates(identity)
        ],
        "Cgroups": _cgroups(),
        "NetworkPrograms": _network_programs(),
        "UserNamespaces": _user_namespaces(engine),
        "Identity": {
            "Rootless": not identity.is_initial,
            "Ownership": str(identity.ownership),
            "MayMount": identity.may_mount,
        },
        "KernelVersion": machine.release,
        "OSType": machine.sysname.lower(),
        "Architecture": machine.machine,
        "Platform": str(engine.platform),
        "NCPU": os.cpu_count(),
        "Settings": [
            {"Key": row.key, "Value": row.value, "Origin": row.origin} for row in engine.settings.in_force()
        ],
    }


def _cgroups() -> dict[str, Any]:
    """``Limits``: whether this user may make groups, which limits, pausing and ``stats`` take."""
    from lamina.runtime.cgroup import Cgroups
    from lamina.runtime.runtime import is_hybrid

    version = "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "hybrid" if is_hybrid() else "1"
    return {"Version": version, "Limits": bool(Cgroups.detect().hierarchies)}


def _network_programs() -> list[dict[str, Any]]:
    from lamina.runtime.network.programs import find_programs

    found = find_programs(os.environ.get("PATH", ""), os.environ.get("CNI_PATH", ""))
    return [
        {"Name": name, "Usable": bool(path), "Reason": path or "not installed"} for name, path in (
            ("netavark", found.netavark), ("aardvark-dns", found.aardvark), ("cni-plugins", found.cni),
            ("pasta", found.pasta), ("slirp4netns", found.slirp4netns),
        )
    ]


def _user_namespaces(engine: Core) -> dict[str, Any]:
    """What an ordinary user's containers need; root is told of the settings that forbid them."""
    from lamina.engine.starting import namespace_hindrance, no_namespaces

    identity = engine.driver.identity
    reason = namespace_hindrance() if identity.is_initial else "" if identity.may_mount else no_namespaces()
    return {"Allowed": not reason, "Reason": reason}


def _runtime(engine: Core) -> str:
    """What containers get that ask for none; where that is not installed, what was set."""
    from lamina.runtime.runtime import RuntimeUnavailable, choose_runtime

    wanted = engine.settings.default_runtime
    try:
        return choose_runtime(wanted, engine.driver.identity).name
    except RuntimeUnavailable:
        return wanted
