"""Device nodes: waiting until they are there, and which processes have them open."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from pcibind.model.values import TYPE_CHECKING
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from typing import Any

_RETRY_SECONDS = 0.1
# With events too: a udevd that hangs sends none.
_POLL_SECONDS = 1.0


def wait(nodes: Iterable[str], seconds: float) -> list[str]:
    """Wait until all of these are there, at most `seconds`; return those that are missing.

    Without events (pyudev is not installed, or a sandbox closes netlink) it polls instead.
    """
    nodes = list(nodes)
    deadline = time.monotonic() + seconds
    if not _missing(nodes):
        return []
    monitor = _monitor()
    # What came before the monitor was there is seen by looking once more.
    while (missing := _missing(nodes)) and (left := deadline - time.monotonic()) > 0:
        if monitor is None:
            time.sleep(min(left, _RETRY_SECONDS))
        else:
            try:
                monitor.poll(timeout=min(left, _POLL_SECONDS))
            except OSError:
                monitor = None
    return missing


def _missing(nodes: list[str]) -> list[str]:
    return [node for node in nodes if not os.path.exists(node)]


def _monitor() -> Any:
    """A started monitor of udev's events for VFIO devices and for drivers, or None."""
    try:
        import pyudev  # type: ignore[import-untyped, unused-ignore]

        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        monitor.filter_by("vfio")
        monitor.filter_by("vfio-dev")
        monitor.filter_by("drivers")
        monitor.start()
    except (ImportError, OSError):
        return None
    return monitor


def list_holders(paths: Paths, nodes: Iterable[str]) -> tuple[str, ...]:
    """Processes that have one of these nodes open, as text; a node that ends in * is a prefix.

    Processes that end during the search, and those that may not be read, are left out.
    """
    nodes = tuple(nodes)
    exact = {node for node in nodes if not node.endswith("*")}
    prefixes = tuple(node[:-1] for node in nodes if node.endswith("*"))
    holders = []
    for process in sorted(_entries(paths.proc), key=lambda name: (len(name), name)):
        if not process.isdecimal():
            continue
        directory = f"{paths.proc}/{process}/fd"
        targets = {_target(f"{directory}/{number}") for number in _entries(directory)}
        held = sorted(t for t in targets if t in exact or t.startswith(prefixes))
        if held:
            holders.append(f"process {process} ({_name(paths, process)}) has {', '.join(held)}")
    return tuple(holders)


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
