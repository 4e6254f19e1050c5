"""Boards that were taken at this boot without being on record; and the host's own drivers.

What a record does not tell is found by the alias of a device: which driver it would have.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable

from pcibind.decide import judgement
from pcibind.model.errors import StuckError
from pcibind.model.pci import DRIVER, Address, Board, Function, Topology, addresses
from pcibind.model.record import Record, RecordedBoard, RecordedFunction
from pcibind.model.request import Selector
from pcibind.model.values import TYPE_CHECKING
from pcibind.read import files, kernel
from pcibind.read.files import Paths

if TYPE_CHECKING:
    from pcibind.read.kernel import Task


def read_notes(paths: Paths) -> frozenset[Address]:
    """The functions whose overrides were set at this boot, by the early script or by pcibind."""
    functions: frozenset[Address] = frozenset()
    for note in _notes(paths):
        with contextlib.suppress(OSError):
            functions |= addresses((files.read(note) or "").split())
    return functions


def forget(paths: Paths, functions: Collection[Address]) -> None:
    """Drop functions from the notes of this boot: what they have now is the host's own."""
    for note in _notes(paths):
        if text := files.read(note):
            left = [word for word in text.split() if word not in map(str, functions)]
            files.write_atomically(note, f"{' '.join(left)}\n")


def list_taken(paths: Paths, topology: Topology, known: Record) -> list[Board]:
    """The boards that were taken at this boot, but are not on record."""
    recorded = {board.path for board in (*known.boards, *known.leaving)}
    return list(judgement.taken(topology, read_notes(paths), recorded))


def find_original(
    paths: Paths, board: Board, recorded: RecordedBoard | None = None
) -> Task[RecordedBoard]:
    """Find the original drivers of a board: as recorded, else the host's driver for each function.

    Loads the drivers, those too that a blacklist keeps away: their modules are named, and a
    blacklist concerns aliases only (modprobe.d). A function that a driver of the host's has keeps
    it. Raises nothing: a module that does not load in time must not keep other functions from
    their drivers.
    """
    functions = []
    for function in board.functions:
        old = recorded.function(function.number) if recorded else None
        override = old.driver_override if old else None
        driver = old.driver if old else None
        if function.driver not in (None, DRIVER):
            driver = function.driver
        elif driver in (None, DRIVER):
            driver = yield from _host_driver(paths, function)
        elif not os.path.exists(paths.driver(driver)):
            # By its own name first: of several that could have the function, it had this one.
            with contextlib.suppress(OSError, StuckError):
                yield kernel.modprobe(driver)
            if not os.path.exists(paths.driver(driver)):
                yield from _host_driver(paths, function, driver)
        functions.append(
            RecordedFunction(
                function.number,
                function.identity,
                driver,
                None if override == DRIVER else override,
            )
        )
    selector = recorded.selector if recorded else Selector("path", board.path)
    name = recorded.name if recorded else None
    return RecordedBoard(name, selector, board.path, board.address, tuple(functions))


def explain_taken(boards: Iterable[Board]) -> tuple[str, ...]:
    """Return an error and its fix for each board that was taken without being on record."""
    return tuple(
        f"board {board.path} ({board.address}) is not on record, but was taken at this boot, "
        "probably by an outdated list in the initramfs; run `pcibind release`, then rebuild the "
        "initramfs"
        for board in boards
    )


def _notes(paths: Paths) -> list[str]:
    # What the early script of an earlier version left has the other two names.
    return [paths.taken, f"{paths.run}/early.initramfs", f"{paths.run}/early.done"]


def _host_driver(paths: Paths, function: Function, wanted: str | None = None) -> Task[str | None]:
    """Load the modules for a function until one has a driver, or the `wanted` one; return that.

    None where no module has one.
    """
    modules: list[str] = []
    with contextlib.suppress(OSError, StuckError):
        alias = files.read_attribute(f"{paths.device(function.address)}/modalias")
        modules = (yield kernel.modules(alias)).split()
    for module in modules:
        # A built-in driver's module is there already.
        with contextlib.suppress(OSError, StuckError):
            yield kernel.modprobe(module)
        with contextlib.suppress(OSError):
            # Links named BUS:DRIVER, made by module_add_driver() in drivers/base/module.c.
            for name in sorted(os.listdir(f"{paths.sys}/module/{module}/drivers")):
                driver = name.removeprefix("pci:")
                if name.startswith("pci:") and driver != DRIVER and driver == (wanted or driver):
                    return driver
    return None
