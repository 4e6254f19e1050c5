"""Two machines: the lab's, and NVIDIA's DGX station as its dump in the corpus has it."""

from __future__ import annotations

import re
from typing import Any

from tests.corpus import dump, machines, records
from tests.corpus.synthesis import synthesise
from tests.fleet.parts import VFIO, Json, board, function, host

DGX_STATION = "NVIDIA_DGX_STATION"


def lab(name: str = "lab-01", **changes: Any) -> Json:
    """A small host: two boards of four functions for the node, and in front of them their twin, left to the host."""
    functions = [
        function("0000:00:00.0", "0000:00/00.0", "8086:29c0", 0x060000, "82G33/G31/P35/P31 Express DRAM Controller"),
        function("0000:00:01.0", "0000:00/01.0", "1234:1111", 0x030000, None, driver="bochs-drm", boot_vga=True),
        function("0000:00:1d.0", "0000:00/1d.0", "1af4:1000", 0x020000, "Virtio network device", driver="virtio-pci"),
        function("0000:00:1e.0", "0000:00/1e.0", "1af4:1001", 0x010000, "Virtio block device", driver="virtio-pci"),
        function("0000:00:1f.0", "0000:00/1f.0", "8086:2918", 0x060100, "82801IB (ICH9) LPC Interface Controller"),
        function("0000:00:1f.2", "0000:00/1f.2", "8086:2922", 0x010601, "82801IR/IO/IH SATA Controller", driver="ahci"),
        function("0000:00:1f.3", "0000:00/1f.3", "8086:2930", 0x0C0500, "82801I (ICH9 Family) SMBus Controller"),
    ]
    groups = {"00": 0, "01": 1, "1d": 5, "1e": 6, "1f": 7}
    for each in functions:
        each["iommu_group"] = groups[each["address"][8:10]]
    for bus, slot in enumerate((3, 4, 5), start=1):
        port = f"0000:00/{slot:02x}.0"
        functions.append(
            function(f"0000:00:{slot:02x}.0", port, "1b36:000c", 0x060400, "QEMU PCIe Root port", iommu_group=slot - 1)
        )
        for number, (model, class_code, driver) in enumerate(
            (
                ("1234:1111", 0x038000, "bochs-drm"),
                ("8086:2668", 0x040300, "snd_hda_intel"),
                ("1b36:000d", 0x0C0330, "xhci_hcd"),
                ("1b36:0002", 0x070002, "serial"),
            )
        ):
            ours = slot > 3
            functions.append(
                function(
                    f"0000:{bus:02x}:00.{number}",
                    f"{port}/00.{number}",
                    model,
                    class_code,
                    {0x0403: "82801FB (ICH6) HD Audio Controller", 0x0C03: "QEMU XHCI Host Controller"}.get(
                        class_code >> 8
                    ),
                    driver=VFIO if ours else driver,
                    driver_override=VFIO if ours else None,
                    iommu_group=7 + bus,
                    slot=str(slot),
                )
            )
    boards = [board(f"gpu{slot - 3}", f"0000:00/{slot:02x}.0/00", functions) for slot in (4, 5)]
    return host(name, functions, boards, **changes)


def dgx_station(name: str = "dgx-station", wanted: int = 4, **changes: Any) -> Json:
    """A real machine's devices, with IOMMU groups and NUMA nodes that are synthesised, as its lint says.

    Its four GPUs had NVIDIA's driver; here the first `wanted` are the node's. Raises OSError without the corpus.
    """
    machine = machines.load(DGX_STATION)
    made_up = synthesise(machine)
    names = _names(machines.path(DGX_STATION).read_bytes())
    functions = []
    gpus: list[str] = []
    for each in sorted(machine.pci, key=lambda device: device.slot):
        path = _path(each)
        if each.class_code >> 16 == 0x03:
            gpus.append(path.rpartition(".")[0])
        functions.append(
            function(
                each.slot,
                path,
                f"{each.vendor:04x}:{each.device:04x}",
                each.class_code,
                names.get(each.path, (None, None))[1],
                names.get(each.path, (None, None))[0],
                subsystem_vendor=f"{each.subsystem_vendor:04x}",
                subsystem_device=f"{each.subsystem_device:04x}",
                driver=each.driver,
                iommu_group=made_up.groups[each.slot],
                numa_node=made_up.nodes[each.slot],
            )
        )
    chosen = gpus[:wanted]
    for each_function in functions:
        if each_function["path"].rpartition(".")[0] in chosen:
            each_function.update(driver=VFIO, driver_override=VFIO)
    boards = [board(f"gpu{number}", path, functions) for number, path in enumerate(chosen, start=1)]
    synthesised = ["IOMMU groups and NUMA nodes are synthesised: the dump of this machine does not hold them"]
    return host(name, functions, boards, **{"lint": synthesised, **changes})


def _path(device: dump.PciDevice) -> str:
    """The bridge-relative path of a function, as the document has it."""
    parts = device.path.split("/")
    roots = [index for index, part in enumerate(parts) if re.fullmatch(r"pci[0-9a-f]{4,}:[0-9a-f]{2}", part)]
    return "/".join([parts[roots[-1]].removeprefix("pci"), *(part[-4:] for part in parts[roots[-1] + 1 :])])


def _names(data: bytes) -> dict[str, tuple[str | None, str | None]]:
    """Vendor's and device's names out of udev's hardware database, by the path below /sys."""
    return {
        each.path: (
            each.properties.get("ID_VENDOR_FROM_DATABASE"),
            each.properties.get("ID_MODEL_FROM_DATABASE"),
        )
        for each in records.parse(data, DGX_STATION).records
    }
