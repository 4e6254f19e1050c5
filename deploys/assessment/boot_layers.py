"""Problems between the layers that act at a boot: initramfs, boot menu, units, modules. Pure."""

from __future__ import annotations

from deploys.assessment import next_boot
from deploys.assessment.observations import Observations
from deploys.assessment.status_document import KernelArguments
from pcibind.change import boot_files
from pcibind.model.pci import Board


def lint(observed: Observations, arguments: KernelArguments, boards: list[Board]) -> list[str]:
    """List problems that would break the next boot."""
    problems: list[str] = []
    if observed.record.record:
        problems += observed.initramfs.outdated(observed.stale_initramfs)
        problems += observed.initramfs.unknown
    problems += next_boot.outdated(observed.lines)
    if arguments.wanted and arguments.live and arguments.configured is False:
        problems.append(f"the next boot would be without {' '.join(arguments.wanted)}: not in the entry that boots")
    binder = observed.units.get(boot_files.UNIT)
    if observed.record.record and observed.knows("units"):
        if binder is None or binder.enabled != "enabled":
            problems.append("pcibind.service is not enabled: the next boot binds no board")
        elif binder.active == "failed":
            problems.append(f"pcibind.service failed at this boot ({binder.result})")
    if boards:
        module = observed.modules.get("vfio_pci")
        if module is not None and module.kind == "missing":
            problems.append("the running kernel has no vfio-pci")
        for board in boards:
            for function in board.functions:
                detail = observed.topology.details.get(function.address)
                built_in = [each.name for each in detail.modules if each.built_in] if detail else []
                if built_in and not observed.record.record:
                    problems.append(
                        f"{', '.join(built_in)} is built into the kernel and takes {function.address} before anything "
                        "else can; pcibind.service takes it back"
                    )
        addresses = {function.address for board in boards for function in board.functions}
        usage = observed.usage.evidence if observed.usage else None
        problems += [
            f"the firmware's framebuffer owns memory of {use.address}: {use.what}"
            for use in (usage.framebuffers if usage else ())
            if use.address in addresses
        ]
    return problems
