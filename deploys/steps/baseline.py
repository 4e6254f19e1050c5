"""What the host was like before the first deploy, recorded once, so that it can be undone; and what it is now."""

from __future__ import annotations

import json
from collections.abc import Generator
from io import StringIO
from shlex import quote

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.operations import files

from deploys.assessment.legacy_files import FORMER
from deploys.assessment.next_boot import DROP_IN, OLD_DROP_IN
from deploys.manifest import (
    ARCHIVE,
    AS_GPU_HOST,
    AS_NODE,
    DEPLOYED,
    FAILED_UNITS,
    FILES,
    FORMER_STATE_DIRECTORY,
    GRUB_DROP_IN,
    NEW_NAMES,
    NODE_FILES,
    RECORD,
    RENAMING,
    STATE_DIRECTORIES,
    STATE_DIRECTORY,
    UPDATE_TIMER,
    former_path,
)
from deploys.operations.planning import step
from facts.baseline import BaselineRecord
from facts.kernel import KernelCommandLine
from facts.paths import ExistingPaths
from facts.pci import PciTopology
from facts.unit import SystemState, Units

# Directories for everybody's files that a host may lack, and then a deploy makes them.
SHARED_DIRECTORIES = ("/etc/default/grub.d", "/usr/local/libexec")

# Whatever is there in our files' places, and what the guide and earlier versions wrote: undoing brings it back.
MAY_EXIST = (DROP_IN, OLD_DROP_IN, *FILES, *FORMER)


_IN_THE_WAY = (
    f"{STATE_DIRECTORY} is in the way of the record in {FORMER_STATE_DIRECTORY}, and holds what no deploy put there; "
    f"expected nothing. Check it, and move it away: mv {STATE_DIRECTORY} {STATE_DIRECTORY}.old"
)
# An undo of a host of an earlier version may have made the directory, to remember which units failed in it.
MOVE = (
    f"if [ -L {STATE_DIRECTORY} ] || [ -e {STATE_DIRECTORY} ]; then [ ! -L {STATE_DIRECTORY} ] && "
    f"{{ [ ! -e {FAILED_UNITS} ] || mv {FAILED_UNITS} {FORMER_STATE_DIRECTORY}; }} && rm -f {FAILED_UNITS}.new && "
    f"rmdir {STATE_DIRECTORY} || {{ echo {quote(_IN_THE_WAY)} >&2; exit 1; }}; fi && "
    f"touch {former_path(RENAMING)} && mv -T {FORMER_STATE_DIRECTORY} {STATE_DIRECTORY} && sync {RECORD}"
)


@operation()
def moved() -> Generator[PyinfraCommand | str, None, None]:
    """Move what earlier deploys know of the host from the directory of earlier versions, as a whole.

    What is in the places of files with new names by then is not ours, and goes into the archive first.
    """
    former = f"{FORMER_STATE_DIRECTORY}/before"
    there = host.get_fact(ExistingPaths, paths=(RECORD, f"{former}.json"))
    if f"{former}.json" not in there or RECORD in there:
        host.noop(f"nothing of an earlier version is in {FORMER_STATE_DIRECTORY}")
        return
    yield from _archived(NEW_NAMES, f"{former}.tar")
    yield MOVE


def _archived(paths: tuple[str, ...], archive: str) -> Generator[str, None, None]:
    """Add to the archive those of the files that are there and not in it. It is replaced when the new one is whole."""
    remains = host.get_fact(BaselineRecord, directories=STATE_DIRECTORIES)
    kept = remains.past.archived if remains and remains.past else frozenset()
    present = [path for path in host.get_fact(ExistingPaths, paths=paths) if path not in kept]
    if not present:
        return
    words = " ".join(quote(path.lstrip("/")) for path in present)
    new = f"{archive}.new"
    yield f"cp -p {archive} {new} && tar -C / -rf {new} {words} && sync {new} && mv {new} {archive}"


@operation()
def recorded() -> Generator[PyinfraCommand | str, None, None]:
    """Write what this host is like now, unless that was done already."""
    # The former place counts in a plan, which does not move it.
    if host.get_fact(ExistingPaths, paths=(RECORD, f"{FORMER_STATE_DIRECTORY}/before.json")):
        host.noop(f"{RECORD} exists")
        return
    topology = host.get_fact(PciTopology)
    lines = host.get_fact(KernelCommandLine, drop_in=GRUB_DROP_IN.path)
    timer = host.get_fact(Units, units=(UPDATE_TIMER,)).get(UPDATE_TIMER)
    before = {
        "version": 1,
        "kernel_command_line": lines.live,
        "configured_command_lines": lines.configured,
        "system_state": host.get_fact(SystemState),
        "shared_directories": host.get_fact(ExistingPaths, paths=SHARED_DIRECTORIES),
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
    present = [path.lstrip("/") for path in host.get_fact(ExistingPaths, paths=MAY_EXIST)]
    # The copies first: the record says that they are complete. The host's name, as tar wants at least one file.
    yield (
        f"mkdir -p -m 700 {STATE_DIRECTORY} && tar -C / -cf {ARCHIVE} --ignore-failed-read "
        f"$(cd / && for each in {' '.join(map(quote, present))}; do "
        f'if [ -f "$each" ] || [ -L "$each" ]; then echo "$each"; fi; done) etc/hostname'
    )
    # Renamed when it is whole, since it is never written again.
    yield from files.put._inner(src=StringIO(json.dumps(before, indent=1) + "\n"), dest=f"{RECORD}.new", mode="600")
    yield f"sync {RECORD}.new && mv {RECORD}.new {RECORD}"


@operation()
def deployed_as(kind: str) -> Generator[PyinfraCommand | str, None, None]:
    """Write what the host is deployed as. A node stays a node, since a run for its host alone takes nothing from it.

    + kind: ``AS_NODE`` or ``AS_GPU_HOST``
    """
    remains = host.get_fact(BaselineRecord, directories=STATE_DIRECTORIES)
    # Another word is nobody's, and says as little as none.
    known = remains.deployed if remains and remains.deployed in (AS_NODE, AS_GPU_HOST) else ""
    if known in (kind, AS_NODE):
        host.noop(f"{DEPLOYED} says {known}")
        return
    if kind == AS_NODE and known == AS_GPU_HOST:
        # The first deploy may be long ago, and these places were not of its concern.
        yield from _archived(NODE_FILES, ARCHIVE)
    elif not known and host.get_fact(ExistingPaths, paths=NODE_FILES):
        # Of an earlier version, which kept no word of it; or the word was damaged.
        kind = AS_NODE
    yield f"echo {kind} >{DEPLOYED}.new && sync {DEPLOYED}.new && mv {DEPLOYED}.new {DEPLOYED}"


@step("Record the host as it was")
def record_before(kind: str) -> None:
    moved(name=f"Move the record of earlier deploys to {STATE_DIRECTORY}")
    recorded(name=f"Write {RECORD}")
    deployed_as(name=f"Write {DEPLOYED}", kind=kind)
