"""What guards see and what they make of it: NVIDIA's driver, framebuffers, hidden descriptors, and sights barred."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from topologies import unused
from tree import Machine

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.decide import guards
from pcibind.model.errors import ConfigError, ExitCode, PcibindError
from pcibind.model.evidence import Evidence, OpenNvidia, OpenVfio, Use
from pcibind.model.pci import Address, Board, Function
from pcibind.model.report import Report
from pcibind.model.request import OVERRIDABLE_GUARDS, Selector
from pcibind.read import configuration, evidence_text
from pcibind.read.files import Paths

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"


@pytest.fixture(autouse=True)
def not_over_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests may be logged in over SSH."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


def look(root: Path) -> Evidence:
    with System(Paths(str(root))).gathering() as gathering:
        return gathering.evidence()


def at(machine: Machine, path: str = LEFT) -> Board:
    board = machine.host.topology().board_at(path)
    assert board is not None
    return board


def refusing(machine: Machine, *paths: str) -> list[list[str]]:
    """The guards that refuse each of these boards, after one look."""
    evidence = look(machine.root)
    selector = Selector("address", "0000:00:00.0")
    return [[r.guard for r in guards.check(at(machine, path), evidence, selector=selector)] for path in paths]


# NVIDIA's driver.


@pytest.fixture
def nvidia(machine: Machine) -> Machine:
    """The boards' displays are on NVIDIA's driver, the left one as its second device."""
    for minor, address in ((1, "0000:01:00.0"), (0, "0000:02:00.0")):
        machine.leave(address)
        machine.load("nvidia")
        machine.take(address, "nvidia")
        text = f"Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 162\nBus Location: \t {address}\n"
        text += f"Device Minor: \t {minor}\nGPU Excluded:\t No\n"
        machine.file(f"proc/driver/nvidia/gpus/{address}/information", text)
    return machine


def test_a_device_of_nvidia_that_is_open_counts_for_its_board_only(nvidia: Machine) -> None:
    assert refusing(nvidia, LEFT, RIGHT) == [[], []]
    nvidia.open("/dev/nvidia1", 99, "python3")
    evidence = look(nvidia.root)
    assert evidence.open_nvidia == (OpenNvidia(Address(0, 1, 0, 0), "/dev/nvidia1 is open: process 99 (python3)"),)
    (refusal,) = guards.check(at(nvidia), evidence)
    assert (refusal.guard, str(refusal.address)) == ("nvidia-open", "0000:01:00.0")
    assert "nvidia-persistenced" in refusal.remedy
    assert guards.check(at(nvidia, RIGHT), evidence) == []


@pytest.mark.parametrize(
    "node", ["/dev/nvidia7", "/dev/nvidia-uvm", "/dev/nvidia-modeset", "/dev/nvidia-caps/nvidia-cap1"]
)
def test_a_node_of_no_known_device_counts_for_every_board_on_that_driver(nvidia: Machine, node: str) -> None:
    nvidia.open(node)
    assert refusing(nvidia, LEFT, RIGHT) == [["nvidia-open"], ["nvidia-open"]]


@pytest.mark.parametrize("node", ["/dev/nvidia1", "/dev/nvidia7", "/dev/nvidia-uvm"])
def test_without_the_list_of_devices_every_node_counts_for_every_board(nvidia: Machine, node: str) -> None:
    (nvidia.root / "proc/driver").rename(nvidia.root / "proc/gone")
    nvidia.open(node)
    assert refusing(nvidia, LEFT, RIGHT) == [["nvidia-open"], ["nvidia-open"]]


@pytest.mark.parametrize("node", ["/dev/nvidia1", "/dev/nvidia7", "/dev/nvidia-uvm"])
def test_a_board_on_another_driver_is_not_concerned(nvidia: Machine, node: str) -> None:
    nvidia.leave("0000:02:00.0")
    nvidia.take("0000:02:00.0", "nouveau")
    nvidia.open(node)
    assert refusing(nvidia, LEFT, RIGHT) == [["nvidia-open"], []]


def test_the_control_node_alone_is_nothing(nvidia: Machine) -> None:
    nvidia.open("/dev/nvidiactl")
    assert refusing(nvidia, LEFT) == [[]]


def test_open_files_that_cannot_be_read_concern_nvidia_only_on_that_driver(nvidia: Machine) -> None:
    (nvidia.root / "proc/1/fd/0").unlink()
    assert refusing(nvidia, LEFT) == [["nvidia-open", "device-open", "vfio-open"]]
    nvidia.leave("0000:01:00.0")
    assert refusing(nvidia, LEFT) == [["device-open", "vfio-open"]]


# The firmware's framebuffer.

IOMEM = """\
00000000-00000fff : Reserved
00001000-0009ffff : System RAM
000a0000-000bffff : PCI Bus 0000:00
{before}c0000000-febfffff : PCI Bus 0000:00
  c0000000-d1ffffff : PCI Bus 0000:01
    c0000000-cfffffff : 0000:01:00.0
{inside}    d0000000-d1ffffff : 0000:01:00.0
      d1000000-d1ffffff : nouveau
  e0000000-efffffff : PCI Bus 0000:02
    e0000000-efffffff : 0000:02:00.0
{after}  fd500000-fd5fffff : PCI Bus 0000:00
{beside}fec00000-fec003ff : IOAPIC 0
100000000-43fffffff : System RAM
"""


def iomem(machine: Machine, **ranges: str) -> None:
    empty = dict(before="", inside="", after="", beside="")
    machine.file("proc/iomem", IOMEM.format(**{**empty, **{k: f"{v}\n" for k, v in ranges.items()}}))


@pytest.mark.parametrize(
    "name", ["BOOTFB", "efifb", "vesafb", "simplefb", "simple-framebuffer", "simple-framebuffer.0"]
)
def test_a_framebuffer_inside_a_bar_names_the_board(machine: Machine, name: str) -> None:
    iomem(machine, inside=f"      c0000000-c02fffff : {name}")
    evidence = look(machine.root)
    (refusal,) = guards.check(at(machine), evidence)
    assert (refusal.guard, refusal.address) == ("framebuffer", Address(0, 1, 0, 0))
    assert name in refusal.found
    assert guards.check(at(machine, RIGHT), evidence) == []


def test_a_driver_below_the_framebuffer_is_the_same_use(machine: Machine) -> None:
    iomem(machine, inside="      c0000000-c02fffff : BOOTFB\n        c0000000-c02fffff : efifb")
    assert [use.address for use in look(machine.root).framebuffers] == [Address(0, 1, 0, 0)]


def test_the_last_of_several_functions_is_named(machine: Machine) -> None:
    iomem(machine, after="      e0000000-e02fffff : BOOTFB")
    assert refusing(machine, LEFT, RIGHT) == [[], ["framebuffer"]]


@pytest.mark.parametrize(
    "where",
    [
        {"before": "80000000-802fffff : BOOTFB"},
        {"beside": "fd000000-fd2fffff : BOOTFB"},
        {"after": "    ef000000-ef2fffff : BOOTFB"},
        {"after": "  f0000000-f02fffff : BOOTFB"},
    ],
)
def test_a_framebuffer_outside_of_any_function_is_nobodys(machine: Machine, where: dict[str, str]) -> None:
    iomem(machine, **where)
    assert look(machine.root).framebuffers == ()


def test_a_framebuffer_in_a_bus_after_a_function_is_nobodys(machine: Machine) -> None:
    bus = "  f0000000-f7ffffff : PCI Bus 0000:03\n    f0000000-f02fffff : BOOTFB"
    machine.file("proc/iomem", f"c0000000-febfffff : PCI Bus 0000:00\n  c0000000-cfffffff : 0000:00:02.0\n{bus}\n")
    assert look(machine.root).framebuffers == ()


def test_without_privilege_the_ranges_are_zeros_and_the_names_are_enough(machine: Machine) -> None:
    iomem(machine, inside="      c0000000-c02fffff : BOOTFB")
    file = machine.root / "proc/iomem"
    lines = file.read_text().splitlines(keepends=True)
    zeros = [
        f"{line[: len(line) - len(line.lstrip())]}00000000-00000000 : {line.partition(' : ')[2]}" for line in lines
    ]
    file.write_text("".join(zeros))
    assert refusing(machine, LEFT, RIGHT) == [["framebuffer"], []]


VLFB, EFI, TEXT = 0x23, 0x70, 0x01
VGA, OTHER_DISPLAY = 0x0300, 0x0380


def screen(machine: Machine, base: int, *, kind: int = EFI, wide: bool = False) -> None:
    """What the kernel says of the firmware's screen: struct screen_info, first in the boot parameters."""
    data = bytearray(4096)
    data[0x0F] = kind
    data[0x18:0x1C] = (base & 0xFFFFFFFF).to_bytes(4, "little")
    data[0x36:0x3A] = (2 if wide else 0).to_bytes(4, "little")
    data[0x3A:0x3E] = (base >> 32).to_bytes(4, "little")
    path = machine.root / "sys/kernel/boot_params/data"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def display(machine: Machine, code: int) -> None:
    machine.firmware("0000:01:00.0", header=(0x10DE1234, 0, code << 16, *[0] * 13))


