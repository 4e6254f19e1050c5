"""The machine of a program: QEMU, started as the real node starts it, and its monitor."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .log import log
from .settings import Settings

IMAGE = Path("/usr/lib/stand-in/program.img")
DEVICE = "program-device-"
MEMORY_MB = 128

# The real node's numbers (vmm/qemu.rs): attempts to connect to the monitor, the pause before each, and the seconds that
# the monitor may take to answer.
MONITOR_TRIES = 100
MONITOR_TRY_SECONDS = 0.05
MONITOR_SECONDS = 3.0
# Ours, for what the real node does not ask.
QUESTION_SECONDS = 60.0
TAIL_BYTES = 2000


class ProgramError(Exception):
    """The machine could not be started, or QEMU failed; the message says at what."""


class Monitor:
    """QEMU's machine protocol over one connection."""

    def __init__(self, connection: socket.socket, seconds: float = MONITOR_SECONDS) -> None:
        """Negotiate within so many seconds. Raises TimeoutError, or another OSError or ValueError."""
        self._connection = connection
        self._stream = connection.makefile("rwb")
        deadline = time.monotonic() + seconds
        try:
            self._read(deadline)
            self.execute("qmp_capabilities", deadline=deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        self._connection.close()

    def _read(self, deadline: float) -> dict[str, Any]:
        # Never 0, which would make the socket non-blocking.
        self._connection.settimeout(max(0.001, deadline - time.monotonic()))
        line = self._stream.readline()
        if not line:
            raise ConnectionError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, *, deadline: float | None = None) -> Any:
        """The command's return value. Raises ProgramError when QEMU refuses it."""
        deadline = time.monotonic() + QUESTION_SECONDS if deadline is None else deadline
        self._stream.write(json.dumps({"execute": command}).encode() + b"\n")
        self._stream.flush()
        while True:
            message = self._read(deadline)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise ProgramError(f"QEMU refused {command}: {message['error']['desc']}")


def workspace(settings: Settings, transaction: str) -> Path:
    """The directory that the machine mounts, at the real node's place."""
    return settings.data_directory / "vmfiles" / transaction / "workspace"


def command_line(settings: Settings, transaction: str, guest_cid: int) -> list[str]:
    """QEMU's arguments: the real node's (vmm/qemu.rs), plus a name for each passed device."""
    ports = [("0x10", "1", "multifunction=on,addr=0x3"), ("0x11", "2", "addr=0x3.0x1"), ("0x12", "3", "addr=0x3.0x2")]
    arguments = [settings.qemu_path, "-machine", "q35"]
    for port, number, place in ports:
        arguments += ["-device", f"pcie-root-port,port={port},chassis={number},id=pci.{number},bus=pcie.0,{place}"]
    arguments += ["-device", "virtio-scsi-pci,bus=pci.2,addr=0x0,id=scsi0"]
    arguments += ["-device", "scsi-hd,bus=scsi0.0,drive=hd0"]
    arguments += ["-vga", "none", "-smp", "1", "-device", "isa-debug-exit", "-m", f"{MEMORY_MB}M"]
    arguments += ["-device", "virtio-rng-pci", "-machine", "accel=kvm:tcg", "-cpu", "max"]
    arguments += ["-drive", f"file={IMAGE},format=raw,if=none,id=hd0,readonly=on"]
    arguments += ["-display", "none", "-serial", "stdio"]
    share = f"local,path={workspace(settings, transaction)},mount_tag=0,security_model=none,multidevs=remap,id=hd0"
    arguments += ["-virtfs", share, "-device", f"vhost-vsock-pci,guest-cid={guest_cid}"]
    arguments += ["-qmp", f"tcp:localhost:{monitor_port(guest_cid)},server"]
    for index, entry in enumerate(settings.gpu_devices or ()):
        arguments += ["-device", f"vfio-pci,rombar=0,host={entry},id={DEVICE}{index}"]
    return arguments


def monitor_port(guest_cid: int) -> int:
    """The TCP port of the machine's monitor on the host's loopback."""
    return guest_cid % 64512 + 1024


def functions_of(devices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All functions of a bus and of the buses behind its bridges, as `query-pci` gives them."""
    for device in devices:
        yield device
        yield from functions_of(device.get("pci_bridge", {}).get("devices", []))


def passed_through(buses: list[dict[str, Any]], entries: tuple[str, ...]) -> dict[str, str]:
    """Where the machine has each entry: its address on the machine's bus (`00:06.0`) by the entry, in their order."""
    addresses = {}
    for function in functions_of([device for bus in buses for device in bus["devices"]]):
        name = function.get("qdev_id", "")
        if name.startswith(DEVICE):
            address = f"{function['bus']:02x}:{function['slot']:02x}.{function['function']:x}"
            addresses[int(name.removeprefix(DEVICE))] = address
    return {entries[index]: addresses[index] for index in sorted(addresses)}


class Machine:
    """A machine that runs a program, from QEMU's start to its end."""

    def __init__(self, settings: Settings, transaction: str, guest_cid: int, slowness: float = 1.0) -> None:
        """Start QEMU and connect to its monitor, within the real node's limits times `slowness`. Raises ProgramError.

        What QEMU and the machine's serial port print is appended to files of the transaction's directory.
        """
        self.guest_cid = guest_cid
        self._logs = settings.log_directory / transaction
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            with (self._logs / "stdout.log").open("ab") as out, (self._logs / "stderr.log").open("ab") as err:
                command = command_line(settings, transaction, guest_cid)
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as error:
            raise ProgramError(f"{settings.qemu_path}: {error.strerror}") from None
        try:
            self.monitor = self._connect(transaction, slowness)
        except BaseException:
            self._end_process()
            raise

    def _connect(self, transaction: str, slowness: float) -> Monitor:
        seconds = MONITOR_SECONDS * slowness
        # As the real node: an ended QEMU is noticed by its refused connections only.
        for _ in range(int(MONITOR_TRIES * slowness) + 1):
            time.sleep(MONITOR_TRY_SECONDS)
            try:
                address = ("localhost", monitor_port(self.guest_cid))
                return Monitor(socket.create_connection(address, timeout=seconds), seconds)
            except TimeoutError:
                log("error", f"tx: {transaction} - QEMU QMP connect timeout. Terminating VM.")
                raise ProgramError("Failed to connect to QEMU QMP") from None
            except (OSError, ValueError):
                # Refused: QEMU does not listen yet.
                continue
        log("error", f"tx: {transaction} - Failed to get QEMU started. Giving up.")
        raise ProgramError("Failed to start QEMU")

    def _end_process(self) -> None:
        self._process.kill()
        self._process.wait()

    def ended(self) -> bool:
        """Whether QEMU ended by itself."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End QEMU and wait until it is gone, and with it its hold on the devices."""
        self.monitor.close()
        self._end_process()

    def printed(self) -> str:
        """The end of what the machine and QEMU printed, over all tries."""
        ends = []
        for name in ("stdout.log", "stderr.log"):
            with contextlib.suppress(OSError):
                ends.append((self._logs / name).read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip())
        return "\n".join(filter(None, ends))
