"""The early script, the files around it, and the unit."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tree import DISPLAY, Machine, board

from pcibind.change import early, unit
from pcibind.commands.apply import apply
from pcibind.commands.release import release
from pcibind.model import record
from pcibind.model.errors import ExitCode

SHELLS = [shell for shell in ("dash", "busybox", "bash") if shutil.which(shell)]


def run_script(machine: Machine, shell: str = "dash") -> int:
    script = machine.root / "early"
    script.write_text(early.script())
    command = [shell, "sh", str(script)] if shell == "busybox" else [shell, str(script)]
    return subprocess.run(
        command,
        env={
            "PATH": "/usr/bin:/bin",
            "PCIBIND_SYS": str(machine.root / "sys"),
            "PCIBIND_LIST": machine.paths.early_list,
            "PCIBIND_RUN": machine.paths.run,
        },
        check=False,
    ).returncode


def choose(machine: Machine, text: str = 'model = "10de:2684"') -> None:
    machine.configure(f"[[board]]\n{text}\n")
    apply(machine.host, next_boot=True)


def overridden(machine: Machine) -> list[str]:
    return [name for name, (_, override) in machine.drivers().items() if override == "vfio-pci"]


@pytest.mark.parametrize("shell", SHELLS)
def test_all_chosen_functions_and_no_others_get_the_override(machine: Machine, shell: str) -> None:
    choose(machine)
    assert run_script(machine, shell) == 0
    assert overridden(machine) == [f"0000:0{b}:00.{n}" for b in (1, 2) for n in range(3)]
    assert Path(machine.paths.run, "early.done").exists()


def test_a_renumbered_board_is_followed_and_its_old_address_is_not(tmp_path: Path) -> None:
    before = Machine(tmp_path / "before")
    board(before, "01", 1, 1)
    choose(before)
    after = Machine(tmp_path / "after")
    board(after, "01", 7, 1)
    board(after, "02", 1, 2)
    after.file("etc/pcibind/early.list", Path(before.paths.early_list).read_text())
    assert run_script(after) == 0
    assert overridden(after) == ["0000:07:00.0", "0000:07:00.1", "0000:07:00.2"]


def test_another_device_in_the_same_slot_is_left_alone(machine: Machine) -> None:
    choose(machine, 'path = "0000:00/01.0/00"')
    machine.unplug("0000:01:00.0")
    machine.function("pci0000:00/0000:00:01.0/0000:01:00.0", **{**DISPLAY, "subsystem": (1, 2)})
    assert run_script(machine) == 0
    assert overridden(machine) == ["0000:01:00.1", "0000:01:00.2"]


def test_it_works_once_a_boot(machine: Machine) -> None:
    choose(machine)
    run_script(machine)
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "(null)\n")
    assert run_script(machine) == 0
    assert machine.override("0000:01:00.0") == "(null)"


def test_without_a_list_it_fails_and_is_not_done(machine: Machine) -> None:
    assert run_script(machine) != 0
    assert not Path(machine.paths.run, "early.done").exists()


def test_a_board_that_was_never_touched_needs_no_unbinding(machine: Machine) -> None:
    choose(machine)
    run_script(machine)
    for name in overridden(machine):
        machine.leave(name)
    machine.writes.clear()
    assert apply(machine.host).exit_code == 0
    assert not [path for path, _ in machine.writes if path.endswith(("unbind", "driver_override"))]
    # And what is restored in the end is how it was when it was chosen.
    assert record.read(machine.paths.record)


def test_the_scripts_are_posix_shell() -> None:
    for text in (early.script(), early.initramfs_hook()):
        assert text.startswith("#!/bin/sh\n")
        subprocess.run(["dash", "-n"], input=text, text=True, check=True)


def test_the_initramfs_gets_rule_script_and_list() -> None:
    for text in (early.initramfs_hook(), early.dracut()):
        for path in (early.RULE_PATH, early.SCRIPT_PATH, "/etc/pcibind/early.list", "vfio-pci"):
            assert path in text
    assert early.SCRIPT_PATH in early.rule()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_the_unit_is_well_formed_and_confined(tmp_path: Path) -> None:
    path = tmp_path / unit.NAME
    path.write_text(unit.render())
    verify = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert unit.NAME not in verify.stderr
    subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(path)],
        stdout=subprocess.DEVNULL,
        check=True,
    )


def test_setup_writes_what_a_boot_needs_and_takes_it_away_again(machine: Machine) -> None:
    (machine.root / "etc/initramfs-tools").mkdir()
    before = {path for path in machine.root.rglob("*") if path.is_file()}
    done = run_pcibind("--root", str(machine.root), "setup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: update-initramfs -u -k all && systemctl enable pcibind.service"
    written = {str(path.relative_to(machine.root)): path for path in machine.root.rglob("*") if path.is_file()}
    assert written["usr/local/lib/pcibind/early"].stat().st_mode & 0o777 == 0o755
    assert "etc/initramfs-tools/hooks/pcibind" in written
    assert "etc/dracut.conf.d/pcibind.conf" not in written
    assert "all boot files are there" in run_pcibind("--root", str(machine.root), "setup").stdout

    (command,) = re.findall(
        r"ExecStart=(.*) apply --recorded", written["etc/systemd/system/pcibind.service"].read_text()
    )
    version = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=False)
    assert version.stdout.startswith("pcibind ") or "No module named 'click'" in version.stderr

    assert run_pcibind("--root", str(machine.root), "setup", "--remove").returncode == 0
    assert {path for path in machine.root.rglob("*") if path.is_file()} == before


def run_pcibind(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pcibind", *words], capture_output=True, text=True, check=False)


def test_what_an_older_list_of_an_initramfs_took_is_not_recorded_as_the_hosts_own(machine: Machine) -> None:
    choose(machine)
    kept = Path(machine.paths.early_list).read_text()
    release(machine.host)
    machine.file("etc/pcibind/early.list", kept)
    assert run_script(machine) == 0
    report = apply(machine.host)
    assert report.exit_code is ExitCode.REFUSED
    assert {refusal.guard for refusal in report.refusals} == {"stale-initramfs"}
    assert not Path(machine.paths.record).exists()
    for name in overridden(machine):
        machine.file(f"sys/bus/pci/devices/{name}/driver_override", "(null)\n")
    assert apply(machine.host, next_boot=True).exit_code is ExitCode.OK


def test_an_override_that_somebody_else_set_is_the_hosts_own(machine: Machine) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n")
    choose(machine)
    assert '"original_driver_override": "vfio-pci"' in Path(machine.paths.record).read_text()