@pytest.mark.parametrize("kind", [VLFB, EFI])
def test_a_board_that_the_firmware_draws_on_is_refused_before_the_boot_that_leaves_it_there(
    machine: Machine, kind: int
) -> None:
    iomem(machine)
    display(machine, OTHER_DISPLAY)
    screen(machine, 0xC0000000, kind=kind)
    evidence = look(machine.root)
    (refusal,) = guards.check(at(machine), evidence)
    assert (refusal.guard, refusal.address) == ("framebuffer", Address(0, 1, 0, 0))
    assert "from the next boot on" in refusal.found
    assert guards.check(at(machine, RIGHT), evidence) == []


def test_a_framebuffer_that_owns_memory_now_is_named_once(machine: Machine) -> None:
    iomem(machine, inside="      c0000000-c02fffff : efifb")
    display(machine, OTHER_DISPLAY)
    screen(machine, 0xC0000000)
    assert [use.what for use in look(machine.root).framebuffers] == [
        "efifb, the firmware's framebuffer, owns memory of it"
    ]


def test_a_screen_above_four_gigabytes_is_found(machine: Machine) -> None:
    machine.file("proc/iomem", "380000000000-380fffffffff : PCI Bus\n  380000000000-38000fffffff : 0000:01:00.0\n")
    display(machine, OTHER_DISPLAY)
    screen(machine, 0x380000000000, wide=True)
    assert refusing(machine, LEFT) == [["framebuffer"]]
    screen(machine, 0x380000000000)
    assert refusing(machine, LEFT) == [[]]


