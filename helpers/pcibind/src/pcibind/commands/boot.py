"""Making the record true: what the unit does at every boot. It imports only what that takes."""

from __future__ import annotations

import contextlib

from pcibind.change import boards, handover
from pcibind.commands.host import Host
from pcibind.decide.plan import follow, plan
from pcibind.model import record
from pcibind.model.pci import Topology
from pcibind.model.record import Record
from pcibind.model.report import BoardReport, Report, State
from pcibind.read import files


def apply_recorded(host: Host) -> Report:
    """Bind what is on record, by identity, without configuration or guards.

    There are no routes and few mounts to look at then; the guards had their say when the boards
    were recorded. Raises RecordError, OSError.
    """
    with host.locked():
        known = record.read(host.paths.record)
        if known is None:
            handover.remove(host.paths)
            return Report("apply")
        # What happened so far is seen by this look. Reading an override waits for a probe of the
        # device, so those of other boards are not read.
        for name in files.names(host.paths.events):
            files.remove(f"{host.paths.events}/{name}")
        host.boards = frozenset(board.path for board in (*known.boards, *known.leaving))
        topology = host.topology()
        given_back = _finish_leaving(host, topology, known) if known.leaving else []
        resolutions = follow(topology, known)
        planned = plan(topology, [r.board for r in resolutions if r.board])
        foreign = {refusal.board for refusal in planned.refusals}
        refused = [r for r in resolutions if r.board and r.board.path in foreign]
        judged = [r for r in resolutions if r not in refused]
        reports = [BoardReport.of(r, State.REFUSED, detail="see the refusals") for r in refused]
        require = known.require_boards
        found, topology = boards.take(
            host, topology, judged, planned, require, complete=not refused
        )
        if any(each.changed for each in given_back):
            topology = host.topology()
            given_back = [b._replace(board=topology.board_at(b.path or "")) for b in given_back]
        return Report(
            "apply",
            require,
            (*reports, *found, *given_back),
            planned.refusals,
            topology=topology,
        )


def _finish_leaving(host: Host, topology: Topology, known: Record) -> list[BoardReport]:
    """Give back the boards that were let go while they could not be given back."""
    from pcibind.commands import release

    tasks = [
        release.give_back(host.paths, topology, board, booting=True) for board in known.leaving
    ]
    reports = host.carry_out(tasks)
    left = [b for b, report in zip(known.leaving, reports, strict=True) if not report.is_good]
    # Tried again at the next boot; what is wanted is bound in any case.
    with contextlib.suppress(OSError):
        record.write(host.paths, known._replace(leaving=tuple(left)))
    return reports
