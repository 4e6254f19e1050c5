"""What PCI devices a host has, and which of them it uses."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from pcibind import evidence_text, record, topology_text
from pcibind.errors import PcibindError
from pcibind.evidence import Evidence
from pcibind.model import Topology
from pcibind.record import Record


class PciTopology(FactBase[Topology]):
    """The host's whole PCI topology, as pcibind's model. Needs no root and no tools beyond find and grep."""

    @staticmethod
    def default() -> Topology:
        return Topology(())

    def command(self) -> str:
        return topology_text.COMMAND

    def process(self, output: list[str]) -> Topology:
        try:
            return topology_text.parse(output)
        except ValueError as error:
            raise FactProcessError(f"the PCI topology cannot be read: {error}") from error


class PciUsage(FactBase[Evidence | None]):
    """What of the PCI devices is in use by the host: routes, disks, virtual functions, the boot display."""

    def command(self) -> str:
        return evidence_text.COMMAND

    def process(self, output: list[str]) -> Evidence:
        try:
            return evidence_text.parse(output)
        except ValueError as error:
            raise FactProcessError(f"the use of the PCI devices cannot be read: {error}") from error


class PciRecord(FactBase[Record | None]):
    """The boards that pcibind recorded on the node, or ``None`` when it never did."""

    def command(self) -> str:
        return "cat /var/lib/pcibind/record.json 2>/dev/null || true"

    def process(self, output: list[str]) -> Record:
        try:
            return record.parse("\n".join(output))
        except (ValueError, PcibindError) as error:
            raise FactProcessError(f"/var/lib/pcibind/record.json cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Binding:
    """What ``pcibind status`` says. ``exit_code`` is 0 when all that is recorded is bound and handed over."""

    exit_code: int
    report: dict[str, object]

    @property
    def bound(self) -> bool:
        return self.exit_code == 0

    def to_json(self) -> dict[str, object]:
        return {"exit_code": self.exit_code, "report": self.report}


class PciBinding(FactBase[Binding | None]):
    """The state of the recorded boards as pcibind on the node sees it, or ``None`` where it is not installed."""

    def requires_command(self) -> str:
        return "/usr/local/sbin/pcibind"

    def command(self) -> str:
        return "/usr/local/sbin/pcibind status --json; echo $?"

    def process(self, output: list[str]) -> Binding:
        try:
            return Binding(int(output[-1]), json.loads("\n".join(output[:-1]) or "{}"))
        except ValueError as error:
            raise FactProcessError(f"pcibind status printed no report: {error}") from error
