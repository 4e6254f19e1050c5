"""A machine that breaks in each possible way: it is reported at once, with the console's last lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import record
from tests.lab.breakdown import Breakdown
from tests.lab.machine import Machine
from tests.lab.progress import Progress
from tests.lab.run import ROOT, command

WHOLE = "whole"

KILLED = """
from tests.lab.machine import Machine
machine = Machine.start("no-boards", name={name!r})
print(machine.pid, flush=True)
machine.ssh("sleep 600")
"""


@pytest.fixture(scope="module")
def started(say: Progress) -> Iterator[Machine]:
    with Machine.start("no-boards", progress=say) as machine:
        machine.snapshot(WHOLE)
        yield machine


@pytest.fixture
def machine(started: Machine) -> Machine:
    started.restore(WHOLE)
    return started


def test_a_panic_ends_the_command_and_is_reported_with_the_consoles_last_lines(machine: Machine) -> None:
    start = time.monotonic()
    with pytest.raises(Breakdown, match="its kernel panicked: Kernel panic - not syncing: sysrq") as raised:
        machine.ssh("echo c >/proc/sysrq-trigger; sleep 600")
    assert time.monotonic() - start < 60
    assert "end Kernel panic" in str(raised.value).splitlines()[-1]


def test_a_program_that_needs_a_machine_ends_with_it(machine: Machine) -> None:
    machine.ssh("systemd-run --quiet sh -c 'sleep 3; echo c >/proc/sysrq-trigger'")
    with pytest.raises(Breakdown, match="its kernel panicked"):
        command([machine], ["sleep", "600"])


def test_an_emulator_that_ends_is_reported(machine: Machine) -> None:
    assert machine.pid is not None
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(Breakdown, match="QEMU ended"):
        machine.ssh("true")


def test_a_machine_that_no_longer_answers_is_reported(machine: Machine) -> None:
    machine.ssh("systemd-run --quiet sh -c 'sleep 1; systemctl stop ssh; pkill sshd'")
    time.sleep(6)
    with pytest.raises(Breakdown, match=r"SSH stopped answering \(waited 10 s\): no SSH server"):
        machine.check_reachable(timeout=10)


def test_a_machine_that_does_not_boot_is_given_up_on(machine: Machine) -> None:
    machine.ssh("rm /boot/grub/grub.cfg && sync")
    machine.power_cut()
    with pytest.raises(Breakdown, match="it does not answer over SSH after 20 s"):
        machine.power_on(timeout=20)
    assert not machine.running


def test_what_a_killed_run_leaves_is_ended_and_removed(started: Machine, tmp_path: Path) -> None:
    name = record.fresh("killed")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED.format(name=name)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "QEMU outlived its owner"
        time.sleep(0.1)
    directory = record.home() / name
    assert (directory / "disk.qcow2").exists()
    record.sweep()
    assert {path.suffix for path in directory.iterdir()} == {".log"}
