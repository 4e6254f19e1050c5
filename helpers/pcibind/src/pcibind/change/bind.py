"""Binding boards: the writes of their plans, the proof, and the way back if either fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pcibind.change import proof
from pcibind.change.restore import restore, unbind
from pcibind.decide.plan import DRIVER, Action, BoardPlan, Step
from pcibind.model.errors import NotBoundError, StuckError
from pcibind.model.pci import Address, Board, Function, board_path, function_path
from pcibind.model.record import RecordedBoard
from pcibind.read import access, holders, stuck, sysfs
from pcibind.read.access import Task
from pcibind.read.paths import Paths

NODE_SECONDS = 5.0

IOMMU_OFF = (
    "the IOMMU is off: no IOMMU group; turn it on in the firmware's setup and on the kernel "
    "command line (intel_iommu=on where the firmware has a DMAR table; AMD's is on by default), "
    "then reboot"
)


class Outcome(StrEnum):
    """How binding a board ended."""

    BOUND = "bound"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    STUCK = "stuck"


class BindResult(NamedTuple):
    """How binding `board` ended, and for a failure why and what to do."""

    board: Board
    outcome: Outcome
    detail: str = ""

    @property
    def proven(self) -> bool:
        """Whether the board is on vfio-pci as a whole, and usable."""
        return self.outcome in (Outcome.BOUND, Outcome.UNCHANGED)


def bind(
    plans: Sequence[BoardPlan],
    paths: Paths,
    recorded: Sequence[RecordedBoard] = (),
    node_seconds: float = NODE_SECONDS,
) -> Task[list[BindResult]]:
    """Carry out the plans of boards that share IOMMU groups (mostly one), and prove them together.

    Writes nothing where there is nothing to do. On failure puts every function back, of all of
    them, as a group goes to one user as a whole: to the drivers that are `recorded`, since some may
    have been on vfio-pci already, or else to those that it has now. Never raises for what the
    machine does: one board's trouble must not keep others from being bound.
    """
    boards = [plan.board for plan in plans]

    def all_of_them(outcome: Outcome, detail: str = "") -> list[BindResult]:
        return [BindResult(board, outcome, detail) for board in boards]

    if any(plan.iommu_off for plan in plans):
        return all_of_them(Outcome.FAILED, f"{boards[0].address}: {IOMMU_OFF}")
    waiting = [f for board in boards for f in board.functions if stuck.is_stuck(paths, f)]
    if waiting:
        detail = f"{waiting[0].address}: an earlier access still waits in the kernel"
        return all_of_them(Outcome.STUCK, _with_holders(paths, boards, detail))
    steps = [step for plan in plans for step in plan.steps]
    if not steps:
        problems = yield from proof.prove_soon(paths, boards, node_seconds)
        return all_of_them(Outcome.FAILED if problems else Outcome.UNCHANGED, "; ".join(problems))
    if any(plan.rebinds for plan in plans) and (held := _held(paths, boards)):
        open_one = f"its IOMMU group is open: {'; '.join(held)}; stop that, apply again"
        return all_of_them(Outcome.FAILED, f"{boards[0].address}: {open_one}")

    current: Address | None = None
    blocked: set[Address] = set()
    try:
        yield from load_driver(paths)
        # All overrides first, so that no sibling is taken by another driver while one is unbound.
        for step in sorted(steps, key=lambda step: step.action is not Action.OVERRIDE):
            current = step.function.address
            yield from _perform(paths, step)
        current = None
        problems = yield from proof.prove_soon(paths, boards, node_seconds)
        if not problems:
            return [
                BindResult(p.board, Outcome.BOUND if p.steps else Outcome.UNCHANGED) for p in plans
            ]
        detail = "; ".join(problems)
    except StuckError as error:
        detail = f"{current or boards[0].address}: {error}"
        if current:
            blocked.add(current)
            stuck.mark(paths, current, error)
    except NotBoundError as error:
        detail = str(error)
    except OSError as error:
        detail = _text(error, current)
    left = yield from _put_back(paths, boards, recorded, blocked)
    detail = "; ".join([detail, *left])
    if blocked:
        return all_of_them(Outcome.STUCK, _with_holders(paths, boards, detail))
    return all_of_them(Outcome.FAILED, detail)


def load_driver(paths: Paths) -> Task[None]:
    """Make the driver be there, built in or as a module. Raises OSError, StuckError."""
    if not os.path.exists(paths.driver(DRIVER)):
        yield access.modprobe(DRIVER)


def _perform(paths: Paths, step: Step) -> Task[None]:
    """Carry out one step, unless the machine is there already."""
    function = step.function
    _still_there(paths, function)
    if step.action is Action.OVERRIDE:
        yield access.write(paths.override(function.address), DRIVER)
        return
    # Device links may have taken it off its driver together with function 0.
    if sysfs.driver_of(paths, function.address) == DRIVER:
        return
    if step.action is Action.UNBIND:
        yield from unbind(paths, function.address, DRIVER)
    else:
        yield from _probe(paths, function)


def _probe(paths: Paths, function: Function) -> Task[None]:
    yield access.write(paths.drivers_probe, str(function.address))
    found = sysfs.driver_of(paths, function.address)
    if found not in (None, DRIVER):
        # At a boot, a module that was just being loaded takes a function that it had matched before
        # the override was written. None can match it after that, so once is enough.
        yield from unbind(paths, function.address, DRIVER)
        yield access.write(paths.drivers_probe, str(function.address))
        found = sysfs.driver_of(paths, function.address)
    if found is None:
        # The probe file never says why nothing matched; the driver's own file does.
        try:
            yield access.write(f"{paths.driver(DRIVER)}/bind", str(function.address))
        except OSError as error:
            raise NotBoundError(
                f"{function.address}: {DRIVER} refused it: {error.strerror}; see "
                f"`dmesg | grep {function.address}`"
            ) from error
        found = sysfs.driver_of(paths, function.address)
    if found != DRIVER:
        raise NotBoundError(
            f"{function.address}: expected driver {DRIVER}, found {found or 'none'} after the probe"
        )


def _still_there(paths: Paths, function: Function) -> None:
    """Refuse to write to an address that another device has come to since the topology was read."""
    try:
        place = function_path(os.readlink(paths.device(function.address)))
    except (OSError, ValueError) as error:
        raise NotBoundError(f"{function.address}: gone while binding; apply again") from error
    if place != function.path:
        raise NotBoundError(
            f"{function.address}: expected the function at {function.path}, found the one at "
            f"{place}; apply again"
        )


def _put_back(
    paths: Paths,
    boards: Sequence[Board],
    recorded: Sequence[RecordedBoard],
    blocked: set[Address],
) -> Task[list[str]]:
    """Give each function back the override and driver it had; return what could not be.

    Functions in `blocked` are not touched; those that block now are added to it.
    """
    left = []
    known = {old.path: old for old in recorded}
    for function in (function for board in boards for function in board.functions):
        if function.address in blocked:
            continue
        place = board_path(function.path)
        old = known[place].function(function.number) if place in known else None
        before = old or function
        try:
            _still_there(paths, function)
            yield from restore(paths, function.address, before.driver, before.driver_override)
        except StuckError as error:
            blocked.add(function.address)
            stuck.mark(paths, function.address, error)
            left.append(f"{function.address}: {error}")
        except NotBoundError as error:
            left.append(f"not put back: {error}")
        except OSError as error:
            left.append(f"not put back: {_text(error, function.address)}")
    return left


def _held(paths: Paths, boards: Sequence[Board]) -> tuple[str, ...]:
    """Who has a group of the boards open. One without a device node nobody can."""
    nodes = proof.nodes(paths, boards)
    return holders.of(paths, _group_nodes(boards)) if any(map(os.path.exists, nodes)) else ()


def _with_holders(paths: Paths, boards: Sequence[Board], detail: str) -> str:
    held = holders.of(paths, [*_group_nodes(boards), "/dev/nvidia*", "/dev/snd/*", "/dev/dri/*"])
    likely = f"likely held: {'; '.join(held)}" if held else "no process is seen to hold it"
    return f"{detail}; {likely}; it is left alone now, reboot"


def _group_nodes(boards: Sequence[Board]) -> list[str]:
    # As processes see them, whatever the root is.
    return [f"/dev/vfio/{group}" for board in boards for group in board.groups]


def _text(error: OSError, address: Address | None) -> str:
    where = f"{address}: " if address else ""
    return f"{where}{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
