"""What the host was like before the first deploy, recorded once, so that it can be undone."""

from __future__ import annotations

import json
from collections.abc import Generator
from io import StringIO

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.facts.files import File
from pyinfra.operations import files

from deploys.assessment.legacy_files import FORMER
from deploys.assessment.next_boot import DROP_IN, OLD_DROP_IN
from deploys.manifest import ARCHIVE, FILES, RECORD, STATE_DIRECTORY, UPDATE_TIMER
from deploys.operations.planning import step
from facts.kernel import KernelCommandLine
from facts.paths import Existing
from facts.pci import PciTopology
from facts.unit import SystemState, Units

# Directories for everybody's files that a host may lack, and then a deploy makes them.
SHARED_DIRECTORIES = ("/etc/default/grub.d", "/usr/local/libexec")

# Whatever is there in our files' places, and what the guide and earlier versions wrote: undoing brings it back.
MAY_EXIST = (DROP_IN, OLD_DROP_IN, *FILES, *FORMER)


@operation()
def recorded() -> Generator[PyinfraCommand | str, None, None]:
    """Write what this host is like now, unless that was done already."""
    if host.get_fact(File, path=RECORD):
        host.noop(f"{RECORD} exists")
        return
    topology = host.get_fact(PciTopology)
    lines = host.get_fact(KernelCommandLine)
    timer = host.get_fact(Units, units=(UPDATE_TIMER,)).get(UPDATE_TIMER)
    before = {
        "version": 1,
        "kernel_command_line": lines.live,
        "configured_command_lines": lines.configured,
        "system_state": host.get_fact(SystemState),
        "shared_directories": host.get_fact(Existing, paths=SHARED_DIRECTORIES),
        "auto_update_timer": timer.enabled if timer else "",
        "functions": [
            {
                "address": str(each.address),
                "path": each.path,
                "model": each.model,
                "driver": each.driver,
                "driver_override": each.driver_override,
            }
            for each in topology.functions
        ],
    }
    # The copies first: the record says that they are complete. The host's name, as tar wants at least one file.
    yield (
        f"mkdir -p -m 700 {STATE_DIRECTORY} && tar -C / -cf {ARCHIVE} --ignore-failed-read "
        f"$(cd / && for each in {' '.join(path.lstrip('/') for path in MAY_EXIST)}; do "
        f'if [ -f "$each" ] || [ -L "$each" ]; then echo "$each"; fi; done) etc/hostname'
    )
    # Renamed when it is whole, since it is never written again.
    yield from files.put._inner(src=StringIO(json.dumps(before, indent=1) + "\n"), dest=f"{RECORD}.new", mode="600")
    yield f"sync {RECORD}.new && mv {RECORD}.new {RECORD}"


@step("Record the host as it was")
def record_before() -> None:
    recorded(name=f"Write {RECORD}")
