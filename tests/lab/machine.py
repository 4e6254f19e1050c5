"""A machine: one virtual GPU host with its own disk, its ports and its console's log."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import accelerator, cache, keys, qemu
from tests.lab.hostpackages import program
from tests.lab.image import Image
from tests.lab.image import ensure as ensure_image
from tests.lab.progress import Progress, silent, step
from tests.lab.qemu import Guard, Hardware, Process
from tests.lab.qmp import Monitor, QmpError
from tests.lab.topology import DEFAULT, Topology, named

FORWARDS = (5432, 8888, 9944, 9999, 9995)
"""The guest's ports, besides SSH, that every machine offers on 127.0.0.1."""

BOOTED = "booted"
"""The name of a warm disk's snapshot."""

_BOOT_SECONDS = 300
_numbers = itertools.count(1)


class MachineError(RuntimeError):
    """A machine did not start, did not come back or is not there; the text says where to look."""


@dataclass(frozen=True)
class _Record:
    """What another process needs in order to go on with a machine."""

    topology: str
    memory_mib: int
    cpus: int
    accelerator: tuple[str, str]
    forwards: tuple[tuple[int, int], ...]
    registry: str | None
    pid: int
    start: int
    owner: tuple[int, int] | None

    @classmethod
    def load(cls, path: Path) -> Self:
        data = json.loads(path.read_text())
        data["accelerator"] = tuple(data["accelerator"])
        data["forwards"] = tuple((host, inside) for host, inside in data["forwards"])
        data["owner"] = tuple(data["owner"]) if data["owner"] else None
        return cls(**data)


