"""QEMU: its command line for a lab machine, and its process, which never outlives its owner."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab import emulator, guest
from tests.lab.board import AUDIO, CARD_DISK
from tests.lab.emulator import EmulatorError
from tests.lab.platform import Firmware, Iommu
from tests.lab.topology import DISK_SLOT, DISPLAY_SLOT, IOMMU_SLOT, NETWORK_SLOT, Topology

PROCESSORS = "GEVULOT_LAB_PROCESSORS"


@dataclass(frozen=True)
class Accelerator:
    """How the guest's processor is made: QEMU's `-accel` and `-cpu` arguments."""

    accel: str
    cpu: str

    @property
    def emulated(self) -> bool:
        """Tell whether every instruction is translated, which costs about a factor of ten."""
        return self.accel.startswith("tcg")


@dataclass(frozen=True)
class Hardware:
    """What a snapshot is bound to: it can be loaded only into the same hardware."""

    topology: Topology
    memory_mib: int
    cpus: int
    accelerator: Accelerator
    firmware: Firmware = Firmware.BIOS
    iommu: Iommu = Iommu.INTEL

    @property
    def has_card_disk(self) -> bool:
        """Tell whether a board of it carries a disk."""
        return any(f",drive={CARD_DISK}," in word for word in self.topology.arguments())

    @property
    def is_saved(self) -> bool:
        """Tell whether QEMU can save it while it runs: amd-iommu cannot be."""
        return self.iommu is not Iommu.AMD

    def arguments(self) -> list[str]:
        """Return QEMU's arguments for the machine, without its disk and its network's far side."""
        disk = f"virtio-blk-pci,drive=disk,bus=pcie.0,addr={DISK_SLOT:x}.0,bootindex=0"
        network = f"virtio-net-pci,netdev=net,bus=pcie.0,addr={NETWORK_SLOT:x}.0,romfile="
        return [
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
            *("-machine", "q35,sata=off,smbus=off", "-rtc", "base=utc"),
            *("-accel", self.accelerator.accel, "-cpu", self.accelerator.cpu),
            *self._processors(),
            *_FIRMWARE[self.firmware],
            *_IOMMU[self.iommu],
            *self._display(),
            *("-device", disk, "-device", network),
            *("-audiodev", f"none,id={AUDIO}"),
            *self.topology.arguments(),
        ]

    def _display(self) -> list[str]:
        """Return the arguments of the mainboard's own display, where the firmware draws: a server has one.

        Without it OVMF draws into the first board. BIOS machines have none: SeaBIOS leaves nothing mapped.
        """
        if self.firmware is Firmware.BIOS or self.topology.has_boot_display:
            return []
        return ["-device", f"cirrus-vga,bus=pcie.0,addr={DISPLAY_SLOT:x}.0,romfile="]

    def _processors(self) -> list[str]:
        """Return the arguments of processors and memory, both divided among the sockets if there are several."""
        sockets = self.topology.sockets
        if sockets == 1:
            return ["-smp", str(self.cpus), "-m", str(self.memory_mib)]
        # A single processor leaves the other node with memory alone, which a host may also have.
        words = [
            "-smp",
            f"{self.cpus},sockets={sockets if self.cpus % sockets == 0 else 1}",
            "-m",
            str(self.memory_mib),
        ]
        for node in range(sockets):
            words += ["-object", f"memory-backend-ram,id=node{node},size={self.memory_mib // sockets}M"]
            words += ["-numa", f"node,nodeid={node},memdev=node{node}"]
        return words


_FIRMWARE: Final[Mapping[Firmware, tuple[str, ...]]] = {
    Firmware.BIOS: (),
    # As read-only memory: its variables are those of one power-on, and so a snapshot has the one disk to keep.
    Firmware.UEFI: ("-bios", "OVMF.fd"),
}
_IOMMU: Final[Mapping[Iommu, tuple[str, ...]]] = {
    # VFIO refuses to attach anything without interrupt remapping.
    Iommu.INTEL: ("-device", "intel-iommu,intremap=on,caching-mode=on"),
    # Without a PCI device of its own, named here, no snapshot can save it.
    Iommu.AMD: (
        *("-device", f"AMDVI-PCI,id=iommu,bus=pcie.0,addr={IOMMU_SLOT:x}.0"),
        *("-device", "amd-iommu,pci-id=iommu,intremap=on"),
    ),
}


def processors() -> int:
    """Return how many processors a machine gets: `$GEVULOT_LAB_PROCESSORS`, else two where the computer has two.

    Raises EmulatorError when the variable is no number of processors.
    """
    text = os.environ.get(PROCESSORS, str(min(2, os.cpu_count() or 1)))
    if not text.isdecimal() or int(text) < 1:
        raise EmulatorError(f"{PROCESSORS} is {text!r}; expected a number of processors, 1 or more")
    return int(text)


def network(forwards: Sequence[tuple[int, int]], registry: Path | None) -> list[str]:
    """Return the user network's arguments.

    `forwards` are pairs of a port on 127.0.0.1 (0: any free one) and a port of the guest.
    `registry` is a directory of container images, which the guest sees served at
    registry.lab:5000: QEMU starts one server for each connection.
    """
    options = ["user", "id=net"]
    options += [f"hostfwd=tcp:127.0.0.1:{host}-:{inside}" for host, inside in forwards]
    if registry is not None:
        server = Path(__file__).parent / "containers" / "registry.py"
        words = [sys.executable, str(server), str(registry)]
        command = " ".join(f"'{word}'" for word in words).replace(",", ",,")
        where = f"{guest.REGISTRY_ADDRESS}:{guest.REGISTRY_PORT}"
        options.append(f"guestfwd=tcp:{where}-cmd:{command}")
    return ["-netdev", ",".join(options)]


def drive(disk: str) -> list[str]:
    """Return the arguments of the system disk. The guest's flushes reach the file."""
    escaped = disk.replace(",", ",,")
    return ["-drive", f"file={escaped},format=qcow2,if=none,id=disk,cache=writeback,discard=unmap"]


