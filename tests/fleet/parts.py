"""Parts of documents of schema `gevulot-fleet/1`: hosts, boards, functions, links; all ok by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pcibind.model.pci import class_name

Json = dict[str, Any]

GENERATED = "2026-11-22T22:40:00Z"
GENERATED_SECONDS = 1_795_387_200
"""The same since 1970."""

VFIO = "vfio-pci"

_DIGEST = "sha256:a729f620a7330f0c1b6de3ff7b5a2f6ae92a5dd51a3d63fc9d7e2c1c5b8f0e44"


def document(*hosts: Json) -> Json:
    """A document of these hosts."""
    return {"schema": "gevulot-fleet/1", "generated": GENERATED, "hosts": list(hosts)}


def unknown(name: str, severity: str = "down", reasons: Sequence[str] = ()) -> Json:
    """A host of which nothing is known."""
    sections = (
        *("platform", "boards", "iommu", "kernel_arguments", "reboot_pending", "podman", "database", "migration"),
        *("node", "health", "activity", "image", "storage", "key", "verified", "topology"),
    )
    return {
        "name": name,
        "severity": severity,
        "reasons": list(reasons),
        **dict.fromkeys(sections),
        "lint": [],
        "drift": [],
    }


def host(name: str, functions: Sequence[Json] = (), boards: Sequence[Json] = (), **changes: Any) -> Json:
    """A host without problems, but for what `changes` says."""
    return {
        "name": name,
        "severity": "ok",
        "reasons": [],
        "platform": {
            "name": "Debian GNU/Linux 13 (trixie)",
            "kernel": "6.12.57+deb13-amd64",
            "cores": 64,
            "memory_kib": 527_000_000,
        },
        "boards": {
            "wanted": len(boards),
            "bound": sum(board["state"] == "bound" for board in boards),
            "list": list(boards),
        },
        "iommu": {"table": "DMAR", "on": True, "interrupt_remapping": True},
        "kernel_arguments": {"wanted": ["intel_iommu=on", "iommu=pt"], "live": True, "configured": True},
        "reboot_pending": [],
        "podman": "5.4.2",
        "database": {"kind": "own", "reachable": True, "release": 16, "missing": []},
        "migration": "success",
        "node": {"unit": "active", "since": GENERATED_SECONDS - 12 * 86_400},
        "peers": "loopback only",
        "health": 200,
        "activity": {"state": "idle", "programs": []},
        "image": {"reference": "quay.io/gevulot/node:latest", "digest": _DIGEST},
        "storage": {"path": "/var/lib/gevulot", "free_kib": 1_310_000_000, "size_kib": 1_992_294_400},
        "key": {"state": "present", "public": "04a059f5e96fb8b586dd7c1e"},
        "verified": "2026-11-22T20:00:00Z",
        "lint": [],
        "drift": [],
        "topology": {"functions": sorted(functions, key=lambda each: str(each["address"]))},
        **changes,
    }


def board(name: str | None, path: str, functions: Iterable[Json], **changes: Any) -> Json:
    """A wanted board at a path, bound, but for what `changes` says; `functions` are the host's."""
    own = [each for each in functions if each["path"].rpartition(".")[0] == path]
    first = own[0] if own else None
    return {
        "name": name,
        "path": path,
        "address": first and first["address"],
        "model": first and f"{first['vendor']}:{first['device']}",
        "model_name": first and first["device_name"] and f"{first['vendor_name']} {first['device_name']}",
        "verdict": "present",
        "state": "bound",
        "detail": "",
        "groups": sorted({each["iommu_group"] for each in own if each["iommu_group"] is not None}),
        "viable": True,
        **changes,
    }


def link(generation: int, width: int, of_generation: int | None = None, of_width: int | None = None) -> Json:
    """A PCI Express link at a generation (1 to 5) and width, and what the device could do if that is more."""
    speeds = {1: "2.5", 2: "5.0", 3: "8.0", 4: "16.0", 5: "32.0"}
    return {
        "speed": f"{speeds[generation]} GT/s PCIe",
        "width": width,
        "max_speed": f"{speeds[of_generation or generation]} GT/s PCIe",
        "max_width": of_width or width,
    }


def function(
    address: str,
    path: str,
    model: str,
    class_code: int,
    name: str | None = None,
    vendor: str | None = None,
    **changes: Any,
) -> Json:
    """A PCI function; `model` is VENDOR:DEVICE, `path` that of the function."""
    vendor_id, device_id = model.split(":")
    return {
        "address": address,
        "path": path,
        "vendor": vendor_id,
        "device": device_id,
        "subsystem_vendor": vendor_id,
        "subsystem_device": "0000",
        "class": f"{class_code:06x}",
        "class_name": class_name(class_code),
        "vendor_name": vendor,
        "device_name": name,
        "bridge": class_code >> 16 == 0x06,
        "driver": "pcieport" if class_code >> 8 == 0x0604 else None,
        "driver_override": None,
        "modules": [],
        "iommu_group": None,
        "iommu_group_type": "DMA-FQ",
        "numa_node": -1,
        "link": None,
        "sriov": None,
        "physical_function": None,
        "boot_vga": False,
        "reset_methods": [],
        "slot": None,
        "locked": False,
        **changes,
    }
