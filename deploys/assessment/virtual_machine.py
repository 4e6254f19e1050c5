"""The rows about virtual machines: whether the node's container can start one, with its own devices. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.assessment.checks import Check
from facts.virtual_machine import VirtualMachineResult
from pcibind.model.pci import Board

_NEEDED = ("/dev/kvm", "/dev/vsock", "/dev/vhost-vsock")
_UNIT = "see `systemctl cat gevulot-node` for a file that overrides the unit"


def checks(trial: VirtualMachineResult, boards: Iterable[Board]) -> list[Check]:
    """Return a row for the machine, and rows for the container's memory limit and its devices, if they were read."""
    rows = [_machine(trial)]
    if not trial.memlock:
        # No command ran in the container: the first row says why.
        return rows
    groups = sorted({group for each in boards for group in each.groups})
    vfio = ("/dev/vfio/vfio", *(f"/dev/vfio/{group}" for group in groups)) if groups else ()
    states = {device: trial.devices.get(device, "missing") for device in (*_NEEDED, *vfio)}
    wrong = [f"{device}: {state}" for device, state in states.items() if state not in ("opened", "exists")]
    locked = f"{trial.memlock} bytes" if trial.memlock.isdecimal() else trial.memlock
    memory = f"unlimited, by Ulimit=memlock=-1:-1; {_UNIT}"
    devices = f"each can be opened; see `ls -l` of it on the host, and {_UNIT}"
    return [
        *rows,
        Check("memory that the container may lock", locked, trial.memlock == "unlimited", memory),
        Check("devices in the container", ", ".join(wrong or states), not wrong, devices),
    ]


def _machine(trial: VirtualMachineResult) -> Check:
    what = "virtual machine from the node's image"
    if trial.accelerator is None:
        expected = "a QEMU that starts with the node's devices: fix the image, or set gevulot_node_image to another"
        return Check(what, trial.reason, False, expected)
    reason = f": {trial.reason}" if trial.reason else ""
    expected = "kvm: see whether /dev/kvm can be opened and virtualization is on in the firmware"
    return Check(what, f"{trial.accelerator}, QEMU {trial.version}{reason}", trial.accelerator == "kvm", expected)
