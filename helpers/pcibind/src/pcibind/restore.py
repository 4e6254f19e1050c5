"""Giving one function back: its former override, then its former driver."""

from __future__ import annotations

import contextlib

from pcibind import sysfs
from pcibind.bounded import SysfsWriter
from pcibind.errors import NotBoundError
from pcibind.model import Address
from pcibind.paths import Paths


def restore(
    paths: Paths,
    writer: SysfsWriter,
    address: Address,
    driver: str | None,
    override: str | None,
) -> bool:
    """Bring a function to an override and a driver; return whether anything had to be written.

    Raises OSError, StuckError, and NotBoundError when it ends up on another driver.
    """
    changed = sysfs.override_of(paths, address) != override
    if changed:
        # A newline alone clears it (Documentation/ABI/testing/sysfs-bus-pci).
        writer.write(paths.device(address) / "driver_override", f"{override or ''}\n")
    if sysfs.driver_of(paths, address) == driver:
        return changed
    unbind(paths, writer, address)
    if driver is None:
        return True
    if not paths.driver(driver).exists():
        # A driver's name need not be its module's (xhci_hcd is in xhci_pci); the alias leads there.
        with contextlib.suppress(OSError):
            writer.load_module((paths.device(address) / "modalias").read_text().strip())
    if sysfs.driver_of(paths, address) is None:
        writer.write(paths.drivers_probe, str(address))
    if sysfs.driver_of(paths, address) is None and paths.driver(driver).exists():
        with contextlib.suppress(OSError):
            writer.write(paths.driver(driver) / "bind", str(address))
    found = sysfs.driver_of(paths, address)
    if found != driver:
        raise NotBoundError(
            f"{address}: expected its original driver {driver}, found {found or 'none'}; load "
            f"{driver} and write {address} to {paths.drivers_probe}, or reboot"
        )
    return True


def unbind(paths: Paths, writer: SysfsWriter, address: Address) -> None:
    """Take a function from its driver, if it has one; raise NotBoundError if it stays there."""
    driver = sysfs.driver_of(paths, address)
    if driver is None:
        return
    writer.write(paths.driver(driver) / "unbind", str(address))
    found = sysfs.driver_of(paths, address)
    if found is not None:
        raise NotBoundError(
            f"{address}: unbound from {driver}, but now on {found}; expected no driver"
        )
