"""When a booting host has every function on vfio-pci, with and without the early override.

    python -m tests.benchmarks.boot

Eight boards of four functions. Counted from the kernel's start to the end of pcibind's unit, which ends with the proof.
"""

from __future__ import annotations

import argparse
import re

from pcibind.change import boot_files
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Printer
from tests.system.binder import Binder

SLOTS = range(0x4, 0xC)
MODULES = ("bochs-drm", "snd_hda_intel", "xhci_hcd")

_SHOW = "systemctl show pcibind.service -P ExecMainStartTimestampMonotonic -P ExecMainExitTimestampMonotonic"


def boot(binder: Binder) -> tuple[float, float, dict[str, int]]:
    """Reboot; return seconds until all was proven, the unit's own, and how many functions each driver touched."""
    machine = binder.machine
    machine.reboot()
    state = machine.wait_running()
    if missing := set(SLOTS) - binder.bound():
        journal = machine.ssh("journalctl -b -u pcibind.service -o short-monotonic --no-pager").stdout
        raise RuntimeError(f"the boards in slots {missing} are not bound, the system is {state}:\n{journal}")
    start, end = (int(line) / 1e6 for line in machine.ssh(_SHOW).stdout.split())
    log = machine.ssh("journalctl -k -b -o cat --no-pager").stdout
    chosen = {name for slot in SLOTS for name in binder.board(slot)}
    touched = {driver: set(re.findall(rf"{driver}.* (0000:\w\w:00\.\d)", log)) & chosen for driver in MODULES}
    return end, end - start, {driver: len(functions) for driver, functions in touched.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.boot")
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    say = Printer()
    with Machine.start("eight-boards", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        binder.choose(*SLOTS)
        assert binder.run("apply --next-boot").code == 0
        machine.ssh("systemctl enable pcibind.service && update-initramfs -u")
        for way in ("with the early override", "without it"):
            for number in range(rounds):
                say(f"booting {way}: {number + 1} of {rounds}")
                proven, unit, touched = boot(binder)
                drivers = ", ".join(f"{driver} {count}" for driver, count in touched.items())
                print(f"{way}: all proven {proven:.1f} s after the kernel's start, the unit took {unit:.2f} s")
                print(f"  chosen functions that a module's driver touched, by the kernel's log: {drivers}", flush=True)
            machine.ssh(f"rm -f {boot_files.RULE_PATH} {boot_files.INITRAMFS_HOOK_PATH} && update-initramfs -u")


if __name__ == "__main__":
    main()
