"""Machines that are generated: a server of eight GPUs with two hundred functions, and a desktop machine."""

from __future__ import annotations

from typing import Any

from tests.fleet.parts import VFIO, Json, board, function, host, link


class _Server:
    """Functions of a server as they are added; each new root port, port and device has the next free bus and group."""

    def __init__(self) -> None:
        self.functions: list[Json] = []
        self.groups = 0

    def add(self, address: str, path: str, model: str, class_code: int, name: str, **changes: Any) -> Json:
        vendors = {"8086": "Intel Corporation", "10de": "NVIDIA Corporation", "15b3": "Mellanox Technologies"}
        vendors |= {"144d": "Samsung Electronics Co Ltd", "1000": "Broadcom / LSI", "1a03": "ASPEED Technology, Inc."}
        made = function(address, path, model, class_code, name, vendors.get(model[:4]), **changes)
        if made["iommu_group"] is None:
            made["iommu_group"] = self.next_group()
        self.functions.append(made)
        return made

    def next_group(self) -> int:
        self.groups += 1
        return self.groups - 1


_SYSTEM = (
    ("8086:09a2", 0x088000, "Ice Lake Memory Map/VT-d"),
    ("8086:09a4", 0x088000, "Ice Lake Mesh 2 PCIe"),
    ("8086:09a3", 0x088000, "Ice Lake RAS"),
    ("8086:0998", 0x080700, "Ice Lake IEH"),
)
_UNCORE = ("System Agent", "Mesh Scalable Memory Controller", "UPI Misc", "Power Control Unit", "CHA", "M2M")


def eight_gpu_server(name: str = "gpu-server", **changes: Any) -> Json:
    """The server with trouble: one GPU runs at half its width, one is half the host's, and one is the host's."""
    made = eight_gpu_server_in_order(name)
    boards = made["boards"]["list"]
    gpus = [
        [each for each in made["topology"]["functions"] if each["path"].rpartition(".")[0] == placed["path"]]
        for placed in boards
    ]
    gpus[2][0]["link"] = gpus[2][1]["link"] = link(5, 8, 5, 16)
    gpus[4][1].update(driver="snd_hda_intel", driver_override=None)
    boards[4].update(
        state="failed",
        viable=False,
        detail=f"{gpus[4][1]['address']} has the driver snd_hda_intel, expected vfio-pci; run pcibind apply",
    )
    gpus[6][0]["driver"], gpus[6][1]["driver"] = "nvidia", None
    boards[6].update(
        state="refused",
        viable=False,
        detail=f"{gpus[6][0]['address']} is in use by process 4711 (nvidia-persistenced); stop it",
    )
    made["boards"]["bound"] = 6
    return {
        **made,
        "severity": "wrong",
        "reasons": [
            f"board gpu5 ({boards[4]['address']}) failed: its audio function is not on vfio-pci",
            f"board gpu7 ({boards[6]['address']}) is refused: in use by the host",
            f"board gpu3 ({boards[2]['address']}) has half of its link's width",
        ],
        "drift": ["/etc/default/grub.d/zz-gpu-host.cfg is not as it was deployed"],
        **changes,
    }


def eight_gpu_server_in_order(name: str = "gpu-server") -> Json:
    """A server of two NUMA nodes, each with two PCI Express switches; on each switch two GPUs, a NIC and a disk.

    About two hundred functions: the rest are what a server's processors have on their root buses.
    """
    server = _Server()
    _chipset(server)
    for node, first in enumerate((0x16, 0x97)):
        for number in range(2):
            _switch(server, node, first + 0x20 * number)
        _disks(server, node, first + 0x40)
        for uncore in range(2):
            _uncore(server, node, (0x7E, 0xFE)[node] + uncore)
    gpus = sorted(each["path"].rpartition(".")[0] for each in server.functions if each["class"] == "030200")
    for each in server.functions:
        if each["path"].rpartition(".")[0] in gpus:
            each.update(driver=VFIO, driver_override=VFIO)
    return host(
        name,
        server.functions,
        [board(f"gpu{number}", path, server.functions) for number, path in enumerate(gpus, start=1)],
        platform={
            "name": "Ubuntu 24.04.3 LTS",
            "kernel": "6.8.0-88-generic",
            "cores": 128,
            "memory_kib": 2_113_000_000,
        },
    )