@pytest.mark.parametrize(
    "line", ["quiet initcall_blacklist=sysfb_init", "initcall_blacklist=x,sysfb_init", "video=efifb:off"]
)
def test_a_screen_that_this_kernel_leaves_alone_is_nobodys(machine: Machine, line: str) -> None:
    iomem(machine)
    display(machine, OTHER_DISPLAY)
    screen(machine, 0xC0000000)
    machine.file("proc/cmdline", f"{line}\n")
    assert refusing(machine, LEFT) == [[]]


def test_vfio_pci_takes_the_screen_of_a_vga_display_back(machine: Machine) -> None:
    iomem(machine)
    display(machine, VGA)
    screen(machine, 0xC0000000)
    assert refusing(machine, LEFT) == [[]]


@pytest.mark.parametrize(("base", "kind"), [(0xF0000000, EFI), (0, EFI), (0xC0000000, TEXT)])
def test_a_screen_elsewhere_or_of_text_is_no_framebuffer_of_a_board(machine: Machine, base: int, kind: int) -> None:
    iomem(machine)
    display(machine, OTHER_DISPLAY)
    screen(machine, base, kind=kind)
    assert refusing(machine, LEFT, RIGHT) == [[], []]


def test_a_framebuffer_in_a_domain_of_five_digits_is_found(machine: Machine) -> None:
    machine.file("proc/iomem", "c0000000-cfffffff : 10000:e1:00.0\n  c0000000-c02fffff : BOOTFB\n")
    assert [str(use.address) for use in look(machine.root).framebuffers] == ["10000:e1:00.0"]


# Groups that are open without any process showing it.

