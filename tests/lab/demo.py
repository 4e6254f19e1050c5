"""The main job, from nothing: a virtual GPU host, and the deploy against it, from bare to verified.

Run by `make demo`. What it installs on this computer are QEMU and the tools that make the guest's disk; what it leaves
behind is a cache. No GPU, no hardware virtualisation and no container registry is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import cache, hostpackages
from tests.lab.containers import build
from tests.lab.machine import Machine
from tests.lab.progress import Printer, step

ROOT = Path(__file__).parents[2]
NAME = "demo"
COMMAND = ("pyinfra", "-y", "inventories/lab.py", "deploys/node.py")


def main() -> int:
    """Bring the lab up, run the deploy, and end with its table. Returns pyinfra's exit code."""
    start = time.monotonic()
    say = Printer(sys.stdout)
    hostpackages.ensure(say)
    say("the images of Postgres and of the node are stand-ins that keep the real ones' contract")
    registry = build.ensure(cache.directory(), say)
    with Machine.start("two-boards", name=NAME, registry=registry, progress=say) as machine:
        bare = machine.ssh(
            "cat /proc/cmdline; for f in /sys/bus/pci/devices/*/driver; do "
            "echo $f $(basename $(readlink $f)); done | sed 's|/sys/bus/pci/devices/||; s|/driver||'"
        )
        say("a bare host: IOMMU off, host drivers on both boards, no Podman state")
        for line in bare.stdout.splitlines():
            print(f"    {line}")
        say(f"now exactly what an operator runs (it takes minutes here, the reboot included): {' '.join(COMMAND)}")
        sys.stdout.flush()
        words = [str(Path(sys.executable).with_name("pyinfra")), *COMMAND[1:]]
        with step(say, "the deploy"):
            code, table = run(words)
        say(f"console log: {machine.console}")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print("", *table, sep="\n")
    outcome = "bare to verified" if code == 0 else f"the deploy failed with exit code {code}"
    say(f"{outcome} in {minutes} min {seconds} s, lab included")
    return code


def run(words: list[str]) -> tuple[int, list[str]]:
    """Run the command, show what it prints, and return its exit code and the table of what was verified."""
    environment = os.environ | {"GEVULOT_LAB_MACHINES": NAME}
    table: list[str] = []
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        inside = False
        for line in process.stdout:
            print(line, end="", flush=True)
            inside = "What was verified on" in line or (inside and line.startswith("      "))
            if inside:
                table.append(line.rstrip().removeprefix("    "))
    return process.returncode, table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