def _system(server: _Server, node: int, bus: int) -> None:
    """The functions that each root bus of a server's processor has, which no driver takes."""
    group = server.next_group()
    for number, (model, class_code, name) in enumerate(_SYSTEM):
        suffix = f"00.{number}"
        server.add(
            f"0000:{bus:02x}:{suffix}",
            f"0000:{bus:02x}/{suffix}",
            model,
            class_code,
            name,
            iommu_group=group,
            numa_node=node,
        )


def _port(server: _Server, node: int, bus: int, path: str, slot: str, name: str, model: str) -> str:
    """A bridge on a bus; answers its path."""
    server.add(f"0000:{bus:02x}:{slot}", f"{path}/{slot}", model, 0x060400, name, numa_node=node)
    return f"{path}/{slot}"


def _switch(server: _Server, node: int, bus: int) -> None:
    _system(server, node, bus)
    root = _port(server, node, bus, f"0000:{bus:02x}", "01.0", "Ice Lake PCI Express Root Port A", "8086:352a")
    switch = _port(server, node, bus + 1, root, "00.0", "PEX890xx PCIe Gen 5 Switch", "1000:c030")
    below = bus + 2
    for slot in range(6):
        port = _port(server, node, below, switch, f"{slot:02x}.0", "PEX890xx PCIe Gen 5 Switch", "1000:c030")
        target = below + 1 + slot
        if slot < 2:
            _gpu(server, node, target, port, str(slot + 1 + (bus >> 4) * 2 % 16))
        elif slot == 2:
            _nic(server, node, target, port)
        elif slot == 3:
            _disk(server, node, target, port)


def _gpu(server: _Server, node: int, bus: int, port: str, slot: str) -> None:
    group = server.next_group()
    shared = {
        "iommu_group": group,
        "numa_node": node,
        "link": link(5, 16),
        "reset_methods": ["flr", "bus"],
        "slot": slot,
    }
    server.add(
        f"0000:{bus:02x}:00.0",
        f"{port}/00.0",
        "10de:2bb5",
        0x030200,
        "GB202GL [RTX PRO 6000 Blackwell Server Edition]",
        modules=["nouveau"],
        **shared,
    )
    server.add(
        f"0000:{bus:02x}:00.1",
        f"{port}/00.1",
        "10de:22e8",
        0x040300,
        "GB202 High Definition Audio Controller",
        modules=["snd_hda_intel"],
        **shared,
    )


def _nic(server: _Server, node: int, bus: int, port: str) -> None:
    physical = f"0000:{bus:02x}:00.0"
    server.add(
        physical,
        f"{port}/00.0",
        "15b3:1021",
        0x020000,
        "MT2910 Family [ConnectX-7]",
        driver="mlx5_core",
        numa_node=node,
        link=link(5, 16),
        sriov={"total": 16, "enabled": 6},
        reset_methods=["flr"],
    )
    for number in range(1, 7):
        server.add(
            f"0000:{bus:02x}:00.{number}",
            f"{port}/00.{number}",
            "15b3:101e",
            0x020000,
            "ConnectX Family mlx5Gen Virtual Function",
            driver="mlx5_core",
            numa_node=node,
            physical_function=physical,
        )


def _disk(server: _Server, node: int, bus: int, port: str, generation: int = 4) -> None:
    server.add(
        f"0000:{bus:02x}:00.0",
        f"{port}/00.0",
        "144d:a824",
        0x010802,
        "NVMe SSD Controller PM173X",
        driver="nvme",
        numa_node=node,
        link=link(generation, 4, 4, 4),
    )


def _disks(server: _Server, node: int, bus: int) -> None:
    """A root bus with disks on ports of its own, one of them in a slow slot, and an empty port."""
    _system(server, node, bus)
    for number in range(3):
        slot = f"{2 + number:02x}.0"
        port = _port(server, node, bus, f"0000:{bus:02x}", slot, "Ice Lake PCI Express Root Port", "8086:352b")
        if number < 2:
            _disk(server, node, bus + 1 + number, port, generation=4 - number)


