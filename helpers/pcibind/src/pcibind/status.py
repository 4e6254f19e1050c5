"""How the chosen boards stand, without changing anything."""

from __future__ import annotations

import os

from pcibind import config, handover, proof, record, release, stuck
from pcibind.bind import IOMMU_OFF
from pcibind.errors import ConfigError, ExitCode
from pcibind.host import Host
from pcibind.model import Topology
from pcibind.plan import Resolution, Verdict, follow, plan, resolve
from pcibind.record import Record
from pcibind.report import BoardReport, Report, State
from pcibind.request import Config


def status(host: Host) -> Report:
    """Look at every recorded board, and at every configured one that is not on record.

    Raises RecordError. A wrong configuration is reported beside the boards.
    """
    known = record.read(host.paths.record) or Record()
    topology = host.topology()
    errors: list[str] = []
    code = ExitCode.OK
    wanted = Config(())
    unrecorded: list[Resolution] = []
    if _is_configured(host.paths.configuration):
        try:
            wanted = config.read(host.paths.configuration)
            unrecorded = [r for r in resolve(topology, wanted, known) if r.recorded is None]
        except ConfigError as error:
            errors.append(str(error))
            code = error.exit_code
    followed = follow(topology, known)
    boards = [_look(host, topology, resolution) for resolution in followed]
    boards += [
        BoardReport.of(
            resolution,
            State.UNBOUND,
            detail=resolution.detail or "configured, but not applied; run `pcibind apply`",
        )
        for resolution in unrecorded
    ]
    bound = [r.board for r in boards if r.board is not None and r.state is State.BOUND]
    enough = len(bound) == len(followed) or known.require_boards == "any"
    bound.sort(key=lambda board: board.address)
    if bound and enough and not handover.is_there(host.paths, bound):
        errors.append("bound, but not handed over; run `pcibind apply`")
        code = code or ExitCode.NOT_BOUND
    boards += [
        release.report_on(topology, board, State.RELEASED)._replace(
            detail="let go, but not back on its drivers: given back at the next boot, or by release"
        )
        for board in known.leaving
    ]
    require = known.require_boards if known.boards else wanted.require_boards
    refusals = plan(topology, [r.board for r in followed if r.board]).refusals
    return Report("status", require, tuple(boards), refusals, tuple(errors), code, topology)


def _is_configured(directory: str) -> bool:
    try:
        return any(name.endswith(".toml") for name in os.listdir(directory))
    except OSError:
        return False


def _look(host: Host, topology: Topology, resolution: Resolution) -> BoardReport:
    board = resolution.board
    if resolution.verdict is not Verdict.PRESENT or board is None:
        return BoardReport.of(resolution, State.UNBOUND)
    waiting = [f.address for f in board.functions if stuck.is_stuck(host.paths, f)]
    if waiting:
        detail = f"{waiting[0]}: an access still waits in the kernel; reboot"
        return BoardReport.of(resolution, State.STUCK, detail=detail)
    if not board.groups:
        return BoardReport.of(resolution, State.UNBOUND, detail=IOMMU_OFF)
    problems = proof.prove(host.paths, board)
    if problems:
        return BoardReport.of(resolution, State.UNBOUND, detail="; ".join(problems))
    return BoardReport.of(resolution, State.BOUND)
