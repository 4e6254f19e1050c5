"""What every command answers: one document, as JSON or for people.

Schema `pcibind/1`:

    schema            "pcibind/1"
    command           plan | apply | status | release | list | add | remove; "" for a wrong one
    exit_code         as listed by --help
    require_boards    all | any
    boards            list of
      name, path, address, model   name may be null; address and model null while it is not there
      selector                     {kind, value}
      verdict                      present | moved | replaced | absent | extra-function
      state                        planned | recorded | bound | unbound | refused | failed | stuck
                                   | leaving (given back at the next boot) | released | gone
                                   | chosen | not-chosen | unknown (whether it is chosen)
      changed                      whether this run wrote anything for it
      detail                       what was found, expected, and what to do; "" when all is well;
                                   of list: the file and line that choose it, or "on record"
      groups                       IOMMU group numbers
      steps                        what is to be done, as text
      users                        list only: who is seen to use it, as text
      bridges                      the way to it, root port first: list of {address, path, vendor,
                                   device, iommu_group}
      functions                    list of {address, path, vendor, device, subsystem_vendor,
                                   subsystem_device, class, driver, driver_override, wanted_driver,
                                   original_driver, iommu_group, verdict}, where verdict is
                                   right | wrong (another driver than wanted) | stuck
    refusals          list of {board, guard, address, found, remedy}; address may be null
    errors            list of text
    notes             list of text: what else is to be done

Null: the path of an absent board that was chosen by its address or model; drivers and overrides
where there is none; IOMMU groups while the IOMMU is off. Numbers of the configuration space are
hexadecimal text without 0x, as lspci -n prints them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum

from pcibind.model.errors import ExitCode
from pcibind.model.pci import DRIVER, Board, Function, Topology
from pcibind.model.record import REBUILD, RecordedBoard, Resolution, Verdict, compare
from pcibind.model.request import Refusal, Selector
from pcibind.model.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pcibind.model.request import RequireBoards

SCHEMA = "pcibind/1"

SEE_REFUSALS = "see the refusals"
"""The detail of a board whose reasons stand beside the boards."""


INITRAMFS_NOTE = (
    "/etc/pcibind/early.list changed, and an initramfs may carry it: rebuild that "
    f"(`{REBUILD}`) before the next boot"
)


class BoardState(StrEnum):
    """How a board stands at the end of a command."""

    PLANNED = "planned"
    RECORDED = "recorded"
    BOUND = "bound"
    UNBOUND = "unbound"
    REFUSED = "refused"
    FAILED = "failed"
    STUCK = "stuck"
    LEAVING = "leaving"
    RELEASED = "released"
    GONE = "gone"
    CHOSEN = "chosen"
    NOT_CHOSEN = "not-chosen"
    UNKNOWN = "unknown"


_GOOD = frozenset(
    {
        BoardState.PLANNED,
        BoardState.RECORDED,
        BoardState.BOUND,
        BoardState.LEAVING,
        BoardState.RELEASED,
        BoardState.CHOSEN,
        BoardState.NOT_CHOSEN,
        BoardState.UNKNOWN,
    }
)


class BoardReport(NamedTuple):
    """One board in the answer. `wanted` is false for one that is given back."""

    name: str | None
    path: str | None
    selector: Selector
    verdict: Verdict
    state: BoardState
    board: Board | None = None
    recorded: RecordedBoard | None = None
    changed: bool = False
    detail: str = ""
    steps: tuple[str, ...] = ()
    wanted: bool = True
    users: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        resolution: Resolution,
        state: BoardState,
        *,
        board: Board | None = None,
        changed: bool = False,
        detail: str = "",
        steps: Iterable[object] = (),
    ) -> BoardReport:
        """Report on a wanted board; `board` is how it looks now, if that is known better."""
        board = board or resolution.board
        recorded = resolution.recorded
        return cls(
            resolution.name,
            board.path if board else recorded.path if recorded else None,
            resolution.selector,
            resolution.verdict,
            state,
            board,
            recorded,
            changed,
            detail or resolution.detail,
            tuple(str(step) for step in steps),
        )

    @classmethod
    def of_unwanted(
        cls, topology: Topology, recorded: RecordedBoard, state: BoardState
    ) -> BoardReport:
        """Report on a recorded board that is not wanted any more."""
        board = topology.board_at(recorded.path)
        return cls(
            recorded.name,
            recorded.path,
            recorded.selector,
            compare(board, recorded),
            state,
            board,
            recorded,
            wanted=False,
        )

    def original_driver(self, function: Function) -> str | None:
        """The driver that a function had before its board was chosen, None for none or unknown."""
        old = self.recorded.function(function.number) if self.recorded else None
        return old.driver if old else None

    def wanted_driver(self, function: Function) -> str | None:
        """The driver that a function is to have, None for none."""
        if self.wanted:
            return DRIVER
        return self.original_driver(function) if self.recorded else function.driver

    @property
    def is_good(self) -> bool:
        """Whether nothing is the matter with it."""
        return self.exit_code is ExitCode.OK

    @property
    def exit_code(self) -> ExitCode:
        """What this board alone would make the command exit with."""
        if self.state is BoardState.STUCK:
            return ExitCode.STUCK
        if self.state is BoardState.REFUSED:
            return ExitCode.REFUSED
        if self.wanted and self.verdict is not Verdict.PRESENT:
            return ExitCode.IDENTITY
        if self.state in _GOOD or (self.state is BoardState.GONE and not self.wanted):
            return ExitCode.OK
        return ExitCode.NOT_BOUND


class Outcome(NamedTuple):
    """What binding or restoring boards ended in: reports on them, and the topology afterwards.

    `refusals` are of boards that were left alone, `errors` say what failed beside the boards.
    """

    reports: list[BoardReport]
    refusals: tuple[Refusal, ...]
    topology: Topology
    errors: tuple[str, ...] = ()

    def choose_code(self, otherwise: ExitCode = ExitCode.OK) -> ExitCode:
        """The code of its errors, or another one where it has none."""
        return ExitCode.UNEXPECTED if self.errors else otherwise


def list_use_refusals(reports: Iterable[BoardReport]) -> tuple[Refusal, ...]:
    """A refusal for each board that was left alone because it is in use."""
    return tuple(
        Refusal.of_use(report.path or "", None, report.detail)
        for report in reports
        if report.state is BoardState.REFUSED
    )


class Report(NamedTuple):
    """The answer of a command. `topology` holds the way to its boards.

    With `wanted_only`, boards that are given back make no failure where all that are wanted do not.
    Boards that this run `left_alone`, by their paths, make none either.
    """

    command: str
    require_boards: RequireBoards = "all"
    boards: tuple[BoardReport, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    errors: tuple[str, ...] = ()
    error_code: ExitCode = ExitCode.OK
    topology: Topology = Topology(())
    notes: tuple[str, ...] = ()
    wanted_only: bool = False
    left_alone: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> ExitCode:
        """The most serious of all boards' codes; with "any", one good wanted board outweighs."""
        counted = [board for board in self.boards if board.path not in self.left_alone]
        wanted = [board.exit_code for board in counted if board.wanted]
        codes = [board.exit_code for board in counted if not board.wanted]
        if self.require_boards == "any" and ExitCode.OK in wanted:
            # Enough boards are there; but what is stuck in the kernel is nothing to pass over.
            wanted = [code for code in wanted if code is ExitCode.STUCK]
        if self.wanted_only and set(wanted) <= {ExitCode.OK}:
            codes = []
        codes += wanted
        codes.append(self.error_code)
        # A configuration error or a refusal touched nothing, so it is not the most serious.
        order = (
            ExitCode.UNEXPECTED,
            ExitCode.STUCK,
            ExitCode.BUSY,
            ExitCode.CONFIGURATION,
            ExitCode.REFUSED,
            ExitCode.IDENTITY,
            ExitCode.NOT_BOUND,
            ExitCode.TAKEN,
            ExitCode.PENDING,
        )
        return next((code for code in order if code in codes), ExitCode.OK)

    def to_json(self) -> str:
        """The document that the module's text describes."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "command": self.command,
                "exit_code": int(self.exit_code),
                "require_boards": self.require_boards,
                "boards": [_board_json(board, self.topology) for board in self.boards],
                "refusals": [
                    {
                        "board": refusal.board,
                        "guard": refusal.guard,
                        "address": str(refusal.address) if refusal.address else None,
                        "found": refusal.found,
                        "remedy": refusal.advice,
                    }
                    for refusal in self.refusals
                ],
                "errors": list(self.errors),
                "notes": list(self.notes),
            },
            indent=2,
        )


def _board_json(report: BoardReport, topology: Topology) -> dict[str, object]:
    board = report.board
    return {
        "name": report.name,
        "path": report.path,
        "address": str(board.address) if board else None,
        "model": board.model if board else None,
        "selector": report.selector._asdict(),
        "verdict": report.verdict.value,
        "state": report.state.value,
        "changed": report.changed,
        "detail": report.detail,
        "groups": list(board.groups) if board else [],
        "steps": list(report.steps),
        "users": list(report.users),
        "bridges": [_bridge_json(f) for f in topology.bridges_to(board.path)] if board else [],
        "functions": [_function_json(report, f) for f in board.functions] if board else [],
    }


def _bridge_json(bridge: Function) -> dict[str, object]:
    return {
        "address": str(bridge.address),
        "path": bridge.path,
        "vendor": f"{bridge.vendor:04x}",
        "device": f"{bridge.device:04x}",
        "iommu_group": bridge.iommu_group,
    }


def function_json(function: Function) -> dict[str, object]:
    """A function as it is, in the words of the schema."""
    return {
        "address": str(function.address),
        "path": function.path,
        **function.identity.to_json(),
        "driver": function.driver,
        "driver_override": function.driver_override,
        "iommu_group": function.iommu_group,
    }


def _function_json(report: BoardReport, function: Function) -> dict[str, object]:
    wanted = report.wanted_driver(function)
    right = "right" if function.driver == wanted else "wrong"
    return {
        **function_json(function),
        "wanted_driver": wanted,
        "original_driver": report.original_driver(function),
        "verdict": "stuck" if function.locked else right,
    }
