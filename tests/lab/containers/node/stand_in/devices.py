"""The host's devices that the node needs: KVM, vsock, and the VFIO group of each listed device."""

from __future__ import annotations

import os
import re
import resource
import socket
from pathlib import Path

PCI_ADDRESS = re.compile(r"(?:(?P<domain>[0-9a-f]{4}):)?(?P<rest>[0-9a-f]{2}:[01][0-9a-f]\.[0-7])", re.IGNORECASE)
GET_LOCAL_CID = 0x7B9  # IOCTL_VM_SOCKETS_GET_LOCAL_CID of linux/vm_sockets.h


class DeviceError(Exception):
    """A device that the node cannot use; the message names it and what was expected."""


def can_open(path: str | Path) -> None:
    """Opens the device for reading and writing, and closes it. Raises DeviceError."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise DeviceError(f"{path}: cannot open for reading and writing: {error.strerror}") from None


def vsock_listener(port: int) -> socket.socket:
    """A listening vsock socket at the host's own address. Raises DeviceError."""
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen()
    except OSError as error:
        raise DeviceError(f"AF_VSOCK port {port}: cannot listen: {error.strerror}") from None
    return listener


def iommu_group(entry: str, sysfs: Path = Path("/sys")) -> str:
    """The IOMMU group's number of a device as GEVULOT_GPU_DEVICES lists it. Raises DeviceError."""
    match = PCI_ADDRESS.fullmatch(entry)
    if match is None:
        raise DeviceError(f"GEVULOT_GPU_DEVICES: {entry!r} is no PCI address (QEMU would get host={entry})")
    address = f"{match['domain'] or '0000'}:{match['rest']}".lower()
    try:
        return os.readlink(sysfs / "bus/pci/devices" / address / "iommu_group").rpartition("/")[2]
    except OSError:
        raise DeviceError(f"{address}: no such device, or it is in no IOMMU group") from None


def require_locked_memory() -> None:
    """VFIO pins a machine's whole memory: fails unless RLIMIT_MEMLOCK is unlimited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY:
        raise DeviceError(f"RLIMIT_MEMLOCK is {soft} bytes, expected unlimited for VFIO")


def require_for_programs() -> None:
    """What every program's machine needs of the host."""
    for path in ("/dev/kvm", "/dev/vsock", "/dev/vhost-vsock"):
        can_open(path)


def require_gpus(entries: tuple[str, ...]) -> list[str]:
    """Checks every listed device's VFIO group; gives the groups. Raises DeviceError."""
    groups = list(dict.fromkeys(iommu_group(entry) for entry in entries))
    require_locked_memory()
    can_open("/dev/vfio/vfio")
    for group in groups:
        can_open(f"/dev/vfio/{group}")
    return groups
