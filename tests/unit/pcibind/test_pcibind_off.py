"""A boot with pcibind=off, boards that were taken without a record, and the way out of a broken one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from early_script import run_script
from topologies import unused
from tree import Machine, stuck

from pcibind.change import boot_files
from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release, release_for_this_boot
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.commands.text import describe
from pcibind.model import record
from pcibind.model.errors import ConfigError, ExitCode, PcibindError, RecordError
from pcibind.model.report import Report
from pcibind.read.files import read_record, write_record

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
LEFTS = [f"0000:01:00.{number}" for number in range(3)]
HOSTS = ["nouveau", "snd_hda_intel", "xhci_hcd"]
ONE = f'[[board]]\npath = "{LEFT}"\n'


@pytest.fixture
def chosen(machine: Machine) -> Machine:
    machine.configure(ONE)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    return machine


def drivers(machine: Machine) -> list[str | None]:
    return [machine.driver(address) for address in LEFTS]


def boot(machine: Machine, line: str = "ro quiet") -> None:
    """Boot as far as the early script, whose list is that of /etc, and the coldplug of the devices."""
    machine.reboot()
    machine.file("proc/cmdline", f"{line}\n")
    for address in LEFTS:
        machine.leave(address)
    if Path(machine.paths.early_list).exists():
        assert run_script(machine) == 0
    machine.load("vfio-pci")
    for address in LEFTS:
        machine.probe(address)


# Off.


def test_turned_off_the_boards_are_the_hosts_for_that_boot_only(chosen: Machine) -> None:
    before = Path(chosen.paths.record).read_text()
    boot(chosen, "ro pcibind=off")
    chosen.writes.clear()
    report = release_for_this_boot(unused(chosen))
    assert (report.exit_code, chosen.writes) == (ExitCode.OK, [])
    assert drivers(chosen) == HOSTS
    assert Path(chosen.paths.record).read_text() == before
    assert not Path(chosen.paths.run, "devices.env").exists()
    assert "pcibind=off" in describe(status(unused(chosen)))
    boot(chosen)
    assert apply_recorded(unused(chosen)).exit_code is ExitCode.OK
    assert drivers(chosen) == ["vfio-pci"] * 3


def test_turned_off_a_driver_that_a_blacklist_keeps_away_has_its_function(chosen: Machine) -> None:
    boot(chosen, "ro pcibind=off")
    for address, driver in zip(LEFTS, HOSTS, strict=True):
        chosen.leave(address)
        directory = chosen.root / "sys/bus/pci/drivers" / driver
        (directory / "unbind").unlink()
        directory.rmdir()
    chosen.blacklist = {"nouveau", "xhci_pci"}
    assert release_for_this_boot(unused(chosen)).exit_code is ExitCode.OK
    assert drivers(chosen) == HOSTS


def test_turned_off_a_module_that_does_not_load_in_time_keeps_no_other_function_from_its_driver(
    chosen: Machine,
) -> None:
    boot(chosen, "ro pcibind=off")
    for address in LEFTS:
        chosen.leave(address)
    directory = chosen.root / "sys/bus/pci/drivers/nouveau"
    (directory / "unbind").unlink()
    directory.rmdir()
    chosen.blacklist = {"nouveau"}
    chosen.faults["modprobe", "nouveau"] = stuck()
    report = release_for_this_boot(unused(chosen))
    assert report.exit_code is ExitCode.STUCK
    assert [each.path for each in report.boards] == [LEFT]
    assert drivers(chosen) == [None, *HOSTS[1:]]


@pytest.mark.parametrize("recorded", ["the host's drivers", "vfio-pci"])
def test_turned_off_what_an_ids_option_gave_to_vfio_is_taken_from_it(machine: Machine, recorded: str) -> None:
    def ids() -> None:
        for address in LEFTS:
            machine.leave(address)
            machine.take(address, "vfio-pci")

    machine.load("vfio-pci")
    if recorded == "vfio-pci":
        ids()
    machine.configure(ONE)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    boot(machine, "ro pcibind=off")
    ids()
    assert release_for_this_boot(unused(machine)).exit_code is ExitCode.OK
    assert drivers(machine) == HOSTS


def test_turned_off_a_board_in_use_stays(chosen: Machine) -> None:
    boot(chosen, "ro pcibind=off")
    for address in LEFTS:
        chosen.leave(address)
        chosen.take(address, "vfio-pci")
    chosen.busy.add("12")
    assert release_for_this_boot(unused(chosen)).exit_code is ExitCode.REFUSED
    assert drivers(chosen) == ["vfio-pci"] * 3


def test_a_boot_that_is_not_turned_off_gives_nothing_away(chosen: Machine) -> None:
    with pytest.raises(PcibindError, match="lacks pcibind=off"):
        release_for_this_boot(unused(chosen))
    assert drivers(chosen) == ["vfio-pci"] * 3


def test_exactly_one_of_the_units_runs_at_a_boot() -> None:
    texts = {Path(path).name: text for path, text in boot_files.units().items()}
    assert "ConditionKernelCommandLine=pcibind=off\n" in texts.pop("pcibind-off.service")
    for name in ("pcibind.service", "pcibind-hotplug.path"):
        assert "ConditionKernelCommandLine=!pcibind=off\n" in texts[name]


def test_a_unit_that_may_open_groups_starts_when_vfio_has_its_number() -> None:
    """`char-vfio` is looked up in /proc/devices once, when the unit starts."""
    for path, text in boot_files.units().items():
        after = [name for line in text.splitlines() if line.startswith("After=") for name in line[6:].split()]
        assert ("DeviceAllow=char-vfio rw" in text) == ("modprobe@vfio_pci.service" in after), path


# Taken without a record.


@pytest.fixture(params=["record lost", "list of an older image"])
def stray(machine: Machine, request: pytest.FixtureRequest) -> Machine:
    """A board that was taken early at this boot, and is not on record."""
    machine.configure(ONE)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    kept = Path(machine.paths.early_list).read_text()
    if request.param == "record lost":
        Path(machine.paths.record).unlink()
        boot(machine)
    else:
        assert release(unused(machine)).exit_code is ExitCode.OK
        machine.file("etc/pcibind/early.list", kept)
        boot(machine)
        Path(machine.paths.early_list).unlink()
        # As the script of an earlier version notes it.
        Path(machine.paths.taken).unlink()
        Path(machine.paths.run, "early.done").rename(Path(machine.paths.run, "early.initramfs"))
    machine.configure('require_boards = "all"\n')
    assert drivers(machine) == ["vfio-pci"] * 3
    return machine


@pytest.mark.parametrize("command", [status, show, apply])
def test_what_was_taken_without_a_record_is_reported_by_every_command(
    stray: Machine, command: Callable[[System], Report]
) -> None:
    report = command(stray.host)
    assert report.exit_code is ExitCode.TAKEN
    assert any(f"board {LEFT}" in error and "pcibind release" in error for error in report.errors)
    assert drivers(stray) == ["vfio-pci"] * 3


def test_release_clears_it(stray: Machine) -> None:
    report = release(unused(stray))
    assert report.exit_code is ExitCode.OK, describe(report)
    assert any("rebuild" in note for note in report.notes)
    assert drivers(stray) == HOSTS
    assert {stray.override(address) for address in LEFTS} == {"(null)"}
    assert not Path(stray.paths.early_list).exists()
    assert not Path(stray.paths.record).exists()
    assert status(unused(stray)).exit_code is ExitCode.OK
    stray.configure(ONE)
    assert apply(unused(stray)).exit_code is ExitCode.OK
    (board,) = (read_record(stray.paths) or record.Record()).boards
    assert [(f.driver, f.driver_override) for f in board.functions] == [(driver, None) for driver in HOSTS]


def test_release_leaves_it_while_it_is_in_use_and_says_so(stray: Machine) -> None:
    stray.busy.add("12")
    report = release(unused(stray))
    assert report.exit_code is ExitCode.REFUSED
    assert any(f"board {LEFT}" in error for error in report.errors)
    assert drivers(stray) == ["vfio-pci"] * 3


def test_what_pcibind_bound_itself_is_not_the_hosts_own_when_the_record_is_lost(chosen: Machine) -> None:
    Path(chosen.paths.record).unlink()
    report = apply(chosen.host)
    assert {refusal.guard for refusal in report.refusals} == {"stale-initramfs"}
    assert "pcibind release" in describe(report)
    assert release(unused(chosen)).exit_code is ExitCode.OK
    assert drivers(chosen) == HOSTS


def test_an_override_of_somebody_else_is_the_hosts_own_after_a_release_too(machine: Machine) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n")
    machine.load("vfio-pci")
    machine.configure(ONE)
    for _ in range(2):
        assert apply(machine.host).exit_code is ExitCode.OK
        assert '"original_driver_override": "vfio-pci"' in Path(machine.paths.record).read_text()
        assert release(unused(machine)).exit_code is ExitCode.OK
        assert machine.override("0000:01:00.0") == "vfio-pci"


@pytest.mark.parametrize("by", ["apply", "boot"])
def test_nor_is_it_taken_for_ours_after_a_boot_at_which_the_script_set_it(machine: Machine, by: str) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n")
    machine.configure(ONE)
    assert apply(unused(machine)).exit_code is ExitCode.OK
    boot(machine)
    assert "0000:01:00.0" in Path(machine.paths.taken).read_text()
    machine.configure('require_boards = "all"\n')
    assert apply(unused(machine), next_boot=by == "boot").exit_code is ExitCode.OK
    if by == "boot":
        assert apply_recorded(unused(machine)).exit_code is ExitCode.OK
    assert machine.override("0000:01:00.0") == "vfio-pci"
    assert status(machine.host).exit_code is ExitCode.OK


# A broken record.


@pytest.mark.parametrize("broken", ["{", '{"version": 2}', ""])
@pytest.mark.parametrize("booted", [True, False])
def test_the_message_about_a_broken_record_leads_out_of_it(chosen: Machine, broken: str, booted: bool) -> None:
    chosen.file("var/lib/pcibind/record.json", broken)
    if booted:
        boot(chosen)
    with pytest.raises(RecordError) as raised:
        apply(unused(chosen))
    commands = re.findall("`([^`]+)`", str(raised.value))
    assert [command.split()[0] for command in commands] == ["mv", "pcibind", "update-initramfs", "dracut", "pcibind"]
    for command in commands:
        match command.split():
            case ["mv", *paths]:
                Path(paths[0]).rename(paths[1])
            case ["pcibind", "release"]:
                assert release(unused(chosen)).exit_code is ExitCode.OK
            case ["update-initramfs", *_]:
                assert image(chosen) == []
            case ["pcibind", "apply"]:
                assert apply(chosen.host).exit_code is ExitCode.OK
    (board,) = (read_record(chosen.paths) or record.Record()).boards
    assert [f.driver for f in board.functions] == HOSTS
    assert "/etc/pcibind/early.list" in image(chosen)


def image(machine: Machine) -> list[str]:
    """What the hook of initramfs-tools puts into an image of this machine: paths of files."""
    destination = machine.root / "image"
    for file in (boot_files.RULE_PATH, boot_files.SCRIPT_PATH):
        machine.file(file[1:], "")
    machine.file("usr/share/initramfs-tools/hook-functions", "manual_add_modules() { :; }\n")
    text = re.sub(r"(?<=[ \t.<])/(etc|var|usr)/", rf"{machine.root}/\1/", boot_files.initramfs_hook())
    text = text.replace('"$DESTDIR$file"', f'"$DESTDIR${{file#{machine.root}}}"')
    text = text.replace('"$DESTDIR${file%/*}"', f'"$DESTDIR$(dirname "${{file#{machine.root}}}")"')
    subprocess.run(["dash", "-c", text], env={"PATH": "/usr/bin:/bin", "DESTDIR": str(destination)}, check=True)
    return sorted(f"/{file.relative_to(destination)}" for file in destination.rglob("*") if file.is_file())


def test_a_list_that_the_record_does_not_back_is_in_no_image_and_reported(chosen: Machine) -> None:
    assert "/etc/pcibind/early.list" in image(chosen)
    with open(chosen.paths.early_list, "a") as file:
        file.write(f"{RIGHT}.0 0x10de 0x2684 0x10de 0x16f4 0x030000\n")
    (chosen.root / "image/etc/pcibind/early.list").unlink()
    assert "/etc/pcibind/early.list" not in image(chosen)
    report = status(unused(chosen))
    assert report.exit_code is ExitCode.TAKEN
    assert any(RIGHT in error for error in report.errors)
    assert apply(unused(chosen)).exit_code is ExitCode.OK
    assert status(unused(chosen)).exit_code is ExitCode.OK


# The record of an earlier version.

VERSION_1 = """{
  "version": 1,
  "require_boards": "all",
  "boards": [
    {
      "name": null,
      "selector": {"kind": "path", "value": "0000:00/01.0/00"},
      "path": "0000:00/01.0/00",
      "address": "0000:01:00.0",
      "functions": [
        {"number": 0, "vendor": "10de", "device": "2684", "subsystem_vendor": "10de", "subsystem_device": "16f4",
         "class": "030000", "original_driver": "nouveau", "original_driver_override": null},
        {"number": 1, "vendor": "10de", "device": "22ba", "subsystem_vendor": "10de", "subsystem_device": "16f4",
         "class": "040300", "original_driver": "snd_hda_intel", "original_driver_override": null},
        {"number": 2, "vendor": "10de", "device": "1ad8", "subsystem_vendor": "10de", "subsystem_device": "16f4",
         "class": "0c0330", "original_driver": "xhci_hcd", "original_driver_override": null}
      ]
    }
  ]
}
"""


def test_a_bound_host_of_an_earlier_version_has_nothing_to_do_after_an_upgrade(machine: Machine) -> None:
    machine.configure(ONE)
    machine.file("var/lib/pcibind/record.json", VERSION_1)
    known = record.parse(VERSION_1)
    machine.file("etc/pcibind/early.list", record.early_list(known))
    machine.load("vfio-pci")
    for address in LEFTS:
        machine.file(f"sys/bus/pci/devices/{address}/driver_override", "vfio-pci\n")
        machine.leave(address)
        machine.take(address, "vfio-pci")
    for note in ("early.initramfs", "early.done"):
        machine.file(f"run/pcibind/{note}", f" {' '.join(LEFTS)}\n")
    for command in (apply_recorded, show, apply, status):
        assert command(unused(machine)).exit_code is ExitCode.OK
    assert machine.writes == []
    assert release(unused(machine)).exit_code is ExitCode.OK
    assert drivers(machine) == HOSTS


@pytest.mark.parametrize("name", ["01:00.0", "0000:01:00.1", LEFT])
def test_release_clears_the_one_that_is_named_as_the_report_names_it(stray: Machine, name: str) -> None:
    report = release(unused(stray), [name])
    assert report.exit_code is ExitCode.OK, describe(report)
    assert drivers(stray) == HOSTS


def test_a_name_that_nothing_has_loads_no_module_for_the_one_beside_it(stray: Machine) -> None:
    stray.writes.clear()
    with pytest.raises(ConfigError, match=f"'frob'.*{LEFT}"):
        release(unused(stray), [LEFT, "frob"])
    assert stray.writes == []


def test_turned_off_the_recorded_driver_comes_before_another_that_could_have_the_function(chosen: Machine) -> None:
    known = read_record(chosen.paths)
    assert known is not None
    (board,) = known.boards
    first = board.functions[0]._replace(driver="nvidia")
    board = board._replace(functions=(first, *board.functions[1:]))
    write_record(chosen.paths, known._replace(boards=(board,)))
    boot(chosen, "ro pcibind=off")
    for address in LEFTS:
        chosen.leave(address)
    for driver in ("nouveau", "vfio-pci"):
        directory = chosen.root / "sys/bus/pci/drivers" / driver
        (directory / "unbind").unlink()
        directory.rmdir()
    report = release_for_this_boot(unused(chosen))
    assert (report.exit_code, drivers(chosen)) == (ExitCode.OK, ["nvidia", *HOSTS[1:]])


def test_what_was_released_is_not_taken_by_pcibind_any_more(chosen: Machine) -> None:
    assert release(unused(chosen)).exit_code is ExitCode.OK
    # As driverctl does it.
    chosen.file(f"sys/bus/pci/devices/{LEFTS[0]}/driver_override", "vfio-pci\n")
    assert status(unused(chosen)).refusals == ()
    assert apply(unused(chosen)).exit_code is ExitCode.OK
    assert original_override(chosen) == "vfio-pci"


def original_override(machine: Machine) -> str | None:
    known = read_record(machine.paths)
    assert known is not None
    return known.boards[0].functions[0].driver_override