EVERY = ", ".join(f'"{guard}"' for guard in OVERRIDABLE_GUARDS)
CHOSEN = f'[[board]]\nmodel = "10de:2684"\nallow = [{EVERY}]\n'


def test_no_group_that_is_open_in_secret_is_released(machine: Machine) -> None:
    machine.configure(CHOSEN)
    apply(unused(machine))
    machine.busy.add("12")
    machine.writes.clear()
    report = release(unused(machine), [LEFT])
    assert report.exit_code is ExitCode.REFUSED
    (refusal,) = report.refusals
    assert (refusal.board, refusal.guard) == (LEFT, "vfio-open")
    assert "no override" in refusal.remedy
    assert machine.writes == []
    assert (machine.root / "run/pcibind/devices.env").exists()


def test_no_board_whose_group_is_open_in_secret_is_given_back_by_apply(machine: Machine) -> None:
    machine.configure(CHOSEN)
    apply(unused(machine))
    machine.busy.add("12")
    machine.configure(f'[[board]]\npath = "{RIGHT}"\nallow = [{EVERY}]\n')
    machine.writes.clear()
    report = apply(unused(machine))
    assert [(refusal.board, refusal.guard) for refusal in report.refusals] == [(LEFT, "vfio-open")]
    assert machine.writes == []


def half_bound(machine: Machine) -> None:
    machine.configure(CHOSEN)
    apply(unused(machine))
    machine.write(machine.root / "sys/bus/pci/drivers/vfio-pci/unbind", "0000:01:00.1")
    machine.writes.clear()


@pytest.mark.parametrize("command", [apply, apply_recorded])
def test_no_half_bound_board_whose_group_is_open_in_secret_is_bound_anew(
    machine: Machine, command: Callable[[System], Report]
) -> None:
    half_bound(machine)
    machine.busy.add("12")
    report = command(unused(machine))
    assert report.exit_code is ExitCode.REFUSED
    assert [(refusal.board, refusal.guard) for refusal in report.refusals] == [(LEFT, "vfio-open")]
    assert "that /proc does not show" in report.refusals[0].found
    assert machine.writes == []
    # A plan opens no node, so it cannot know; it says so.
    plan = show(unused(machine))
    assert plan.exit_code is ExitCode.PENDING
    assert any("only /proc was searched" in note for note in plan.notes)
    machine.busy.clear()
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert machine.driver("0000:01:00.1") == "vfio-pci"


def test_a_use_that_the_processes_show_is_not_reported_twice(machine: Machine) -> None:
    half_bound(machine)
    machine.busy.add("12")
    machine.open("/dev/vfio/12")
    (refusal,) = apply(machine.host).refusals
    assert "process 4242" in refusal.found


