"""What it costs to read the PCI topology of hosts with few and with many functions, beside the tools of the field.

    python -m tests.benchmarks.topology [--devices 14,150,600] [--rounds 5]

A machine of the lab for each number. In each round every way runs once, in turn: over SSH as the controller sees it,
and by itself inside the machine. What counts are the ratios of the medians within one machine, and what each further
function costs. lspci, udevadm and Ansible's setup module answer other questions too, or fewer: they are what else an
operator would ask a host with.

Installs ansible-core with pip into the lab's cache.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote

from facts.pci import PciTopology
from pcibind.remote import topology_text
from tests.benchmarks.cost import Cost, cost
from tests.benchmarks.peer import install_ansible
from tests.lab import inventory
from tests.lab.board import function
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Printer, Progress
from tests.lab.topology import Port, Topology

# A small memory BAR, no I/O ports: of those the firmware has 36 KiB for all, and stops when they do not suffice.
MODEL = "pvpanic-pci"
OWN_FUNCTIONS = 4
"""Those of a machine without any port: host bridge, ISA bridge, network, disk."""

_FIRST_PORT_SLOT = 0x2
_SLOTS, _FUNCTIONS = 31, 8
_BRIDGES = 2
_MOST_PORTS = 8

OURS = "pcibind's topology command"
FLOOR = "true"
LSPCI = "lspci -vmmnnk"
UDEVADM = "udevadm info --export-db"
SETUP = "Ansible's setup module"


@dataclass(frozen=True)
class Crowd(Topology):
    """A topology in which eight functions share each slot behind the PCIe-to-PCI bridges.

    `behind` is how many functions each port's bridge has behind it.
    """

    behind: tuple[int, ...] = ()

    def arguments(self) -> list[str]:
        """Return QEMU's `-device` arguments: the ports', then all functions but each slot's first."""
        words = super().arguments()
        for port, count in zip(self.ports, self.behind, strict=True):
            bridge = f"bridge{port.slot:02x}"
            for index in range(count):
                slot, number = index // _FUNCTIONS + 1, index % _FUNCTIONS
                if number:
                    for line in function(MODEL, f"{bridge}.{slot}.{number}", f"bus={bridge},addr={slot:x}.{number}"):
                        words += ["-device", line]
        return words


