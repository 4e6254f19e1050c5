"""The layers that act at a boot, against each other: what the next boot would not do as it should. Pure."""

from __future__ import annotations

from deploys.assessment import next_boot
from deploys.fleet.observations import Seen
from deploys.fleet.state import KernelArguments
from pcibind.change import unit
from pcibind.model.pci import Board


def lint(seen: Seen, arguments: KernelArguments, boards: list[Board]) -> list[str]:
    """What of the layers that act at a boot is not as the next boot needs it."""
    said: list[str] = []
    if seen.record.record:
        said += seen.initramfs.outdated(seen.stale_initramfs)
        said += seen.initramfs.unknown
    said += next_boot.outdated(seen.lines)
    if arguments.wanted and arguments.live and arguments.configured is False:
        said.append(f"the next boot would be without {' '.join(arguments.wanted)}: not in the entry that boots")
    binder = seen.units.get(unit.NAME)
    if seen.record.record and seen.knows("units"):
        if binder is None or binder.enabled != "enabled":
            said.append("pcibind.service is not enabled: the next boot binds no board")
        elif binder.active == "failed":
            said.append(f"pcibind.service failed at this boot ({binder.result})")
    if boards:
        module = seen.modules.get("vfio_pci")
        if module is not None and module.kind == "missing":
            said.append("the running kernel has no vfio-pci")
        for board in boards:
            for function in board.functions:
                detail = seen.topology.details.get(function.address)
                built_in = [each.name for each in detail.modules if each.built_in] if detail else []
                if built_in and not seen.record.record:
                    said.append(
                        f"{', '.join(built_in)} is built into the kernel and takes {function.address} before anything "
                        "else can; pcibind.service takes it back"
                    )
        addresses = {function.address for board in boards for function in board.functions}
        usage = seen.usage.evidence if seen.usage else None
        said += [
            f"the firmware's framebuffer owns memory of {use.address}: {use.what}"
            for use in (usage.framebuffers if usage else ())
            if use.address in addresses
        ]
    return said