def test_a_group_that_cannot_be_asked_is_left_as_it_is(machine: Machine) -> None:
    half_bound(machine)
    keep_open = machine.keep_open

    def barred(node: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    for command in (apply, apply_recorded, release):
        machine.keep_open = barred  # type: ignore[method-assign]
        report = command(unused(machine))
        assert report.exit_code is ExitCode.REFUSED
        assert "cannot tell whether" in report.refusals[0].found
        assert not [text for _, text in machine.writes if text.startswith("0000:01")]
        machine.keep_open = keep_open  # type: ignore[method-assign]


@pytest.mark.parametrize("hidden", [False, True])
def test_a_device_that_is_open_by_its_own_node_keeps_its_board_where_that_is_visible(
    machine: Machine, hidden: bool
) -> None:
    machine.has_cdevs = True
    machine.configure(CHOSEN)
    apply(unused(machine))
    machine.in_use.add("0000:01:00.1")
    if not hidden:
        machine.open(machine.cdev("0000:01:00.1"))
    machine.writes.clear()
    report = release(unused(machine), [LEFT])
    if hidden:
        # Its unbind waits, so it is stuck, and the display gets no driver beside it.
        assert report.exit_code is ExitCode.STUCK
        assert machine.driver("0000:01:00.1") == "vfio-pci"
        assert machine.driver("0000:01:00.0") is None
    else:
        assert report.exit_code is ExitCode.REFUSED
        assert "process 4242 (qemu-system-x86) has /dev/vfio/devices/vfio" in report.refusals[0].found
        assert machine.writes == []


def opens(machine: Machine) -> list[str]:
    return [access.targets[0].rpartition("/")[2] for access in machine.asked if access.kind == "keep-open"]


def test_boards_that_need_no_change_are_not_opened(machine: Machine) -> None:
    machine.configure(CHOSEN)
    apply(unused(machine))
    # Nobody can have a group open that is on no vfio-pci yet.
    assert opens(machine) == []
    for command in (apply, show, status):
        assert command(unused(machine)).exit_code is ExitCode.OK
    assert opens(machine) == []
    machine.write(machine.root / "sys/bus/pci/drivers/vfio-pci/unbind", "0000:01:00.1")
    apply(unused(machine))
    assert opens(machine) == ["12"]
    machine.asked.clear()
    for command in (show, status):
        command(unused(machine))
    assert opens(machine) == []
    release(unused(machine), [RIGHT])
    assert opens(machine) == ["13"]


# Each override silences its own guard.

ADDRESS = Address(0, 1, 0, 0)
ALL_AGAINST = Evidence(
    route_nics=(Use(ADDRESS, "route"),),
    ssh_nics=(Use(ADDRESS, "ssh"),),
    disks=(Use(ADDRESS, "disk"),),
    boot_displays=frozenset({ADDRESS}),
    framebuffers=(Use(ADDRESS, "framebuffer"),),
    configured=(Use(ADDRESS, "address"),),
    open_devices=(Use(ADDRESS, "open"),),
    open_nvidia=(OpenNvidia(None, "open"),),
    physical_functions=frozenset({ADDRESS}),
    open_vfio=(OpenVfio(12, None, "process 1"),),
    reserved_groups=frozenset({12}),
    unassigned=(Use(ADDRESS, "no address"),),
    silent=frozenset({ADDRESS}),
)
NOTHING_SEEN = Evidence(unreadable=tuple((guard, "why") for guard in (*OVERRIDABLE_GUARDS, "vfio-open")))
CLASSES = (0x020000, 0x030000, 0x010802)
ON_NVIDIA = Board(
    LEFT,
    tuple(
        Function(Address(0, 1, 0, n), f"{LEFT}.{n}", 1, 2, 3, 4, code, driver="nvidia", iommu_group=12)
        for n, code in enumerate(CLASSES)
    ),
)
"""A board that could be used for anything."""


@pytest.mark.parametrize("evidence", [ALL_AGAINST, NOTHING_SEEN], ids=["all against", "nothing seen"])
@pytest.mark.parametrize("allowed", OVERRIDABLE_GUARDS)
@pytest.mark.parametrize("guard", [*OVERRIDABLE_GUARDS, "vfio-open"])
def test_an_override_silences_its_own_guard_and_no_other(evidence: Evidence, allowed: str, guard: str) -> None:
    refused = {refusal.guard for refusal in guards.check(ON_NVIDIA, evidence, {allowed})}
    assert (guard in refused) == (guard != allowed)


@pytest.mark.parametrize("evidence", [ALL_AGAINST, NOTHING_SEEN], ids=["all against", "nothing seen"])
def test_every_refusal_names_its_override_or_that_there_is_none(evidence: Evidence) -> None:
    for refusal in guards.check(ON_NVIDIA, evidence):
        has_one = f'add "{refusal.guard}" to the board\'s allow list' in refusal.advice
        assert has_one == (refusal.guard in OVERRIDABLE_GUARDS)
        assert ("no override" in refusal.remedy) == (refusal.guard == "vfio-open")
    assert {r.guard for r in guards.check(ON_NVIDIA, evidence, OVERRIDABLE_GUARDS)} == {"vfio-open"}


@pytest.mark.parametrize("guard", [*OVERRIDABLE_GUARDS, "vfio-open", "foreign-device", "all", ""])
def test_a_configuration_may_name_every_guard_that_has_an_override_and_no_other(guard: str) -> None:
    text = f'[[board]]\npath = "{LEFT}"\nallow = ["{guard}"]\n'
    if guard in OVERRIDABLE_GUARDS:
        assert configuration.parse([("a.toml", text)]).boards[0].allow == {guard}
    else:
        with pytest.raises(ConfigError, match="allow"):
            configuration.parse([("a.toml", text)])


# A guard that cannot see refuses.


def missing(path: Path) -> None:
    path.rename(path.with_name("gone"))


def unreadable(path: Path) -> None:
    """Neither a file nor a directory is what it should be: so that root cannot read it either."""
    was_directory = path.is_dir()
    missing(path)
    if was_directory:
        path.write_text("")
    else:
        path.mkdir()


def garbage(path: Path) -> None:
    path.write_text("\x01 what is this\n")


def emptied(path: Path) -> None:
    if path.is_dir():
        missing(path)
        path.mkdir()
    else:
        path.write_text("")


SSH6 = "fe80::2 50000 fe80::1%eth0 22"


def everything(machine: Machine) -> None:
    """A machine on which every guard has something to read: the left board is used for all of it."""
    left = "pci0000:00/0000:00:01.0/0000:01:00.0"
    machine.leave("0000:01:00.0")
    machine.load("nvidia")
    machine.take("0000:01:00.0", "nvidia")
    machine.file("proc/driver/nvidia/gpus/0000:01:00.0/information", "Device Minor: \t 0\n")
    iomem(machine, inside="      c0000000-c02fffff : BOOTFB")
    (machine.root / "sys/class/net/eth0").unlink()
    machine.interface("eth0", left)
    zero = "0" * 32
    route = f"{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003     eth0\n"
    machine.file("proc/net/ipv6_route", route)
    machine.file("proc/net/if_inet6", "fe800000000000000000000000000001 02 40 20 80     eth0\n")
    machine.login(SSH6)
    machine.interface("eth1", left)
    machine.route("eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0")
    machine.file("sys/bus/pci/devices/0000:01:00.0/boot_vga", "1\n")
    machine.virtual_function("0000:01:00.0")
    machine.file("proc/self/mountinfo", "30 1 253:0 / / rw - ext4 /dev/mapper/root rw\n")
    machine.file("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 1 0 -2\n")
    machine.block("253:0", "virtual/block/dm-0")
    head = "virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
    machine.block("259:9", head)
    machine.block("8:17", f"{left}/ata1/host1/target1:0:0/1:0:0:0/block/sdb/sdb1")
    slaves = machine.root / "sys/class/block/dm-0/slaves"
    slaves.mkdir()
    (slaves / "nvme0n1").symlink_to(f"../../../../{head}")
    subsystem = machine.root / "sys/class/nvme-subsystem/nvme-subsys0"
    subsystem.mkdir(parents=True)
    (subsystem / "nvme0").symlink_to(f"../../../{left}/nvme/nvme0")
    machine.firmware("0000:01:00.0", header=[0xFFFFFFFF] * 16, ranges=[(0, 0xFFFFF, 0x20040200)])
    machine.file("sys/kernel/iommu_groups/12/reserved_regions", f"{0xC0000000:#018x} {0xC00FFFFF:#018x} direct\n")
    machine.open("/dev/nvidia0", 99)
    machine.node("/dev/vfio/devices/vfio0", 242, 0, f"{left}/vfio-dev/vfio0")
    machine.open("/dev/vfio/devices/vfio0", 98)
    machine.node("/dev/dri/card0", 226, 0, f"{left}/drm/card0")
    machine.open("/dev/dri/card0", 97, "Xorg")


def test_on_such_a_machine_every_guard_refuses(machine: Machine) -> None:
    everything(machine)
    # That of the class is not asked: the board is chosen by its address.
    assert set(refusing(machine, LEFT)[0]) == {*OVERRIDABLE_GUARDS, "vfio-open"} - {"class"}


BARRING: dict[str, Callable[[Path], None]] = {
    "missing": missing,
    "unreadable": unreadable,
    "garbage": garbage,
    "emptied": emptied,
}
# What each guard reads, and how that may be barred. Attributes that the kernel writes are not barred but by the kernel,
# and what only some hosts have (multipath, other processes' environments) may be missing.
# That the guard refuses as long as nothing is barred was observed of these.
CONFIRMED: set[tuple[str, str]] = set()
SIGHTS: list[tuple[str, str, str]] = []
for _line in """
default-route  proc/net/route                                 missing unreadable garbage emptied
default-route  proc/net/ipv6_route                            unreadable garbage
default-route  sys/class/net                                  missing unreadable emptied
ssh            proc/net/if_inet6                              missing unreadable garbage emptied
ssh            proc/net/tcp                                   missing unreadable
network        proc/net/route                                 missing unreadable garbage emptied
network        proc/net/if_inet6                              unreadable garbage
network        sys/class/net                                  missing unreadable emptied
disk           proc/self/mountinfo                            missing unreadable garbage emptied
disk           proc/swaps                                     missing unreadable garbage emptied
disk           sys/dev/block                                  missing unreadable emptied
disk           sys/class/block                                missing unreadable
framebuffer    proc/iomem                                     missing unreadable garbage emptied
nvidia-open    proc/driver/nvidia/gpus/0000:01:00.0/information missing unreadable garbage emptied
nvidia-open    proc/1/fd                                      missing unreadable emptied
vfio-open      proc/1/fd                                      missing unreadable emptied
vfio-open      sys/dev/char                                   missing unreadable emptied
device-open    sys/dev/char                                   missing unreadable
device-open    proc/1/fd                                      missing unreadable emptied
nvidia-open    proc/devices                                   missing unreadable emptied
""".strip().splitlines():
    _guard, _path, *_hows = _line.split()
    for _how in _hows:
        SIGHTS.append((_guard, _path, _how))


def barred(machine: Machine, guard: str, path: str, how: str) -> bool:
    """Whether the guard refuses, or all of it fails, once a sight is barred that was the only one."""
    everything(machine)
    if guard in ("default-route", "ssh", "network") and path != "proc/net/route":
        machine.file("proc/net/route", "Iface\tDestination\tGateway\n")
    if guard == "network" and path != "proc/net/route":
        machine.file("proc/net/if_inet6", f"{'2001':0<32} 03 40 00 80     eth1\n")
    if path == "proc/net/route":
        (machine.root / "proc/net/ipv6_route").unlink()
        machine.route("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0")
    if path == "proc/swaps":
        machine.file("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")
    elif guard == "disk":
        machine.file("proc/swaps", "Filename Type Size Used Priority\n")
    if path in ("proc/self/mountinfo", "proc/swaps"):
        slaves = machine.root / "sys/class/block/dm-0/slaves/nvme0n1"
        slaves.unlink()
    if path == "proc/self/mountinfo":
        machine.file(path, "30 1 259:9 / / rw - ext4 /dev/nvme0n1 rw\n")
    if (guard, path) not in CONFIRMED:
        assert guard in refusing(machine, LEFT)[0]
        CONFIRMED.add((guard, path))
    BARRING[how](machine.root / path)
    try:
        return guard in refusing(machine, LEFT)[0]
    except PcibindError:
        return True


@pytest.mark.parametrize(("guard", "path", "how"), SIGHTS)
def test_a_guard_that_cannot_see_refuses(machine: Machine, guard: str, path: str, how: str) -> None:
    assert barred(machine, guard, path, how)


# What others may write into what guards read.


@pytest.mark.parametrize(
    "value", ["1 2", "a b c d", "192.0.2.9 50000 192.0.2.1 22\nlink class/net/eth0 ../../devices/virtual/net/eth0"]
)
def test_no_process_makes_evidence_by_its_environment(machine: Machine, value: str) -> None:
    machine.file("proc/900/environ", f"HOME=/root\0SSH_CONNECTION={value}\0")
    assert [str(use.address) for use in look(machine.root).route_nics] == ["0000:00:03.0"]


@pytest.mark.parametrize("name", ["a b", "-n", *(name for name in ["a\x0cb", "a\x1eb"])])
def test_a_process_may_be_called_anything(machine: Machine, name: str) -> None:
    machine.open("/dev/vfio/12", comm=name)
    (use,) = look(machine.root).open_vfio
    assert use.group == 12
    assert name[0] in use.holder


@pytest.mark.parametrize("name", ["\\nopen x", "a\\c"])
def test_a_process_may_be_called_what_the_shell_would_interpret(machine: Machine, name: str) -> None:
    machine.open("/dev/vfio/12", 98, name)
    machine.open("/dev/vfio/13", 99)
    assert {use.group for use in look(machine.root).open_vfio} == {12, 13}


@pytest.mark.parametrize(
    "point",
    [
        "/media/a\\040b",
        "/media/-",
        *(point for point in ["/media/a\x0cb", "/media/a\x85b", "/media/a\u2028b"]),
    ],
)
def test_a_mount_point_may_be_called_anything(machine: Machine, point: str) -> None:
    machine.mount("0:50", point, "source", "fuse")
    assert [str(use.address) for use in look(machine.root).disks] == ["0000:00:04.0"]


GONE, SHORT, WHOLE = "gone", "short", "whole"


@pytest.mark.parametrize("first", [GONE, SHORT, WHOLE])
@pytest.mark.parametrize("last", [GONE, SHORT, WHOLE])
def test_a_header_that_cannot_be_read_is_not_taken_for_anothers(machine: Machine, first: str, last: str) -> None:
    functions = [str(f.address) for board in machine.host.topology().boards() for f in board.functions]
    header = [0x268410DE, 0x00100007, 0x030000A1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    for address in functions:
        machine.firmware(address, header=header)
    machine.firmware("0000:01:00.1", header=[0xFFFFFFFF] * 16, ranges=[(0, 0xFFFF, 0x20040200)])
    for address, how in ((functions[0], first), (functions[-1], last)):
        config = machine.root / "sys/bus/pci/devices" / address / "config"
        if how == GONE:
            config.unlink()
        elif how == SHORT:
            config.write_bytes(b"\xff" * 32)
    seen = look(machine.root)
    assert seen.silent == {Address.parse("0000:01:00.1")}
    assert [use.what for use in seen.unassigned] == ["memory range 0 of 0000:01:00.1 has no address"]


@pytest.mark.commands
def test_a_header_that_hangs_ends_the_look_in_time_and_hides_none_before_it(machine: Machine) -> None:
    functions = [str(f.address) for board in machine.host.topology().boards() for f in board.functions]
    for address in functions:
        machine.firmware(address, header=[0xFFFFFFFF] * 16)
    hanging = machine.root / "sys/bus/pci/devices" / functions[-1] / "config"
    hanging.unlink()
    os.mkfifo(hanging)
    # As a deploy reads it: until both streams end.
    environment = {"PCIBIND_SYS": "sys", "PCIBIND_PROC": "proc", "PCIBIND_RUN": "run"}
    done = subprocess.run(
        ["/bin/sh", "-c", evidence_text.COMMAND],
        env=os.environ | {name: f"{machine.root}/{place}" for name, place in environment.items()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    seen = evidence_text.parse(done.stdout.splitlines())
    assert {str(address) for address in seen.silent} == set(functions[:-1])
    assert done.stderr == ""


@pytest.mark.parametrize(("start", "refused"), [(0xC0000000, ["framebuffer"]), (0xD0000000, [])])
def test_where_iomem_hides_its_addresses_the_screen_is_found_in_the_ranges_of_displays(
    machine: Machine, start: int, refused: list[str]
) -> None:
    machine.file("proc/iomem", "00000000-00000000 : PCI Bus\n  00000000-00000000 : 0000:01:00.0\n")
    display(machine, OTHER_DISPLAY)
    is_memory = 0x40200
    machine.firmware(
        "0000:01:00.0",
        header=(0x10DE1234, 0, OTHER_DISPLAY << 16, *[0] * 13),
        ranges=[(0, 0, 0), (start, start + 0xFFFFFFF, is_memory)],
    )
    screen(machine, 0xC8000000)
    assert refusing(machine, LEFT) == [refused]


def test_the_shortest_of_several_mount_points_is_named(machine: Machine) -> None:
    mounts = [
        f"{number} 1 259:1 / {point} rw - ext4 /dev/x rw\n"
        for number, point in enumerate(("/run/netns", "/", "/srv"), 30)
    ]
    machine.file("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n" + "".join(mounts))
    assert [use.what for use in look(machine.root).disks] == ["nvme0n1p1 is mounted at / and 2 more"]
