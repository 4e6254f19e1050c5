"""The table of a host: what hands its boards over, read back from the machine. A node's table begins with its rows."""

from __future__ import annotations

import posixpath
from collections.abc import Generator, Iterable

from pyinfra import host
from pyinfra.api import Host, operation
from pyinfra.api.command import PyinfraCommand

from deploys import manifest
from deploys.assessment import checks, failures
from deploys.assessment.checks import Check
from deploys.assessment.observations import Observations
from deploys.operations import table
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, is_planning, step
from deploys.preflight import Verdict
from deploys.steps.preflight import GpuHost
from deploys.transport import remote
from facts.batch import Part, ask
from facts.initramfs import InitramfsContents, StaleInitramfs
from facts.kernel import InterruptRemapping, KernelCommandLine, KernelModules
from facts.node import NodeParts, NodeResources
from facts.pci import PciTopology, PciUsage
from facts.unit import FailedUnits, SystemState, Units


def parts(verdict: Verdict) -> tuple[Part, ...]:
    """What is asked of a host; the names are those of ``Observations``."""
    boards = (
        Part("usage", PciUsage),
        Part("lines", KernelCommandLine, {"drop_in": manifest.GRUB_DROP_IN.path}),
        Part("remapping", InterruptRemapping),
        Part("stale_initramfs", StaleInitramfs, {"inputs": manifest.INITRAMFS_INPUTS}),
        Part("initramfs", InitramfsContents, {"files": manifest.INITRAMFS_FILES}),
    )
    return (
        Part("topology", PciTopology),
        Part("failed_units", FailedUnits),
        *(boards if verdict.boards else ()),
        Part("modules", KernelModules, {"modules": verdict.all_modules}),
    )


def rows(gpu_host: GpuHost, observed: Observations, parts: NodeResources) -> list[Check]:
    """The rows about the boot, the boards, and who may open them."""
    verdict, topology = gpu_host.verdict, observed.topology
    boards = checks.verdict_boards(topology, verdict)
    rows = []
    if verdict.boards:
        rows += checks.kernel(observed.lines, verdict.kernel_arguments, observed.remapping, node=verdict.of_node)
        for board in verdict.boards:
            rows += checks.board(topology, board)
        rows += checks.firmware(observed.usage, boards, gpu_host.settings.board_guards_allowed)
        rows.append(checks.initramfs(observed.stale_initramfs, observed.initramfs))
        rows.append(checks.enabled(observed.units.get(manifest.PCIBIND_UNIT)))
    rows.append(checks.modules(observed.modules, verdict.all_modules))
    return [*rows, *checks.devices(parts, boards)]


def system(state: str, failed_units: list[str], verdict: Verdict) -> Check:
    """The row about the system as a whole, in systemd's ``state``; units that failed since the run are recorded."""
    failed = failed_units if state != "running" else []
    if caused := failures.new_failures(failed, verdict.failed_before):
        remote.run(host, failures.remember(caused))
    return failures.check(state, failed, verdict.failed_before)


def conclude(rows: list[Check], notes: Iterable[str] = ()) -> Generator[PyinfraCommand, None, None]:
    """Print the table, and fail the host when a check failed; else run ``notes``, commands that record what runs."""
    if failure := table.show_table(rows):
        yield failure
        return
    # Of this boot only, so that it changes nothing that lasts; deploys/status.py shows when it was.
    touch = f"mkdir -p {posixpath.dirname(manifest.VERIFIED)} && touch {manifest.VERIFIED}"
    remote.run(host, "; ".join((touch, failures.remember(()), *notes)))


def _read(host: Host, gpu_host: GpuHost) -> list[Check]:
    # First and alone: it waits until systemd has started everything, which the other facts then read.
    state = host.get_fact(SystemState)
    units = Part("units", Units, {"units": (manifest.PCIBIND_UNIT,)})
    asked = (*parts(gpu_host.verdict), Part("parts", NodeParts, {"paths": ("/",)}), units)
    observed = Observations(**ask(host, *asked))
    if observed.parts is None:
        return [Check("host", "its devices could not be read", False, "an answer")]
    running = checks.units(observed.units, (manifest.PCIBIND_UNIT,)) if gpu_host.verdict.boards else []
    last = system(state, observed.failed_units, gpu_host.verdict)
    return [*rows(gpu_host, observed, observed.parts), *running, last]


@operation()
def host_verified(gpu_host: GpuHost, reboot: PendingReboot) -> Generator[PyinfraCommand | str, None, None]:
    """Read the host back, print the table, and fail the host when a check failed.

    + gpu_host: the host and what its operator asked for
    + reboot: whether one is pending, which this run has to wait for
    """
    if not is_planning():
        yield from conclude(_read(host, gpu_host))
    elif reboot.is_planned():
        yield DECIDED_AT_RUN_TIME
    else:
        host.noop("this only checks")


@step("Verify the host")
def verify_host(gpu_host: GpuHost, reboot: PendingReboot) -> None:
    host_verified(name="Verify the host", gpu_host=gpu_host, reboot=reboot)
