"""Whether a board may be taken from the host: one guard for each reason.

A configuration can allow what a guard refuses by its name, but for a board in use through VFIO.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pcibind.model.evidence import Evidence, Use
from pcibind.model.pci import DRIVER, Address, Board, Function, Topology, class_name
from pcibind.model.record import RecordedBoard
from pcibind.model.request import VFIO_OPEN, Refusal, Selector

# Classes of the PCI Code and ID Assignment Specification, base and sub, that are taken without
# being named one by one: what accelerator boards are, and what comes on them beside it. Everything
# else may be what a host lives on: memory is CXL's (0502) too, system peripherals are SD hosts,
# serial buses Fibre Channel, InfiniBand and a mainboard's management.
_HARMLESS = frozenset(
    {
        *range(0x0300, 0x0400),  # displays
        *range(0x0400, 0x0500),  # multimedia: a display's audio
        0x0700,  # serial ports; `device-open` refuses those that are open
        0x0B40,  # co-processors
        0x0C03,  # USB, a display's too
        0x0C80,  # a display's USB-C controller
        *range(0x1200, 0x1300),  # accelerators
    }
)
# Storage and network in the guise of serial buses: Fibre Channel, InfiniBand.
_OTHER_BUSES = frozenset({0x0C04, 0x0C06})


def check(
    board: Board,
    evidence: Evidence,
    allow: Collection[str] = (),
    selector: Selector | None = None,
    *,
    with_vfio: bool = True,
) -> list[Refusal]:
    """Return every reason not to bind `board`, except those that `allow` names.

    A board that is selected by its address was named one by one, so its classes are not
    questioned. An open VFIO group cannot be allowed; it is no reason while nothing would be bound,
    so that applying twice does not disturb a running consumer. A guard that cannot read its
    evidence refuses the boards that it could concern. `with_vfio` says whether any driver of VFIO
    has a device of the board's groups: other groups have no node that could be open.
    """
    refusals = [
        *_used(board, "default-route", evidence.route_nics, "Move the route to another interface"),
        *_used(board, "ssh", evidence.ssh_nics, "Log in through another interface"),
        *_used(board, "network", evidence.configured, "Remove the interface's addresses"),
        *_used(board, "disk", evidence.disks, "Unmount it, run swapoff, or close what uses it"),
        *_refuse_functions(
            board,
            "boot-display",
            evidence.boot_displays | {f.address for f in board.functions if f.boot_vga},
            "is the display that the firmware and the console use (boot_vga)",
            "Make another display the primary one in the firmware's setup",
        ),
        *_used(board, "framebuffer", evidence.framebuffers, _FRAMEBUFFER),
        *_virtual_functions(board, evidence),
        *_open_nvidia(board, evidence),
        *_used(board, "device-open", evidence.open_devices, "Stop what uses it"),
        *check_firmware(board, evidence),
    ]
    if selector is None or selector.kind != "address":
        refusals.extend(_class(board))
    refusals.extend(
        Refusal(
            board.path,
            guard,
            None,
            f"cannot tell: {why}",
            "Run as root on the host itself, or check it yourself",
        )
        for guard, why in evidence.unreadable
        if guard != VFIO_OPEN and _could_concern(guard, board, evidence)
    )
    kept = [refusal for refusal in refusals if refusal.guard not in allow]
    if any(function.driver != DRIVER for function in board.functions):
        kept.extend(check_open(board, evidence, with_vfio=with_vfio))
    return kept


# Network and storage by class. InfiniBand and Fibre Channel are serial buses by theirs.
_NETWORK = frozenset({0x02, 0x0D})
_STORAGE = frozenset({0x01})
# What neither a disk nor an interface can hang on.
_LEAVES = frozenset({0x03, 0x04, 0x05, 0x0B, 0x10, 0x11, 0x12})


def _could_concern(guard: str, board: Board, evidence: Evidence) -> bool:
    """Whether a guard without evidence could concern this board."""
    match guard:
        case "disk":
            kinds, below = _STORAGE, evidence.storage
        case "default-route" | "ssh" | "network":
            kinds, below = _NETWORK, evidence.network
        case "framebuffer":
            return any(f.is_display or f.class_code >> 8 == 0x0001 for f in board.functions)
        case "nvidia-open":
            return bool(_by_nvidia(board))
        case "device-open":
            return any(f.driver not in (None, DRIVER) for f in board.functions)
        case _:
            return True
    return any(
        function.base_class in kinds
        or function.class_code >> 8 in _OTHER_BUSES
        or function.address in below
        or (guard in evidence.blind and function.base_class not in _LEAVES)
        for function in board.functions
    )


def check_leaving(topology: Topology, recorded: RecordedBoard, evidence: Evidence) -> list[Refusal]:
    """Refuse to restore a board while a process has its VFIO group open."""
    board = topology.board_at(recorded.path)
    return check_open(board, evidence) if board and recorded.pair(board) else []


def check_open(board: Board, evidence: Evidence, *, with_vfio: bool = True) -> list[Refusal]:
    """Refuse a board whose VFIO group or device is open, or may be."""
    groups = set(board.groups)
    addresses = {function.address for function in board.functions}
    open_ones = [
        Refusal.of_use(board.path, use.address, f"{_node(use.group)} is open: {use.holder}")
        for use in evidence.open_vfio
        if use.group in groups or use.address in addresses
    ]
    unreadable = [
        Refusal(
            board.path,
            VFIO_OPEN,
            None,
            f"cannot tell: {why}",
            "Run as root on the host itself; this guard has no override",
        )
        for guard, why in evidence.unreadable
        if guard == VFIO_OPEN and with_vfio
    ]
    return open_ones + unreadable


def _node(group: int | None) -> str:
    return "its VFIO device" if group is None else f"/dev/vfio/{group}"


def _used(board: Board, guard: str, uses: Iterable[Use], remedy: str) -> list[Refusal]:
    addresses = {function.address for function in board.functions}
    return [
        Refusal(board.path, guard, use.address, f"{use.address} is in use: {use.what}", remedy)
        for use in uses
        if use.address in addresses
    ]


def _refuse_functions(
    board: Board, guard: str, addresses: Collection[Address], what: str, remedy: str
) -> list[Refusal]:
    """Refuse each function of the board that is among these; `what` follows its address."""
    return [
        Refusal(board.path, guard, function.address, f"{function.address} {what}", remedy)
        for function in board.functions
        if function.address in addresses
    ]


_FRAMEBUFFER = (
    "Boot with initcall_blacklist=sysfb_init (video=efifb:off on older kernels), so that the "
    "firmware's framebuffer is left alone; a virtual machine could not map this memory"
)


def _open_nvidia(board: Board, evidence: Evidence) -> list[Refusal]:
    """Unbinding waits in NVIDIA's driver until no process has the device open."""
    addresses = {function.address for function in board.functions}
    by_nvidia = _by_nvidia(board)
    return [
        Refusal(
            board.path,
            "nvidia-open",
            use.address or by_nvidia[0].address,
            use.what,
            "Stop what uses it, nvidia-persistenced too",
        )
        for use in evidence.open_nvidia
        if use.address in addresses or (use.address is None and by_nvidia)
    ]


