"""Binding one board: the writes of its plan, the proof, and the way back if either fails."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from enum import StrEnum

from pcibind import holders, proof, stuck, sysfs
from pcibind.bounded import SysfsWriter
from pcibind.errors import NotBoundError, StuckError
from pcibind.model import Address, Board, Function, function_path
from pcibind.paths import Paths
from pcibind.plan import DRIVER, Action, BoardPlan, Step
from pcibind.restore import restore, unbind

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


@dataclass(frozen=True, slots=True)
class BindResult:
    """How binding `board` ended, and for a failure why and what to do."""

    board: Board
    outcome: Outcome
    detail: str = ""

    @property
    def proven(self) -> bool:
        """Whether the board is on vfio-pci as a whole, and usable."""
        return self.outcome in (Outcome.BOUND, Outcome.UNCHANGED)


def bind(
    plan: BoardPlan, paths: Paths, writer: SysfsWriter, node_seconds: float = NODE_SECONDS
) -> BindResult:
    """Carry out a board's plan and prove it; on failure put every function back.

    Writes nothing when the plan has no steps. Never raises for what the machine does: one board's
    trouble must not keep others from being bound.
    """
    board = plan.board
    if plan.iommu_off:
        return BindResult(board, Outcome.FAILED, f"{board.address}: {IOMMU_OFF}")
    waiting = [f.address for f in board.functions if stuck.is_stuck(paths, f.address)]
    if waiting:
        return _stuck(paths, board, f"{waiting[0]}: an earlier access still waits in the kernel")
    if not plan.steps:
        problems = proof.prove(paths, board, node_seconds)
        outcome = Outcome.FAILED if problems else Outcome.UNCHANGED
        return BindResult(board, outcome, "; ".join(problems))
    if plan.rebinds and (held := holders.of(paths, _group_nodes(board))):
        return BindResult(
            board,
            Outcome.FAILED,
            f"{board.address}: its IOMMU group is open: {'; '.join(held)}; stop that, apply again",
        )
    current: Address | None = None
    try:
        load_driver(paths, writer)
        for step in plan.steps:
            current = step.function.address
            _perform(paths, writer, step)
        problems = proof.prove(paths, board, node_seconds)
        if not problems:
            return BindResult(board, Outcome.BOUND)
        detail = "; ".join(problems)
        blocked: set[Address] = set()
    except StuckError as error:
        detail = f"{current or board.address}: {error}"
        blocked = {current} if current else set()
        if current:
            _remember(paths, current, error)
    except (OSError, NotBoundError) as error:
        detail = str(error) if isinstance(error, NotBoundError) else _text(error, current)
        blocked = set()
    left = _put_back(paths, writer, board, blocked)
    detail = "; ".join([detail, *left])
    if blocked:
        return _stuck(paths, board, detail)
    return BindResult(board, Outcome.FAILED, detail)


def load_driver(paths: Paths, writer: SysfsWriter) -> None:
    """Make the driver be there, built in or as a module. Raises OSError, StuckError."""
    if not paths.driver(DRIVER).exists():
        writer.load_module(DRIVER)


def _perform(paths: Paths, writer: SysfsWriter, step: Step) -> None:
    """Carry out one step, unless the machine is there already."""
    function = step.function
    _still_there(paths, function)
    match step.action:
        case Action.OVERRIDE:
            writer.write(paths.device(function.address) / "driver_override", DRIVER)
        case Action.UNBIND:
            # Device links may have taken it off its driver together with function 0.
            if sysfs.driver_of(paths, function.address) != DRIVER:
                unbind(paths, writer, function.address)
        case Action.PROBE:
            if sysfs.driver_of(paths, function.address) != DRIVER:
                _probe(paths, writer, function)


def _probe(paths: Paths, writer: SysfsWriter, function: Function) -> None:
    writer.write(paths.drivers_probe, str(function.address))
    found = sysfs.driver_of(paths, function.address)
    if found is None:
        # The probe file never says why nothing matched; the driver's own file does.
        try:
            writer.write(paths.driver(DRIVER) / "bind", str(function.address))
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


def _put_back(paths: Paths, writer: SysfsWriter, board: Board, blocked: set[Address]) -> list[str]:
    """Give each function back the override and driver it had; return what could not be.

    Functions in `blocked` are not touched; those that block now are added to it.
    """
    left = []
    for function in board.functions:
        if function.address in blocked:
            continue
        try:
            _still_there(paths, function)
            restore(paths, writer, function.address, function.driver, function.driver_override)
        except StuckError as error:
            blocked.add(function.address)
            _remember(paths, function.address, error)
            left.append(f"{function.address}: {error}")
        except NotBoundError as error:
            left.append(f"not put back: {error}")
        except OSError as error:
            left.append(f"not put back: {_text(error, function.address)}")
    return left


def _remember(paths: Paths, address: Address, error: StuckError) -> None:
    with contextlib.suppress(OSError):
        stuck.mark(paths, address, error)


def _stuck(paths: Paths, board: Board, detail: str) -> BindResult:
    held = holders.of(paths, [*_group_nodes(board), "/dev/nvidia*"])
    likely = f"likely held: {'; '.join(held)}" if held else "no process is seen to hold it"
    return BindResult(board, Outcome.STUCK, f"{detail}; {likely}; it is left alone now, reboot")


def _group_nodes(board: Board) -> list[str]:
    return [f"/dev/vfio/{group}" for group in board.groups]


def _text(error: OSError, address: Address | None) -> str:
    where = f"{address}: " if address else ""
    return f"{where}{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
