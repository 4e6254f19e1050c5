"""Moving boards between drivers: to vfio-pci, and back to what they had.

Nothing leaves vfio-pci, and no board that is partly there is written to, before `secure` has its
groups open.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping, Sequence

from pcibind.change import handover
from pcibind.decide.plan import Action, BoardPlan, Step
from pcibind.model.errors import InUseError, NoNodeError, NotBoundError, StuckError
from pcibind.model.pci import DRIVER, Address, Board, Function, function_path
from pcibind.model.report import BoardState
from pcibind.model.values import TYPE_CHECKING, NamedTuple
from pcibind.read import files, kernel, sysfs
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from pcibind.read.kernel import Task

NODE_SECONDS = 5.0

LOADING_SECONDS = 120.0
"""How long a driver that is being loaded may be busy with taking its devices, which may be many."""

_RETRY_SECONDS = 5.0

IOMMU_OFF = (
    "the IOMMU is off: no IOMMU group; turn it on in the firmware's setup and on the kernel "
    "command line (intel_iommu=on where the firmware has a DMAR table; AMD's is on by default), "
    "then reboot"
)


class BindResult(NamedTuple):
    """How binding `board` ended: bound, refused, failed or stuck; and the reason and next step.

    `changed` says whether anything was written, or tried.
    """

    board: Board
    state: BoardState
    changed: bool = False
    detail: str = ""

    @property
    def proven(self) -> bool:
        """Whether the board is on vfio-pci as a whole, and usable."""
        return self.state is BoardState.BOUND


class RestoreTarget(NamedTuple):
    """A function, and the driver and override to restore."""

    function: Function
    driver: str | None
    override: str | None


class RestoreResult(NamedTuple):
    """Which functions were written to, and which could not be restored and why."""

    changed: set[Address]
    problems: dict[Address, str]


def secure(paths: Paths, boards: Sequence[Board], secured: set[int]) -> Task[None]:
    """Check that no process uses the boards, and keep it so until this task ends.

    Opens the device nodes of their groups and keeps them open; `secured` are the groups whose nodes
    this task has open already. Raises InUseError when a process uses a board or when that cannot
    be checked, and NoNodeError where the kernel has no nodes to ask it by.

    vfio_group_fops_open() of drivers/vfio/group.c answers EBUSY while the group is open, and while
    a device of it is bound to an iommufd; and while it is open here, both are refused to all other
    processes (vfio_device_block_group()). It keeps no unbind waiting: vfio_unregister_group_dev()
    waits for users of the device, vfio_device_remove_group() for none; before 6.1 the last device's
    waited for the group's container, and none is set here. A device's own node that is open but not
    bound, which also keeps an unbind waiting, is found only by a search of all processes.
    """
    functions = [function for board in boards for function in board.functions]
    with_vfio = [f for f in functions if sysfs.driver_of(paths, f.address) == DRIVER]
    cdevs = [node for board in boards for node in sysfs.cdevs(paths, board)]
    without_node = None
    for group in dict.fromkeys(group for board in boards for group in board.groups):
        if group in secured:
            continue
        node = paths.group_node(group)
        try:
            if not os.path.exists(node):
                raise FileNotFoundError
            yield kernel.keep_open(node)
        except FileNotFoundError:
            # The kernel makes the node with the first device of the group that VFIO gets.
            if any(function.iommu_group == group for function in with_vfio):
                without_node = node
        except (OSError, StuckError) as error:
            if isinstance(error, StuckError) or error.errno != errno.EBUSY:
                why = error.strerror if isinstance(error, OSError) else error
                raise InUseError(f"cannot tell whether {node} is open: {why}") from error
            hidden = "a process that /proc does not show; its descriptor may be in flight over "
            users = _users(paths, [f"/dev/vfio/{group}", *cdevs]) or f"{hidden}a socket"
            raise InUseError(f"/dev/vfio/{group} is open: {users}") from error
        else:
            secured.add(group)
    if cdevs and (users := _users(paths, cdevs)):
        raise InUseError(f"its VFIO device is open: {users}")
    if without_node:
        raise NoNodeError(
            f"this kernel has no {without_node} (CONFIG_VFIO_GROUP), so its use cannot "
            "be checked: it leaves vfio-pci at the next boot; rebuild the initramfs, then reboot"
        )


def bind(
    plans: Sequence[BoardPlan], paths: Paths, node_seconds: float = NODE_SECONDS
) -> Task[list[BindResult]]:
    """Carry out the plans of boards that share IOMMU groups (mostly one), and prove them together.

    Writes nothing where there is nothing to do, and nothing to boards that are in use. On failure
    undoes what it did, to all of them, as a group goes to one user as a whole. Never raises for
    what the machine does: a failure of one board must not keep others from being bound.
    """
    boards = [plan.board for plan in plans]
    steps = [step for plan in plans for step in plan.steps]

    def all_of_them(
        state: BoardState, detail: str = "", *, changed: bool = False
    ) -> list[BindResult]:
        return [BindResult(board, state, changed, detail) for board in boards]

    without_group = [f for board in boards for f in board.functions if f.iommu_group is None]
    if without_group:
        return all_of_them(BoardState.FAILED, f"{without_group[0].address}: {IOMMU_OFF}")
    waiting = [f for board in boards for f in board.functions if sysfs.is_stuck(paths, f)]
    if waiting:
        detail = f"{waiting[0].address}: an earlier kernel operation on it is still blocked"
        return all_of_them(BoardState.STUCK, _add_holders(paths, boards, detail))
    if not steps:
        problems = yield from handover.prove_soon(paths, boards, node_seconds)
        return all_of_them(BoardState.FAILED if problems else BoardState.BOUND, "; ".join(problems))
    secured: set[int] = set()
    try:
        yield from secure(paths, boards, secured)
    except NoNodeError:
        # Binding the rest takes nothing from vfio-pci; and there is no way back from it.
        pass
    except InUseError as error:
        return all_of_them(BoardState.REFUSED, str(error))

    current: Address | None = None
    touched: dict[Address, Function] = {}
    blocked: set[Address] = set()
    try:
        yield from load_driver(paths)
        # All overrides first, so that no sibling is taken by another driver while one is unbound.
        for step in sorted(steps, key=lambda step: step.action is not Action.OVERRIDE):
            current = step.function.address
            _check_place(paths, step.function)
            # Before the write: one that fails may have been made.
            touched[current] = step.function
            yield from _perform(paths, step)
        current = None
        problems = yield from handover.prove_soon(paths, boards, node_seconds)
        if not problems:
            return [BindResult(p.board, BoardState.BOUND, bool(p.steps)) for p in plans]
        detail = "; ".join(problems)
    except StuckError as error:
        detail = f"{current or boards[0].address}: {error}"
        if current:
            blocked.add(current)
            sysfs.mark_stuck(paths, current, error)
    except NotBoundError as error:
        detail = str(error)
    except OSError as error:
        detail = _text(error, current)
    left = yield from _undo(paths, boards, touched, secured, blocked)
    detail = "; ".join([detail, *(f"not restored: {problem}" for problem in left)])
    if blocked:
        return all_of_them(BoardState.STUCK, _add_holders(paths, boards, detail), changed=True)
    return all_of_them(BoardState.FAILED, detail, changed=True)


def load_driver(paths: Paths) -> Task[None]:
    """Load vfio-pci, unless it is loaded or built in. Raises OSError, StuckError."""
    if not os.path.exists(paths.driver(DRIVER)):
        yield kernel.modprobe(DRIVER)


def restore_functions(
    paths: Paths,
    boards: Sequence[Board],
    targets: Iterable[RestoreTarget],
    blocked: set[Address],
    *,
    may_leave: bool = True,
    may_split: bool = True,
) -> Task[RestoreResult]:
    """Take the targets, functions of these boards, off vfio-pci, then restore each of them.

    All are unbound before any is probed, displays last: NVIDIA's driver brings the kernel down when
    it takes a display whose siblings are on vfio-pci. What has a target when it is its turn:

    another driver of the host's    keeps it: it may be in use
    vfio-pci, which is not wanted   keeps it, a problem: another process gave it back meanwhile
    none, a sibling is on vfio-pci  a display gets no driver, a problem; others get theirs, or
                                    none either without `may_split` their board
    none, or the wanted driver      gets its former driver and override

    The boards must be secured, unless nothing `may_leave` vfio-pci. Functions in `blocked` are not
    touched; those that block now are added to it.
    """
    changed: set[Address] = set()
    problems: dict[Address, str] = {}

    def attempt(function: Function, task: Task[bool]) -> Task[None]:
        try:
            _check_place(paths, function)
            if (yield from task):
                changed.add(function.address)
        except StuckError as error:
            blocked.add(function.address)
            sysfs.mark_stuck(paths, function.address, error)
            problems[function.address] = f"{function.address}: {error}; it is left alone, reboot"
        except NotBoundError as error:
            problems[function.address] = str(error)
        except OSError as error:
            problems[function.address] = _text(error, function.address)

    def is_with_vfio(function: Function) -> bool:
        return sysfs.driver_of(paths, function.address) == DRIVER

    todo = [target for target in targets if target.function.address not in blocked]
    todo.sort(key=lambda target: target.function.is_display)
    for target in todo:
        if may_leave and target.driver != DRIVER and is_with_vfio(target.function):
            yield from attempt(target.function, unbind(paths, target.function.address))
    for target in todo:
        function = target.function
        current = sysfs.driver_of(paths, function.address)
        # A driver of the host's that took it meanwhile keeps it: it may be in use.
        if function.address in problems or current not in (None, DRIVER, target.driver):
            continue
        board = next(board for board in boards if function in board.functions)
        beside = [each for each in board.functions if is_with_vfio(each) and each != function]
        if problem := _explain_left(target, current, beside, may_split):
            problems[function.address] = problem
            continue
        yield from attempt(
            function, restore_function(paths, function.address, target.driver, target.override)
        )
    return RestoreResult(changed, problems)


def _explain_left(
    target: RestoreTarget, current: str | None, beside: Sequence[Function], may_split: bool
) -> str | None:
    """Why a function is left as it is, on `current`, with siblings on vfio-pci `beside` it.

    None where it gets its former driver.
    """
    address = target.function.address
    if current == DRIVER != target.driver:
        return f"{address}: another process gave it to {DRIVER} meanwhile; try again"
    is_apart = not beside or (may_split and not target.function.is_display)
    if is_apart or target.driver in (None, DRIVER, current):
        return None
    return (
        f"{address}: left without a driver, since {beside[0].address} beside it is on {DRIVER}; "
        f"reboot to get {target.driver}"
    )


def restore_function(
    paths: Paths, address: Address, driver: str | None, override: str | None
) -> Task[bool]:
    """Bring a function to an override and a driver; return whether anything had to be written.

    Raises OSError, StuckError, and NotBoundError when it ends up on another driver.
    """
    current = yield from sysfs.override_of(paths, address)
    moves = sysfs.driver_of(paths, address) != driver
    # Meanwhile no other driver may take it, and with an override for another this one would not:
    # so the move has an override of its own. A driver's own table of ids still goes before it.
    first = driver if moves and driver else override
    if current != first:
        yield _override(paths, address, first)
    problem: NotBoundError | None = None
    if moves:
        try:
            yield from _move(paths, address, driver)
        except NotBoundError as error:
            problem = error
    if first != override:
        yield _override(paths, address, override)
    if problem:
        raise problem
    return moves or current != override


def unbind(paths: Paths, address: Address, wanted: str | None = None) -> Task[bool]:
    """Take a function from its driver, if it has one; raise NotBoundError if it stays there.

    Another process may bind it again at once, which is no error if it is to the `wanted` driver.
    Returns whether it had a driver.
    """
    driver = sysfs.driver_of(paths, address)
    if driver is None:
        return False
    file = f"{paths.driver(driver)}/unbind"
    waited = 0.0
    # A driver that is just being loaded takes all its devices first, and has its files after that.
    while not os.path.exists(file) and sysfs.driver_of(paths, address) == driver:
        if waited >= LOADING_SECONDS:
            raise NotBoundError(
                f"{address}: {driver} is still being loaded after {LOADING_SECONDS:g} s, or cannot "
                f"release devices: expected {file}; apply again when it is loaded"
            )
        yield kernel.wait([file], _RETRY_SECONDS)
        waited += _RETRY_SECONDS
    try:
        yield kernel.write(file, str(address))
    except OSError:
        # The driver may have released the function by itself since.
        if sysfs.driver_of(paths, address) == driver:
            raise
    current = sysfs.driver_of(paths, address)
    if current not in (None, wanted):
        raise NotBoundError(
            f"{address}: unbound from {driver}, but now on {current}; expected no driver"
        )
    return True


def _perform(paths: Paths, step: Step) -> Task[None]:
    """Carry out one step, unless its result is there already."""
    function = step.function
    if step.action is Action.OVERRIDE:
        yield kernel.write(paths.override(function.address), DRIVER)
        return
    # Another process may have bound it, or the kernel, which probes what a device link leads to.
    if sysfs.driver_of(paths, function.address) == DRIVER:
        return
    if step.action is Action.UNBIND:
        yield from unbind(paths, function.address, DRIVER)
    else:
        yield from _probe(paths, function)


def _probe(paths: Paths, function: Function) -> Task[None]:
    yield kernel.write(paths.drivers_probe, str(function.address))
    driver = sysfs.driver_of(paths, function.address)
    if driver not in (None, DRIVER):
        # At a boot, a module that was just being loaded takes a function that it had matched before
        # the override was written. None can match it after that, so once is enough.
        yield from unbind(paths, function.address, DRIVER)
        yield kernel.write(paths.drivers_probe, str(function.address))
        driver = sysfs.driver_of(paths, function.address)
    if driver is None:
        # The probe file never says why nothing matched; the driver's own file does.
        try:
            yield kernel.write(f"{paths.driver(DRIVER)}/bind", str(function.address))
        except OSError as error:
            raise NotBoundError(
                f"{function.address}: {DRIVER} refused it: {error.strerror}; see "
                f"`dmesg | grep {function.address}`"
            ) from error
        driver = sysfs.driver_of(paths, function.address)
    if driver != DRIVER:
        raise NotBoundError(
            f"{function.address}: expected driver {DRIVER}, found {driver or 'none'} after the "
            "probe"
        )


def _check_place(paths: Paths, function: Function) -> None:
    """Refuse to write to an address that belongs to another place since the topology was read.

    The place alone is compared: another card in the same slot would not be noticed.
    """
    try:
        place = function_path(os.readlink(paths.device(function.address)))
    except (OSError, ValueError) as error:
        raise NotBoundError(
            f"{function.address}: disappeared; run `pcibind apply` again"
        ) from error
    if place != function.path:
        raise NotBoundError(
            f"{function.address}: expected the function at {function.path}, found the one at "
            f"{place}; apply again"
        )


def _undo(
    paths: Paths,
    boards: Sequence[Board],
    touched: Mapping[Address, Function],
    secured: set[int],
    blocked: set[Address],
) -> Task[list[str]]:
    """Restore what `bind` touched, and only that; return what could not be restored."""
    now = {address: sysfs.driver_of(paths, address) for address in touched}
    left = []
    may_leave = True
    if any(now[a] == DRIVER != function.driver for a, function in touched.items()):
        try:
            yield from secure(paths, boards, secured)
        except InUseError as error:
            left.append(f"{boards[0].address}: {error}")
            may_leave = False
    targets = [
        # A driver that has since taken the function keeps it.
        RestoreTarget(f, f.driver if now[a] in (None, DRIVER) else now[a], f.driver_override)
        for a, f in touched.items()
        # One that must stay on vfio-pci keeps its override too.
        if may_leave or now[a] != DRIVER or f.driver == DRIVER
    ]
    result = yield from restore_functions(
        paths, boards, targets, blocked, may_leave=may_leave, may_split=False
    )
    return left + list(result.problems.values())


def _override(paths: Paths, address: Address, override: str | None) -> kernel.Access:
    # A newline alone clears it (Documentation/ABI/testing/sysfs-bus-pci).
    return kernel.write(paths.override(address), f"{override or ''}\n")


def _move(paths: Paths, address: Address, driver: str | None) -> Task[None]:
    yield from unbind(paths, address, wanted=driver)
    if driver is None:
        return
    if not os.path.exists(paths.driver(driver)):
        # A driver's name need not be its module's (xhci_hcd is in xhci_pci); the alias leads there.
        with contextlib.suppress(OSError):
            yield kernel.modprobe(files.read_attribute(f"{paths.device(address)}/modalias"))
    if not os.path.exists(paths.driver(driver)):
        with contextlib.suppress(OSError):
            yield kernel.modprobe(driver)
    if sysfs.driver_of(paths, address) is None:
        yield kernel.write(paths.drivers_probe, str(address))
    if sysfs.driver_of(paths, address) is None and os.path.exists(paths.driver(driver)):
        with contextlib.suppress(OSError):
            yield kernel.write(f"{paths.driver(driver)}/bind", str(address))
    current = sysfs.driver_of(paths, address)
    if current != driver:
        raise NotBoundError(
            f"{address}: expected its original driver {driver}, found {current or 'none'}; load "
            f"{driver} and try again, or reboot"
        )


def _users(paths: Paths, nodes: Iterable[str]) -> str:
    # Not needed by most boots: only after a failure, or where there are cdevs.
    from pcibind.read import nodes as device_nodes

    return "; ".join(device_nodes.list_holders(paths, nodes))


def _add_holders(paths: Paths, boards: Sequence[Board], detail: str) -> str:
    groups = [f"/dev/vfio/{group}" for board in boards for group in board.groups]
    users = _users(paths, [*groups, "/dev/nvidia*", "/dev/snd/*", "/dev/dri/*"])
    likely = f"likely held: {users}" if users else "no process is known to hold it"
    return f"{detail}; {likely}; it is left alone, reboot"


def _text(error: OSError, address: Address | None) -> str:
    where = f"{address}: " if address else ""
    return f"{where}{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
