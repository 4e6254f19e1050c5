"""One judgement: pure, and the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tree import Machine

from pcibind.commands.apply import apply
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.decide.judgement import Judgement, Standing, judge
from pcibind.model.errors import ExitCode
from pcibind.model.evidence import Evidence, OpenNvidia, OpenVfio, Use
from pcibind.model.pci import Address
from pcibind.model.record import Record
from pcibind.model.report import BoardState, Report
from pcibind.model.request import OVERRIDABLE_GUARDS, BoardRequest, Configuration, Selector
from pcibind.read.files import read_record, write_record

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
FIRST = Address(0, 1, 0, 0)
NEEDED = Use(FIRST, "needed")


def wanting(*paths: str, allow: frozenset[str] = frozenset()) -> Configuration:
    return Configuration(tuple(BoardRequest(Selector("path", path), allow=allow) for path in paths))


def judged(
    machine: Machine, evidence: Evidence | None, *paths: str, next_boot: bool = False, known: Record | None = None
) -> Judgement:
    return judge(machine.host.topology(), evidence, wanting(*paths), known, next_boot=next_boot)


def standings(judgement: Judgement) -> list[Standing]:
    return [board.standing for board in judgement.boards]


def take(machine: Machine, bus: int) -> None:
    for number in range(3):
        machine.leave(f"0000:0{bus}:00.{number}")
        machine.take(f"0000:0{bus}:00.{number}", "vfio-pci")


def test_each_board_has_a_standing_of_its_own(machine: Machine) -> None:
    machine.load("vfio-pci")
    take(machine, 2)
    paths = (LEFT, RIGHT, "0000:00/09.0/00", "0000:00/03")
    evidence = Evidence(silent=frozenset({Address(0, 0, 3, 0)}))
    judgement = judged(machine, evidence, *paths)
    assert standings(judgement) == [Standing.LIVE, Standing.BOUND, Standing.MISSING, Standing.REFUSED]
    assert [refusal.guard for refusal in judgement.boards[3].refusals] == ["no-response", "class"]
    assert standings(judged(machine, evidence, *paths, next_boot=True))[0] is Standing.BOOT


@pytest.mark.parametrize(
    ("evidence", "guard"),
    [
        (Evidence(open_nvidia=(OpenNvidia(None, "/dev/nvidia0 is open: process 9 (python3)"),)), "nvidia-open"),
        (Evidence(open_vfio=(OpenVfio(12, None, "process 9 (qemu)"),)), "vfio-open"),
        (Evidence(unreadable=(("nvidia-open", "why"),)), "nvidia-open"),
        (Evidence(physical_functions=frozenset({FIRST})), "virtual-functions"),
    ],
)
def test_a_use_that_ends_with_the_reboot_refuses_only_what_is_bound_before_it(
    machine: Machine, evidence: Evidence, guard: str
) -> None:
    machine.leave("0000:01:00.0")
    machine.load("nvidia")
    machine.take("0000:01:00.0", "nvidia")
    (board,) = judged(machine, evidence, LEFT).boards
    assert (board.standing, [each.guard for each in board.refusals]) == (Standing.REFUSED, [guard])
    (board,) = judged(machine, evidence, LEFT, next_boot=True).boards
    assert (board.standing, [each.guard for each in board.closed]) == (Standing.BOOT, [guard])


@pytest.mark.parametrize("guard", ["disk", "default-route", "boot-display", "framebuffer"])
def test_a_use_that_comes_back_with_the_reboot_refuses_all_the_same(machine: Machine, guard: str) -> None:
    uses = {
        "disk": Evidence(disks=(NEEDED,)),
        "default-route": Evidence(route_nics=(NEEDED,)),
        "boot-display": Evidence(boot_displays=frozenset({FIRST})),
        "framebuffer": Evidence(framebuffers=(NEEDED,)),
    }
    judgement = judged(machine, uses[guard], LEFT, next_boot=True)
    assert [refusal.guard for refusal in judgement.refusals] == [guard]


def test_a_group_that_vfio_does_not_have_is_open_to_nobody(machine: Machine) -> None:
    evidence = Evidence(unreadable=(("vfio-open", "why"),))
    assert standings(judged(machine, evidence, LEFT)) == [Standing.LIVE]
    machine.load("vfio-pci")
    machine.leave("0000:01:00.1")
    machine.take("0000:01:00.1", "vfio-pci")
    assert standings(judged(machine, evidence, LEFT)) == [Standing.REFUSED]


def test_a_board_that_is_bound_is_not_asked_what_the_host_uses_it_for(machine: Machine) -> None:
    machine.load("vfio-pci")
    take(machine, 1)
    used = Evidence(boot_displays=frozenset({FIRST}), unreadable=(("disk", "why"), ("vfio-open", "why")))
    assert standings(judged(machine, used, LEFT)) == [Standing.BOUND]


def test_a_foreign_device_is_found_without_any_evidence(machine: Machine) -> None:
    machine.function(
        "pci0000:00/0000:00:09.0", vendor=1, device=2, subsystem=(3, 4), class_code=0x010601, driver="ahci", group=12
    )
    for evidence in (None, Evidence()):
        judgement = judged(machine, evidence, LEFT, RIGHT)
        assert standings(judgement) == [Standing.REFUSED, Standing.LIVE]
        assert {refusal.guard for refusal in judgement.refusals} == {"foreign-device"}


def test_what_the_initramfs_took_without_a_record_is_refused_when_chosen_and_named_when_not(machine: Machine) -> None:
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n")
    evidence = Evidence(early=frozenset({FIRST}))
    assert [r.guard for r in judged(machine, evidence, LEFT).refusals] == ["stale-initramfs"]
    judgement = judged(machine, evidence, RIGHT)
    assert ([board.path for board in judgement.taken], judgement.refusals) == ([LEFT], ())


def test_every_command_sees_what_the_early_script_took(machine: Machine) -> None:
    machine.configure('[[board]]\npath = "0000:00/02.0/00"\n')
    machine.file("run/pcibind/early.initramfs", " 0000:01:00.0 0000:01:00.1\n")
    machine.file("sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n")
    report = status(machine.host)
    assert report.exit_code is ExitCode.NOT_BOUND
    assert any("is not on record, but was taken at this boot" in error for error in report.errors)
    machine.configure('[[board]]\npath = "0000:00/01.0/00"\n')
    for command in (show, apply):
        assert {refusal.guard for refusal in command(machine.host).refusals} == {"stale-initramfs"}


def test_status_answers_though_the_use_of_the_host_cannot_be_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    assert apply(machine.host).exit_code is ExitCode.OK
    monkeypatch.setattr("pcibind.read.evidence_text.COMMAND", "true")
    report = status(machine.host)
    assert [board.state for board in report.boards] == [BoardState.BOUND]
    assert "cannot tell what this host uses" in report.errors[0]
    assert report.exit_code is ExitCode.UNEXPECTED


# What the firmware leaves behind.

GIB = 1 << 30
PREFETCHABLE, WIDE = 0x8, 0x4
HEADER = [0x268410DE, 0x00100007, 0x030000A1, 0x00800000, 0xF6000000, 0xE000000C, 0, 0xF000000C, 0, 0xE001, 0, 0, 0, 0]
HEADER += [0] * (16 - len(HEADER))
RANGES = [
    (0xF6000000, 0xF6FFFFFF, 0x40200),
    (0xE0000000, 0xEFFFFFFF, 0x14220C),
    (0, 0, 0),
    (0xF0000000, 0xF1FFFFFF, 0x14220C),
    (0, 0, 0),
    (0xE000, 0xE07F, 0x40101),
]


def refused_by(machine: Machine) -> list[str]:
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    return [refusal.guard for refusal in show(machine.host).refusals]


def test_a_board_whose_memory_all_has_addresses_passes(machine: Machine) -> None:
    machine.firmware("0000:01:00.0", header=HEADER, ranges=RANGES)
    assert refused_by(machine) == []


@pytest.mark.parametrize(
    "line",
    [(0, 8 * GIB - 1, 0x2014220C), (0, 8 * GIB - 1, 0x14220C), (0x1000, 0x1FFF, 0x20140200), (0, 0, 0)],
    ids=["marked", "only without an address", "marked with an address", "cleared"],
)
def test_memory_without_an_address_is_refused_with_what_to_switch_on(
    machine: Machine, line: tuple[int, int, int]
) -> None:
    machine.firmware("0000:01:00.0", header=HEADER, ranges=[RANGES[0], line, *RANGES[2:]])
    assert refused_by(machine) == ["unassigned-memory"]
    (refusal,) = show(machine.host).refusals
    assert "memory range 1 of 0000:01:00.0 has no address" in refusal.found
    assert "Above 4G decoding" in refusal.remedy


def test_ports_without_an_address_and_ranges_that_a_function_does_not_have_are_nothing(machine: Machine) -> None:
    virtual = [0xFFFFFFFF, 0x00100000, 0x03000000, 0, *[0] * 12]
    machine.firmware("0000:01:00.0", header=HEADER, ranges=[*RANGES[:5], (0, 0x7F, 0x20040101)])
    machine.firmware("0000:01:00.1", header=virtual, ranges=[(0xE0000000, 0xE00FFFFF, 0x40200)])
    assert refused_by(machine) == []


@pytest.mark.parametrize(("kind", "guards"), [("direct", ["reserved-memory"]), ("direct-relaxable", []), ("msi", [])])
def test_memory_that_the_firmware_keeps_refuses_unless_it_gives_it_up(
    machine: Machine, kind: str, guards: list[str]
) -> None:
    text = f"0x00000000c0000000 0x00000000c00fffff {kind}\n0x00000000fee00000 0x00000000feefffff msi\n"
    machine.file("sys/kernel/iommu_groups/12/reserved_regions", text)
    machine.file("sys/kernel/iommu_groups/13/reserved_regions", text.replace("direct", "reserved"))
    assert refused_by(machine) == guards


def test_a_board_that_does_not_answer_is_refused_and_status_says_so_of_a_bound_one(machine: Machine) -> None:
    machine.configure('require_boards = "any"\n[[board]]\nmodel = "10de:2684"\n')
    assert apply(machine.host).exit_code is ExitCode.OK
    machine.firmware("0000:01:00.0", header=[0xFFFFFFFF] * 16)
    left, right = status(machine.host).boards
    assert (left.state, right.state) == (BoardState.FAILED, BoardState.BOUND)
    assert "0000:01:00.0 does not answer: its configuration space reads as ones" in left.detail
    assert [refusal.guard for refusal in apply(machine.host).refusals] == ["no-response"]
    # The other board stays handed over.
    assert "PCIBIND_BOARDS=1" in Path(machine.paths.run, "devices.env").read_text()
    assert release(machine.host).exit_code is ExitCode.OK


def test_each_of_these_can_be_allowed(machine: Machine) -> None:
    machine.firmware("0000:01:00.0", header=[0xFFFFFFFF] * 16, ranges=[(0, GIB, 0x20040200)])
    machine.file("sys/kernel/iommu_groups/12/reserved_regions", "0x0 0x1 direct\n")
    assert refused_by(machine) == ["no-response", "reserved-memory", "unassigned-memory"]
    allowed = '["no-response", "reserved-memory", "unassigned-memory"]'
    machine.configure(f'[[board]]\npath = "{LEFT}"\nallow = {allowed}\n')
    assert apply(machine.host).exit_code is ExitCode.OK


def test_a_record_for_the_next_boot_is_made_while_a_program_has_the_board_open(machine: Machine) -> None:
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    machine.leave("0000:01:00.0")
    machine.load("nvidia")
    machine.take("0000:01:00.0", "nvidia")
    machine.open("/dev/nvidia0", 9, "python3")
    before = machine.drivers()
    assert apply(machine.host).exit_code is ExitCode.REFUSED
    assert apply(machine.host, next_boot=True).exit_code is ExitCode.OK
    known = read_record(machine.paths)
    assert known is not None
    assert [board.path for board in known.boards] == [LEFT]
    assert machine.drivers() == before


# What a board at rest is asked.


@pytest.mark.parametrize("iommu", [True, False])
def test_what_is_on_record_and_waits_for_the_boot_is_not_judged_again(machine: Machine, iommu: bool) -> None:
    if not iommu:
        for link in machine.root.glob("sys/bus/pci/devices/*/iommu_group"):
            link.unlink()
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    assert apply(machine.host, next_boot=True).exit_code is ExitCode.OK
    machine.file("sys/bus/pci/devices/0000:01:00.0/boot_vga", "1\n")
    assert apply(machine.host, next_boot=True).exit_code is ExitCode.OK
    refused = {refusal.guard for refusal in apply(machine.host).refusals}
    assert refused == ({"boot-display"} if iommu else set())


def test_a_board_that_is_to_be_given_back_and_is_chosen_again_is_judged(machine: Machine) -> None:
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    apply(machine.host, next_boot=True)
    known = read_record(machine.paths)
    assert known is not None
    write_record(machine.paths, known._replace(boards=(), leaving=known.boards))
    machine.file("sys/bus/pci/devices/0000:01:00.0/boot_vga", "1\n")
    assert {refusal.guard for refusal in apply(machine.host, next_boot=True).refusals} == {"boot-display"}


class UsedHost(System):
    """A host with this evidence of use."""

    def __init__(self, machine: Machine, evidence: Evidence) -> None:
        super().__init__(machine.paths, machine, node_seconds=0.05)
        self._evidence = evidence

    def gathering(self) -> UsedHost:  # type: ignore[override]
        return self

    def evidence(self) -> Evidence:
        return self._evidence

    def __enter__(self) -> UsedHost:
        return self

    def __exit__(self, *_: object) -> None:
        pass


UNKIND = {
    "used": Evidence(disks=(NEEDED,)),
    "display": Evidence(boot_displays=frozenset({FIRST})),
    "open": Evidence(open_devices=(NEEDED,)),
    "silent": Evidence(silent=frozenset({FIRST})),
    "reserved": Evidence(reserved_groups=frozenset({12})),
    "unassigned": Evidence(unassigned=(NEEDED,)),
    "blind": Evidence(unreadable=tuple((guard, "why") for guard in OVERRIDABLE_GUARDS)),
}


@pytest.mark.parametrize("require", ["any", "all"])
@pytest.mark.parametrize("bound", [False, True], ids=["new", "bound"])
@pytest.mark.parametrize("what", UNKIND)
@pytest.mark.parametrize("allowed", [False, True], ids=["", "allowed"])
def test_status_is_content_where_apply_was(
    machine: Machine, require: str, bound: bool, what: str, allowed: bool
) -> None:
    allow = ", ".join(f'"{guard}"' for guard in OVERRIDABLE_GUARDS) if allowed else ""
    machine.configure(f'require_boards = "{require}"\n[[board]]\nmodel = "10de:2684"\nallow = [{allow}]\n')
    if bound:
        assert apply(UsedHost(machine, Evidence())).exit_code is ExitCode.OK
    host = UsedHost(machine, UNKIND[what])
    code = apply(host).exit_code
    if code is ExitCode.OK:
        assert status(host).exit_code is ExitCode.OK
        assert apply(host).exit_code is ExitCode.OK
    elif bound:
        assert status(host).exit_code is not ExitCode.OK
    good = allowed or (bound and what in ("used", "display", "open", "blind"))
    assert (code is ExitCode.OK) == (good or (require == "any" and what != "blind"))


# What others claim.

DOMAIN = """<domain type='kvm'><devices>
  <hostdev mode='subsystem' type='pci' managed='yes'>
    <source>
      <address domain='0x0000' bus='0x02' slot='0x00' function='0x1'/>
    </source>
    <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
  </hostdev>
