"""The judgement of each board: what to do with it, and what refuses it.

Pure: a topology, evidence, a configuration and a record go in, decisions come out. Plan, apply and
status decide by this, and so does a deploy for a remote host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum

from pcibind.decide import guards
from pcibind.decide.plan import BoardPlan, Plan, plan, resolve
from pcibind.model.evidence import Evidence
from pcibind.model.pci import DRIVER, Address, Board, Topology, blocks_group
from pcibind.model.record import Record, RecordedBoard, Resolution, Verdict
from pcibind.model.request import VFIO_OPEN, Configuration, Refusal
from pcibind.model.values import NamedTuple

CLOSED_BY_REBOOT = frozenset({VFIO_OPEN, "nvidia-open", "device-open", "virtual-functions"})
"""Guards against a use that ends with a reboot, where nothing is unbound before it."""


class Standing(StrEnum):
    """How a wanted board stands: `live` is bound at once, `boot` at the next boot."""

    MISSING = "missing"
    REFUSED = "refused"
    STUCK = "stuck"
    LIVE = "live"
    BOOT = "boot"
    BOUND = "bound"


class BoardJudgement(NamedTuple):
    """A wanted board: its standing, its refusals, and its plan.

    `closed` are refusals that end with the reboot that binds it. `plan` is
    None for a board that is missing or refused.
    """

    resolution: Resolution
    standing: Standing
    refusals: tuple[Refusal, ...] = ()
    closed: tuple[Refusal, ...] = ()
    plan: BoardPlan | None = None


class Judgement(NamedTuple):
    """All decisions.

    `removed` are boards on record, leaving ones too, that are not configured; `taken` are those
    that are not on record, but were taken at this boot. `refusals` are those of all these boards.
    """

    config: Configuration
    topology: Topology
    boards: tuple[BoardJudgement, ...] = ()
    removed: tuple[RecordedBoard, ...] = ()
    taken: tuple[Board, ...] = ()
    plan: Plan = Plan((), ())
    refusals: tuple[Refusal, ...] = ()

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """The wanted boards, in the order in which they are configured."""
        return tuple(board.resolution for board in self.boards)

    def board(self, path: str | None) -> BoardJudgement | None:
        """The judgement of the wanted board that is at a path, or None."""
        return next(
            (b for b in self.boards if b.resolution.board and b.resolution.board.path == path), None
        )

    def refused(self, path: str | None) -> bool:
        """Whether the board at `path` is refused."""
        return any(refusal.board == path for refusal in self.refusals)

    def boards_leaving_vfio(self) -> list[Board]:
        """The boards that a run without a reboot takes from vfio-pci, in whole or in part."""
        boards = [each.board for each in self.plan.boards if each.rebinds]
        boards += [b for old in self.removed if (b := self.topology.board_at(old.path))]
        return [b for b in boards if any(f.driver == DRIVER for f in b.functions)]


def judge(
    topology: Topology,
    evidence: Evidence | None,
    config: Configuration,
    record: Record | None,
    *,
    next_boot: bool = False,
) -> Judgement:
    """Decide about every board that is wanted, on record, or taken.

    Without evidence no guard is asked. With `next_boot` nothing is unbound before a reboot, so that
    what ends with it is no refusal. Raises ConfigError when two requests mean the same board.
    """
    on_record = record or Record()
    judged_before = {board.path for board in on_record.boards}

    def at_rest(each: Resolution) -> bool:
        """Whether nothing is done to a board that is there: it was judged when it was recorded."""
        functions = each.board.functions if each.board else ()
        waits = next_boot or any(function.iommu_group is None for function in functions)
        is_recorded = each.recorded is not None and each.recorded.path in judged_before
        return (waits and is_recorded) or all(function.driver == DRIVER for function in functions)

    # A board that is leaving is still on record: choosing it again is no first time.
    known = on_record._replace(boards=(*on_record.boards, *on_record.leaving), leaving=())
    resolutions = resolve(topology, config, known)
    kept = {r.recorded.path for r in resolutions if r.recorded}
    removed = tuple(board for board in known.boards if board.path not in kept)
    boards = [r.board for r in resolutions if r.board]
    planned = plan(topology, boards)
    refusals = list(planned.refusals)
    closed: list[Refusal] = []
    stray: tuple[Board, ...] = ()
    if evidence is not None:
        against = [
            *(
                refusal
                for each in resolutions
                for refusal in _ask_guards(topology, each, evidence, at_rest(each))
            ),
            *(refusal for b in removed for refusal in guards.check_leaving(topology, b, evidence)),
        ]
        closed = [each for each in against if next_boot and each.guard in CLOSED_BY_REBOOT]
        refusals += [each for each in against if each not in closed]
        # Whatever shares a group with a board that stays with the host stays there too.
        refused = {refusal.board for refusal in refusals}
        planned = plan(topology, [board for board in boards if board.path not in refused])
        refusals += planned.refusals
        chosen = {b.path for b in boards} | {b.path for b in known.boards}
        stray = tuple(taken(topology, evidence.early, chosen))
    plans = {each.board.path: each for each in planned.boards}
    judged = [_judge_board(r, refusals, closed, plans, next_boot=next_boot) for r in resolutions]
    return Judgement(config, topology, tuple(judged), removed, stray, planned, tuple(refusals))


def list_blocking_functions(topology: Topology, board: Board) -> list[str]:
    """The functions whose drivers keep the kernel from giving the board's groups to VFIO."""
    return [
        f"{function.address} on {function.driver}"
        for group in board.groups
        for function in topology.group(group)
        if blocks_group(function.class_code, function.driver)
    ]


