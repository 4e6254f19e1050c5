"""Starts a program's machine as the real node does, and reports the PCI functions that it saw.

There is no program: the machine has no disk, so its firmware sets the functions up and then finds
nothing to boot. That is the proof wanted here: a real machine got the real devices.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from .settings import Settings

DEVICE = "program-device-"
# The firmware has set up all functions well before; but a machine may be emulated within another.
SETTLE_SECONDS = 150.0
_guest_cids = itertools.count(4)


class ProgramError(Exception):
    """The machine did not start, or ended early; the message ends with what QEMU said."""


class Monitor:
    """QEMU's machine protocol over one connection."""

    def __init__(self, stream: io.BufferedRWPair) -> None:
        self._stream = stream
        self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str) -> Any:
        """The command's return value. Raises ProgramError when QEMU refuses it."""
        self._stream.write(json.dumps({"execute": command}).encode() + b"\n")
        self._stream.flush()
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise ProgramError(f"QEMU refused {command}: {message['error']['desc']}")


def command_line(settings: Settings, guest_cid: int, monitor_port: int) -> list[str]:
    """QEMU's arguments: the real node's, less its disks and network, plus names for the devices."""
    arguments = [settings.qemu_path, "-machine", "q35,accel=kvm:tcg", "-cpu", "max", "-smp", "1"]
    arguments += ["-m", "128M", "-nodefaults", "-vga", "none", "-display", "none"]
    arguments += ["-device", "virtio-scsi-pci,id=scsi0"]
    arguments += ["-device", f"vhost-vsock-pci,guest-cid={guest_cid}"]
    arguments += ["-qmp", f"tcp:127.0.0.1:{monitor_port},server=on,wait=off"]
    for index, entry in enumerate(settings.gpu_devices or ()):
        arguments += ["-device", f"vfio-pci,rombar=0,host={entry},id={DEVICE}{index}"]
    return arguments


def functions_of(devices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All functions of a bus and of the buses behind its bridges, as `query-pci` gives them."""
    for device in devices:
        yield device
        yield from functions_of(device.get("pci_bridge", {}).get("devices", []))


def passed_through(buses: list[dict[str, Any]], entries: tuple[str, ...]) -> list[dict[str, Any]]:
    """The functions that came from vfio-pci, in the order of the entries.

    A BAR's address is null while the firmware has not assigned it.
    """
    found = {}
    for function in functions_of([device for bus in buses for device in bus["devices"]]):
        name = function.get("qdev_id", "")
        if not name.startswith(DEVICE):
            continue
        index = int(name.removeprefix(DEVICE))
        identity = function["id"]
        bars = [
            {
                "bar": region["bar"],
                "type": region["type"],
                "address": address if 0 <= (address := region["address"]) < 1 << 63 else None,
                "size": region["size"],
            }
            for region in function["regions"]
        ]
        found[index] = {
            "host": entries[index],
            "address": f"{function['bus']:02x}:{function['slot']:02x}.{function['function']:x}",
            "id": f"{identity['vendor']:04x}:{identity['device']:04x}",
            "class": f"{function['class_info']['class']:04x}",
            "bars": bars,
        }
    return [found[index] for index in sorted(found)]


def settled(functions: list[dict[str, Any]]) -> bool:
    """Whether every BAR has an address."""
    return all(bar["address"] is not None for each in functions for bar in each["bars"])


def connect(machine: subprocess.Popen[bytes], monitor_port: int) -> io.BufferedRWPair:
    """The monitor's connection, once QEMU listens. Raises ProgramError when QEMU ends first."""
    deadline = time.monotonic() + 60
    while machine.poll() is None and time.monotonic() < deadline:
        try:
            client = socket.create_connection(("127.0.0.1", monitor_port), timeout=60)
        except OSError:
            time.sleep(0.1)
            continue
        with client:
            return client.makefile("rwb")
    raise ProgramError("QEMU did not start")


def run(settings: Settings) -> dict[str, Any]:
    """Starts a machine with all listed devices, waits for its firmware, reads and ends it.

    Gives `accelerator` ("kvm" or "tcg"), `guest_cid`, `devices` (as listed), `functions` (what the
    machine saw) and `settled` (whether all BARs have addresses). Raises ProgramError.
    """
    entries = settings.gpu_devices or ()
    guest_cid = next(_guest_cids)
    monitor_port = guest_cid % 64512 + 1024
    with tempfile.TemporaryFile() as said:
        try:
            machine = subprocess.Popen(
                command_line(settings, guest_cid, monitor_port),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        except OSError as error:
            raise ProgramError(f"{settings.qemu_path}: {error.strerror}") from None
        try:
            with connect(machine, monitor_port) as stream:
                monitor = Monitor(stream)
                deadline = time.monotonic() + SETTLE_SECONDS
                functions = passed_through(monitor.execute("query-pci"), entries)
                while not settled(functions) and time.monotonic() < deadline:
                    time.sleep(0.5)
                    functions = passed_through(monitor.execute("query-pci"), entries)
                accelerator = "kvm" if monitor.execute("query-kvm")["enabled"] else "tcg"
        except (ProgramError, OSError, ValueError) as error:
            # Ended first, so that all it has to say is said.
            machine.kill()
            machine.wait()
            size = os.fstat(said.fileno()).st_size
            said.seek(max(0, size - 2000))
            reason = said.read().decode(errors="replace").strip()
            raise ProgramError(f"{error}: {reason}" if reason else str(error)) from None
        finally:
            machine.kill()
            machine.wait()
    return {
        "accelerator": accelerator,
        "guest_cid": guest_cid,
        "devices": list(entries),
        "functions": functions,
        "settled": settled(functions),
    }
