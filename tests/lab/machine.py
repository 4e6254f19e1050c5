"""A machine: one virtual GPU host with its own disk, its ports and its console's log."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import accelerator, disk, record
from tests.lab.host import BOOT_SECONDS, VirtualHost
from tests.lab.image import Image
from tests.lab.image import ensure as ensure_image
from tests.lab.progress import Progress, silent
from tests.lab.qemu import Hardware, Process
from tests.lab.record import MachineError, machines
from tests.lab.topology import DEFAULT, Topology, named
from tests.lab.warm import BOOTED
from tests.lab.warm import ensure as warm_disk

FORWARDS = (5432, 8888, 9944, 9999, 9995)
"""The guest's ports, besides SSH, that every machine offers on 127.0.0.1."""

_SET_CLOCK = "date --set @{now:.3f} >/dev/null"
_SET_NAME = (
    "old=$(cat /etc/hostname); echo {name} >/etc/hostname; hostname {name};"
    ' sed -i "s/^127.0.1.1 .*/127.0.1.1 {name}/" /etc/hosts'
)


class Machine(VirtualHost):
    """A running virtual host. Leaving a `with` block ends it and removes its disk.

    Use `start`, `attach` or `fork` to get one. Its directory keeps `console.log` (what the guest
    printed, all boots) and `qemu.log`.
    """

    _owner: Process | None = None

    @classmethod
    def start(
        cls,
        topology: Topology | str = DEFAULT,
        *,
        name: str | None = None,
        base: Image | None = None,
        warm: bool = True,
        memory_mib: int = 4096,
        cpus: int = 2,
        forwards: Sequence[int] = FORWARDS,
        registry: Path | None = None,
        detached: bool = False,
        progress: Progress = silent,
    ) -> Self:
        """Return a new machine that answers over SSH.

        `warm` starts from a snapshot of a booted machine of the same topology, made when the
        cache has none; else it boots. `registry` is a directory of container images to serve.
        A `detached` machine lives on when this process ends.

        Raises MachineError when the name is in use or the machine does not answer, and what
        building the image raises.
        """
        image = base or ensure_image(progress)
        shape = named(topology) if isinstance(topology, str) else topology
        hardware = Hardware(shape, memory_mib, cpus, accelerator.choose(image, progress))
        saved = warm_disk(image, hardware, progress) if warm else None
        machine = cls(name or record.fresh("lab"), hardware, registry=registry)
        with machine.made():
            if saved is not None:
                disk.copy(saved, machine.disk)
            else:
                disk.overlay(image.disk, machine.disk)
            machine.launch([(0, 22), *((0, port) for port in forwards)], snapshot=BOOTED if saved else None)
            machine.wait()
            machine._settle(f"{_SET_CLOCK}; {_SET_NAME}")
            if detached:
                machine.detach()
        return machine

    @classmethod
    def attach(cls, name: str) -> Self:
        """Return the machine of that name that another process started.

        Raises MachineError when there is none.
        """
        found = record.find(name)
        machine = cls(name, found.hardware, registry=Path(found.registry) if found.registry else None)
        machine.forwards = {inside: host for host, inside in found.forwards}
        process = Process(found.pid, found.start)
        machine._process = process if process.alive else None
        machine._owner = Process(*found.owner) if found.owner else None
        machine._detached = True
        return machine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def owner(self) -> int | None:
        """Return the number of another, living process that started this machine for itself.

        None for one of our own and for a detached one: those are ours to end.
        """
        return self._owner.pid if self._owner is not None and self._owner.alive else None

    def reboot(self, *, timeout: float = BOOT_SECONDS) -> None:
        """Reboot from inside, and wait until SSH answers in the new boot. Raises MachineError."""
        before = self.boot_id()
        self.ssh("systemctl reboot", check=False, timeout=60)
        self._ssh.hang_up()
        self.wait(other_than=before, timeout=timeout)

    def power_on(self, topology: Topology | str | None = None, *, timeout: float = BOOT_SECONDS) -> None:
        """Boot it from its disk at the same ports, with other boards if a topology is given.

        Raises MachineError when it is on already or does not answer in `timeout` seconds.
        """
        if self.running:
            raise MachineError(f"{self.name} is on already")
        if topology is not None:
            shape = named(topology) if isinstance(topology, str) else topology
            old = self.hardware
            self.hardware = Hardware(shape, old.memory_mib, old.cpus, old.accelerator)
        self.launch([(host, inside) for inside, host in self.forwards.items()])
        try:
            self.wait(timeout=timeout)
        except BaseException:
            self.power_cut()
            raise
        if self._detached:
            self.detach()

    def shutdown(self, *, timeout: float = 180) -> None:
        """Press the power button and wait until the machine is off. Its disk is kept.

        Raises MachineError when it is still on after `timeout` seconds.
        """
        if self._process is None or not self._process.alive:
            return
        with self.monitor() as monitor:
            monitor.command("system_powerdown")
        try:
            self._process.wait(timeout=timeout)
        except TimeoutError as error:
            raise MachineError(f"{self.name} is still on: {error}.{self._last_words()}") from error
        self.power_cut()

    def restore(self, name: str) -> None:
        """Go back to a snapshot of this machine; only its clock goes on. Raises QmpError."""
        self._ssh.hang_up()
        with self.monitor() as monitor:
            monitor.demand(f"loadvm {name}")
            monitor.command("cont")
        self.wait()
        self._settle(_SET_CLOCK)

    def fork(
        self,
        name: str | None = None,
        *,
        snapshot: str | None = None,
        registry: Path | None = None,
        detached: bool = False,
    ) -> Self:
        """Return a new machine in the state of this one: now, or at one of its snapshots.

        Both run on, each for itself; the new one has ports of its own.
        """
        kept = snapshot or "fork"
        if snapshot is None:
            self.snapshot(kept)
        new = type(self)(name or record.fresh("lab"), self.hardware, registry=registry or self.registry)
        with new.made():
            if self.running:
                with self.monitor() as monitor:
                    # A stopped machine's disk is whole: QEMU flushes it when it stops.
                    monitor.command("stop")
                    try:
                        disk.copy(self.disk, new.disk)
                        if snapshot is None:
                            monitor.demand(f"delvm {kept}")
                    finally:
                        monitor.command("cont")
            else:
                disk.copy(self.disk, new.disk)
            new.launch([(0, inside) for inside in self.forwards], snapshot=kept)
            new.wait()
            new._settle(f"{_SET_CLOCK}; {_SET_NAME}")
            if detached:
                new.detach()
        return new

    def _settle(self, script: str) -> None:
        self.ssh(script.format(now=time.time(), name=self.name))


__all__ = ["FORWARDS", "Machine", "MachineError", "machines"]