def card_drive(disk: Path) -> list[str]:
    """Return the arguments of the disk that boards carry. No snapshot keeps it: it never changes."""
    escaped = str(disk).replace(",", ",,")
    return ["-drive", f"file={escaped},format=raw,if=none,id={CARD_DISK},readonly=on"]


def started_at(pid: int) -> int | None:
    """Return a process's start in clock ticks since the host's boot; None when it has ended.

    With the process number it names one process for ever: numbers are used again.
    """
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        # A process is gone when its last thread is, not when its first one is a zombie: until
        # then it holds its files and their locks.
        gone = fields[0] in "ZX" and len(list((folder / "task").iterdir())) <= 1
    except OSError:
        return None
    return None if gone else int(fields[19])


@dataclass(frozen=True)
class Process:
    """A process by number and start, so that another of the same number is never mistaken."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Tell whether it still runs."""
        return started_at(self.pid) == self.start

    def kill(self, *, timeout: float = 30) -> None:
        """Kill it at once, and wait until it is gone. Raises TimeoutError."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.wait(timeout=timeout)

    def wait(self, *, timeout: float) -> None:
        """Wait until it is gone. Raises TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} still runs after {timeout:.0f} s")
            time.sleep(0.02)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


class Guard:
    """Kills a process when its owner dies, however it dies.

    The guard is a shell that reads from a pipe whose other end only the owner holds: at the
    owner's death the pipe closes. (The kernel's own parent-death signal follows the thread that
    started the process, not the program.)
    """

    _SCRIPT = 'if read -r _; then exit; fi; [ "$(cut -d" " -f22 /proc/$1/stat)" = "$2" ] && kill -9 $1'

    def __init__(self, process: Process) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT, "guard", str(process.pid), str(process.start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """Let the process live on by itself."""
        if self._shell.poll() is None and self._shell.stdin is not None:
            with suppress(BrokenPipeError):
                self._shell.stdin.write(b"\n")
                self._shell.stdin.close()
        self._shell.wait()


def launch(arguments: Sequence[str], *, directory: Path, log: Path) -> tuple[Process, Guard]:
    """Start QEMU in `directory`, its own messages appended to `log`, and guard it."""
    qemu = emulator.ensure()
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*qemu.command(emulator.SYSTEM), *arguments],
            cwd=directory,
            env=qemu.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    child.returncode = 0  # Process.wait reaps it; Popen must not warn or reap it itself.
    process = Process(child.pid, started_at(child.pid) or -1)
    return process, Guard(process)
