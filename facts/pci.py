"""What PCI devices a host has, and which of them it uses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts import pciids
from pcibind.model import record
from pcibind.model.errors import PcibindError
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Address, Function, Topology, class_name
from pcibind.model.record import Record
from pcibind.model.report import function_json
from pcibind.read import evidence_text
from pcibind.read.files import Paths
from pcibind.remote import topology_text
from pcibind.remote.detail import Detail

_RECORD = Paths().record


class NamedTopology(Topology):
    """A topology that tools can read as JSON, with the names that this machine knows."""

    def to_json(self) -> dict[str, Any]:
        """The host's functions, bridges among them, and what could not be read.

        The names of the keys are those of pcibind's reports, where there is one. A link's widths are lanes and its
        speeds the kernel's text; ``numa_node`` is ``None`` where the firmware names none.
        """
        return {
            "functions": [_function_json(each, self.details.get(each.address, Detail())) for each in self.functions],
            "unreadable": list(self.unreadable),
        }


def _function_json(function: Function, detail: Detail) -> dict[str, Any]:
    names = pciids.installed()
    identity = function.identity
    return {
        **function_json(function),
        "bridge": function.is_bridge,
        "class_name": class_name(function.class_code),
        "vendor_name": names.vendor(identity.vendor),
        "device_name": names.device(identity.vendor, identity.device),
        "subsystem_name": names.subsystem(*identity[:4]),
        "boot_vga": function.boot_vga,
        "locked": function.locked,
        "iommu_group_type": detail.iommu_group_type,
        "numa_node": detail.numa_node,
        "link": detail.link._asdict() if detail.link else None,
        "sriov": detail.sriov._asdict() if detail.sriov else None,
        "physical_function": str(detail.physical_function) if detail.physical_function else None,
        "reset_methods": list(detail.reset_methods),
        "slot": detail.slot,
        "modules": [module._asdict() for module in detail.modules],
    }


class PciTopology(FactBase[NamedTopology]):
    """The host's whole PCI topology, as pcibind's model. Needs no root and no tools beyond find, grep and sed."""

    @staticmethod
    def default() -> NamedTopology:
        return NamedTopology()

    def command(self) -> str:
        return topology_text.COMMAND

    def process(self, output: list[str]) -> NamedTopology:
        try:
            topology = topology_text.parse(output)
        except ValueError as error:
            raise FactProcessError(f"the PCI topology cannot be read: {error}") from error
        return NamedTopology(topology.functions, topology.details, topology.unreadable)


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """What the guards decide by."""

    evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in self.evidence._asdict().items()}


class PciUsage(FactBase[DeviceUsage | None]):
    """What of the PCI devices is in use by the host: routes, disks, virtual functions, the boot display."""

    def command(self) -> str:
        return evidence_text.COMMAND

    def process(self, output: list[str]) -> DeviceUsage:
        try:
            return DeviceUsage(evidence_text.parse(output))
        except ValueError as error:
            raise FactProcessError(f"the use of the PCI devices cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class RecordedBoards:
    """What pcibind recorded; ``record`` is ``None`` when it never did."""

    record: Record | None = None

    def to_json(self) -> Any:
        return None if self.record is None else json.loads(record.dump(self.record))


class PciRecord(FactBase[RecordedBoards]):
    """The boards that pcibind recorded on the node."""

    @staticmethod
    def default() -> RecordedBoards:
        return RecordedBoards()

    def command(self) -> str:
        return f"if [ -e {_RECORD} ]; then cat {_RECORD}; fi"

    def process(self, output: list[str]) -> RecordedBoards:
        try:
            return RecordedBoards(record.parse("\n".join(output)))
        except (ValueError, PcibindError) as error:
            raise FactProcessError(f"{_RECORD} cannot be read: {error}") from error


def _plain(value: Any) -> Any:
    """Named tuples as objects, addresses as text, sets sorted."""
    match value:
        case Address():
            return str(value)
        case frozenset():
            return sorted(map(str, value))
        case tuple() if hasattr(value, "_asdict"):
            return {name: _plain(each) for name, each in value._asdict().items()}
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value


# States of a board, by pcibind's report, in which it is chosen and not bound.
_LACKING = frozenset({"planned", "recorded", "unbound", "refused", "failed", "stuck"})


@dataclass(frozen=True, slots=True)
class Binding:
    """What ``pcibind status`` says. ``exit_code`` is 0 when enough of what is recorded is bound and handed over."""

    exit_code: int
    report: dict[str, object]

    @property
    def bound(self) -> bool:
        """Whether every board on record is bound and handed over, and not just enough of them."""
        boards = self.report.get("boards")
        states = [each.get("state") for each in boards if isinstance(each, dict)] if isinstance(boards, list) else []
        return self.exit_code == 0 and not _LACKING.intersection(map(str, states))

    def to_json(self) -> dict[str, object]:
        return {"exit_code": self.exit_code, "report": self.report}


class PciBinding(FactBase[Binding | None]):
    """The state of the recorded boards as the ``program`` pcibind on the host sees it; ``None`` without it."""

    def requires_command(self, program: str) -> str:
        return program

    def command(self, program: str) -> str:
        return f"{quote(program)} status --json; echo $?"

    def process(self, output: list[str]) -> Binding:
        try:
            return Binding(int(output[-1]), json.loads("\n".join(output[:-1]) or "{}"))
        except ValueError as error:
            raise FactProcessError(f"pcibind status printed no report: {error}") from error
