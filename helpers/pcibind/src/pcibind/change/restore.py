"""Giving one function back: its former override, then its former driver."""

from __future__ import annotations

import contextlib
import os

from pcibind.model.errors import NotBoundError
from pcibind.model.pci import Address
from pcibind.read import access, sysfs
from pcibind.read.access import Task
from pcibind.read.paths import Paths

LOADING_SECONDS = 120.0
"""How long a driver that is being loaded may be busy with taking its devices, which may be many."""

_LOOK_AGAIN = 5.0


def restore(paths: Paths, address: Address, driver: str | None, override: str | None) -> Task[bool]:
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


def _override(paths: Paths, address: Address, override: str | None) -> access.Access:
    # A newline alone clears it (Documentation/ABI/testing/sysfs-bus-pci).
    return access.write(paths.override(address), f"{override or ''}\n")


def _move(paths: Paths, address: Address, driver: str | None) -> Task[None]:
    yield from unbind(paths, address, wanted=driver)
    if driver is None:
        return
    if not os.path.exists(paths.driver(driver)):
        # A driver's name need not be its module's (xhci_hcd is in xhci_pci); the alias leads there.
        with contextlib.suppress(OSError):
            with open(f"{paths.device(address)}/modalias", encoding="utf-8") as file:
                alias = file.read().strip()
            yield access.modprobe(alias)
    if not os.path.exists(paths.driver(driver)):
        with contextlib.suppress(OSError):
            yield access.modprobe(driver)
    if sysfs.driver_of(paths, address) is None:
        yield access.write(paths.drivers_probe, str(address))
    if sysfs.driver_of(paths, address) is None and os.path.exists(paths.driver(driver)):
        with contextlib.suppress(OSError):
            yield access.write(f"{paths.driver(driver)}/bind", str(address))
    found = sysfs.driver_of(paths, address)
    if found != driver:
        raise NotBoundError(
            f"{address}: expected its original driver {driver}, found {found or 'none'}; load "
            f"{driver} and write {address} to {paths.drivers_probe}, or reboot"
        )


def unbind(paths: Paths, address: Address, wanted: str | None = None) -> Task[None]:
    """Take a function from its driver, if it has one; raise NotBoundError if it stays there.

    Somebody may bind it again at once: that is no matter if it is to the driver that is `wanted`.
    """
    driver = sysfs.driver_of(paths, address)
    if driver is None:
        return
    file = f"{paths.driver(driver)}/unbind"
    waited = 0.0
    # A driver that is just being loaded takes all its devices first, and has its files after that.
    while not os.path.exists(file) and sysfs.driver_of(paths, address) == driver:
        if waited >= LOADING_SECONDS:
            raise NotBoundError(
                f"{address}: {driver} is still being loaded after {LOADING_SECONDS:g} s, or never "
                f"lets a device go: expected {file}; apply again when it is loaded"
            )
        yield access.wait([file], _LOOK_AGAIN)
        waited += _LOOK_AGAIN
    try:
        yield access.write(file, str(address))
    except OSError:
        # Not where it let go by itself meanwhile.
        if sysfs.driver_of(paths, address) == driver:
            raise
    found = sysfs.driver_of(paths, address)
    if found not in (None, wanted):
        raise NotBoundError(
            f"{address}: unbound from {driver}, but now on {found}; expected no driver"
        )
