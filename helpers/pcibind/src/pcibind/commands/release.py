"""Giving boards back: the drivers and overrides from before they were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from pcibind.change import handover
from pcibind.commands import boot
from pcibind.commands.host import Host
from pcibind.model import record
from pcibind.model.errors import ConfigError
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.refusal import Refusal
from pcibind.model.report import INITRAMFS_NOTE, Report, State
from pcibind.read import files


def release(host: Host, names: Sequence[str] = ()) -> Report:
    """Give back the boards of these names, paths or addresses; without any, all that are recorded.

    Raises ConfigError for an unknown name, before anything is touched; RecordError, OSError.
    """
    with host.locked():
        known = record.read(host.paths.record) or Record()
        chosen = _named(known, names)
        topology = host.topology()
        refusals = _sharing(topology, chosen, [b for b in known.boards if b not in chosen])
        refused = {refusal.board for refusal in refusals}
        reports = [boot.report_on(topology, b, State.REFUSED) for b in chosen if b.path in refused]
        going = [board for board in chosen if board.path not in refused]
        before = files.read(host.paths.early_list)
        staying = known._replace(
            boards=tuple(b for b in known.boards if b not in going),
            leaving=tuple(b for b in known.leaving if b not in going),
        )
        given_back = boot.give_back(host, topology, known, going, staying)
        topology = given_back.topology
        if going:
            left = record.read(host.paths.record) or Record()
            boot.hand_over_what_stays(host, topology, left)
        elif not known.boards:
            handover.remove(host.paths)
        return Report(
            "release",
            known.require_boards,
            (*reports, *given_back.reports),
            (*refusals, *given_back.refusals),
            topology=topology,
            notes=(INITRAMFS_NOTE,) if files.read(host.paths.early_list) != before else (),
        )


def _named(known: Record, names: Sequence[str]) -> list[RecordedBoard]:
    there = [*known.boards, *known.leaving]
    if not names:
        return there
    chosen: list[RecordedBoard] = []
    for name in names:
        found = [b for b in there if name in (b.name, b.path, str(b.address))]
        if not found:
            labels = ", ".join(board.label for board in there) or "none"
            raise ConfigError(f"no board {name!r} is on record; expected one of: {labels}")
        chosen += [board for board in found if board not in chosen]
    return chosen


def _sharing(
    topology: Topology, chosen: Sequence[RecordedBoard], staying: Sequence[RecordedBoard]
) -> list[Refusal]:
    """Refuse to split boards that share an IOMMU group: what stays could not be used."""
    return [
        Refusal(
            old.path,
            "shared-group",
            board.address,
            f"it shares an IOMMU group with board {other.label}, which would stay and be useless",
            f"Release both: `pcibind release {old.label} {other.label}`",
        )
        for old in chosen
        for other in staying
        if (board := topology.board_at(old.path))
        and (beside := topology.board_at(other.path))
        and set(board.groups) & set(beside.groups)
    ]
