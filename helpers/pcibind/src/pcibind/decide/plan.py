"""The plan: from selectors to boards, and from boards to steps.

Pure: a topology, a configuration and a record go in, decisions come out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from pcibind.model.errors import ConfigError
from pcibind.model.pci import DRIVER, Address, Board, Function, Identity, Topology, board_path
from pcibind.model.record import Record, RecordedBoard, Resolution, Verdict, compare
from pcibind.model.request import BoardRequest, Configuration, Refusal, Selector
from pcibind.model.values import NamedTuple


def resolve(
    topology: Topology, config: Configuration, record: Record | None
) -> tuple[Resolution, ...]:
    """Find the board or boards of every request.

    A request that is on record is followed by identity, never by its selector alone: an address
    may belong to another device after a renumbering. A model selector also takes boards of that
    model that are not on record yet.
    Raises ConfigError when two requests mean the same board.
    """
    record = record or Record()
    requested = {request.selector for request in config.boards}
    followed = [r for r in follow(topology, record) if r.selector in requested]
    # A board that was moved must not come back in as a new one through its model.
    moved = {
        place
        for resolution in followed
        if resolution.verdict is Verdict.MOVED and resolution.recorded
        for place in _find_moved(topology, record, resolution.recorded)
    }
    resolutions: list[Resolution] = []
    for request in config.boards:
        old = [r for r in followed if r.selector == request.selector]
        name = request.name if len(old) == 1 else None
        resolutions.extend(r._replace(name=name or r.name, allow=request.allow) for r in old)
        if old and request.selector.kind != "model":
            continue
        boards = select(topology, request.selector)
        if request.selector.kind == "model":
            known = moved | {r.recorded.path for r in old if r.recorded}
            boards = tuple(board for board in boards if board.path not in known)
        if not boards and not old:
            resolutions.append(_report_missing(topology, request))
        # One name cannot name several boards: those of a model selector go by their paths then.
        name = request.name if len(boards) == 1 and not old else None
        for board in boards:
            recorded = record.board(board.path)
            if recorded is not None and recorded.identities != board.identities:
                recorded = None
            resolutions.append(
                Resolution(request.selector, name, request.allow, Verdict.PRESENT, board, recorded)
            )
    _refuse_duplicates(resolutions, {request.selector: request.source for request in config.boards})
    return tuple(resolutions)


def follow(topology: Topology, record: Record) -> tuple[Resolution, ...]:
    """Find every recorded board by its identity: what boot does, without any configuration."""
    return tuple(_follow_board(topology, record, board) for board in record.boards)


def select(topology: Topology, selector: Selector) -> tuple[Board, ...]:
    """Return the boards that a selector matches, ordered by address; maybe none.

    Virtual functions count only where no board matches; `plan` refuses them.
    """
    every = topology.boards()
    virtual = tuple(board for board in every if board.is_virtual)
    real = tuple(board for board in every if board not in virtual)
    return _selected(real, selector) or _selected(virtual, selector)


def _selected(boards: tuple[Board, ...], selector: Selector) -> tuple[Board, ...]:
    match selector.kind:
        case "address":
            return tuple(
                board
                for board in boards
                if any(str(function.address) == selector.value for function in board.functions)
            )
        case "path":
            return tuple(
                board
                for board in boards
                if selector.value in (board.path, board_path(board.functions[0].path))
            )
        case "model":
            displays = tuple(
                board
                for board in boards
                if any(function.model == selector.value for function in board.display_functions)
            )
            return displays or tuple(
                board
                for board in boards
                if board.functions[0].model == selector.value
                and (board.functions[0].number == 0 or board.is_virtual)
            )


def _follow_board(topology: Topology, record: Record, recorded: RecordedBoard) -> Resolution:
    board = topology.board_at(recorded.path)
    compared = compare(board, recorded)

    def verdict(verdict: Verdict, detail: str = "", chosen: Board | None = None) -> Resolution:
        return Resolution(
            recorded.selector, recorded.name, frozenset(), verdict, chosen, recorded, detail
        )

    if compared is Verdict.PRESENT:
        return verdict(compared, chosen=board)
    if board is not None and compared is Verdict.EXTRA_FUNCTION:
        extra = [f for f in board.functions if f.number not in recorded.identities]
        named = ", ".join(f"{f.address} {f.identity}" for f in extra)
        return verdict(
            compared,
            f"the board at {recorded.path} has a function that was not there when it was chosen: "
            f"{named}; run `pcibind release {recorded.label}`, then apply",
        )
    places = _find_moved(topology, record, recorded)
    if len(places) == 1:
        return verdict(
            Verdict.MOVED,
            f"expected at {recorded.path}, found one like it at {places[0]}; move it back, or run "
            f"`pcibind release {recorded.label}` and choose it again",
        )
    if board is None:
        others = f" ({len(places)} like it elsewhere: {', '.join(places)})" if places else ""
        return verdict(
            Verdict.ABSENT,
            f"nothing at {recorded.path}, last seen as {recorded.address}{others}; plug it in, or "
            "remove it from the configuration and apply",
        )
    return verdict(
        Verdict.REPLACED,
        f"at {recorded.path} expected {_listing(recorded.identities)}, found "
        f"{_listing(board.identities)}; if that is intended, run "
        f"`pcibind release {recorded.label}` and choose it again",
    )


def _listing(identities: Mapping[int, Identity]) -> str:
    return ", ".join(f".{number} {identity}" for number, identity in sorted(identities.items()))


def _find_moved(topology: Topology, record: Record, recorded: RecordedBoard) -> tuple[str, ...]:
    """Return the paths of boards with the same functions that are neither recorded nor twins."""
    known = {board.path for board in record.boards} | set(recorded.twins)
    return tuple(
        board.path
        for board in topology.boards()
        if board.identities == recorded.identities
        and board.path not in known
        and not board.is_virtual
    )


def _report_missing(topology: Topology, request: BoardRequest) -> Resolution:
    hint = "see `pcibind list` for what is there"
    like = [str(f.address) for f in topology.functions if f.model == request.selector.value]
    if like:
        hint = f"{like[0]} is one, but not a display; choose its board by its address or path"
    if request.selector.kind == "address":
        function = next(
            (f for f in topology.functions if str(f.address) == request.selector.value), None
        )
        if function is not None:
            hint = f"{function.address} is a bridge (class {function.class_code:06x}); name a board"
    return Resolution(
        request.selector,
        request.name,
        request.allow,
        Verdict.ABSENT,
        None,
        None,
        f"{request.source}: no board has {request.selector}; {hint}",
    )


def _refuse_duplicates(resolutions: Iterable[Resolution], sources: Mapping[Selector, str]) -> None:
    seen: dict[str, Resolution] = {}
    for resolution in resolutions:
        if resolution.board is None:
            continue
        other = seen.setdefault(resolution.board.path, resolution)
        if other is not resolution:
            raise ConfigError(
                f"{sources[resolution.selector]}: {other.selector} ({sources[other.selector]}) and "
                f"{resolution.selector} are the same board, "
                f"{resolution.board.path} ({resolution.board.address}); expected each board once"
            )


class Action(StrEnum):
    """One kind of write."""

    OVERRIDE = "set-override"
    UNBIND = "unbind"
    PROBE = "probe"


class Step(NamedTuple):
    """One write for one function. `driver` is the override to set, or the driver to unbind."""

    action: Action
    function: Function
    driver: str

    def __str__(self) -> str:
        match self.action:
            case Action.OVERRIDE:
                return f"{self.function.address}: set driver_override to {self.driver}"
            case Action.UNBIND:
                return f"{self.function.address}: unbind from {self.driver}"
            case Action.PROBE:
                return f"{self.function.address}: probe, for {self.driver}"


class BoardPlan(NamedTuple):
    """What to do for one board; no steps when there is nothing to do.

    `iommu_off` says that its functions have no IOMMU group, so that it can only be recorded.
    """

    board: Board
    steps: tuple[Step, ...]
    iommu_off: bool

    @property
    def rebinds(self) -> bool:
        """Whether any function changes its driver."""
        return any(step.action is not Action.OVERRIDE for step in self.steps)


class Plan(NamedTuple):
    """A plan for each board that may be bound, and a refusal for each reason against another."""

    boards: tuple[BoardPlan, ...]
    refusals: tuple[Refusal, ...]

    def split_by_groups(self) -> tuple[tuple[BoardPlan, ...], ...]:
        """The plans of boards that share IOMMU groups, mostly one alone: all or none are bound."""
        plans = {plan.board.path: plan for plan in self.boards}
        return tuple(
            tuple(plans[board.path] for board in boards)
            for boards in sharing_groups([plan.board for plan in self.boards])
        )


def closure(topology: Topology, board: Board) -> tuple[Function, ...]:
    """All functions of a board and every endpoint of its IOMMU groups, bridges left out.

    Bridges but those to PCI count as endpoints while a driver has them, as the kernel sees it.
    """
    groups = set(board.groups)
    mine = {function.address for function in board.functions}
    return tuple(
        function
        for function in topology.functions
        if function.address in mine or (function.iommu_group in groups and function.is_in_the_way)
    )


def plan(topology: Topology, boards: Iterable[Board]) -> Plan:
    """Plan the boards together: an endpoint in a group must belong to one of them.

    All overrides of a board come first, so that no sibling is taken by another driver while one
    is unbound. A virtual function, or a board with a foreign endpoint in a group, gets a refusal
    and no plan, and so does every board that shares a group with one.
    """
    chosen = tuple(boards)
    paths = {board.path for board in chosen}
    plans: dict[str, BoardPlan] = {}
    refusals: list[Refusal] = []
    for sharing in sharing_groups(chosen):
        against = [_virtual(b, f.physical) for b in sharing for f in b.functions if f.physical]
        against += [
            _foreign(board, function)
            for board in sharing
            for function in closure(topology, board)
            if function.is_bridge or function.board not in paths
        ]
        refused = {refusal.board for refusal in against}
        if refused:
            against += [_shared(b, sorted(refused)[0]) for b in sharing if b.path not in refused]
        refusals += against
        if not against:
            plans.update((board.path, _plan_board(board)) for board in sharing)
    # In the order in which they were chosen.
    return Plan(tuple(plans[b.path] for b in chosen if b.path in plans), tuple(refusals))


def sharing_groups(boards: Iterable[Board]) -> list[list[Board]]:
    """The boards, put together where they share IOMMU groups, directly or by way of others."""
    sets: list[tuple[list[Board], set[int]]] = []
    for board in boards:
        members, groups = [board], set(board.groups)
        for other in [other for other in sets if other[1] & groups]:
            members = other[0] + members
            groups |= other[1]
            sets.remove(other)
        sets.append((members, groups))
    return [members for members, _ in sets]


def _plan_board(board: Board) -> BoardPlan:
    off = any(function.iommu_group is None for function in board.functions)
    return BoardPlan(board, () if off else _steps(board), off)


def _steps(board: Board) -> tuple[Step, ...]:
    overrides = [
        Step(Action.OVERRIDE, function, DRIVER)
        for function in board.functions
        if function.driver_override != DRIVER
    ]
    moves = []
    for function in board.functions:
        if function.driver == DRIVER:
            continue
        if function.driver is not None:
            moves.append(Step(Action.UNBIND, function, function.driver))
        moves.append(Step(Action.PROBE, function, DRIVER))
    return (*overrides, *moves)


def _virtual(board: Board, physical: Address) -> Refusal:
    return Refusal(
        board.path,
        "is-virtual",
        board.address,
        f"{board.address} is a virtual function of {physical}; only whole boards are bound",
        f"Choose the board of {physical}, and write 0 to its sriov_numvfs",
    )


def _foreign(board: Board, function: Function) -> Refusal:
    return Refusal(
        board.path,
        "foreign-device",
        function.address,
        f"IOMMU group {function.iommu_group} also holds {function.address} {function.identity} "
        f"of board {function.board}, driver {function.driver or 'none'}",
        _WAY_OUT,
    )


def _shared(board: Board, other: str) -> Refusal:
    return Refusal(
        board.path,
        "foreign-device",
        None,
        f"it shares an IOMMU group with board {other}, which is refused",
        _WAY_OUT,
    )


_WAY_OUT = (
    "A group goes to one user as a whole: choose that board too, or plug one of the two into a "
    "slot with an IOMMU group of its own"
)
