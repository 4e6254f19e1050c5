"""The record: what a machine leaves on disk so that other processes find it, go on with it, or clear up after it."""

import itertools
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tests.lab import cache, emulator, qemu
from tests.lab.board import Board
from tests.lab.platform import Firmware, Iommu
from tests.lab.qemu import Accelerator, Hardware, Process
from tests.lab.topology import Port, Topology, named

_FILE = "machine.json"
_CLAIM = "claim.json"
LOG = ".log"
"""The end of those files' names that stay when their machine is gone."""

_LOGS_KEPT_SECONDS = 7 * 24 * 3600
_numbers = itertools.count(1)


class MachineError(RuntimeError):
    """A machine did not start, did not come back or is not there; the text says where to look."""


class NameInUse(MachineError):
    """There is a machine of that name already."""


@dataclass(frozen=True)
class Record:
    """What another process needs in order to go on with a machine.

    `forwards` are pairs of a port on 127.0.0.1 and a port of the guest; `pid` and `start` name
    QEMU's process, `owner` the process that ends the machine when it ends, None when detached.
    `ports` is what the machine has now, None for just what its topology's name says; `snapshots`
    are pairs of a snapshot's name and the topology that the machine had then; `console` is where in the console's log
    the last power-on begins.
    """

    topology: str
    memory_mib: int
    cpus: int
    accelerator: tuple[str, str]
    forwards: tuple[tuple[int, int], ...]
    registry: str | None
    pid: int
    start: int
    owner: tuple[int, int] | None
    ports: tuple[Port, ...] | None = None
    snapshots: tuple[tuple[str, Topology], ...] = ()
    console: int = 0
    firmware: str = Firmware.BIOS
    iommu: str = Iommu.INTEL

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record. Raises OSError, ValueError, KeyError or TypeError when it is none."""
        data = json.loads(path.read_text())
        data["accelerator"] = tuple(data["accelerator"])
        data["forwards"] = tuple((host, inside) for host, inside in data["forwards"])
        data["owner"] = tuple(data["owner"]) if data["owner"] else None
        data["ports"] = _ports(data["ports"]) if data.get("ports") is not None else None
        data["snapshots"] = tuple(
            (name, Topology(shape["name"], _ports(shape["ports"]))) for name, shape in data.get("snapshots", ())
        )
        return cls(**data)

    def save(self, directory: Path) -> None:
        """Write it into the machine's directory: whole or not."""
        path = directory / _FILE
        half = path.with_suffix(".new")
        half.write_text(json.dumps(asdict(self), indent=1))
        half.replace(path)

    @property
    def hardware(self) -> Hardware:
        """Return the hardware that the machine has, or had when it last had power."""
        shape = named(self.topology) if self.ports is None else Topology(self.topology, self.ports)
        accelerator = Accelerator(*self.accelerator)
        firmware, iommu = Firmware(self.firmware), Iommu(self.iommu)
        return Hardware(shape, self.memory_mib, self.cpus, accelerator, firmware, iommu)


def _ports(data: list[dict[str, Any]]) -> tuple[Port, ...]:
    """Return the ports that `dataclasses.asdict` and JSON turned into dictionaries and lists."""
    ports = []
    for each in data:
        held = None if each["board"] is None else Board(tuple(each["board"]["functions"]))
        switch = tuple(Board(tuple(board["functions"])) for board in each.get("switch", ()))
        ports.append(Port(**each | {"board": held, "conventional": tuple(each["conventional"]), "switch": switch}))
    return tuple(ports)


def myself() -> tuple[int, int]:
    """Return this process as an owner: its number and its start."""
    me = os.getpid()
    return me, qemu.started_at(me) or -1


def home() -> Path:
    """Return the directory that holds every machine's directory; made when missing."""
    path = cache.directory() / "machines"
    path.mkdir(exist_ok=True)
    return path


def fresh(prefix: str) -> str:
    """Return a name that this process has not used before: the prefix, its number, a count."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}"


def claim(name: str) -> None:
    """Make the directory of a new machine, with nothing in it but whose it is. Raises NameInUse."""
    sweep()
    directory = home() / name
    with cache.locked(directory):
        if (directory / _FILE).exists() or _claimed(directory):
            raise NameInUse(
                f"{name}: there is a machine of that name already; `python -m tests.lab down {name}` removes it"
            )
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        half = directory / f"{_CLAIM}.new"
        half.write_text(json.dumps(myself()))
        half.rename(directory / _CLAIM)


def _claimed(directory: Path) -> bool:
    """Tell whether a living process makes, or has made, a machine in this directory."""
    with suppress(OSError, ValueError, TypeError):
        return Process(*json.loads((directory / _CLAIM).read_text())).alive
    return False


def find(name: str) -> Record:
    """Return the record of the machine of that name. Raises MachineError when there is none."""
    try:
        return Record.load(home() / name / _FILE)
    except FileNotFoundError:
        raise MachineError(f"no machine {name!r}: `python -m tests.lab list` shows them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MachineError(f"{home() / name / _FILE} is of another version of the lab, or damaged: {error!r}") from None


def machines() -> list[str]:
    """Return the names of all machines, with power or without."""
    return sorted(path.parent.name for path in home().glob(f"*/{_FILE}"))


def sweep() -> None:
    """End machines whose owner died without ending them, and remove what they left, and old logs."""
    for directory in (each for each in home().iterdir() if each.is_dir()):
        # Its owner may remove it at this moment; and one of another user is that user's to remove.
        with suppress(OSError), cache.locked_if_free(directory) as free:
            if free and not _claimed(directory):
                _clear(directory)


def _clear(directory: Path) -> None:
    """Remove what a dead process left in a machine's directory, unless the machine is to live on."""
    if (directory / _FILE).exists():
        try:
            record = Record.load(directory / _FILE)
            if record.owner is None or Process(*record.owner).alive:
                return
            Process(record.pid, record.start).kill()
        except (OSError, ValueError, KeyError, TypeError):
            # Of another version of the lab, or not to be killed: it is left alone.
            return
    for process in _emulators_in(directory):
        process.kill()
    for path in directory.iterdir():
        if path.suffix != LOG:
            path.unlink(missing_ok=True)
    if all(time.time() - path.stat().st_mtime > _LOGS_KEPT_SECONDS for path in directory.iterdir()):
        shutil.rmtree(directory, ignore_errors=True)


def _emulators_in(directory: Path) -> list[Process]:
    """Return the QEMUs that run in a directory, as each does in its machine's.

    One that was killed between QEMU's start and its own record leaves no other trace of it.
    """
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if emulator.SYSTEM.encode() in words and (folder / "cwd").readlink() == directory.resolve():
                processes.append(Process(int(folder.name), qemu.started_at(int(folder.name)) or -1))
    return processes


def registries() -> list[Path]:
    """Return the directories of container images that machines serve."""
    directories = []
    for name in machines():
        with suppress(MachineError):
            served = find(name).registry
            if served is not None:
                directories.append(Path(served))
    return directories
