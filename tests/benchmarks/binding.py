"""How long it takes to hand boards over, on the lab's real kernel, beside raw writes and the tools of the field.

    python -m tests.benchmarks.binding

One and eight boards of four functions. In each round every way runs once, in turn, from the same start: all functions
on the host's drivers. What counts is the ratio of the medians to the floor, a shell's writes to sysfs, and of a run
with nothing to do to a bare `python3 -I -S`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Printer, Progress
from tests.system.binder import Binder

FIRST_SLOT = 0x4
DPDK = "/root/dpdk/usr/bin/dpdk-devbind.py"
# It knows only classes of devices that DPDK drives, and refuses displays: here its table gets the boards' classes too.
_CLASSES = "".join(
    f"dict(Class='{number}', Vendor=None, Device=None, SVendor=None, SDevice=None), "
    for number in ("03", "04", "07", "0c")
)
_UNPACK = f"""\
dpkg-deb -x /var/cache/apt/archives/dpdk_*.deb /root/dpdk
sed -i "s/^network_devices = \\[/&{_CLASSES}/" {DPDK}
grep -q "Class='03'" {DPDK}
modprobe vfio_pci
"""

_TIMED = """\
before=$(date +%s%N)
{{ {command}
}} >/root/output 2>&1 || {{ cat /root/output >&2; exit 1; }}
after=$(date +%s%N)
echo $(( (after - before) / 1000 ))
"""

_TO_HOST = """\
for function in {functions}; do
    echo >/sys/bus/pci/devices/$function/driver_override
    if [ "$(basename "$(readlink /sys/bus/pci/devices/$function/driver)")" = vfio-pci ]; then
        echo $function >/sys/bus/pci/drivers/vfio-pci/unbind
    fi
    [ -e /sys/bus/pci/devices/$function/driver ] || echo $function >/sys/bus/pci/drivers_probe
done
rm -rf /etc/driverctl.d/*
udevadm settle
"""

_RAW = """\
for function in {functions}; do
    echo vfio-pci >/sys/bus/pci/devices/$function/driver_override
    echo $function >/sys/bus/pci/devices/$function/driver/unbind
    echo $function >/sys/bus/pci/drivers_probe
done"""

# The same writes and the proof, by pcibind's own code, without the interpreter's start and imports.
_ITSELF = """\
import sys, time
sys.path.insert(0, "/usr/local/lib/pcibind")
from pcibind.change.drivers import bind
from pcibind.commands.system import System
from pcibind.decide.plan import follow, plan
from pcibind.read.files import read_record
host = System()
topology = host.topology()
planned = plan(topology, [r.board for r in follow(topology, read_record(host.paths))])
start = time.monotonic()
found = host.carry_out([bind(plans, host.paths) for plans in planned.split_by_groups()])
end = time.monotonic()
assert all(result.proven for results in found for result in results)
print(round((end - start) * 1e6))
"""


def ways(functions: str) -> dict[str, str]:
    """Every way to bind these functions: its name → a shell command."""
    return {
        "raw writes from sh": _RAW.format(functions=functions),
        "driverctl": f"for function in {functions}; do driverctl set-override $function vfio-pci; done",
        "dpdk-devbind, configured for these classes": f"python3 {DPDK} --bind=vfio-pci {functions}",
        "pcibind apply": "pcibind apply",
        "pcibind apply --recorded": "python3 -I -S /usr/local/lib/pcibind/__main__.py apply --recorded",
    }


IDLE = {
    "bare python3 -I -S": "python3 -I -S -c pass",
    "nothing to do: pcibind apply --recorded": "python3 -I -S /usr/local/lib/pcibind/__main__.py apply --recorded",
    "nothing to do: pcibind apply": "pcibind apply",
}


def on_vfio(binder: Binder) -> int:
    """How many functions are on vfio-pci."""
    return [each.driver for each in binder.functions().values()].count("vfio-pci")


def measure(binder: Binder, boards: int, rounds: int, say: Progress) -> dict[str, list[int]]:
    """Microseconds of each way in each round, for so many boards."""
    machine = binder.machine
    slots = range(FIRST_SLOT, FIRST_SLOT + boards)
    functions = " ".join(name for slot in slots for name in binder.board(slot))
    times: dict[str, list[int]] = {}

    def timed(name: str, command: str) -> None:
        times.setdefault(name, []).append(int(machine.ssh(_TIMED.format(command=command)).stdout))

    # Boards that are bound without a record would be refused, as an initramfs's are.
    machine.ssh("pcibind release && rm -rf /var/lib/pcibind")
    binder.choose(*slots)
    machine.ssh("pcibind apply")
    for number in range(rounds):
        say(f"{boards} boards: round {number + 1} of {rounds}")
        for name, command in ways(functions).items():
            machine.ssh(_TO_HOST.format(functions=functions))
            assert on_vfio(binder) == 0
            timed(name, command)
            # The driver alone: dpdk-devbind takes the override away again.
            assert on_vfio(binder) == len(functions.split()), f"{name} did not bind every function"
        machine.ssh(_TO_HOST.format(functions=functions))
        times.setdefault("pcibind's binding itself", []).append(
            int(machine.ssh("cat >/root/itself.py; python3 -I -S /root/itself.py", stdin=_ITSELF).stdout)
        )
        assert binder.bound() == set(slots)
        machine.ssh("pcibind apply")
        for name, command in IDLE.items():
            timed(name, command)
    return times


def table(times: Mapping[int, Mapping[str, Sequence[int]]]) -> str:
    """The figures for people: median seconds, and their ratio to the floor or to a bare start."""
    lines = []
    for boards, of_host in times.items():
        median = {name: statistics.median(values) / 1e6 for name, values in of_host.items()}
        lines.append(
            f"{boards} board{'s' if boards > 1 else ''} of four functions: median seconds (least, most), ratio"
        )
        for name, values in of_host.items():
            idle = name in IDLE
            floor = median["bare python3 -I -S" if idle else "raw writes from sh"]
            spread = f"({min(values) / 1e6:.2f}, {max(values) / 1e6:.2f})"
            lines.append(f"  {name:<42} {median[name]:6.2f} {spread:<14} {median[name] / floor:5.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.binding", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--boards", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say = Printer()
    with Machine.start("eight-boards", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        machine.ssh(f"set -e; {_UNPACK}")
        times = {boards: measure(binder, boards, arguments.rounds, say) for boards in arguments.boards}
        imports = machine.ssh(
            "python3 -I -S -X importtime /usr/local/lib/pcibind/__main__.py apply --recorded 2>&1 >/dev/null"
            " | cut -d'|' -f3"
        ).stdout.split()
    if arguments.json:
        json.dump({"microseconds": times, "imports": imports}, sys.stdout, indent=1)
    else:
        print(table(times))
        print(f"a boot imports {len(imports)} modules: {' '.join(sorted(imports))}")


if __name__ == "__main__":
    main()