def _by_nvidia(board: Board) -> list[Function]:
    return [function for function in board.functions if function.driver == "nvidia"]


def _virtual_functions(board: Board, evidence: Evidence) -> list[Refusal]:
    return [
        Refusal(
            board.path,
            "virtual-functions",
            function.address,
            f"{function.address} has virtual functions, and vfio-pci refuses such a device",
            f"Write 0 to /sys/bus/pci/devices/{function.address}/sriov_numvfs",
        )
        for function in board.functions
        if function.address in evidence.physical_functions
    ]


def _class(board: Board) -> list[Refusal]:
    return [
        Refusal(
            board.path,
            "class",
            function.address,
            f"{function.address} {function.identity} is {class_name(function.class_code)}, "
            "which the host may need",
            "Choose the board by `address` in a file below /etc/pcibind",
        )
        for function in board.functions
        if function.class_code >> 8 not in _HARMLESS
    ]


_ABOVE_4G = (
    "Turn on 'Above 4G decoding' (64-bit BARs, large MMIO) in the firmware's setup, and boot "
    "without pci=nocrs or pci=realloc=off"
)


def check_firmware(board: Board, evidence: Evidence) -> list[Refusal]:
    """What the firmware left so that a virtual machine would not start with this board.

    Each refusal has an override.
    """
    mine = {function.address for function in board.functions}
    silent = _refuse_functions(
        board,
        "no-response",
        evidence.silent,
        "does not answer: its configuration space reads as ones",
        "Power the host off and on; if that does not help, replace the board or leave it out",
    )
    reserved = [
        Refusal(
            board.path,
            "reserved-memory",
            None,
            f"the firmware keeps memory of IOMMU group {group} mapped for itself (RMRR, `direct` "
            f"in /sys/kernel/iommu_groups/{group}/reserved_regions), so VFIO cannot have it",
            "Update the firmware, turn off what reserves it (slot management, legacy USB) in its "
            "setup, or use another slot",
        )
        for group in board.groups
        if group in evidence.reserved_groups
    ]
    unassigned = [
        Refusal(board.path, "unassigned-memory", use.address, use.what, _ABOVE_4G)
        for use in evidence.unassigned
        if use.address in mine
    ]
    return silent + reserved + unassigned
