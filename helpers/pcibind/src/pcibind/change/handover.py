"""The proof that boards can be used, and the files under /run that hand proven boards over.

The kernel is asked; what was written before does not count. A group's status could also be asked of
VFIO itself, but only by opening its device node, which only one process at a time may do: a virtual
machine that starts at that moment would fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain

from pcibind.model.errors import RecordError, StuckError
from pcibind.model.pci import DRIVER, Address, Board, Topology, blocks_group
from pcibind.model.values import TYPE_CHECKING, NamedTuple
from pcibind.read import files, kernel, sysfs
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from pcibind.read.kernel import Task

VERSION = 1

CDI_KIND = "pcibind.internal/board"
"""The kind in Podman's `--device KIND=BOARD`; its domain, .internal, is for private use."""


_NO_NODES = (
    "this kernel has no device node for it: neither of groups (CONFIG_VFIO_GROUP) nor of devices "
    "(CONFIG_VFIO_DEVICE_CDEV)"
)


class Nodes(NamedTuple):
    """Device nodes: of IOMMU groups, of functions (cdevs), and those that go with either."""

    groups: list[str]
    cdevs: list[str]
    common: list[str]

    @classmethod
    def join(cls, several: Iterable[Nodes]) -> Nodes:
        """All of them together, each once."""
        columns = zip(cls([], [], []), *several, strict=True)
        return cls(*(list(dict.fromkeys(chain.from_iterable(column))) for column in columns))

    def own(self, root: str) -> list[str]:
        """The nodes that the kernel makes for the boards, as paths below `root`."""
        return [root + node for node in (*self.groups, *self.cdevs)]

    def all(self) -> list[str]:
        """All nodes that a process needs."""
        return [*self.common, *self.groups, *self.cdevs]


class Offer(NamedTuple):
    """What is handed over of a board: its name, if it has one, and its nodes."""

    board: Board
    name: str | None
    nodes: Nodes


def list_offers(paths: Paths, boards: Iterable[Board]) -> list[Offer]:
    """What is handed over of these boards, in the order of their addresses."""
    try:
        known = files.read_record(paths)
    except RecordError:
        known = None
    names = {board.path: board.name for board in known.boards} if known else {}
    return [
        Offer(board, names.get(board.path), list_nodes(paths, board))
        for board in sorted(boards, key=lambda board: board.address)
    ]


def list_nodes(paths: Paths, board: Board) -> Nodes:
    """The nodes through which VFIO gives a board, as processes see them."""
    groups = sysfs.group_nodes(paths, board)
    cdevs = sysfs.cdevs(paths, board)
    # A kernel without VFIO's container, or without iommufd, has not both.
    common = [("/dev/vfio/vfio", groups), ("/dev/iommu", cdevs)]
    there = [node for node, used in common if used and os.path.exists(paths.root + node)]
    return Nodes(groups, cdevs, there)


def prove(paths: Paths, board: Board) -> list[str]:
    """Return what keeps `board` from being usable through VFIO; empty when nothing does.

    Every function is on vfio-pci, every endpoint of its groups is out of the host's hands, and
    each group and each device of VFIO's has its node.
    """
    wanted = list_nodes(paths, board).own(paths.root)
    missing = [node for node in wanted if not os.path.exists(node)]
    problems = _check_drivers(paths, board)
    if not wanted and not problems:
        return [f"{board.address}: {_NO_NODES}"]
    return problems or [f"{board.address}: {node} is not there" for node in missing]


def prove_soon(paths: Paths, boards: Iterable[Board], seconds: float) -> Task[list[str]]:
    """Prove several boards at once; give udev `seconds` to make the device nodes."""
    boards = tuple(boards)
    problems = [problem for board in boards for problem in _check_drivers(paths, board)]
    wanted = Nodes.join(list_nodes(paths, board) for board in boards).own(paths.root)
    if problems or not wanted:
        return problems or [_NO_NODES]
    if all(os.path.exists(node) for node in wanted):
        return []
    try:
        missing = yield kernel.wait(wanted, seconds)
    except (OSError, StuckError) as error:
        return [str(error)]
    return [
        f"{node} not there after {seconds:g} s; see `udevadm monitor`" for node in missing.split()
    ]


