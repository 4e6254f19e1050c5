"""A sysfs tree, and the little of /proc that goes with it, laid out from a dump.

PCI functions, drivers, interfaces and block devices are the dump's. IOMMU groups, NUMA nodes, the boot display, whose
memory a framebuffer is in, the mount of the root disk and the default route are synthesised; the result says which.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from pcibind.model.pci import Identity
from tests.corpus.dump import BlockDevice, Dump, PciDevice
from tests.corpus.synthesis import Synthesis, synthesise

_VGA = 0x0300
_NVME_PATH = re.compile(r"nvme([0-9]+)c[0-9]+n[0-9]+")
_DIRECTORIES = (
    "sys/bus/pci/devices",
    "sys/bus/pci/drivers",
    "sys/kernel/iommu_groups",
    "sys/class/net",
    "sys/class/block",
    "sys/class/nvme",
    "sys/class/nvme-subsystem",
    "sys/dev/block",
    "sys/dev/char",
    "proc/net",
    "proc/self",
    "proc/1/fd",
    "dev/vfio",
)


class Tree(NamedTuple):
    """A machine made of files below `root`: of what its dump says, and of what was synthesised."""

    root: str
    dump: Dump
    synthesised: Synthesis


def build(dump: Dump, root: str, synthesis: Synthesis | None = None) -> Tree:
    """Lay the machine out below `root`, a directory that is empty or not there.

    Without `synthesis` everything that the dump lacks is made up by `synthesise`. Names, links and the text of
    attributes are those of Linux 6.12; only attributes and links that tell what a device is and what it is used for
    are there. Raises OSError, and ValueError when the synthesis names a device that the dump does not have.
    """
    made_up = synthesise(dump) if synthesis is None else synthesis
    _check(dump, made_up)
    for directory in _DIRECTORIES:
        os.makedirs(f"{root}/{directory}")
    _write(f"{root}/sys/bus/pci/drivers_probe", "")
    for device in dump.pci:
        _function(root, device, made_up)
    for interface in dump.interfaces:
        _class_link(root, "class/net", interface.name, interface.path)
    for controller in dump.nvme:
        _class_link(root, "class/nvme", controller.name, controller.path)
    for block in dump.blocks:
        _class_link(root, "class/block", block.name, block.path)
        if block.number is not None:
            _class_link(root, "dev/block", block.number, block.path)
    _nvme_subsystems(root, dump)
    _members(root, dump, made_up)
    _proc(root, dump, made_up)
    return Tree(root, dump, made_up)


def _check(dump: Dump, made_up: Synthesis) -> None:
    slots = {device.slot for device in dump.pci}
    blocks = {block.name for block in dump.blocks}
    named = {
        "PCI function": {*made_up.groups, *made_up.nodes, made_up.boot_display, made_up.framebuffer} - {None} - slots,
        "block device": {made_up.root_disk, *made_up.members, *(m for ms in made_up.members.values() for m in ms)}
        - {None}
        - blocks,
        "interface": {made_up.default_interface} - {None} - {each.name for each in dump.interfaces},
    }
    for kind, unknown in named.items():
        if unknown:
            raise ValueError(f"{dump.source}: has no {kind} {', '.join(map(str, unknown))}")


def _identity(device: PciDevice) -> Identity:
    subsystem = (device.subsystem_vendor, device.subsystem_device)
    return Identity(device.vendor, device.device, *subsystem, device.class_code)


def _function(root: str, device: PciDevice, made_up: Synthesis) -> None:
    directory = f"{root}/sys{device.path}"
    os.makedirs(directory, exist_ok=True)
    attributes = {
        "vendor": f"{device.vendor:#06x}",
        "device": f"{device.device:#06x}",
        "subsystem_vendor": f"{device.subsystem_vendor:#06x}",
        "subsystem_device": f"{device.subsystem_device:#06x}",
        "class": f"{device.class_code:#08x}",
        "driver_override": "(null)",
        "numa_node": str(made_up.nodes.get(device.slot, -1)),
        "modalias": device.modalias or _identity(device).modalias,
    }
    # The kernel shows it for VGA functions only, not for 3D and other displays.
    if device.class_code >> 8 == _VGA:
        boot = device.slot == made_up.boot_display if device.boot_vga is None else device.boot_vga
        attributes["boot_vga"] = str(int(boot))
    for name, text in attributes.items():
        _write(f"{directory}/{name}", f"{text}\n")
    _link(f"{root}/sys/bus/pci/devices/{device.slot}", directory)
    if device.driver is not None:
        driver = f"{root}/sys/bus/pci/drivers/{device.driver}"
        if not os.path.isdir(driver):
            os.mkdir(driver)
            _write(f"{driver}/bind", "")
            _write(f"{driver}/unbind", "")
        _link(f"{driver}/{device.slot}", directory)
        _link(f"{directory}/driver", driver)
    if device.slot in made_up.groups:
        group = f"{root}/sys/kernel/iommu_groups/{made_up.groups[device.slot]}"
        os.makedirs(f"{group}/devices", exist_ok=True)
        _link(f"{group}/devices/{device.slot}", directory)
        _link(f"{directory}/iommu_group", group)


def _class_link(root: str, place: str, name: str, path: str) -> None:
    os.makedirs(f"{root}/sys{path}", exist_ok=True)
    _link(f"{root}/sys/{place}/{name}", f"{root}/sys{path}")


def _nvme_subsystems(root: str, dump: Dump) -> None:
    """The controllers of each NVMe subsystem that has multipath disks: the names of its hidden paths tell them."""
    for block in dump.blocks:
        match = _NVME_PATH.fullmatch(block.name)
        if match is None:
            continue
        name, controller = f"nvme-subsys{match[1]}", block.path.rpartition("/")[0]
        subsystem = f"/devices/virtual/nvme-subsystem/{name}"
        if not os.path.lexists(f"{root}/sys/class/nvme-subsystem/{name}"):
            _class_link(root, "class/nvme-subsystem", name, subsystem)
        # One for each namespace of the controller, so it may be there.
        link = f"{root}/sys{subsystem}/{controller.rpartition('/')[2]}"
        if not os.path.lexists(link):
            _link(link, f"{root}/sys{controller}")


def _members(root: str, dump: Dump, made_up: Synthesis) -> None:
    """What arrays and mappings are made of: links in `slaves`."""
    paths = {block.name: f"{root}/sys{block.path}" for block in dump.blocks}
    for block in dump.blocks:
        members = [name for name in block.members if name in paths]
        for name in dict.fromkeys([*members, *made_up.members.get(block.name, ())]):
            os.makedirs(f"{paths[block.name]}/slaves", exist_ok=True)
            _link(f"{paths[block.name]}/slaves/{name}", paths[name])


def _proc(root: str, dump: Dump, made_up: Synthesis) -> None:
    routes = ["Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"]
    if made_up.default_interface is not None:
        # 192.0.2.1 is the gateway of 192.0.2.0/24: documentation's addresses, in the byte order of x86.
        routes += [
            f"{made_up.default_interface}\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            f"{made_up.default_interface}\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
        ]
    mounts = ["22 1 0:21 / /proc rw,nosuid - proc proc rw"]
    if made_up.root_disk is not None:
        disk = next(block for block in dump.blocks if block.name == made_up.root_disk)
        mounts.append(_mount(disk))
    memory = ["00000000-00000fff : Reserved"]
    if made_up.framebuffer is not None:
        # The addresses are made up, too: 256 MiB of the function's, of which the console's picture takes a part.
        memory += [
            f"c0000000-cfffffff : PCI Bus {made_up.framebuffer[:-5]}",
            f"  c0000000-cfffffff : {made_up.framebuffer}",
            "    c0000000-c02fffff : efifb",
        ]
    _write(f"{root}/proc/iomem", "".join(f"{line}\n" for line in memory))
    _write(f"{root}/proc/net/route", "".join(f"{line}\n" for line in routes))
    _write(f"{root}/proc/self/mountinfo", "".join(f"{line}\n" for line in mounts))
    _write(f"{root}/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
    _write(f"{root}/proc/net/tcp", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n")
    _write(f"{root}/proc/devices", "Character devices:\n  1 mem\n\nBlock devices:\n  8 sd\n")
    os.symlink("/dev/null", f"{root}/proc/1/fd/0")


def _mount(disk: BlockDevice) -> str:
    # A disk without a number is mounted under the number of the file system itself, as btrfs is.
    number, kind = (disk.number, disk.filesystem or "ext4") if disk.number else ("0:22", "btrfs")
    return f"23 1 {number} / / rw,relatime shared:1 - {kind} /dev/{disk.name} rw"


def _link(link: str, target: str) -> None:
    """A link as sysfs makes them: relative, and to where the target really is."""
    os.symlink(os.path.relpath(target, os.path.dirname(link)), link)


def _write(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
