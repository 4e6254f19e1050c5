"""The early script, the files around it, and the unit."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from early_script import SHELLS, notes, run_script
from tree import AUDIO, DISPLAY, PORT, Machine, board

from pcibind.change import boot_files, setup
from pcibind.commands.apply import apply
from pcibind.commands.release import release
from pcibind.decide.plan import follow
from pcibind.model.errors import ExitCode
from pcibind.read.files import read_record


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
    assert overridden(machine) == []


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("change", ["another function", "one more", "one less"])
def test_only_a_board_that_is_the_recorded_one_in_all_its_functions_is_taken(
    machine: Machine, shell: str, change: str
) -> None:
    choose(machine)
    slot = "pci0000:00/0000:00:01.0"
    if change == "one more":
        machine.function(f"{slot}/0000:01:00.3", **AUDIO)
    else:
        machine.unplug("0000:01:00.2")
    if change == "another function":
        machine.function(f"{slot}/0000:01:00.2", **{**AUDIO, "device": 0x1111})
    known = read_record(machine.paths)
    assert known
    topology = machine.host.topology()
    present = [r.board.path for r in follow(topology, known) if r.board]
    assert run_script(machine, shell) == 0
    assert overridden(machine) == [f"0000:02:00.{n}" for n in range(3)]
    assert present == ["0000:00/02.0/00"]


def test_a_bridge_in_the_slot_of_a_board_is_no_function_of_it(machine: Machine) -> None:
    choose(machine, 'path = "0000:00/01.0/00"')
    machine.function("pci0000:00/0000:00:01.0/0000:01:00.7", **PORT)
    assert run_script(machine) == 0
    assert overridden(machine) == [f"0000:01:00.{n}" for n in range(3)]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_failed_write_left_undone_is_noted_all_the_same(machine: Machine, shell: str) -> None:
    choose(machine, 'path = "0000:00/01.0/00"')
    override = machine.root / "sys/bus/pci/devices/0000:01:00.1/driver_override"
    override.unlink()
    override.mkdir()
    assert run_script(machine, shell) != 0
    assert notes(machine) == {f"0000:01:00.{n}" for n in range(3)}
    assert machine.override("0000:01:00.0") == machine.override("0000:01:00.2") == "vfio-pci"
    assert not Path(machine.paths.run, "early.done").exists()


def test_where_nothing_can_be_noted_nothing_is_taken(machine: Machine) -> None:
    choose(machine)
    Path(machine.paths.taken).mkdir(parents=True)
    assert run_script(machine) != 0
    assert overridden(machine) == []


@pytest.mark.parametrize("word", ["pcibind=off", '"pcibind=off"', 'pcibind="off"'])
@pytest.mark.parametrize("shell", SHELLS)
def test_turned_off_on_the_kernel_line_it_takes_nothing(machine: Machine, shell: str, word: str) -> None:
    choose(machine)
    machine.file("proc/cmdline", f"ro {word} quiet\n")
    assert machine.host.is_off()
    assert run_script(machine, shell) == 0
    assert run_script(machine, shell, "add", "0000:01:00.0") == 0
    assert overridden(machine) == []
    assert not Path(machine.paths.events).exists()


@pytest.mark.parametrize("line", ["pcibind=offline", "xpcibind=off", "pcibind=on"])
def test_another_word_on_the_kernel_line_turns_nothing_off(machine: Machine, line: str) -> None:
    choose(machine)
    machine.file("proc/cmdline", f"ro {line}\n")
    assert not machine.host.is_off()
    assert run_script(machine) == 0
    assert len(overridden(machine)) == 6


def test_it_works_once_a_boot(machine: Machine) -> None:
    choose(machine)
    run_script(machine)
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "(null)\n")
    assert run_script(machine) == 0
    assert machine.override("0000:01:00.0") == "(null)"


@pytest.mark.parametrize("shell", SHELLS)
def test_after_the_first_run_of_pcibind_it_is_no_first_event_any_more(machine: Machine, shell: str) -> None:
    """The list and the rule came while the host ran, which may be using the boards."""
    choose(machine)
    assert Path(machine.paths.lock).exists()
    assert run_script(machine, shell, booting=False) == 0
    assert overridden(machine) == []
    assert not Path(machine.paths.run, "early.done").exists()
    assert f'TEST!="{machine.paths.lock.removeprefix(str(machine.root))}"' in boot_files.rule()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_board_that_appears_is_the_only_one_that_its_event_takes(machine: Machine, shell: str) -> None:
    choose(machine)
    for bus in (1, 2):
        for number in range(3):
            machine.leave(f"0000:0{bus}:00.{number}")
    assert run_script(machine, shell, "add", "0000:02:00.0") == 0
    assert overridden(machine) == [f"0000:02:00.{number}" for number in range(3)]


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
    assert read_record(machine.paths)


def test_the_scripts_are_posix_shell() -> None:
    for text in (boot_files.script(), boot_files.initramfs_hook()):
        assert text.startswith("#!/bin/sh\n")
        subprocess.run(["dash", "-n"], input=text, text=True, check=True)


def test_the_initramfs_gets_rule_script_and_list() -> None:
    for text in (boot_files.initramfs_hook(), boot_files.dracut()):
        for path in (boot_files.RULE_PATH, boot_files.SCRIPT_PATH, "/etc/pcibind/early.list", "vfio-pci"):
            assert path in text
    assert boot_files.SCRIPT_PATH in boot_files.rule()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_the_units_are_well_formed_and_confined(tmp_path: Path) -> None:
    units = {tmp_path / Path(path).name: text for path, text in boot_files.units().items()}
    for path, text in units.items():
        path.write_text(text)
    verify = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert "pcibind" not in verify.stderr.replace("/usr/local/lib/pcibind", "")
    # pcibind-off.service loads modules, so it is less confined.
    for name, exposure in (("pcibind.service", 21), ("pcibind-hotplug.service", 21), ("pcibind-off.service", 22)):
        subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", tmp_path / name],
            stdout=subprocess.DEVNULL,
            check=True,
        )


def test_setup_writes_what_a_boot_needs_and_takes_it_away_again(machine: Machine) -> None:
    machine.file("usr/sbin/update-initramfs", "#!/bin/sh\nmkinitramfs -o $1\n")
    before = {path for path in machine.root.rglob("*") if path.is_file()}
    done = run_pcibind("--root", str(machine.root), "setup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: update-initramfs -u -k all && systemctl enable pcibind.service"
    written = {str(path.relative_to(machine.root)): path for path in machine.root.rglob("*") if path.is_file()}
    assert written["usr/local/lib/pcibind/early"].stat().st_mode & 0o777 == 0o755
    assert "etc/initramfs-tools/hooks/pcibind" in written
    assert "etc/dracut.conf.d/pcibind.conf" not in written
    assert "all boot files are up to date" in run_pcibind("--root", str(machine.root), "setup").stdout

    (command,) = re.findall(
        r"ExecStart=(.*) apply --recorded", written["etc/systemd/system/pcibind.service"].read_text()
    )
    version = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=False)
    assert version.stdout.startswith("pcibind ") or "No module named 'click'" in version.stderr

    wants = machine.root / "etc/systemd/system/sysinit.target.wants"
    wants.mkdir(parents=True)
    (wants / boot_files.UNIT).symlink_to(boot_files.UNIT_PATH)
    assert run_pcibind("--root", str(machine.root), "setup", "--remove").returncode == 0
    assert list(wants.iterdir()) == []
    after = {path for path in machine.root.rglob("*") if path.is_file()}
    assert after - {Path(machine.paths.lock)} == before


@pytest.mark.parametrize(
    ("programs", "hook"),
    [
        ({"usr/sbin/update-initramfs": "exec mkinitramfs", "usr/bin/dracut": ""}, boot_files.INITRAMFS_HOOK_PATH),
        ({"usr/sbin/update-initramfs": "exec dracut", "usr/sbin/mkinitramfs": ""}, boot_files.DRACUT_PATH),
        ({"usr/bin/dracut": "#!/bin/bash"}, boot_files.DRACUT_PATH),
        ({"etc/initramfs-tools/initramfs.conf": "", "etc/dracut.conf.d/x.conf": ""}, None),
    ],
    ids=["initramfs-tools", "dracut's update-initramfs", "dracut", "directories that are left over"],
)
def test_the_hook_is_that_of_the_program_that_makes_the_images(
    machine: Machine, programs: dict[str, str], hook: str | None
) -> None:
    for path, text in programs.items():
        machine.file(path, text)
    messages = setup.install(machine.paths)
    hooks = (boot_files.INITRAMFS_HOOK_PATH, boot_files.DRACUT_PATH)
    assert [path for path in hooks if Path(f"{machine.root}{path}").exists()] == ([hook] if hook else [])
    assert any("warning: neither" in line for line in messages) == (hook is None)


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


def test_setup_that_cannot_lock_says_so_and_writes_nothing(machine: Machine) -> None:
    (machine.root / "run/pcibind").write_text("a file in place of the directory")
    done = run_pcibind("--root", str(machine.root), "setup")
    assert done.returncode == 2
    assert "cannot be locked" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (machine.root / boot_files.RULE_PATH[1:]).exists()


def test_setup_repairs_a_script_that_cannot_be_run(machine: Machine) -> None:
    machine.file("usr/sbin/update-initramfs", "#!/bin/sh\nmkinitramfs -o $1\n")
    run_pcibind("--root", str(machine.root), "setup")
    script = machine.root / "usr/local/lib/pcibind/early"
    script.chmod(0o644)
    assert "wrote /usr/local/lib/pcibind/early" in run_pcibind("--root", str(machine.root), "setup").stdout
    assert script.stat().st_mode & 0o777 == 0o755