def _ask_guards(
    topology: Topology, resolution: Resolution, evidence: Evidence, at_rest: bool
) -> Iterator[Refusal]:
    """Ask the guards about a board that is present."""
    board = resolution.board
    if board is None:
        return
    if resolution.recorded is None:
        yield from _check_initramfs(board, evidence)
    if at_rest:
        # How the host uses it does not matter now; the firmware's state may have changed.
        refusals = guards.check_firmware(board, evidence)
        yield from (refusal for refusal in refusals if refusal.guard not in resolution.allow)
        return
    members = [f for group in board.groups for f in topology.group(group)]
    yield from guards.check(
        board,
        evidence,
        resolution.allow,
        resolution.selector,
        with_vfio=any("vfio" in (function.driver or "") for function in members),
    )


def _check_initramfs(board: Board, evidence: Evidence) -> Iterator[Refusal]:
    """Refuse to record as original what the early script has set at this boot."""
    for function in board.functions:
        if function.driver_override == DRIVER and function.address in evidence.early:
            yield Refusal(
                board.path,
                "stale-initramfs",
                function.address,
                f"{function.address} is not on record, but was taken at this boot, probably by an "
                "outdated list in the initramfs: its original driver is unknown",
                "Run `pcibind release`, rebuild the initramfs, then apply",
            )


def taken(
    topology: Topology, early: Collection[Address], known: Collection[str]
) -> Iterator[Board]:
    """The boards, but for those at the `known` paths, that were taken at this boot."""
    for board in topology.boards():
        if board.path not in known and any(
            f.driver_override == DRIVER and f.address in early for f in board.functions
        ):
            yield board


def _judge_board(
    resolution: Resolution,
    refusals: Iterable[Refusal],
    closed: Iterable[Refusal],
    plans: dict[str, BoardPlan],
    *,
    next_boot: bool,
) -> BoardJudgement:
    board = resolution.board
    if resolution.verdict is not Verdict.PRESENT or board is None:
        return BoardJudgement(resolution, Standing.MISSING)
    against = tuple(refusal for refusal in refusals if refusal.board == board.path)
    ending = tuple(refusal for refusal in closed if refusal.board == board.path)
    planned = plans.get(board.path)
    if against or planned is None:
        return BoardJudgement(resolution, Standing.REFUSED, against, ending)
    if board.is_locked:
        standing = Standing.STUCK
    elif planned.iommu_off:
        standing = Standing.BOOT
    elif not planned.rebinds:
        standing = Standing.BOUND
    else:
        standing = Standing.BOOT if next_boot else Standing.LIVE
    return BoardJudgement(resolution, standing, against, ending, planned)
