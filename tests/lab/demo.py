"""The main job, from nothing: a virtual GPU host, and the deploy against it, from bare to verified.

Run by `make demo`. What it installs on this computer are the tools that make the guest's disk; what it leaves behind is
a cache. No GPU, no hardware virtualisation, no container registry and no QEMU is needed.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.lab import accelerator, cache, emulator, hostpackages, image, record
from tests.lab.breakdown import Breakdown
from tests.lab.containers import build
from tests.lab.failures import FAILURES, text
from tests.lab.machine import Machine
from tests.lab.progress import silent
from tests.lab.record import NameInUse
from tests.lab.run import ROOT, environment

NAME: Final = "demo"
COMMAND: Final = ("pyinfra", "-y", "inventories/lab.py", "deploys/node.py")

_DRIVERS: Final = (
    "cat /proc/cmdline; for f in /sys/bus/pci/devices/*/driver; do "
    "echo $f $(basename $(readlink $f)); done | sed 's|/sys/bus/pci/devices/||; s|/driver||'"
)
_OPERATION: Final = re.compile(r"--> Starting (?:serial )?operation: (?P<step>.*?) (?:\| |$)")
_TAIL_LINES: Final = 60


@contextmanager
def phase(title: str) -> Iterator[None]:
    """Show what goes on, and when it is over how long it took, in the same line."""
    print(f"  {title + ' …':<72}", end="", flush=True)
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:4.0f} s", flush=True)


def main() -> int:
    """Bring the lab up, run the deploy, and end with its table. Returns pyinfra's exit code."""
    start = time.monotonic()
    with machine() as host:
        print("a bare host: IOMMU off, host drivers on both boards, no Podman state")
        for line in host.ssh(_DRIVERS).stdout.splitlines():
            print(f"    {line}")
        print(f"now exactly what an operator runs, the reboot included: {' '.join(COMMAND)}")
        code, table = run(host)
        print("", *table, sep="\n")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    outcome = "bare to verified" if code == 0 else f"the deploy failed with exit code {code}"
    print(f"{outcome} in {minutes} min {seconds} s, lab included; logs: {host.directory}")
    return code


def machine() -> Machine:
    """A virtual GPU host as it is installed, and what it needs of this computer, phase by phase."""
    for package in hostpackages.missing():
        print(f"this machine lacks {package.name}: it {package.purpose}")
    with phase("tools of this computer, with apt-get if any is missing"):
        hostpackages.ensure(silent)
    cache.prune(kept=record.registries())
    with phase("QEMU, out of Debian's packages"):
        emulator.ensure()
    with phase("stand-ins for the images of Postgres and of the node"):
        registry = build.ensure(cache.directory(), silent)
    with phase("the disk of a Debian 13 host"):
        image.ensure()
    with phase("trying this machine's own virtualisation"):
        chosen = accelerator.choose()
    how = "emulated" if chosen.emulated else "on this machine's virtualisation"
    with phase(f"booting a virtual host with two boards, {how}"):
        for number in itertools.count(1):
            try:
                # Another demo may run beside this one.
                name = NAME if number == 1 else f"{NAME}-{number}"
                return Machine.start("two-boards", name=name, registry=registry)
            except NameInUse:
                continue
    raise AssertionError("names do not run out")


def run(host: Machine) -> tuple[int, list[str]]:
    """Run the command; return its exit code and the table of what was verified.

    What it prints is kept in the machine's directory; here each step of the runbook is a line.
    """
    log = host.directory / "pyinfra.log"
    words = [str(Path(sys.executable).with_name("pyinfra")), *COMMAND[1:]]
    table: list[str] = []
    tail: list[str] = []
    with (
        log.open("w") as kept,
        subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment([host]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        ) as process,
        _watched(host, process),
    ):
        assert process.stdout is not None
        steps = _Steps()
        inside = False
        for line in process.stdout:
            kept.write(line)
            kept.flush()
            tail = [*tail[1 - _TAIL_LINES :], line]
            steps.see(line)
            inside = "What was verified on" in line or (inside and line.startswith("      "))
            if inside:
                table.append(line.rstrip().removeprefix("    "))
        steps.end()
    host.check()
    return process.returncode, table or [line.rstrip() for line in tail]


@contextmanager
def _watched(host: Machine, process: subprocess.Popen[str]) -> Iterator[None]:
    """End the process, and all that it started, when the machine breaks meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            try:
                host.check()
            except Breakdown:
                os.killpg(process.pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        over.set()
        watcher.join()


class _Steps:
    """The steps of the runbook, each as a phase: operations are named `STEP | OPERATION`."""

    def __init__(self) -> None:
        self._name = ""
        self._open = ExitStack()
        self._start_step("connecting, reading facts, planning")

    def see(self, line: str) -> None:
        """Begin a new phase with the first operation of another step."""
        operation = _OPERATION.match(line)
        if operation is not None and operation["step"] != self._name:
            self._start_step(operation["step"])

    def _start_step(self, name: str) -> None:
        self.end()
        self._name = name
        self._open.enter_context(phase(name))

    def end(self) -> None:
        """End the last phase."""
        self._open.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FAILURES as error:
        print(f"\n{text(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
