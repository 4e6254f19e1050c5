"""What a consumer needs to know, under /run, and only while it is true."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from pcibind.model.errors import RecordError
from pcibind.model.pci import Board
from pcibind.read import files, sysfs
from pcibind.read.files import Paths

VERSION = 1

CDI_KIND = "pcibind.internal/board"
"""What Podman's --device names a board by, before `=`. The domain is reserved for nobody."""


class Nodes(NamedTuple):
    """Device nodes: of IOMMU groups, of functions (cdevs), and those that go with either."""

    groups: list[str]
    cdevs: list[str]
    common: list[str]


def nodes(paths: Paths, boards: Sequence[Board]) -> Nodes:
    """The nodes through which VFIO gives these boards, as processes see them."""
    groups = sysfs.group_nodes(paths, boards)
    cdevs = [node for board in boards for node in sysfs.cdevs(paths, board)]
    # A kernel without VFIO's container, or without iommufd, has not both.
    common = [("/dev/vfio/vfio", groups), ("/dev/iommu", cdevs)]
    there = [node for node, used in common if used and os.path.exists(paths.root + node)]
    return Nodes(groups, cdevs, there)


def environment(paths: Paths, boards: Sequence[Board]) -> str:
    """The text of devices.env, for EnvironmentFile= of systemd.

    Lists of options and nodes are separated by blanks, lists of addresses by commas.
    """
    found = nodes(paths, boards)
    podman = " ".join(f"--device={node}" for node in _options(found))
    functions = ",".join(str(f.address) for board in boards for f in board.functions)
    displays = ",".join(str(f.address) for board in boards for f in board.display_functions)
    return (
        f"PCIBIND_BOARDS={len(boards)}\n"
        f'PCIBIND_GROUP_DEVICES="{" ".join(found.groups)}"\n'
        f'PCIBIND_CDEVS="{" ".join(found.cdevs)}"\n'
        f'PCIBIND_PODMAN_DEVICES="{podman}"\n'
        f"PCIBIND_FUNCTIONS={functions}\n"
        f"PCIBIND_DISPLAY_FUNCTIONS={displays}\n"
    )


def document(paths: Paths, boards: Sequence[Board]) -> str:
    """The text of devices.json: the same, board by board."""
    names = _names(paths)
    found = [(board, nodes(paths, [board])) for board in boards]
    described = [
        {
            "name": names.get(board.path),
            "path": board.path,
            "model": board.model,
            "group_devices": own.groups,
            "cdevs": own.cdevs,
            "functions": [str(f.address) for f in board.functions],
            "display_functions": [str(f.address) for f in board.display_functions],
        }
        for board, own in found
    ]
    return json.dumps({"version": VERSION, "boards": described}, indent=2) + "\n"


def cdi(paths: Paths, boards: Sequence[Board]) -> str:
    """A specification of the Container Device Interface: a device for each board, and `all`.

    A device is called as its board, or else by its path. Form and names are those of the CDI's
    SPEC.md, version 0.6.0: names have letters, digits, `_`, `-`, `.` and `:`, not at their ends.
    """
    names = _names(paths)
    devices: dict[str, Nodes] = {}
    for board in boards:
        device = _cdi_name(names.get(board.path) or board.path)
        if device in ("", "all", *devices):
            device = _cdi_name(board.path)
        devices[device] = nodes(paths, [board])
    devices["all"] = nodes(paths, boards)
    specification = {
        "cdiVersion": "0.6.0",
        "kind": CDI_KIND,
        "devices": [
            {
                "name": name,
                "containerEdits": {
                    "deviceNodes": [{"path": n, "permissions": "rw"} for n in _options(own)]
                },
            }
            for name, own in devices.items()
        ],
    }
    return json.dumps(specification, indent=2) + "\n"


def write(paths: Paths, boards: Sequence[Board]) -> None:
    """Hand proven boards over; writes nothing that already says so. Raises OSError."""
    files.write_atomically(_document(paths), document(paths, boards))
    # The unit of an older version may not write there: the boards are usable all the same, and
    # `is_in_cdi` checks it.
    with contextlib.suppress(OSError):
        files.write_atomically(_cdi(paths), cdi(paths, boards))
    # Last, since units wait for this one.
    files.write_atomically(_environment(paths), environment(paths, boards))


def remove(paths: Paths) -> None:
    """Take the hand-over back. Raises OSError."""
    for path in (_environment(paths), _document(paths), _cdi(paths)):
        if os.path.lexists(path):
            files.remove(path)


def offered(paths: Paths) -> frozenset[str]:
    """The paths of the boards that are handed over now; none where that cannot be read."""
    if not os.path.exists(_environment(paths)):
        return frozenset()
    try:
        return frozenset(
            b["path"] for b in json.loads(files.read(_document(paths)) or "")["boards"]
        )
    except (OSError, ValueError, LookupError, TypeError):
        return frozenset()


def is_there(paths: Paths, boards: Sequence[Board]) -> bool:
    """Whether exactly these boards are handed over."""
    try:
        return files.read(_environment(paths)) == environment(paths, boards)
    except OSError:
        return False


def is_in_cdi(paths: Paths, boards: Sequence[Board]) -> bool:
    """Whether containers can ask for exactly these boards by their names."""
    try:
        return files.read(_cdi(paths)) == cdi(paths, boards)
    except OSError:
        return False


def _environment(paths: Paths) -> str:
    return f"{paths.run}/devices.env"


def _document(paths: Paths) -> str:
    return f"{paths.run}/devices.json"


def _cdi(paths: Paths) -> str:
    return f"{paths.root}/run/cdi/pcibind.json"


def _options(found: Nodes) -> list[str]:
    return [*found.common, *found.groups, *found.cdevs]


def _names(paths: Paths) -> dict[str, str | None]:
    try:
        known = files.read_record(paths)
    except RecordError:
        return {}
    return {board.path: board.name for board in known.boards} if known else {}


def _cdi_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.:-]", "-", text).strip("_.:-")