def crowd(devices: int) -> Crowd:
    """The topology of a machine that shows so many PCI functions, its own and all bridges among them.

    Raises ValueError when there is none of so many.
    """
    rest = devices - OWN_FUNCTIONS
    ports = max(1, -(-rest // (_SLOTS * _FUNCTIONS + _BRIDGES)))
    functions = rest - ports * _BRIDGES
    if functions < ports or ports > _MOST_PORTS:
        most = OWN_FUNCTIONS + _MOST_PORTS * (_SLOTS * _FUNCTIONS + _BRIDGES)
        raise ValueError(f"--devices {devices}: expected {OWN_FUNCTIONS + _BRIDGES + 1} to {most}")
    behind = tuple(functions // ports + (number < functions % ports) for number in range(ports))
    first = f"{MODEL},multifunction=on"
    return Crowd(
        f"crowd-of-{devices}",
        tuple(
            Port(_FIRST_PORT_SLOT + number, conventional=(first,) * -(-count // _FUNCTIONS))
            for number, count in enumerate(behind)
        ),
        behind,
    )


def ways() -> dict[str, str]:
    """Every way to ask: its name → a shell command."""
    return {
        FLOOR: "true",
        OURS: topology_text.COMMAND,
        LSPCI: "lspci -vmmnnk",
        UDEVADM: "udevadm info --export-db",
        SETUP: "cd /root/peer && python3 -m ansible.modules.setup <arguments.json",
    }


# The kernel counts every process and thread that is started: here without starting one to read it. Two are `date`s.
_INSIDE = """\
started() {{ while read -r word value rest; do [ "$word" = processes ] && return; done </proc/stat; }}
started; first=$value
before=$(date +%s%N)
{{ {command}
}} >/root/output 2>/root/errors || {{ cat /root/errors >&2; exit 1; }}
after=$(date +%s%N)
started; count=$((value - first - 2))
echo $(((after - before) / 1000)) $count $(wc -c </root/output)
"""


@dataclass(frozen=True, slots=True)
class Look:
    """One way's figures of one round: seconds over SSH and inside, bytes, and what was started for it."""

    over_ssh: float
    inside: float
    size: int
    processes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one machine: how many functions it shows, each way's looks, seconds that reading took, whole commands."""

    functions: int
    looks: Mapping[str, Sequence[Look]]
    reading: Sequence[float]
    whole: Mapping[str, Sequence[Cost]]


def look(machine: Machine, command: str) -> Look:
    """Ask once as the controller does, and once inside."""
    start = time.monotonic()
    machine.ssh(f"sh -c {quote(command)}")
    over_ssh = time.monotonic() - start
    words = machine.ssh(f"sh -c {quote(_INSIDE.format(command=command))}").stdout.split()
    microseconds, processes, size = map(int, words)
    return Look(over_ssh, microseconds / 1e6, size, processes)


def read(machine: Machine, functions: int) -> float:
    """Seconds of processor time that the controller takes to understand the answer, which has to be complete."""
    printed = machine.ssh(f"sh -c {quote(topology_text.COMMAND)}").stdout
    start = time.process_time()
    topology = PciTopology().process(printed.splitlines())
    spent = time.process_time() - start
    assert len(topology.functions) == functions, f"{len(topology.functions)} functions of {functions} were read"
    return spent


def install_setup(machine: Machine, ansible: Path) -> None:
    """Put Ansible's setup module onto a machine, to run there by itself."""
    package = next(ansible.glob("lib/python3*/site-packages/ansible"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for part in ("__init__.py", "release.py", "_vendor", "_internal", "module_utils", "modules/setup.py"):
            if (package / part).exists():
                archive.add(package / part, f"root/peer/ansible/{part}")
        text = json.dumps({"ANSIBLE_MODULE_ARGS": {"gather_subset": ["all"]}}).encode()
        entry = tarfile.TarInfo("root/peer/arguments.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    machine.ssh(
        "base64 -d | tar -C / --no-same-owner --no-overwrite-dir -xz && python3 -m compileall -q /root/peer",
        stdin=base64.b64encode(buffer.getvalue()).decode(),
    )


def whole(machine: Machine, ansible: Path, directory: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Whole commands at the controller: their names → the command and its environment."""
    nodes = directory / f"{machine.name}.py"
    nodes.write_text(f"from tests.lab.inventory import passphrase\nnodes = [{inventory.source(machine)}]\n")
    # Every time a connection of its own, as pyinfra makes it.
    variables = {
        "ansible_host": machine.host,
        "ansible_port": machine.port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(machine.key),
        "ansible_ssh_args": "-F /dev/null -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes "
        f"-o UserKnownHostsFile={machine.known_hosts}",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_pipelining": True,
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {
        "pyinfra fact facts.pci.PciTopology": (
            [sys.executable, "-m", "pyinfra", str(nodes), "fact", "facts.pci.PciTopology", "--json"],
            kept | {"PYINFRA_PROGRESS": "off"},
        ),
        "ansible -m setup": (
            [f"{ansible}/bin/ansible", "-i", f"{machine.name},", "all", "-m", "setup", "-e", json.dumps(variables)],
            kept | {"ANSIBLE_HOME": str(directory / "ansible")},
        ),
    }


def measure(machine: Machine, ansible: Path, directory: Path, rounds: int, say: Progress) -> Figures:
    """All figures of one machine. Before the first round every way runs once for nothing."""
    functions = int(machine.ssh("set -- /sys/bus/pci/devices/*; echo $#").stdout)
    looks: dict[str, list[Look]] = {}
    reading: list[float] = []
    costs: dict[str, list[Cost]] = {}
    commands = whole(machine, ansible, directory)
    for command in ways().values():
        look(machine, command)
    for number in range(rounds):
        say(f"{functions} functions: round {number + 1} of {rounds}")
        for name, command in ways().items():
            looks.setdefault(name, []).append(look(machine, command))
        reading.append(read(machine, functions))
        for name, (words, environment) in commands.items():
            costs.setdefault(name, []).append(cost(words, environment, directory / "output"))
    return Figures(functions, looks, reading, costs)


def median(looks: Sequence[Look]) -> Look:
    """The medians; of what was started the least: whatever else the machine does is counted too."""
    return Look(
        statistics.median(each.over_ssh for each in looks),
        statistics.median(each.inside for each in looks),
        round(statistics.median(each.size for each in looks)),
        min(each.processes for each in looks),
    )


def table(figures: Figures) -> str:
    """One machine's figures for people."""
    of = {name: median(looks) for name, looks in figures.looks.items()}
    lines = [
        f"{figures.functions} PCI functions: medians (least, most)",
        f"  {'':<36} {'over SSH, ms':>12} {'':<16} {'inside, ms':>10} {'':<16} {'KiB':>8} {'processes':>9}",
    ]
    for name, looks in figures.looks.items():
        ssh = f"({min(x.over_ssh for x in looks) * 1e3:.0f}, {max(x.over_ssh for x in looks) * 1e3:.0f})"
        inside = f"({min(x.inside for x in looks) * 1e3:.0f}, {max(x.inside for x in looks) * 1e3:.0f})"
        each = of[name]
        lines.append(
            f"  {name:<36} {each.over_ssh * 1e3:12.0f} {ssh:<16} {each.inside * 1e3:10.1f} {inside:<16} "
            f"{each.size / 1024:8.1f} {each.processes:9d}"
        )
    for name in (LSPCI, UDEVADM, SETUP):
        lines.append(
            f"  {OURS} takes, of that of {name}: {of[OURS].inside / of[name].inside:.2f} of the time inside, "
            f"{of[OURS].over_ssh / of[name].over_ssh:.2f} over SSH, {of[OURS].size / of[name].size:.2f} of the bytes"
        )
    lines.append(f"  reading its answer at the controller: {statistics.median(figures.reading) * 1e3:.1f} ms")
    for name, costs in figures.whole.items():
        wall, processor = (statistics.median(getattr(each, key) for each in costs) for key in ("wall", "processor"))
        lines.append(f"  whole command: {name:<36} {wall:7.2f} s, {processor:.2f} s of the controller's CPU")
    return "\n".join(lines)


def rise(costs: Sequence[Figures]) -> str:
    """What each further function costs, from each machine to the next."""
    lines = []
    for fewer, more in itertools.pairwise(costs):
        further = more.functions - fewer.functions
        lines.append(f"from {fewer.functions} to {more.functions} functions, each further one costs:")
        for name in (OURS, LSPCI, UDEVADM, SETUP):
            before, after = median(fewer.looks[name]), median(more.looks[name])
            lines.append(
                f"  {name:<36} {(after.inside - before.inside) / further * 1e6:8.0f} µs inside, "
                f"{(after.size - before.size) / further:6.0f} bytes, "
                f"{(after.processes - before.processes) / further:5.2f} processes"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.topology", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="14,150,600", help="how many PCI functions, with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        crowds = [crowd(int(devices)) for devices in arguments.devices.split(",")]
    except ValueError as error:
        parser.error(str(error))
    say = Printer()
    ansible = install_ansible(say)
    results = []
    with tempfile.TemporaryDirectory(prefix="topology-") as temporary:
        for each in sorted(crowds, key=lambda topology: sum(topology.behind)):
            # Nothing else starts from these: a snapshot of each would only fill the cache.
            with Machine.start(each, preparation=IOMMU, warm=False, progress=say) as machine:
                machine.wait_running()
                install_setup(machine, ansible)
                results.append(measure(machine, ansible, Path(temporary), arguments.rounds, say))
    if arguments.json:
        json.dump([asdict(figures) for figures in results], sys.stdout, indent=1)
        return
    for figures in results:
        print(table(figures))
    print(rise(results))


if __name__ == "__main__":
    main()
