"""The table of a host: what hands its boards over, read back from the machine. A node's table begins with its rows."""

from __future__ import annotations

import posixpath
from collections.abc import Generator, Mapping
from typing import Any

from pyinfra import host
from pyinfra.api import Host, operation
from pyinfra.api.command import PyinfraCommand

from deploys import manifest
from deploys.assessment import checks, failures
from deploys.assessment.checks import Check
from deploys.operations import table
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, is_planning, step
from deploys.preflight import Verdict
from deploys.steps.preflight import GpuHost
from deploys.transport import remote
from facts.batch import Part, ask
from facts.initramfs import InitramfsContents, StaleInitramfs
from facts.kernel import InterruptRemapping, KernelCommandLine, KernelModules
from facts.node import NodeParts
from facts.pci import PciTopology, PciUsage
from facts.unit import FailedUnits, SystemState, Units


def parts(verdict: Verdict) -> tuple[Part, ...]:
    """What is asked of a host."""
    boards = (
        Part("usage", PciUsage),
        Part("lines", KernelCommandLine, {"drop_in": manifest.GRUB_DROP_IN.path}),
        Part("remapping", InterruptRemapping),
        Part("stale_initramfs", StaleInitramfs, {"inputs": manifest.INITRAMFS_INPUTS}),
        Part("initramfs", InitramfsContents, {"files": manifest.INITRAMFS_FILES}),
    )
    return (
        Part("topology", PciTopology),
        Part("failed", FailedUnits),
        *(boards if verdict.boards else ()),
        Part("modules", KernelModules, {"modules": verdict.all_modules}),
    )


def rows(gpu_host: GpuHost, seen: Mapping[str, Any]) -> list[Check]:
    """The rows about the boot, the boards, and who may open them. ``seen`` has also ``parts`` and ``units``."""
    verdict, topology = gpu_host.verdict, seen["topology"]
    boards = checks.verdict_boards(topology, verdict)
    found = []
    if verdict.boards:
        found += checks.kernel(seen["lines"], verdict.kernel_arguments, seen["remapping"], node=verdict.of_node)
        for board in verdict.boards:
            found += checks.board(topology, board)
        found += checks.firmware(seen["usage"], boards, gpu_host.settings.board_guards_allowed)
        found.append(checks.initramfs(seen["stale_initramfs"], seen["initramfs"]))
        found.append(checks.enabled(seen["units"].get(manifest.PCIBIND_UNIT)))
    found.append(checks.modules(seen["modules"], verdict.all_modules))
    return [*found, *checks.devices(seen["parts"], boards)]


def system(state: str, seen: Mapping[str, Any], verdict: Verdict) -> Check:
    """The row about the system as a whole, in the ``state`` that systemd says; what failed by now is remembered."""
    failed = seen["failed"] if state != "running" else []
    if caused := failures.new_failures(failed, verdict.failed_before):
        remote.run(host, failures.remember(caused))
    return failures.check(state, failed, verdict.failed_before)


def conclude(found: list[Check]) -> Generator[PyinfraCommand, None, None]:
    """Print the table, and fail the host when anything is wrong; else remember when it was found right."""
    if failure := table.show_table(found, "checks failed"):
        yield failure
        return
    # Of this boot only, so that it changes nothing that lasts; deploys/status.py shows when it was.
    remote.run(
        host, f"mkdir -p {posixpath.dirname(manifest.VERIFIED)} && touch {manifest.VERIFIED}; {failures.remember(())}"
    )


def _read(host: Host, gpu_host: GpuHost) -> list[Check]:
    # First and alone: it waits until systemd has started everything, which the other facts then read.
    state = host.get_fact(SystemState)
    units = Part("units", Units, {"units": (manifest.PCIBIND_UNIT,)})
    seen = ask(host, *parts(gpu_host.verdict), Part("parts", NodeParts, {"paths": ("/",)}), units)
    if seen["parts"] is None:
        return [Check("host", "its devices could not be read", False, "an answer")]
    running = checks.units(seen["units"], (manifest.PCIBIND_UNIT,)) if gpu_host.verdict.boards else []
    return [*rows(gpu_host, seen), *running, system(state, seen, gpu_host.verdict)]


@operation()
def host_verified(gpu_host: GpuHost, reboot: PendingReboot) -> Generator[PyinfraCommand | str, None, None]:
    """Read the host back, print the table, and fail the host when anything is wrong.

    + gpu_host: the host and what its operator asked for
    + reboot: whether one is pending, which this run has to wait for
    """
    if not is_planning():
        yield from conclude(_read(host, gpu_host))
    elif reboot.is_planned():
        yield DECIDED_AT_RUN_TIME
    else:
        host.noop("nothing is changed by looking")


@step("Verify the host")
def verify_host(gpu_host: GpuHost, reboot: PendingReboot) -> None:
    host_verified(name="Verify the host", gpu_host=gpu_host, reboot=reboot)