def _check_drivers(paths: Paths, board: Board) -> list[str]:
    """Return problems of the drivers of `board` and of its groups."""
    problems = []
    for function in board.functions:
        driver = sysfs.driver_of(paths, function.address)
        if driver != DRIVER:
            problems.append(
                f"{function.address}: expected driver {DRIVER}, found {driver or 'none'}"
            )
    if not board.groups:
        problems.append(f"{board.address}: no IOMMU group")
    for group in board.groups:
        problems.extend(_check_group(paths, group))
    return problems


def render_environment(offers: Sequence[Offer]) -> str:
    """The text of devices.env, for EnvironmentFile= of systemd.

    Lists of options and nodes are separated by blanks, lists of addresses by commas.
    """
    boards = [each.board for each in offers]
    nodes = Nodes.join(each.nodes for each in offers)
    podman = " ".join(f"--device={node}" for node in nodes.all())
    functions = ",".join(str(f.address) for board in boards for f in board.functions)
    displays = ",".join(str(f.address) for board in boards for f in board.display_functions)
    return (
        f"PCIBIND_BOARDS={len(boards)}\n"
        f'PCIBIND_GROUP_DEVICES="{" ".join(nodes.groups)}"\n'
        f'PCIBIND_CDEVS="{" ".join(nodes.cdevs)}"\n'
        f'PCIBIND_PODMAN_DEVICES="{podman}"\n'
        f"PCIBIND_FUNCTIONS={functions}\n"
        f"PCIBIND_DISPLAY_FUNCTIONS={displays}\n"
    )


def render_document(offers: Sequence[Offer]) -> str:
    """The text of devices.json: the same, board by board."""
    document = [
        {
            "name": name,
            "path": board.path,
            "model": board.model,
            "group_devices": own.groups,
            "cdevs": own.cdevs,
            "functions": [str(f.address) for f in board.functions],
            "display_functions": [str(f.address) for f in board.display_functions],
        }
        for board, name, own in offers
    ]
    return json.dumps({"version": VERSION, "boards": document}, indent=2) + "\n"


def render_cdi(offers: Sequence[Offer]) -> str:
    """A specification of the Container Device Interface: a device for each board, and `all`.

    A device is called as its board, or else by its path. Form and names are those of the CDI's
    SPEC.md, version 0.6.0: names have letters, digits, `_`, `-`, `.` and `:`, not at their ends.
    """
    devices: dict[str, Nodes] = {}
    for board, name, own in offers:
        device = _cdi_name(name or board.path)
        if device in ("", "all", *devices):
            device = _cdi_name(board.path)
        devices[device] = own
    devices["all"] = Nodes.join(each.nodes for each in offers)
    specification = {
        "cdiVersion": "0.6.0",
        "kind": CDI_KIND,
        "devices": [
            {
                "name": name,
                "containerEdits": {
                    "deviceNodes": [{"path": n, "permissions": "rw"} for n in own.all()]
                },
            }
            for name, own in devices.items()
        ],
    }
    return json.dumps(specification, indent=2) + "\n"


def write(paths: Paths, boards: Sequence[Board]) -> None:
    """Hand proven boards over; write no file whose content stays the same.

    Raises OSError when that cannot be; then nothing is handed over, where that can be.
    """
    offers = list_offers(paths, boards)
    try:
        files.write_atomically(_document(paths), render_document(offers))
        try:
            files.write_atomically(_cdi(paths), render_cdi(offers))
        except OSError:
            # The unit of an older version may not write there: the boards are usable all the same,
            # and `is_in_cdi` checks it.
            with contextlib.suppress(OSError):
                files.remove(_cdi(paths))
        # Last, since units wait for this one.
        files.write_atomically(_environment(paths), render_environment(offers))
    except OSError:
        # What is there names other boards; and on a full disk it can still be removed.
        with contextlib.suppress(OSError):
            remove(paths)
        raise


