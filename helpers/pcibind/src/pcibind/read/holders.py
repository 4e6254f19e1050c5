"""Which processes keep device nodes open, as far as /proc tells.

A descriptor that is in flight over a socket is in no process's list, so an empty answer proves
nothing: it names the likely ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pcibind.read.files import Paths


def of(paths: Paths, nodes: Iterable[str]) -> tuple[str, ...]:
    """Processes that have one of these nodes open, as text; a node that ends in * is a prefix.

    Processes that end meanwhile, and those that may not be looked at, are left out.
    """
    nodes = tuple(nodes)
    exact = {node for node in nodes if not node.endswith("*")}
    prefixes = tuple(node[:-1] for node in nodes if node.endswith("*"))
    found = []
    for process in sorted(_entries(paths.proc), key=lambda name: (len(name), name)):
        if not process.isdecimal():
            continue
        directory = f"{paths.proc}/{process}/fd"
        targets = {_target(f"{directory}/{number}") for number in _entries(directory)}
        held = sorted(t for t in targets if t in exact or t.startswith(prefixes))
        if held:
            found.append(f"process {process} ({_name(paths, process)}) has {', '.join(held)}")
    return tuple(found)


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _name(paths: Paths, process: str) -> str:
    try:
        with open(f"{paths.proc}/{process}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "gone"
