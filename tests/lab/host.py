"""The virtual host: QEMU on one disk, the ports that lead into it, and what it prints."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.lab import breakdown, cache, disk, emulator, journal, keys, qemu, record
from tests.lab.breakdown import Breakdown, Console
from tests.lab.qemu import Guard, Hardware, Process
from tests.lab.qmp import Monitor, QmpError
from tests.lab.record import MachineError, Record
from tests.lab.ssh import ADDRESS, Door, Ssh
from tests.lab.topology import Topology

BOOT_SECONDS = 600
"""How long a boot may take, emulated, without a snapshot and beside two other machines included.

One that panics, stops or shows its login without SSH is reported much sooner.
"""

_SSH_FAILED: Final = 255
_REACH_SECONDS: Final = 60
"""How long a machine whose SSH failed has for another answer before it counts as broken."""

LIVING: "dict[str, VirtualHost]" = {}
"""The hosts that this process gave power to and did not take it from, by name."""


class VirtualHost:
    """Hardware with power or without, and the directory of its files.

    The directory keeps `console.log` (what the guest printed, all boots) and `qemu.log`.
    """

    host = ADDRESS

    def __init__(self, name: str, hardware: Hardware, *, registry: Path | None = None) -> None:
        """Describe a host that does not exist yet: `made` makes its directory, `launch` runs it."""
        self.name = name
        self.hardware = hardware
        self.registry = registry
        self.directory = record.home() / name
        self.disk = self.directory / "disk.qcow2"
        self.console = self.directory / "console.log"
        self._printed = Console(self.console)
        self.key = keys.ensure(cache.directory()).operator
        self.known_hosts = self.directory / "known_hosts"
        self.forwards: dict[int, int] = {}
        self.snapshots: dict[str, Topology] = {}
        self._process: Process | None = None
        self._guard: Guard | None = None
        self._detached = False
        self._resumes = False

    # What it is.

    @property
    def running(self) -> bool:
        """Tell whether it has power."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Return QEMU's process number, None without power."""
        return self._process.pid if self._process is not None and self._process.alive else None

    @property
    def topology(self) -> Topology:
        """Return the boards it has now."""
        return self.hardware.topology

    @property
    def port(self) -> int:
        """Return the port of its SSH server on 127.0.0.1."""
        return self.forward(22)

    def forward(self, guest_port: int) -> int:
        """Return the port on 127.0.0.1 that leads to a port of the guest.

        Raises MachineError when that port is not forwarded.
        """
        try:
            return self.forwards[guest_port]
        except KeyError:
            offered = ", ".join(str(port) for port in self.forwards)
            raise MachineError(f"{self.name}: guest port {guest_port} is not forwarded, only {offered}") from None

    @property
    def ssh_arguments(self) -> tuple[str, ...]:
        """Return ssh's options for this machine, all but the user, the host and the command.

        Connections are shared: the first stays open for a minute, as a background process.
        """
        return self._ssh.arguments

    def monitor(self) -> Monitor:
        """Return a connection to QEMU's control socket, to be used in a `with`.

        Raises QmpError when the machine has no power.
        """
        return Monitor(self.directory / "qmp.sock")

    # Its power.

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make its directory; when the block fails, end the machine and keep its logs.

        Raises MachineError when the name is in use.
        """
        record.claim(self.name)
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def launch(self, forwards: Sequence[tuple[int, int]], *, snapshot: str | None = None) -> None:
        """Switch it on, from its disk or in the state of one of its snapshots; do not wait for it.

        `forwards` are pairs of a port on 127.0.0.1 (0: any free one) and a port of the guest.
        It ends with this process, unless `detach` is called. Raises MachineError when QEMU does
        not start.
        """
        arguments = [
            # Otherwise ps shows the name of its loader.
            *("-name", f"{self.name},process={emulator.SYSTEM[:15]}"),
            *self.hardware.arguments(),
            *qemu.drive(self.disk.name),
            *(qemu.card_drive(disk.card()) if self.hardware.has_card_disk else ()),
            *qemu.network(forwards, self.registry),
            *("-chardev", f"file,id=console,path={self.console.name},append=on"),
            *("-serial", "chardev:console"),
            *("-qmp", "unix:qmp.sock,server=on,wait=off"),
            *(("-loadvm", snapshot) if snapshot else ()),
        ]
        log = self.directory / "qemu.log"
        with suppress(FileNotFoundError):
            (self.directory / "qmp.sock").unlink()
        self._printed.forget()
        self._resumes = snapshot is not None
        self._process, self._guard = qemu.launch(arguments, directory=self.directory, log=log)
        try:
            self.forwards = self._read_forwards()
            pair = keys.ensure(cache.directory())
            self._ssh.trust(pair.public(pair.host))
            # A machine that is to stay keeps its disk though this process is killed now.
            self._write_record(owner=None if self._detached else record.myself())
            LIVING[self.name] = self
        except BaseException:
            self.power_cut()
            raise

    def detach(self) -> None:
        """Let it live on when this process ends."""
        self._detached = True
        self._write_record(owner=None)
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def power_cut(self) -> None:
        """Take its power away at once. What the guest had flushed is on its disk, nothing else."""
        LIVING.pop(self.name, None)
        # First, so that nobody who watches takes this end for a breakdown.
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        if self.forwards:
            self._ssh.hang_up()

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

    def stop(self) -> None:
        """End it, as a power cut does, and remove its disk. Its logs stay in its directory."""
        self.power_cut()
        for path in self.directory.glob("*"):
            if path.suffix != record.LOG:
                path.unlink(missing_ok=True)

    def snapshot(self, name: str) -> None:
        """Keep the whole state of the running machine, memory and disk, under a name of its own."""
        self._ssh.hang_up()
        with self.monitor() as monitor:
            monitor.demand(f"savevm {name}")
        self.snapshots[name] = self.topology
        self._write_record(owner=self._recorded_owner())

    # Its guest.

    def ssh(
        self,
        command: str,
        *,
        user: str = "root",
        check: bool = True,
        timeout: float | None = 600,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the guest, as root or as `operator` (who may use sudo).

        Returns its status and its output; status 255 is ssh's own failure. Raises
        CalledProcessError, with the output as a note, when `check` and the status is not 0, and
        TimeoutExpired after `timeout` seconds.
        """
        try:
            done = self._ssh.run(command, user=user, check=check, timeout=timeout, stdin=stdin, watched=self.check)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            if not isinstance(error, subprocess.CalledProcessError) or error.returncode == _SSH_FAILED:
                self.check_reachable()
            raise
        if done.returncode == _SSH_FAILED:
            self.check_reachable()
        return done

    def boot_id(self, *, timeout: float = 60) -> str:
        """Return the kernel's identifier of this boot."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id", timeout=timeout).stdout.strip()

    def wait(self, *, other_than: str | None = None, timeout: float = BOOT_SECONDS) -> None:
        """Wait until SSH answers, in another boot than `other_than` (a boot identifier) if given.

        Raises Breakdown: at once when the machine is known to be broken, `LOGIN_SECONDS` after it showed its login
        without an answer over SSH, and after `timeout` seconds.
        """
        start = time.monotonic()
        login: float | None = None
        why = "no SSH server answers"
        doing = "resuming" if self._resumes else "booting"
        entered = journal.entered(f"{doing} {self.name} ({self.topology.name})", boot=not self._resumes)
        with entered, Door(self.port) as door:
            while True:
                self.check()
                if door.opens(1.0):
                    boot, why = self._ssh.asks(watched=self.check)
                    if boot is not None and boot != other_than:
                        return
                    why = why or "the boot before still runs"
                    time.sleep(1)
                now = time.monotonic()
                if login is None and self._printed.login():
                    login = now
                if login is not None and now - login > breakdown.LOGIN_SECONDS:
                    self._break(f"it shows its login prompt, but SSH has not answered for {now - login:.0f} s: {why}")
                if now - start > timeout:
                    self._break(f"it does not answer over SSH after {timeout:.0f} s: {why}")

    def wait_running(self, *, timeout: float = BOOT_SECONDS) -> str:
        """Wait until systemd has finished booting; return its state: `running`, `degraded`, …"""
        end = time.monotonic() + timeout
        while True:
            answer = self.ssh("systemctl is-system-running --wait", check=False, timeout=timeout)
            state = answer.stdout.strip()
            # SSH may answer before systemd itself does; then there is no state to wait for yet.
            if state not in ("", "offline", "unknown", "initializing", "starting") or time.monotonic() > end:
                return state
            time.sleep(0.5)

    # Health checks.

    def check(self) -> None:
        """Raise Breakdown when the machine is known to be broken. Asks the guest nothing, and takes no time.

        A machine that was given no power, or whose power was taken on purpose, is not broken.
        """
        if self._process is None:
            return
        panic = self._printed.panic()
        if panic is not None:
            self._break(f"its kernel panicked: {panic}")
        if not self._process.alive:
            # Unless it was just taken on purpose, by another thread.
            if self._process is not None:
                self._break("QEMU ended")
            return
        full = breakdown.full(self.directory)
        if full is not None:
            self._break(full)

    def check_reachable(self, *, timeout: float = _REACH_SECONDS) -> None:
        """Raise Breakdown when it is broken, or has power and runs no command over SSH within `timeout` seconds."""
        self.check()
        if self._process is None:
            return
        end = time.monotonic() + timeout
        why = "no SSH server answers"
        with Door(self.port) as door:
            while time.monotonic() < end:
                self.check()
                if door.opens(1.0):
                    boot, why = self._ssh.asks(watched=self.check)
                    if boot is not None:
                        return
        if self._process is not None:
            self._break(f"SSH stopped answering (waited {timeout:.0f} s): {why}")

    def _break(self, reason: str) -> None:
        raise Breakdown(self.name, reason, self._last_words())

    # How it does it.

    @property
    def _ssh(self) -> Ssh:
        # Its port is known only once QEMU has chosen one.
        return Ssh(self.name, self.port, self.key, self.known_hosts, self.directory)

    def _read_forwards(self) -> dict[int, int]:
        """Ask QEMU which ports it took."""
        end = time.monotonic() + 60
        while True:
            try:
                with self.monitor() as monitor:
                    table = monitor.human("info usernet")
                break
            except QmpError:
                if not self.running or time.monotonic() > end:
                    raise MachineError(f"{self.name}: QEMU did not start.{self._last_words()}") from None
                time.sleep(0.05)
        rows = (line.split() for line in table.splitlines() if "[HOST_FORWARD]" in line)
        return {int(row[5]): int(row[3]) for row in rows}

    def _write_record(self, *, owner: tuple[int, int] | None) -> None:
        if self._process is None:
            return
        hardware = self.hardware
        Record(
            topology=hardware.topology.name,
            memory_mib=hardware.memory_mib,
            cpus=hardware.cpus,
            accelerator=(hardware.accelerator.accel, hardware.accelerator.cpu),
            forwards=tuple((host, inside) for inside, host in self.forwards.items()),
            registry=str(self.registry) if self.registry else None,
            pid=self._process.pid,
            start=self._process.start,
            owner=owner,
            ports=hardware.topology.ports,
            snapshots=tuple(self.snapshots.items()),
            console=self._printed.start,
            firmware=hardware.firmware,
            iommu=hardware.iommu,
        ).save(self.directory)

    def _recorded_owner(self) -> tuple[int, int] | None:
        """Return the process that ends the machine when it ends; None for a detached machine."""
        return record.find(self.name).owner

    def _last_words(self) -> str:
        return breakdown.last_words(self.directory / "qemu.log", self.console)
