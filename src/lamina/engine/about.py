"""What ``lamina info`` says: the settings in force, where each came from, and why this storage driver."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lamina.snapshot.probing import probe

if TYPE_CHECKING:
    from lamina.engine.engine import Engine


def info(engine: Engine) -> dict[str, Any]:
    records = engine.store.catalog.records()
    machine = os.uname()
    driver = engine.driver
    identity = driver.identity
    return {
        "StateDirectory": str(engine.root),
        "Images": len({record.config for record in records}),
        "Names": sum(len(record.names) for record in records),
        "Driver": driver.name,
        "DriverCandidates": [
            {"Name": found.name, "Usable": found.is_usable, "Reason": found.reason}
            for found in probe(engine.root)
        ],
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
