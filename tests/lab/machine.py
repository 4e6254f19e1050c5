"""A machine: one virtual GPU host with its own disk, its ports and its console's log."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import accelerator, disk, record
from tests.lab.board import Board, pluggable
from tests.lab.board import named as named_board
from tests.lab.host import BOOT_SECONDS, VirtualHost
from tests.lab.image import ensure as ensure_image
from tests.lab.platform import DEBIAN_13, Platform
from tests.lab.plug import PLUG_SECONDS, insert, remove, shown
from tests.lab.preparation import BARE, Preparation
from tests.lab.preparation import put as put_disk
from tests.lab.progress import Progress, silent
from tests.lab.qemu import Hardware, Process, processors
from tests.lab.record import MachineError, machines
from tests.lab.topology import DEFAULT, Topology, TopologyError, named
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
        platform: Platform = DEBIAN_13,
        preparation: Preparation = BARE,
        warm: bool = True,
        memory_mib: int = 4096,
        cpus: int | None = None,
        forwards: Sequence[int] = FORWARDS,
        registry: Path | None = None,
        detached: bool = False,
        progress: Progress = silent,
    ) -> Self:
        """Return a new machine that answers over SSH.

        `preparation` is what was done to its disk before the boot. `warm` starts from a snapshot
        of a booted machine of the same topology, platform and preparation, made when the cache has
        none; else it boots. `registry` is a directory of container images to serve. A `detached`
        machine lives on when this process ends.

        Raises MachineError when the name is in use or the machine does not answer, and what
        building the image raises.
        """
        image = ensure_image(progress, platform)
        shape = named(topology) if isinstance(topology, str) else topology
        cores = cpus or processors()
        hardware = Hardware(shape, memory_mib, cores, accelerator.choose(progress), platform.firmware, platform.iommu)
        saved = warm_disk(image, hardware, preparation, progress) if warm else None
        if saved is not None:
            return cls.from_disk(
                saved, hardware, snapshot=BOOTED, name=name, forwards=forwards, registry=registry, detached=detached
            )
        machine = cls(name or record.fresh("lab"), hardware, registry=registry)
        with machine.made():
            put_disk(image, hardware, preparation, machine.disk, progress)
            machine._launch(forwards, None, detached)
        return machine

    @classmethod
    def from_disk(
        cls,
        saved: Path,
        hardware: Hardware,
        *,
        snapshot: str | None,
        name: str | None = None,
        forwards: Sequence[int] = FORWARDS,
        registry: Path | None = None,
        detached: bool = False,
    ) -> Self:
        """Return a new machine with a copy of a disk: in the state of one of its snapshots, or booted from it.

        Raises MachineError when the name is in use or the machine does not answer.
        """
        machine = cls(name or record.fresh("lab"), hardware, registry=registry)
        with machine.made():
            disk.copy(saved, machine.disk)
            if snapshot is not None:
                machine.snapshots[snapshot] = hardware.topology
            machine._launch(forwards, snapshot, detached)
        return machine

    def _launch(self, forwards: Sequence[int], snapshot: str | None, detached: bool) -> None:
        self.launch([(0, 22), *((0, port) for port in forwards)], snapshot=snapshot)
        self.wait()
        self._settle(f"{_SET_CLOCK}; {_SET_NAME}")
        if detached:
            self.detach()

    @classmethod
    def attach(cls, name: str) -> Self:
        """Return the machine of that name that another process started.

        Raises MachineError when there is none.
        """
        running = record.find(name)
        machine = cls(name, running.hardware, registry=Path(running.registry) if running.registry else None)
        machine.forwards = {inside: host for host, inside in running.forwards}
        machine.snapshots = dict(running.snapshots)
        process = Process(running.pid, running.start)
        machine._process = process if process.alive else None
        machine._owner = Process(*running.owner) if running.owner else None
        machine._detached = True
        machine._printed.start = running.console
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
        self._printed.forget()
        self._resumes = False
        # Not as other commands are run: that the connection ends is no failure here.
        self._ssh.run("systemctl reboot", check=False, timeout=60, watched=self.check)
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
            self.hardware = replace(self.hardware, topology=shape)
        self.launch(self._ports_taken)
        try:
            self.wait(timeout=timeout)
        except BaseException:
            self.power_cut()
            raise
        if self._detached:
            self.detach()

    def plug(self, slot: int, board: Board | str, *, timeout: float = PLUG_SECONDS) -> tuple[str, ...]:
        """Put a board into the empty port at device number `slot` while the machine runs.

        Returns the PCI addresses of its functions once the guest shows all of them and udev has
        settled. `board` is one, or the name of one in `board.BOARDS`. The board stays over
        reboots and power cuts. The port must have room, as those of the topology `ports` have,
        or have held a board as large at power-on; the kernel leaves what does not fit disabled.

        Raises TopologyError for a port that is not there or not empty, BoardError for an unknown
        name, QmpError when QEMU refuses, and MachineError when the guest does not show it in
        `timeout` seconds.
        """
        port = self.topology.port(slot)
        if port.board is not None:
            raise TopologyError(f"{self.name}: {port.address} holds a board already")
        chosen = pluggable(named_board(board) if isinstance(board, str) else board)
        shape = self.topology.holding(slot, chosen)
        insert(self, port, chosen)
        self._holds(shape)
        return shown(self, port, len(chosen.functions), timeout=timeout)

    def unplug(self, slot: int, *, timeout: float = PLUG_SECONDS) -> None:
        """Take the board out of the port at device number `slot` while the machine runs.

        The guest is asked first, as by a board's button: returns once it has let go of all
        functions and they are gone. Raises TopologyError when no board is there, and MachineError
        when the guest still holds it after `timeout` seconds, say because a process has one of
        its functions open; the guest has then been asked, and a second call goes on waiting.
        """
        port = self.topology.port(slot)
        if port.board is None:
            raise TopologyError(f"{self.name}: {port.address} holds no board")
        remove(self, port, timeout=timeout)
        self._holds(self.topology.holding(slot, None))

    def restore(self, name: str) -> None:
        """Go back to a snapshot of this machine; only its clock goes on.

        When it had other boards then, or has no power now, QEMU is started anew in that state,
        at the same ports. Raises QmpError when there is no such snapshot, MachineError when QEMU
        does not start.
        """
        shape = self.snapshots.get(name, self.topology)
        self._ssh.hang_up()
        if self.running and shape == self.topology:
            with self.monitor() as monitor:
                monitor.command("stop")
                self._printed.forget()
                self._resumes = True
                monitor.demand(f"loadvm {name}")
                monitor.command("cont")
        else:
            self.power_cut()
            self.hardware = replace(self.hardware, topology=shape)
            self.launch(self._ports_taken, snapshot=name)
            if self._detached:
                self.detach()
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
        hardware = replace(self.hardware, topology=self.snapshots.get(kept, self.topology))
        new = type(self)(name or record.fresh("lab"), hardware, registry=registry or self.registry)
        new.snapshots = dict(self.snapshots)
        with new.made():
            if self.running:
                with self.monitor() as monitor:
                    # A stopped machine's disk is whole: QEMU flushes it when it stops.
                    monitor.command("stop")
                    try:
                        disk.copy(self.disk, new.disk)
                        if snapshot is None:
                            monitor.demand(f"delvm {kept}")
                            del self.snapshots[kept]
                            self._write_record(owner=self._recorded_owner())
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

    @property
    def _ports_taken(self) -> list[tuple[int, int]]:
        """Return its forwards as `launch` takes them, so that they stay the same."""
        return [(host, inside) for inside, host in self.forwards.items()]

    def _holds(self, shape: Topology) -> None:
        """Note what boards it has now."""
        self.hardware = replace(self.hardware, topology=shape)
        self._write_record(owner=self._recorded_owner())

    def _settle(self, script: str) -> None:
        self.ssh(script.format(now=time.time(), name=self.name))


__all__ = ["FORWARDS", "Machine", "MachineError", "machines"]