class Machine:
    """A running virtual host. Leaving a `with` block ends it and removes its disk.

    Its directory keeps `console.log` (what the guest printed, all boots) and `qemu.log`.
    """

    host = "127.0.0.1"

    def __init__(self, name: str, hardware: Hardware, *, registry: Path | None, progress: Progress) -> None:
        """Describe a machine that does not exist yet. Use `start`, `attach` or `fork`."""
        self.name = name
        self.hardware = hardware
        self.registry = registry
        self.directory = _home() / name
        self.disk = self.directory / "disk.qcow2"
        self.console = self.directory / "console.log"
        self.key = keys.ensure(cache.directory()).operator
        self.known_hosts = self.directory / "known_hosts"
        self.forwards: dict[int, int] = {}
        self._progress = progress
        self._owner: Process | None = None
        self._process: Process | None = None
        self._guard: Guard | None = None

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
        machine = cls(
            name or f"lab-{os.getpid()}-{next(_numbers)}",
            hardware,
            registry=registry,
            progress=progress,
        )
        with machine._made():
            if saved is not None:
                _copy(saved, machine.disk)
            else:
                _overlay(image.disk, machine.disk)
            machine._launch([(0, 22), *((0, port) for port in forwards)], BOOTED if saved else None)
            machine.wait()
            machine._settle(f"{_SET_CLOCK}; {_SET_NAME}")
            if detached:
                machine._detach()
        return machine

    @classmethod
    def attach(cls, name: str, *, progress: Progress = silent) -> Self:
        """Return the machine of that name that another process started.

        Raises MachineError when there is none.
        """
        path = _home() / name / "machine.json"
        if not path.exists():
            raise MachineError(f"no machine {name!r}: `python -m tests.lab list` shows them")
        record = _Record.load(path)
        hardware = Hardware(
            named(record.topology),
            record.memory_mib,
            record.cpus,
            qemu.Accelerator(*record.accelerator),
        )
        registry = Path(record.registry) if record.registry else None
        machine = cls(name, hardware, registry=registry, progress=progress)
        machine.forwards = {inside: host for host, inside in record.forwards}
        process = Process(record.pid, record.start)
        machine._process = process if process.alive else None
        machine._owner = Process(*record.owner) if record.owner else None
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
    def owner(self) -> int | None:
        """Return the number of another, living process that started this machine for itself.

        None for one of our own and for a detached one: those are ours to end.
        """
        return self._owner.pid if self._owner is not None and self._owner.alive else None

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
        options = {
            "Port": str(self.port),
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "30",
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "6",
            "ControlMaster": "auto",
            "ControlPersist": "60",
            "ControlPath": str(_control(self.directory)) + "-%r",
        }
        words = (("-o", f"{name}={value}") for name, value in options.items())
        return ("-F", "/dev/null", *(word for pair in words for word in pair))

    def inventory(self, *, user: str = "root") -> tuple[str, dict[str, object]]:
        """Return the machine as a host of a pyinfra inventory: its name and its host data.

        As `operator`, add `_sudo` yourself.
        """
        return self.name, {
            "ssh_hostname": self.host,
            "ssh_port": self.port,
            "ssh_user": user,
            "ssh_key": str(self.key),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
        }

    def monitor(self) -> Monitor:
        """Return a connection to QEMU's control socket, to be used in a `with`.

        Raises QmpError when the machine has no power.
        """
        return Monitor(self.directory / "qmp.sock")

    # What it does.

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
        words = [program("ssh"), *self.ssh_arguments, f"{user}@{self.host}", "--", command]
        done = subprocess.run(
            words,
            # An empty input, not none: a command must not eat the caller's.
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            failure = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            failure.add_note(f"{self.name}, as {user}:\n{done.stdout}{done.stderr}")
            raise failure
        return done

    def boot_id(self, *, timeout: float = 60) -> str:
        """Return the kernel's identifier of this boot."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id", timeout=timeout).stdout.strip()

    def wait(self, *, other_than: str | None = None, timeout: float = _BOOT_SECONDS) -> None:
        """Wait until SSH answers, in another boot than `other_than` (a boot identifier) if given.

        Raises MachineError when QEMU ends or `timeout` seconds pass.
        """
        end = time.monotonic() + timeout
        while True:
            if not self.running:
                raise MachineError(f"{self.name}: QEMU ended.{self._last_words()}")
            if self._greeted():
                with suppress(subprocess.SubprocessError):
                    if self.boot_id(timeout=30) != other_than:
                        return
            if time.monotonic() > end:
                raise MachineError(f"{self.name}: no answer over SSH in {timeout:.0f} s.{self._last_words()}")
            time.sleep(0.2)

    def wait_running(self, *, timeout: float = _BOOT_SECONDS) -> str:
        """Wait until systemd has finished booting; return its state: `running`, `degraded`, …"""
        state = self.ssh("systemctl is-system-running --wait", check=False, timeout=timeout)
        return state.stdout.strip()

    def reboot(self, *, timeout: float = _BOOT_SECONDS) -> None:
        """Reboot from inside, and wait until SSH answers in the new boot. Raises MachineError."""
        before = self.boot_id()
        self.ssh("systemctl reboot", check=False, timeout=60)
        self._hang_up()
        self.wait(other_than=before, timeout=timeout)

    def power_cut(self) -> None:
        """Take its power away at once. What the guest had flushed is on its disk, no more."""
        self._off()

    def power_on(self, topology: Topology | str | None = None, *, timeout: float = _BOOT_SECONDS) -> None:
        """Boot it from its disk at the same ports, with other boards if a topology is given.

        Raises MachineError when it is on already or does not answer in `timeout` seconds.
        """
        if self.running:
            raise MachineError(f"{self.name} is on already")
        if topology is not None:
            shape = named(topology) if isinstance(topology, str) else topology
            old = self.hardware
            self.hardware = Hardware(shape, old.memory_mib, old.cpus, old.accelerator)
        detached = self._guard is None
        self._launch([(host, inside) for inside, host in self.forwards.items()], None)
        try:
            self.wait(timeout=timeout)
        except BaseException:
            self._off()
            raise
        if detached:
            self._detach()

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
        self._off()

    def stop(self) -> None:
        """End it, as a power cut does, and remove its disk. Its logs stay in its directory."""
        self._off()
        for path in self.directory.glob("*"):
            if path not in (self.console, self.directory / "qemu.log"):
                path.unlink(missing_ok=True)

    def snapshot(self, name: str) -> None:
        """Keep the whole state of the running machine, memory and disk, under a name of its own."""
        self._hang_up()
        with self.monitor() as monitor:
            monitor.demand(f"savevm {name}")

    def restore(self, name: str) -> None:
        """Go back to a snapshot of this machine; only its clock goes on. Raises QmpError."""
        self._hang_up()
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
        new = type(self)(
            name or f"lab-{os.getpid()}-{next(_numbers)}",
            self.hardware,
            registry=registry or self.registry,
            progress=self._progress,
        )
        with new._made():
            if self.running:
                with self.monitor() as monitor:
                    # A stopped machine's disk is whole: QEMU flushes it when it stops.
                    monitor.command("stop")
                    try:
                        _copy(self.disk, new.disk)
                        if snapshot is None:
                            monitor.demand(f"delvm {kept}")
                    finally:
                        monitor.command("cont")
            else:
                _copy(self.disk, new.disk)
            new._launch([(0, inside) for inside in self.forwards], kept)
            new.wait()
            new._settle(f"{_SET_CLOCK}; {_SET_NAME}")
            if detached:
                new._detach()
        return new

    # How it does it.

    def _made(self) -> "_Made":
        return _Made(self)

    def _launch(self, forwards: Sequence[tuple[int, int]], snapshot: str | None) -> None:
        arguments = [
            *("-name", self.name),
            *self.hardware.arguments(),
            *qemu.drive(self.disk.name),
            *qemu.network(forwards, self.registry),
            *("-chardev", f"file,id=console,path={self.console.name},append=on"),
            *("-serial", "chardev:console"),
            *("-qmp", "unix:qmp.sock,server=on,wait=off"),
            *(("-loadvm", snapshot) if snapshot else ()),
        ]
        log = self.directory / "qemu.log"
        with suppress(FileNotFoundError):
            (self.directory / "qmp.sock").unlink()
        self._process, self._guard = qemu.launch(arguments, directory=self.directory, log=log)
        try:
            self.forwards = self._read_forwards()
            pair = keys.ensure(cache.directory())
            self.known_hosts.write_text(f"[{self.host}]:{self.port} {pair.public(pair.host)}\n")
            self._write_record()
        except BaseException:
            self._off()
            raise

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

    def _write_record(self, *, owned: bool = True) -> None:
        if self._process is None:
            return
        hardware = self.hardware
        me = os.getpid()
        record = {
            "topology": hardware.topology.name,
            "memory_mib": hardware.memory_mib,
            "cpus": hardware.cpus,
            "accelerator": [hardware.accelerator.accel, hardware.accelerator.cpu],
            "forwards": [[host, inside] for inside, host in self.forwards.items()],
            "registry": str(self.registry) if self.registry else None,
            "pid": self._process.pid,
            "start": self._process.start,
            "owner": [me, qemu.started_at(me)] if owned else None,
        }
        path = self.directory / "machine.json"
        half = path.with_suffix(".new")
        half.write_text(json.dumps(record, indent=1))
        half.replace(path)

    def _detach(self) -> None:
        self._write_record(owned=False)
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def _settle(self, script: str) -> None:
        self.ssh(script.format(now=time.time(), name=self.name))

    def _greeted(self) -> bool:
        """Tell whether an SSH server shows its banner within two seconds."""
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as stream:
                return stream.recv(4) == b"SSH-"
        except OSError:
            return False

    def _hang_up(self) -> None:
        """End the shared SSH connections: they would not notice that time has jumped."""
        path = _control(self.directory)
        for control in path.parent.glob(path.name + "-*"):
            user = control.name.removeprefix(path.name + "-")
            subprocess.run(
                [program("ssh"), *self.ssh_arguments, "-O", "exit", f"{user}@{self.host}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
            control.unlink(missing_ok=True)

    def _off(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        if self.forwards:
            self._hang_up()

    def _last_words(self) -> str:
        words = ""
        for path in (self.directory / "qemu.log", self.console):
            with suppress(OSError):
                tail = path.read_text(errors="replace").splitlines()[-8:]
                words += "".join(f"\n  {line}" for line in (f"{path} ends:", *tail))
        return words


class _Made:
    """Makes a machine's directory; when the block fails, ends the machine and keeps its logs."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        machine = self._machine
        sweep()
        with cache.locked(machine.directory):
            if (machine.directory / "machine.json").exists():
                raise MachineError(f"{machine.name}: there is a machine of that name already")
            shutil.rmtree(machine.directory, ignore_errors=True)
            machine.directory.mkdir(parents=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._machine.stop()


_SET_CLOCK = "date --set @{now:.3f} >/dev/null"
_SET_NAME = (
    "old=$(cat /etc/hostname); echo {name} >/etc/hostname; hostname {name};"
    ' sed -i "s/^127.0.1.1 .*/127.0.1.1 {name}/" /etc/hosts'
)


def machines() -> list[str]:
    """Return the names of all machines, with power or without."""
    return sorted(path.parent.name for path in _home().glob("*/machine.json"))


def sweep() -> None:
    """Remove the disks of machines whose owner died without ending them."""
    for path in _home().glob("*/machine.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = _Record.load(path)
            if record.owner is None or Process(*record.owner).alive:
                continue
            Process(record.pid, record.start).kill()
            for file in ("machine.json", "disk.qcow2", "qmp.sock", "known_hosts"):
                (path.parent / file).unlink(missing_ok=True)


def warm_disk(image: Image, hardware: Hardware, progress: Progress = silent) -> Path | None:
    """Return a disk with the snapshot `booted` for this hardware, made when the cache has none.

    Returns None, having said why, when the machine cannot be saved: then it must be booted.
    """
    here = Path(__file__)
    key = cache.digest(image.digest, qemu.version(), *hardware.arguments(), here.with_name("qemu.py").read_text())
    path = cache.directory() / "warm" / f"{hardware.topology.name}-{key}.qcow2"
    if path.exists():
        return path
    with cache.locked(path):
        if path.exists():
            return path
        name = f"warm-{hardware.topology.name}-{os.getpid()}-{next(_numbers)}"
        machine = Machine(name, hardware, registry=None, progress=progress)
        doing = f"booting a machine with {hardware.topology.name} once, to start others from it"
        minutes = "about a minute" if hardware.accelerator.emulated else "about 15 seconds"
        with step(progress, doing, takes=minutes), machine._made():
            _overlay(image.disk, machine.disk)
            machine._launch([(0, 22)], None)
            machine.wait()
            machine.wait_running()
            # The first command of each kind costs seconds: it is in memory from here on.
            machine.ssh("sudo sync", user="operator")
            try:
                machine.snapshot(BOOTED)
            except QmpError as error:
                progress(f"no warm start here: {error}")
                machine.stop()
                return None
            with machine.monitor() as monitor:
                monitor.command("stop")
            machine._off()
            os.rename(machine.disk, path)
            shutil.rmtree(machine.directory)
    return path


def _home() -> Path:
    path = cache.directory() / "machines"
    path.mkdir(exist_ok=True)
    return path


def _control(directory: Path) -> Path:
    """Return the start of a machine's SSH control sockets, whose paths must be short."""
    folder = Path(tempfile.gettempdir()) / f"gevulot-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / cache.digest(str(directory))[:8]


def _overlay(base: Path, disk: Path) -> None:
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(disk))


def _copy(source: Path, target: Path) -> None:
    _run("cp", "--sparse=always", "--reflink=auto", str(source), str(target))


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{name} exited {done.returncode}: {done.stderr.strip()}")


__all__ = ["BOOTED", "FORWARDS", "Machine", "MachineError", "machines", "sweep", "warm_disk"]
