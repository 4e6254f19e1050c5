"""What an undo decides: what is left over, what is a fault of its own, and what its commands do."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploys.assessment import comparison
from deploys.assessment.kernel_arguments import added
from deploys.assessment.pending_reboot import left_over
from deploys.assessment.platforms import Family
from deploys.restoration.boards import COMMAND, chosen, release_command
from deploys.restoration.start import Undo, relevant, tools_of
from deploys.settings import Settings
from facts import platform
from facts.attempt import RebootAttempts
from facts.baseline import ArchivedFile, Baseline, BaselineRecord, FunctionBaseline
from facts.installed_kernels import InstalledKernels
from facts.kernel import CommandLines, KernelCommandLine
from facts.paths import EmptyDirectories, ExistingPaths
from facts.requests import BoardRequests
from facts.unit import Unit
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import Selector
from pcibind.remote import topology_text
from tests.unit.deploys import recorded
from tests.unit.deploys.recorded import BOUND, Pci, gpu, topology

OFF = ("root=UUID=1", "ro", "intel_iommu=off")
ON = (*OFF, "intel_iommu=on", "iommu=pt")
PAST = Baseline(OFF, (OFF,), "running", ())


def read(*functions: Pci) -> Topology:
    return topology_text.parse(topology(*functions))


def baseline(*functions: Pci, **changes: Any) -> Baseline:
    known = [FunctionBaseline(each.path, each.model, each.driver, None) for each in read(*functions).functions]
    return replace(PAST, functions=tuple(known), **changes)


# --- the reboot


def test_a_deploys_arguments_are_those_that_were_not_there_before() -> None:
    assert added(ON, OFF) == ["intel_iommu=on", "iommu=pt"]
    assert added((*ON, "vfio-pci.ids=10de:2684", "hugepages=9"), (*OFF, "iommu=pt")) == [
        "intel_iommu=on",
        "vfio-pci.ids=10de:2684",
    ]


def test_a_kernel_that_runs_with_what_is_configured_no_more_is_a_reason() -> None:
    assert left_over(CommandLines(ON, (OFF,)), OFF, False) == [
        "the kernel runs with intel_iommu=on iommu=pt, which is no longer configured"
    ]


def test_an_argument_that_the_operator_configured_himself_is_no_reason() -> None:
    assert left_over(CommandLines(ON, (ON,)), OFF, False) == []
    assert left_over(CommandLines((*OFF, "hugepages=9"), (OFF,)), OFF, False) == []


def test_a_boot_with_early_overrides_is_a_reason() -> None:
    assert left_over(CommandLines(OFF, (OFF,)), OFF, True) == [
        "this boot set driver overrides before any driver was loaded"
    ]


# --- the boot entries


def test_grubby_takes_exactly_what_no_entry_had_and_gives_back_what_was_replaced() -> None:
    now = ("root=UUID=1", "ro", "intel_iommu=on", "iommu=pt")
    command = comparison.grubby(CommandLines(now, (now, now)), PAST)
    assert command is not None
    assert command.endswith("grubby --update-kernel=ALL --remove-args='intel_iommu=on iommu=pt' --args=intel_iommu=off")


def test_grubby_leaves_an_argument_that_an_entry_had_before() -> None:
    before = replace(PAST, configured=(OFF, ("ro", "iommu=pt")))
    command = comparison.grubby(CommandLines(ON, (ON,)), before)
    assert command is not None
    assert "--remove-args=intel_iommu=on" in command
    assert "--args=intel_iommu" not in command.replace("--remove-args=intel_iommu", "")


def test_grubby_has_nothing_to_do_on_entries_that_are_as_they_were() -> None:
    assert comparison.grubby(CommandLines(OFF, (OFF,)), PAST) is None
    before = replace(PAST, configured=(ON,))
    assert comparison.grubby(CommandLines(ON, (ON,)), before) is None


# --- the boards


def boards_to_go(*others: str, record: Record) -> list[str]:
    requested = frozenset({Selector.parse("10de:2684")})
    settings = Settings.model_construct()
    undo = Undo(settings, Family("", "apt", "dracut", "grub"), PAST, others, requested)
    return [board.path for board in chosen(record, undo)]


def test_all_recorded_boards_go_back_and_what_an_earlier_attempt_left() -> None:
    (ours, theirs, left) = (recorded_board(slot, model) for slot, model in ((1, "10de:2684"), (2, "1:2"), (3, "1:3")))
    known = Record((ours, theirs), leaving=(left,))
    assert boards_to_go(record=known) == [ours.path, theirs.path, left.path]
    assert boards_to_go("/etc/pcibind/mine.toml", record=known) == [ours.path, left.path]


def recorded_board(slot: int, model: str) -> RecordedBoard:
    (board,) = (each for each in read(*gpu(slot, slot)).boards() if each.display_functions)
    return RecordedBoard.of(board, Selector("model", model), None)


# --- the table


def marks(lines: CommandLines, before: Baseline = PAST) -> list[bool | None]:
    return [check.passed for check in comparison.command_lines(before, lines)]


def test_a_command_line_that_is_as_it_was_is_right_whatever_the_kernels_path() -> None:
    assert marks(CommandLines(("BOOT_IMAGE=/boot/vmlinuz-7", *OFF), (OFF, OFF))) == [True, True]


def test_a_deploys_argument_that_is_left_is_wrong() -> None:
    assert marks(CommandLines(ON, (OFF,))) == [False, True]
    assert marks(CommandLines(OFF, (OFF, ON))) == [True, False]
    assert marks(CommandLines(OFF, ())) == [True, False]


def test_what_others_changed_on_the_command_line_is_reported_and_no_failure() -> None:
    lines = CommandLines((*OFF, "hugepages=9"), ((*OFF, "hugepages=9"),))
    live, configured = comparison.command_lines(PAST, lines)
    assert (live.passed, configured.passed) == (None, None)
    assert live.actual == "changed since by others: +hugepages=9"


@pytest.mark.parametrize(
    ("now", "right"),
    [
        (gpu(1, 1), [True]),
        (gpu(1, 7), [True]),
        (gpu(1, 1, drivers=("nvidia", "snd_hda_intel")), [True, None]),
        (gpu(1, 1, drivers=(None, "snd_hda_intel")), [False, False]),
        (gpu(1, 1, drivers=BOUND), [False, False, False]),
        (gpu(2, 1), [True, None, None]),
    ],
)
def test_every_function_has_the_driver_that_it_had(now: list[Pci], right: list[bool | None]) -> None:
    assert [check.passed for check in comparison.functions(baseline(*gpu(1, 1)), read(*now))] == right


def test_an_override_that_was_not_there_is_wrong() -> None:
    now = read(*gpu(1, 1))
    functions = tuple(each._replace(driver_override="vfio-pci") for each in now.functions)
    assert comparison.functions(baseline(*gpu(1, 1)), Topology(functions))[0].passed is False


def test_a_board_that_its_operator_keeps_bound_is_reported() -> None:
    rows = comparison.functions(baseline(*gpu(1, 1)), read(*gpu(1, 1, drivers=BOUND)), kept=("0000:00/01.0/00",))
    assert [row.passed for row in rows] == [True, None]


def test_a_board_that_is_gone_is_a_sentence() -> None:
    assert comparison.hardware(baseline(*gpu(1, 1), *gpu(2, 2)), read(*gpu(1, 1), gpu(2, 2)[0])) == [
        "board 0000:00/02.0/00 (10de:2684 10de:22ba) was there before the first deploy and is not there now"
    ]


def test_units_and_files_that_are_left_are_wrong() -> None:
    unit = Unit("pcibind.service", "loaded", "active", "exited", "success", False, "enabled", 1)
    gone = replace(unit, load="not-found", active="inactive")
    assert [row.passed for row in comparison.units({unit.name: unit}, (unit.name,))] == [False]
    assert [row.passed for row in comparison.units({unit.name: gone}, (unit.name, "other.service"))] == [True]
    assert [row.passed for row in comparison.files(["/etc/x"], {"/etc/y": False, "/etc/z": True})] == [
        False,
        False,
        True,
    ]
    assert [row.passed for row in comparison.files([], {})] == [True]


def test_a_system_may_be_as_degraded_as_it_was() -> None:
    assert comparison.system("degraded", ["x.service"], "degraded", ()).passed
    assert not comparison.system("degraded", ["x.service"], "running", ()).passed


def test_a_unit_of_others_that_had_failed_before_the_undo_is_shown_and_not_judged() -> None:
    assert comparison.system("degraded", ["x.service"], "running", ("x.service",)).passed is None
    assert comparison.system("degraded", ["x.service", "y.service"], "running", ("x.service",)).passed is False


# --- host data and tools


def test_only_host_data_that_an_undo_needs_is_read_mistyped_keys_included() -> None:
    data = {"gevulot_rebot": 1, "reboot": 1, "gevulot_reboot_timeout": 1, "gevulot_boards": 1, "ssh_user": 1}
    assert set(relevant(data)) == {"gevulot_rebot", "reboot", "gevulot_reboot_timeout", "gevulot_psk_passphrase"}
    assert set(relevant({"gevulot_postgres_port": 1, "gevulot_start_timeout": 1})) == {"gevulot_psk_passphrase"}


def test_a_host_that_no_deploy_supports_any_more_can_still_be_left() -> None:
    sealed = replace(recorded.DEBIAN, boot=("grub", "uki"))
    tools = tools_of(platform.parse(recorded.platform(sealed)))
    assert isinstance(tools, Family)
    assert (tools.initramfs, tools.boot) == ("initramfs-tools", "grub")
    both = replace(recorded.DEBIAN, tools=(*recorded.DEBIAN.tools, "dracut"), hooks=("dracut",))
    tools = tools_of(platform.parse(recorded.platform(both)))
    assert isinstance(tools, Family)
    assert tools.initramfs == "initramfs-tools"


@pytest.mark.parametrize(
    ("tools", "words"),
    [(("apt-get",), "expected update-grub or grubby"), (("update-grub",), "expected initramfs-tools")],
)
def test_a_host_without_the_tools_for_its_boot_is_not_left(tools: tuple[str, ...], words: str) -> None:
    bare = replace(recorded.DEBIAN, tools=tools)
    assert words in str(tools_of(platform.parse(recorded.platform(bare))))


# --- commands, run for real


def sh(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True)


@pytest.mark.parametrize(
    "command",
    [
        BaselineRecord().command(directories=("/var/lib/it's", "/former"), traces=("/a b",)),
        ArchivedFile().command(archive="/a'b.tar", former="/c'd.tar", path="/etc/x"),
        KernelCommandLine().command(drop_in="/a'b.cfg"),
        InstalledKernels().command(modules=("vfio", "a'b")),
        RebootAttempts().command(directories=("/var/lib/it's", "/former")),
        ExistingPaths().command(paths=("/a'b",)),
        EmptyDirectories().command(directories=("/a'b",)),
        BoardRequests().command(),
        release_command((), named=True),
    ],
)
def test_every_command_can_be_read_by_a_posix_shell(command: str) -> None:
    done = subprocess.run(["sh", "-n"], input=command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_request_without_a_last_end_of_line_hides_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[[board]]")
    (tmp_path / "b.toml").write_text('require_boards = "any"\n')
    command = BoardRequests().command().replace("/etc/pcibind", str(tmp_path))
    assert BoardRequests().process(sh(command).stdout.splitlines()) == {
        str(tmp_path / "a.toml"): "[[board]]\n", str(tmp_path / "b.toml"): 'require_boards = "any"\n',
    }  # fmt: skip


def test_what_exists_and_what_is_empty_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    paths = (str(tmp_path / "link"), str(tmp_path / "none"))
    assert ExistingPaths().process(sh(ExistingPaths().command(paths=paths)).stdout.splitlines()) == [paths[0]]
    directories = (str(tmp_path), str(tmp_path / "empty"), str(tmp_path / "none"))
    done = sh(EmptyDirectories().command(directories=directories))
    assert done.stdout.splitlines() == [directories[1]]


def test_the_record_is_read_with_what_was_kept_and_what_is_left(tmp_path: Path) -> None:
    document = {
        "version": 1, "kernel_command_line": ["ro"], "configured_command_lines": [["ro"]], "system_state": "running",
        "functions": [{"address": "0000:01:00.0", "path": "0000:00/01.0/00.0", "model": "10de:2684",
                       "driver": "nouveau", "driver_override": None}],
    }  # fmt: skip
    (tmp_path / "before.json").write_text(json.dumps(document, indent=1))
    subprocess.run(["tar", "-C", "/", "-cf", tmp_path / "before.tar", "etc/hostname"], check=True)
    command = BaselineRecord().command(directories=(str(tmp_path), "/former"), traces=(str(tmp_path), "/not/there"))
    remains = BaselineRecord().process(sh(command).stdout.splitlines())
    assert (remains.archive, remains.traces) == (True, (str(tmp_path),))
    assert remains.past == Baseline(
        ("ro",), (("ro",),), "running", (FunctionBaseline("0000:00/01.0/00.0", "10de:2684", "nouveau", None),),
        archived=frozenset({"/etc/hostname"}), directory=str(tmp_path),
    )  # fmt: skip
    assert not remains.past.made("/usr/local/libexec")
    json.dumps(remains.to_json())


def test_a_host_without_a_record_has_none(tmp_path: Path) -> None:
    remains = BaselineRecord().process(
        sh(BaselineRecord().command(directories=(str(tmp_path), "/former"), traces=())).stdout.splitlines()
    )
    assert (remains.past, remains.archive, remains.traces) == (None, False, ())


@pytest.mark.parametrize("text", ["{", '{"version": 2}', "{}", "[]"])
def test_of_a_record_that_cannot_be_understood_the_reason_is_read(text: str) -> None:
    remains = BaselineRecord().process(["begin", "record", text])
    assert remains.past is None
    assert remains.damaged


def test_a_kept_file_is_compared_with_content_and_mode(tmp_path: Path) -> None:
    file, archive = tmp_path / "file", str(tmp_path / "kept.tar")
    file.write_text("as it was")
    subprocess.run(["tar", "-C", "/", "-cf", archive, str(file)[1:]], check=True)
    command = ArchivedFile().command(archive=archive, former="/not/there", path=str(file))
    assert sh(command).stdout == "same\n"
    file.chmod(0o600)
    assert sh(command).stdout == "different\n"
    file.unlink()
    assert sh(command).stdout == "different\n"


def stand_in(tmp_path: Path, script: str) -> str:
    """The command that releases a board, with a stand-in for pcibind."""
    program = tmp_path / "pcibind"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (board,) = read(*gpu(1, 1)[1:]).boards()
    boards = (RecordedBoard.of(board, Selector.parse("10de:2684"), None),)
    return release_command(boards, named=True).replace(COMMAND, str(program))


def test_a_failed_release_quotes_pcibind_and_says_what_to_do(tmp_path: Path) -> None:
    done = sh(stand_in(tmp_path, 'echo "refused: $*"; exit 3'))
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == "refused: release 0000:00/01.0/00"
    assert second.startswith("pcibind release ended with 3; expected 0:")
    assert "then run the undo again" in second


def test_a_release_that_succeeds_prints_the_output_of_pcibind(tmp_path: Path) -> None:
    done = sh(stand_in(tmp_path, "echo released"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "released\n", "")