def hand_over(
    paths: Paths, proven: Iterable[Board], require: str, *, complete: bool
) -> tuple[str, ...]:
    """Publish which boards may be used, or remove the published files; return what failed.

    What was done to the boards is to be reported all the same, so that nothing is raised. Where all
    are required and one is not there (not `complete`), nothing new is handed over; but what is
    handed over already stays so, board by board, for as long as it is proven.
    """
    boards = list(proven)
    if not complete and require == "all":
        already = list_published(paths)
        boards = [board for board in boards if board.path in already]
    try:
        publish(paths, boards)
    except OSError as error:
        return (f"the hand-over cannot be written: {error}; repair that, then apply again",)
    return ()


def withdraw(paths: Paths, topology: Topology, going: Sequence[Board] = ()) -> None:
    """Take boards out of the hand-over, and those that are not proven; the others stay.

    Raises OSError.
    """
    published = list_published(paths)
    left = published - {board.path for board in going}
    stay = [b for path in left if (b := topology.board_at(path)) and not prove(paths, b)]
    if not stay or len(stay) < len(published):
        publish(paths, stay)


def publish(paths: Paths, boards: Sequence[Board]) -> None:
    """Hand these boards over, or where there are none, remove the hand-over. Raises OSError."""
    if boards:
        write(paths, boards)
    else:
        remove(paths)


def remove(paths: Paths) -> None:
    """Remove the hand-over. Raises OSError."""
    for path in (_environment(paths), _document(paths), _cdi(paths)):
        if os.path.lexists(path):
            files.remove(path)


def list_published(paths: Paths) -> frozenset[str]:
    """The paths of the boards that are handed over now; none where that cannot be read."""
    if not os.path.exists(_environment(paths)):
        return frozenset()
    try:
        return frozenset(
            b["path"] for b in json.loads(files.read(_document(paths)) or "")["boards"]
        )
    except (OSError, ValueError, LookupError, TypeError):
        return frozenset()


def is_published(paths: Paths, boards: Iterable[Board]) -> bool:
    """Whether exactly these boards are handed over."""
    return _holds(_environment(paths), render_environment(list_offers(paths, boards)))


def is_current(paths: Paths, boards: Iterable[Board]) -> bool:
    """Whether `write` would write nothing for these boards."""
    offers = list_offers(paths, boards)
    return (
        _holds(_environment(paths), render_environment(offers))
        and _holds(_document(paths), render_document(offers))
        and _holds(_cdi(paths), render_cdi(offers))
    )


def is_in_cdi(paths: Paths, boards: Iterable[Board]) -> bool:
    """Whether containers can ask for exactly these boards by their names."""
    return _holds(_cdi(paths), render_cdi(list_offers(paths, boards)))


def _holds(path: str, text: str) -> bool:
    try:
        return files.read(path) == text
    except OSError:
        return False


def _environment(paths: Paths) -> str:
    return f"{paths.run}/devices.env"


def _document(paths: Paths) -> str:
    return f"{paths.run}/devices.json"


def _cdi(paths: Paths) -> str:
    return f"{paths.root}/run/cdi/pcibind.json"


def _cdi_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.:-]", "-", text).strip("_.:-")


def _check_group(paths: Paths, group: int) -> list[str]:
    try:
        members = sorted(os.listdir(paths.group_devices(group)))
    except OSError as error:
        return [f"IOMMU group {group}: cannot be read: {error.strerror}"]
    problems = []
    for member in members:
        try:
            address = Address.parse(member)
            driver = sysfs.driver_of(paths, address)
            if driver == DRIVER:
                continue
            class_code = int(files.read_attribute(f"{paths.device(address)}/class"), 16)
        except (ValueError, OSError):
            # Not a PCI device, or gone since.
            continue
        if blocks_group(class_code, driver):
            problems.append(f"IOMMU group {group} is not viable: {address} is on {driver}")
    return problems
