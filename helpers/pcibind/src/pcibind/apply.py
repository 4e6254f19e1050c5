"""Making what is configured, or recorded, true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pcibind import config, files, guards, handover, proof, record, release
from pcibind.bind import Outcome, bind
from pcibind.config import Config
from pcibind.errors import ConfigError
from pcibind.host import Host
from pcibind.model import Board, Topology
from pcibind.plan import BoardPlan, Resolution, Verdict, follow, plan, resolve
from pcibind.record import Record, RecordedBoard
from pcibind.refusal import Refusal
from pcibind.report import BoardReport, Report, State

_STATES = {
    Outcome.BOUND: State.BOUND,
    Outcome.UNCHANGED: State.BOUND,
    Outcome.FAILED: State.FAILED,
    Outcome.STUCK: State.STUCK,
}


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What the configuration asks for, and what speaks against it."""

    config: Config
    record: Record
    topology: Topology
    resolutions: tuple[Resolution, ...]
    removed: tuple[RecordedBoard, ...]
    plans: dict[str, BoardPlan]
    refusals: tuple[Refusal, ...]

    def refused(self, path: str | None) -> bool:
        return any(refusal.board == path for refusal in self.refusals)

    def report(self, resolution: Resolution, state: State) -> BoardReport:
        path = resolution.board.path if resolution.board else None
        steps = self.plans[path].steps if path in self.plans else ()
        if self.refused(path):
            return BoardReport.of(resolution, State.REFUSED, detail="see the refusals")
        if resolution.verdict is not Verdict.PRESENT:
            return BoardReport.of(resolution, State.UNBOUND)
        return BoardReport.of(resolution, state, steps=steps)


def show(host: Host) -> Report:
    """What `apply` would do; changes nothing. Raises ConfigError, RecordError."""
    judgement = _judge(host)
    boards = [judgement.report(resolution, State.PLANNED) for resolution in judgement.resolutions]
    boards += [
        replace(
            release.report_on(judgement.topology, board, State.PLANNED),
            steps=("restore the original drivers",),
        )
        for board in judgement.removed
    ]
    return Report("plan", judgement.config.require_boards, tuple(boards), judgement.refusals)


def apply(host: Host, *, next_boot: bool = False) -> Report:
    """Bring the host to its configuration: guards, record, bind, prove, hand over.

    With `next_boot`, stop after the record: the drivers stay as they are until the next boot,
    and the IOMMU may still be off. Boards that are recorded but no longer configured are given
    back first. Raises ConfigError, RecordError, OSError.
    """
    with host.locked():
        judgement = _judge(host)
        require = judgement.config.require_boards
        refused = [r for r in judgement.resolutions if r.board and judgement.refused(r.board.path)]
        if judgement.refusals and (require == "all" or len(refused) == len(judgement.resolutions)):
            boards = [judgement.report(r, State.PLANNED) for r in judgement.resolutions]
            return Report("apply", require, tuple(boards), judgement.refusals)

        held = [board for board in judgement.removed if judgement.refused(board.path)]
        given_back: list[BoardReport] = []
        for board in judgement.removed:
            if board in held:
                continue
            if next_boot:
                report = release.report_on(judgement.topology, board, State.RELEASED)
                given_back.append(replace(report, detail="back on its drivers at the next boot"))
            else:
                handover.remove(host.paths)
                given_back.append(release.give_back(host, judgement.topology, board))

        # Before the first write to a driver: whatever happens next, the way back is on disk.
        recorded = Record((*_recorded(judgement), *held), require)
        write_record(host, recorded)
        judged = [r for r in judgement.resolutions if r not in refused]
        boards = [judgement.report(resolution, State.REFUSED) for resolution in refused]
        if next_boot:
            boards += [judgement.report(resolution, State.RECORDED) for resolution in judged]
        else:
            boards += _bind(host, judged, judgement.plans, require, judgement.topology)
        return Report("apply", require, (*boards, *given_back), judgement.refusals)


def apply_recorded(host: Host) -> Report:
    """Bind what is on record, at boot: by identity, without configuration or guards.

    There are no routes and few mounts to look at then; the guards had their say when the boards
    were recorded. Raises RecordError, OSError.
    """
    with host.locked():
        known = record.read(host.paths.record)
        if known is None:
            handover.remove(host.paths)
            return Report("apply")
        topology = host.topology()
        resolutions = follow(topology, known)
        planned = plan(topology, [r.board for r in resolutions if r.board])
        plans = {item.board.path: item for item in planned.boards}
        foreign = {refusal.board for refusal in planned.refusals}
        refused = [r for r in resolutions if r.board and r.board.path in foreign]
        judged = [r for r in resolutions if r not in refused]
        boards = [BoardReport.of(r, State.REFUSED, detail="see the refusals") for r in refused]
        boards += _bind(host, judged, plans, known.require_boards, topology, complete=not refused)
        return Report("apply", known.require_boards, tuple(boards), planned.refusals)