</devices></domain>
"""


@pytest.mark.parametrize("command", [show, apply, status])
def test_what_others_are_configured_to_bind_is_reported_of_chosen_boards_only(
    machine: Machine, command: Callable[[System], Report]
) -> None:
    machine.file("etc/driverctl.d/0000:01:00.0", "nouveau\n")
    machine.file("etc/driverctl.d/0000:00:03.0", "e1000e\n")
    machine.file("etc/libvirt/qemu/windows.xml", DOMAIN)
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    (note,) = [note for note in command(machine.host).notes if "driverctl" in note]
    assert "0000:01:00.0: driverctl gives it to nouveau at each boot" in note
    machine.configure(f'[[board]]\npath = "{RIGHT}"\n')
    notes = [note for note in command(machine.host).notes if "initramfs" not in note]
    assert any("0000:02:00.1: libvirt's machine windows has it with managed='yes'" in note for note in notes)


@pytest.mark.parametrize("managed", ["", " managed='no'"])
def test_a_machine_that_leaves_the_drivers_alone_is_no_rival(machine: Machine, managed: str) -> None:
    machine.file("etc/libvirt/qemu/windows.xml", DOMAIN.replace(" managed='yes'", managed))
    machine.configure(f'[[board]]\npath = "{RIGHT}"\n')
    assert not any("libvirt" in note for note in apply(machine.host).notes)


def test_a_bound_board_that_is_no_longer_configured_is_named(machine: Machine) -> None:
    machine.configure(f'[[board]]\nname = "left"\npath = "{LEFT}"\n')
    apply(machine.host)
    assert not any("no longer configured" in note for note in status(machine.host).notes)
    machine.configure("")
    assert any("board left is no longer configured" in note for note in status(machine.host).notes)
