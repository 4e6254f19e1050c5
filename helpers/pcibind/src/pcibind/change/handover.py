"""What a consumer needs to know, under /run, and only while it is true."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pcibind.model.pci import Board
from pcibind.read import files
from pcibind.read.paths import Paths

VERSION = 1


def environment(boards: Sequence[Board]) -> str:
    """The text of devices.env, for EnvironmentFile= of systemd.

    Lists of options and nodes are separated by blanks, lists of addresses by commas.
    """
    nodes = _nodes(boards)
    podman = " ".join(f"--device={node}" for node in ("/dev/vfio/vfio", *nodes))
    functions = ",".join(str(f.address) for board in boards for f in board.functions)
    displays = ",".join(str(f.address) for board in boards for f in board.display_functions)
    return (
        f"PCIBIND_BOARDS={len(boards)}\n"
        f'PCIBIND_GROUP_DEVICES="{" ".join(nodes)}"\n'
        f'PCIBIND_PODMAN_DEVICES="{podman}"\n'
        f"PCIBIND_FUNCTIONS={functions}\n"
        f"PCIBIND_DISPLAY_FUNCTIONS={displays}\n"
    )


def document(boards: Sequence[Board]) -> str:
    """The text of devices.json: the same, board by board."""
    return (
        json.dumps(
            {
                "version": VERSION,
                "boards": [
                    {
                        "path": board.path,
                        "model": board.model,
                        "group_devices": _nodes([board]),
                        "functions": [str(f.address) for f in board.functions],
                        "display_functions": [str(f.address) for f in board.display_functions],
                    }
                    for board in boards
                ],
            },
            indent=2,
        )
        + "\n"
    )


def write(paths: Paths, boards: Sequence[Board]) -> None:
    """Hand proven boards over; writes nothing that already says so. Raises OSError."""
    files.write_atomically(_document(paths), document(boards))
    # Last, since units wait for this one.
    files.write_atomically(_environment(paths), environment(boards))


def remove(paths: Paths) -> None:
    """Take the hand-over back. Raises OSError."""
    files.remove(_environment(paths))
    files.remove(_document(paths))


def is_there(paths: Paths, boards: Sequence[Board]) -> bool:
    """Whether exactly these boards are handed over."""
    try:
        return files.read(_environment(paths)) == environment(boards)
    except OSError:
        return False


def _environment(paths: Paths) -> str:
    return f"{paths.run}/devices.env"


def _document(paths: Paths) -> str:
    return f"{paths.run}/devices.json"


def _nodes(boards: Sequence[Board]) -> list[str]:
    groups = dict.fromkeys(group for board in boards for group in board.groups)
    return [f"/dev/vfio/{group}" for group in groups]
