"""What the configuration asks for, what there is, and what speaks against it: before any change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pcibind import config, files, guards, opened, record, release, stuck
from pcibind.bind import IOMMU_OFF
from pcibind.evidence import Evidence
from pcibind.gathering import Gathering
from pcibind.host import Host
from pcibind.model import Board, Topology
from pcibind.plan import DRIVER, Plan, Resolution, Verdict, plan, resolve
from pcibind.record import Record, RecordedBoard
from pcibind.refusal import Refusal
from pcibind.report import BoardReport, Report, State
from pcibind.request import Config


class Judgement(NamedTuple):
    """The decisions.

    `removed` are boards on record that are configured no more, `stuck` the paths of boards that
    have a function on which an earlier access still waits.
    """

    config: Config
    topology: Topology
    resolutions: tuple[Resolution, ...]
    removed: tuple[RecordedBoard, ...]
    plan: Plan
    refusals: tuple[Refusal, ...]
    stuck: frozenset[str]

    def refused(self, path: str | None) -> bool:
        """Whether anything speaks against the board at `path`."""
        return any(refusal.board == path for refusal in self.refusals)

    def held(self) -> list[BoardReport]:
        """Boards that are configured no more, but must not be given back now."""
        return [
            release.report_on(self.topology, board, State.REFUSED)._replace(
                detail="see the refusals"
            )
            for board in self.removed
            if self.refused(board.path)
        ]

    def report(self, resolution: Resolution, state: State) -> BoardReport:
        """A wanted board in `state`, or refused, or not there."""
        path = resolution.board.path if resolution.board else None
        if self.refused(path):
            return BoardReport.of(resolution, State.REFUSED, detail="see the refusals")
        if resolution.verdict is not Verdict.PRESENT:
            return BoardReport.of(resolution, State.UNBOUND)
        if path in self.stuck:
            return BoardReport.of(resolution, State.STUCK, detail=stuck.WAITING)
        (planned,) = (each for each in self.plan.boards if each.board.path == path)
        if state is State.RECORDED:
            return BoardReport.of(resolution, state, detail="bound at the next boot")
        if planned.iommu_off:
            return BoardReport.of(resolution, State.UNBOUND, detail=IOMMU_OFF)
        if state is State.PLANNED and not planned.steps:
            return BoardReport.of(resolution, State.BOUND)
        return BoardReport.of(resolution, state, steps=planned.steps)


def judge(host: Host) -> Judgement:
    """Look at everything; change nothing. Raises ConfigError, RecordError, PcibindError."""
    with host.gathering() as gathering:
        return _judge(host, gathering)


def _judge(host: Host, gathering: Gathering) -> Judgement:
    wanted = config.read(host.paths.configuration)
    known = record.read(host.paths.record) or Record()
    # A board that is leaving is still on record: choosing it again is no first time.
    known = known._replace(boards=(*known.boards, *known.leaving), leaving=())
    topology = host.topology()
    resolutions = resolve(topology, wanted, known)
    kept = {r.recorded.path for r in resolutions if r.recorded}
    removed = tuple(board for board in known.boards if board.path not in kept)
    boards = [r.board for r in resolutions if r.board]
    planned = plan(topology, boards)
    refusals = [*planned.refusals, *_taken_unrecorded(host, resolutions)]
    if boards or removed:
        evidence = _evidence(host, gathering, topology, planned, removed)
        for resolution in resolutions:
            if resolution.board:
                refusals += guards.check(
                    resolution.board, evidence, resolution.allow, resolution.selector
                )
        for board in removed:
            refusals += release.check(topology, board, evidence)
        # Whoever shares a group with a board that stays with the host stays there too.
        refused = {refusal.board for refusal in refusals}
        planned = plan(topology, [board for board in boards if board.path not in refused])
        refusals += planned.refusals
    blocked = frozenset(
        board.path
        for board in boards
        if any(stuck.is_stuck(host.paths, f) for f in board.functions)
    )
    return Judgement(wanted, topology, resolutions, removed, planned, tuple(refusals), blocked)


def show(host: Host) -> Report:
    """What `apply` would do; changes nothing. Raises ConfigError, RecordError, PcibindError."""
    judgement = judge(host)
    boards = [judgement.report(resolution, State.PLANNED) for resolution in judgement.resolutions]
    boards += [
        release.report_on(judgement.topology, board, State.PLANNED)._replace(
            steps=("restore the original drivers",)
        )
        for board in judgement.removed
        if not judgement.refused(board.path)
    ]
    boards += judgement.held()
    return Report(
        "plan",
        judgement.config.require_boards,
        tuple(boards),
        judgement.refusals,
        topology=judgement.topology,
    )


def _taken_unrecorded(host: Host, resolutions: Iterable[Resolution]) -> Iterator[Refusal]:
    """Refuse to record as original what an older list of the initramfs made of a board."""
    taken = {
        address for path in host.paths.early_marks for address in (files.read(path) or "").split()
    }
    for resolution in resolutions:
        if resolution.board is None or resolution.recorded is not None:
            continue
        for function in resolution.board.functions:
            if function.driver_override == DRIVER and str(function.address) in taken:
                yield Refusal(
                    resolution.board.path,
                    "stale-initramfs",
                    function.address,
                    f"{function.address} is not on record, but was taken at this boot by an older "
                    "list in the initramfs: its original driver is not known",
                    "Rebuild the initramfs, reboot, then apply",
                )


def _evidence(
    host: Host,
    gathering: Gathering,
    topology: Topology,
    planned: Plan,
    removed: Iterable[RecordedBoard],
) -> Evidence:
    """What the host uses, and what it keeps open of the boards that are about to change."""
    changing: list[Board] = [each.board for each in planned.boards if each.rebinds]
    changing += [board for old in removed if (board := topology.board_at(old.path))]
    held = [b for b in changing if any(f.driver == DRIVER for f in b.functions)]
    return opened.add_hidden(host, gathering.evidence(), held)
