"""The plug: a board put into a running machine's port, and taken out again, with its guest's consent."""

import time
from typing import Final

from tests.lab.board import Board, devices
from tests.lab.host import VirtualHost
from tests.lab.qmp import Monitor, QmpError
from tests.lab.record import MachineError
from tests.lab.topology import Port

PLUG_SECONDS: Final = 60
"""How long a guest may take to see a board, or to let go of one, emulation included."""

_SHOWN = """\
end=$(($(date +%s) + {seconds}))
while :; do
    set -- /sys/bus/pci/devices/{port}/????:??:??.?
    [ -e "$1" ] || shift
    [ $# -eq {count} ] && break
    [ $(date +%s) -lt $end ] || {{ echo "$# functions of {count}"; exit 1; }}
    sleep 0.05
done
udevadm settle --timeout={seconds}
for function; do echo "${{function##*/}}"; done
"""
"""Waits in the guest until a port has so many functions behind it, and prints their addresses."""


def insert(host: VirtualHost, port: Port, board: Board) -> None:
    """Put a board into an empty port.

    Raises QmpError when QEMU refuses one of its functions; then none is there.
    """
    with host.monitor() as monitor:
        try:
            # Function 0 announces the board to the guest, which then looks for the others: so it comes last.
            for function in reversed(devices(board, port.name)):
                for device in function:
                    monitor.demand(f"device_add {device}")
        except QmpError:
            for name in _held(monitor, port):
                monitor.human(f"device_del {name}")
            raise


def shown(host: VirtualHost, port: Port, count: int, *, timeout: float = PLUG_SECONDS) -> tuple[str, ...]:
    """Wait until the guest shows `count` functions behind a port; return their PCI addresses.

    Raises MachineError when it shows another number after `timeout` seconds.
    """
    script = _SHOWN.format(port=port.address, count=count, seconds=round(timeout))
    done = host.ssh(script, check=False, timeout=2 * timeout + 60)
    if done.returncode != 0:
        raise MachineError(f"{host.name}: {port.address}: {(done.stdout + done.stderr).strip()}, after {timeout:.0f} s")
    return tuple(done.stdout.split())


def remove(host: VirtualHost, port: Port, *, timeout: float = PLUG_SECONDS) -> None:
    """Take the board out of a port, once the guest has let go of it.

    Raises MachineError when it has not in `timeout` seconds.
    """
    end = time.monotonic() + timeout
    with host.monitor() as monitor:
        asked = False
        while left := _held(monitor, port):
            if not asked:
                # It may have been asked before, by a call that did not wait for long enough.
                monitor.human(f"device_del {port.name}.0")
                asked = True
            if time.monotonic() > end:
                raise MachineError(f"{host.name}: the guest still holds {', '.join(left)} after {timeout:.0f} s")
            time.sleep(0.05)
    shown(host, port, 0, timeout=timeout)


def _held(monitor: Monitor, port: Port) -> list[str]:
    """Return QEMU's names of the functions that are behind a port."""
    every = (str(each["name"]) for each in monitor.command("qom-list", path="/machine/peripheral"))
    return [name for name in every if name.startswith(f"{port.name}.")]