def release_boards(host: Host, names: Sequence[str] = ()) -> Report:
    """Give back the boards of these names, paths or addresses; without any, all that are recorded.

    Raises ConfigError for an unknown name, before anything is touched; RecordError, OSError.
    """
    with host.locked():
        known = record.read(host.paths.record) or Record()
        chosen = _named(known, names)
        topology = host.topology()
        evidence = host.evidence() if chosen else None
        refusals: list[Refusal] = []
        for board in chosen:
            if evidence is not None:
                refusals += release.check(topology, board, evidence)
        held = {refusal.board for refusal in refusals}
        boards = [release.report_on(topology, b, State.REFUSED) for b in chosen if b.path in held]
        going = [board for board in chosen if board.path not in held]
        if going or not known.boards:
            # Nobody may start to use what is about to go.
            handover.remove(host.paths)
        boards += [release.give_back(host, topology, board) for board in going]
        left = Record(tuple(b for b in known.boards if b not in going), known.require_boards)
        write_record(host, left)
        if going:
            now = host.topology()
            stay = [r.board for r in follow(now, left) if r.board]
            proven = [board for board in stay if not proof.prove(host.paths, board)]
            complete = len(proven) == len(left.boards)
            hand_over(host, proven, left.require_boards, complete=complete)
            boards = [replace(b, board=now.board_at(b.path or "")) for b in boards]
        return Report("release", known.require_boards, tuple(boards), tuple(refusals))


def _named(known: Record, names: Sequence[str]) -> list[RecordedBoard]:
    if not names:
        return list(known.boards)
    chosen = []
    for name in names:
        found = [b for b in known.boards if name in (b.name, b.path, str(b.address))]
        if not found:
            there = ", ".join(board.label for board in known.boards) or "none"
            raise ConfigError(f"no board {name!r} is on record; expected one of: {there}")
        chosen += [board for board in found if board not in chosen]
    return chosen


def write_record(host: Host, wanted: Record) -> None:
    """Write the record and the early list; without boards, remove both. Raises OSError."""
    if wanted.boards:
        record.write(host.paths.record, wanted)
        files.write_atomically(host.paths.early_list, record.early_list(wanted))
    else:
        files.remove(host.paths.early_list)
        files.remove(host.paths.record)


def _judge(host: Host) -> _Judgement:
    wanted = config.read(host.paths.configuration)
    known = record.read(host.paths.record) or Record()
    topology = host.topology()
    resolutions = resolve(topology, wanted, known)
    planned = plan(topology, [r.board for r in resolutions if r.board])
    kept = {r.recorded.path for r in resolutions if r.recorded}
    removed = tuple(board for board in known.boards if board.path not in kept)
    refusals = list(planned.refusals)
    if any(r.board for r in resolutions) or removed:
        evidence = host.evidence()
        for resolution in resolutions:
            if resolution.board:
                refusals += guards.check(
                    resolution.board, evidence, resolution.allow, resolution.selector
                )
        for board in removed:
            refusals += release.check(topology, board, evidence)
    return _Judgement(
        wanted,
        known,
        topology,
        resolutions,
        removed,
        {item.board.path: item for item in planned.boards},
        tuple(refusals),
    )


def _recorded(judgement: _Judgement) -> list[RecordedBoard]:
    """The boards to have on record: the old ones as they were, the new ones as they are now."""
    boards = []
    for resolution in judgement.resolutions:
        if resolution.recorded is not None:
            boards.append(
                replace(resolution.recorded, selector=resolution.selector, name=resolution.name)
            )
        elif resolution.board is not None and not judgement.refused(resolution.board.path):
            boards.append(RecordedBoard.of(resolution.board, resolution.selector, resolution.name))
    return boards


def _bind(
    host: Host,
    resolutions: Sequence[Resolution],
    plans: dict[str, BoardPlan],
    require: str,
    topology: Topology,
    *,
    complete: bool = True,
) -> list[BoardReport]:
    """Bind each board that is present, and hand over what is proven.

    `complete` is false when a wanted board was left out of `resolutions`.
    """
    results = {}
    for resolution in resolutions:
        if resolution.board is not None:
            board = resolution.board
            results[board.path] = bind(
                plans[board.path], host.paths, host.writer, host.node_seconds
            )
    changed = any(result.outcome is not Outcome.UNCHANGED for result in results.values())
    now = host.topology() if changed else topology
    proven = [result.board for result in results.values() if result.proven]
    hand_over(host, proven, require, complete=complete and len(proven) == len(resolutions))
    reports = []
    for resolution in resolutions:
        result = results.get(resolution.board.path) if resolution.board else None
        if result is None or resolution.board is None:
            reports.append(BoardReport.of(resolution, State.UNBOUND))
            continue
        reports.append(
            BoardReport.of(
                resolution,
                _STATES[result.outcome],
                board=now.board_at(resolution.board.path),
                changed=result.outcome is not Outcome.UNCHANGED,
                detail=result.detail,
            )
        )
    return reports


def hand_over(host: Host, proven: Iterable[Board], require: str, *, complete: bool) -> None:
    """Say which boards may be used, or take back what was said. Raises OSError."""
    boards = list(proven)
    if boards and (complete or require == "any"):
        handover.write(host.paths, boards)
    else:
        handover.remove(host.paths)