def _uncore(server: _Server, node: int, bus: int) -> None:
    for slot in range(4):
        group = server.next_group()
        for number in range(4):
            suffix = f"{slot:02x}.{number}"
            server.add(
                f"0000:{bus:02x}:{suffix}",
                f"0000:{bus:02x}/{suffix}",
                "8086:3450",
                0x110100 if number == 1 else 0x088000,
                f"Ice Lake {_UNCORE[(slot + number) % len(_UNCORE)]}",
                driver="icx_uncore" if number == 1 else None,
                iommu_group=group,
                numa_node=node,
            )


def _chipset(server: _Server) -> None:
    """Root bus 0, whose devices do not say which node they are on."""
    _system(server, -1, 0)
    for slot, model, class_code, name, driver in (
        ("11.5", "8086:a1d2", 0x010601, "C620 Series Chipset Family SSATA Controller", "ahci"),
        ("14.0", "8086:a1af", 0x0C0330, "C620 Series Chipset Family USB 3.0 xHCI Controller", "xhci_hcd"),
        ("14.2", "8086:a1b1", 0x118000, "C620 Series Chipset Family Thermal Subsystem", None),
        ("16.0", "8086:a1ba", 0x078000, "C620 Series Chipset Family MEI Controller #1", "mei_me"),
        ("1f.0", "8086:a1c3", 0x060100, "C621 Series Chipset LPC/eSPI Controller", None),
        ("1f.4", "8086:a1a3", 0x0C0500, "C620 Series Chipset Family SMBus", "i801_smbus"),
    ):
        server.add(f"0000:00:{slot}", f"0000:00/{slot}", model, class_code, name, driver=driver)
    port = _port(server, -1, 0, "0000:00", "1c.0", "C620 Series Chipset Family PCI Express Root Port #1", "8086:a190")
    bridge = _port(server, -1, 2, port, "00.0", "AST1150 PCI-to-PCI Bridge", "1a03:1150")
    server.add(
        "0000:03:00.0",
        f"{bridge}/00.0",
        "1a03:2000",
        0x030000,
        "ASPEED Graphics Family",
        driver="ast",
        boot_vga=True,
    )
    port = _port(server, -1, 0, "0000:00", "1d.0", "C620 Series Chipset Family PCI Express Root Port #9", "8086:a198")
    for number in range(2):
        server.add(
            f"0000:04:00.{number}",
            f"{port}/00.{number}",
            "8086:1563",
            0x020000,
            "Ethernet Controller X550",
            driver="ixgbe",
            link=link(3, 4),
        )


def workstation(name: str) -> Json:
    """A machine of one processor with two GPUs of two functions each, a NIC and a disk."""
    server = _Server()
    _system(server, 0, 0)
    for number in range(2):
        port = _port(server, 0, 0, "0000:00", f"0{number + 1}.0", "Ice Lake PCI Express Root Port", "8086:352a")
        group = server.next_group()
        for function_number, (model, class_code, device) in enumerate(
            (
                ("10de:2684", 0x030000, "AD102 [GeForce RTX 4090]"),
                ("10de:22ba", 0x040300, "AD102 High Definition Audio Controller"),
            )
        ):
            server.add(
                f"0000:0{number + 1}:00.{function_number}",
                f"{port}/00.{function_number}",
                model,
                class_code,
                device,
                driver=VFIO,
                driver_override=VFIO,
                iommu_group=group,
                numa_node=0,
                # What a GPU's link is like while nothing uses it.
                link=link(1, 16, 4, 16),
                reset_methods=["bus"],
                slot=str(number + 1),
            )
    port = _port(server, 0, 0, "0000:00", "1c.0", "Ice Lake PCI Express Root Port", "8086:352b")
    _disk(server, 0, 3, port)
    port = _port(server, 0, 0, "0000:00", "1d.0", "Ice Lake PCI Express Root Port", "8086:352b")
    server.add(
        "0000:04:00.0",
        f"{port}/00.0",
        "8086:1563",
        0x020000,
        "Ethernet Controller X550",
        driver="ixgbe",
        numa_node=0,
        link=link(3, 4),
    )
    return host(
        name,
        server.functions,
        [board(f"gpu{number}", f"0000:00/0{number}.0/00", server.functions) for number in (1, 2)],
    )
