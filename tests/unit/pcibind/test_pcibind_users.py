"""Who uses a board: what is looked for before it is taken, and what nobody can make up to stop root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import USB, Machine

from pcibind.commands.apply import apply
from pcibind.commands.system import System
from pcibind.decide import guards
from pcibind.model.errors import ExitCode
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Address, Board
from pcibind.model.request import Selector
from pcibind.read.files import Paths

LEFT, RIGHT = "0000:00/01.0/00", "0000:00/02.0/00"
DISPLAY_PLACE = "pci0000:00/0000:00:01.0/0000:01:00.0"
AUDIO_PLACE, USB_PLACE = f"{DISPLAY_PLACE[:-1]}1", f"{DISPLAY_PLACE[:-1]}2"


@pytest.fixture(autouse=True)
def not_over_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests may be logged in over SSH."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


def look(machine: Machine) -> Evidence:
    with System(Paths(str(machine.root))).gathering() as gathering:
        return gathering.evidence()


def at(machine: Machine, path: str = LEFT) -> Board:
    board = machine.host.topology().board_at(path)
    assert board is not None
    return board


def refusing(machine: Machine, path: str = LEFT) -> list[str]:
    selector = Selector("address", "0000:00:00.0")
    return [refusal.guard for refusal in guards.check(at(machine, path), look(machine), selector=selector)]


# Devices.


@pytest.mark.parametrize(
    ("node", "major", "place"),
    [
        ("/dev/dri/card0", 226, f"{DISPLAY_PLACE}/drm/card0"),
        ("/dev/dri/renderD128", 226, f"{DISPLAY_PLACE}/drm/renderD128"),
        ("/dev/snd/controlC1", 116, f"{AUDIO_PLACE}/sound/card1/controlC1"),
        ("/dev/ttyUSB0", 188, f"{USB_PLACE}/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0"),
    ],
)
def test_a_device_that_is_open_refuses_its_board_and_names_who_has_it(
    machine: Machine, node: str, major: int, place: str
) -> None:
    machine.node(node, major, 5, place)
    machine.open(node, 812, "pipewire")
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    report = apply(machine.host)
    assert report.exit_code is ExitCode.REFUSED
    (refusal,) = report.refusals
    assert (refusal.board, refusal.guard) == (LEFT, "device-open")
    assert f"{node} is open: process 812 (pipewire)" in refusal.found
    assert machine.writes == []
    assert refusing(machine, RIGHT) == []


def test_a_keyboard_at_a_board_is_open_all_the_time_and_refuses_nothing(machine: Machine) -> None:
    machine.node("/dev/input/event3", 13, 67, f"{USB_PLACE}/usb1/1-1/1-1:1.0/input/input3/event3")
    machine.open("/dev/input/event3", 700, "systemd-logind")
    assert refusing(machine) == []


def test_the_kernels_console_on_a_boards_serial_port_is_a_use(machine: Machine) -> None:
    address = machine.function("pci0000:00/0000:00:09.0", **(USB | {"class_code": 0x070002}), driver="serial", group=9)
    machine.file("proc/consoles", "netcon0              -W- (E  p  )\nttyS4                -W- (EC p a)    4:68\n")
    assert refusing(machine, "0000:00/09") == []
    machine.node("/dev/ttyS4", 4, 68, f"pci0000:00/{address}/tty/ttyS4")
    assert refusing(machine, "0000:00/09") == ["device-open"]


@pytest.mark.parametrize(
    ("node", "major", "kind", "place", "guard"),
    [
        ("/dev/nvme0n1", 259, "block", "nvme/nvme0/nvme0n1", "disk"),
        ("/dev/nvme0", 245, "char", "nvme/nvme0", "device-open"),
    ],
)
def test_a_disk_that_is_open_is_in_use_though_nothing_is_mounted(
    machine: Machine, node: str, major: int, kind: str, place: str, guard: str
) -> None:
    machine.file("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")
    assert refusing(machine, "0000:00/04") == []
    machine.node(node, major, 0, f"pci0000:00/0000:00:04.0/{place}", kind)
    machine.open(node, 77, "qemu")
    (refusal,) = [r for r in guards.check(at(machine, "0000:00/04"), look(machine), {"class"})]
    assert refusal.guard == guard
    assert f"{node} is open: process 77 (qemu)" in refusal.found


def test_a_disk_that_is_mounted_only_in_another_namespace_is_in_use(machine: Machine) -> None:
    mounts = (machine.root / "proc/self/mountinfo").read_text()
    machine.file("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")
    assert refusing(machine, "0000:00/04") == []
    machine.file("proc/55/mountinfo", mounts)
    (machine.root / "proc/55/ns").mkdir()
    (machine.root / "proc/55/ns/mnt").symlink_to("mnt:[4026532755]")
    assert refusing(machine, "0000:00/04") == ["disk"]


# Interfaces.


def test_an_interface_with_an_address_refuses_though_no_route_leads_out_by_it(machine: Machine) -> None:
    machine.file("proc/net/route", "Iface\tDestination\n")
    assert refusing(machine, "0000:00/03") == []
    machine.route("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0")
    assert refusing(machine, "0000:00/03") == ["network"]


@pytest.mark.parametrize(("scope", "refused"), [("00", ["network"]), ("40", ["network"]), ("20", []), ("10", [])])
def test_an_ipv6_address_that_the_kernel_made_up_itself_is_none(
    machine: Machine, scope: str, refused: list[str]
) -> None:
    machine.file("proc/net/route", "Iface\tDestination\neth0\t0000FEA9\t0\t1\t0\t0\t0\t0000FFFF\t0\t0\t0\n")
    machine.file("proc/net/if_inet6", f"{'2001':0<32} 02 40 {scope} 80     eth0\n")
    assert refusing(machine, "0000:00/03") == refused


# What others may say.

CONNECTION = "192.0.2.9 50000 192.0.2.1 22"


def test_the_login_behind_sudo_is_recognized(machine: Machine) -> None:
    machine.login(CONNECTION)
    assert [str(use.address) for use in look(machine).ssh_nics] == ["0000:00:03.0"]


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of that owner")


@as_root
@pytest.mark.parametrize(
    ("program", "inode", "expected"),
    [
        ("/usr/sbin/sshd", 31415, True),
        ("/usr/lib/openssh/sshd-session", 31415, True),
        ("/usr/bin/nginx", 31415, False),
        ("/usr/sbin/sshd", 27182, False),
    ],
)
def test_any_login_is_recognized_by_the_server_that_has_it(
    machine: Machine, program: str, inode: int, expected: bool
) -> None:
    machine.connection(CONNECTION)
    machine.ssh_server(600, inode, program)
    assert [str(use.address) for use in look(machine).ssh_nics] == ["0000:00:03.0"] * expected


@as_root
def test_a_connection_of_the_host_with_itself_is_no_login(machine: Machine) -> None:
    machine.connection("192.0.2.1 50000 192.0.2.1 22")
    machine.ssh_server(600, 31415)
    assert look(machine).ssh_nics == ()


@as_root
def test_a_server_of_somebody_else_is_none(machine: Machine) -> None:
    machine.connection(CONNECTION)
    machine.ssh_server(600, 31415)
    os.lchown(machine.root / "proc/600/exe", 1000, 1000)
    assert look(machine).ssh_nics == ()


def test_a_connection_that_is_over_is_no_login(machine: Machine) -> None:
    machine.login(CONNECTION, established=False)
    evidence = look(machine)
    assert (evidence.ssh_nics, evidence.unreadable) == ((), ())


def test_nobody_else_is_believed_to_be_logged_in(machine: Machine) -> None:
    machine.login(CONNECTION, ancestor=False)
    assert look(machine).ssh_nics == ()


@pytest.mark.parametrize(
    "claimed", ["1 2", "a b c d", "a 1 b 2", "1.2.3.4 x 5.6.7.8 y", "x\nunreadable disk no", "", "é"]
)
def test_a_made_up_login_stops_nobody(machine: Machine, claimed: str) -> None:
    machine.login(claimed, established=False)
    evidence = look(machine)
    assert (evidence.ssh_nics, evidence.unreadable) == ((), ())


@pytest.mark.parametrize("node", ["/dev/dri/card0", "/dev/vfio/12", "/dev/nvidia0", "/dev/sda"])
def test_a_name_is_no_device(machine: Machine, node: str) -> None:
    # In a mount namespace of one's own anything can have that name: here /dev/full.
    machine.node("/dev/dri/card0", 226, 0, f"{DISPLAY_PLACE}/drm/card0")
    text = "".join(line for line in (machine.root / "dev/numbers").open() if not line.startswith(f"{node} "))
    machine.open(node)
    machine.file("dev/numbers", f"{text}{node} 21b6 1:7\n")
    assert refusing(machine) == []


@pytest.mark.parametrize("node", ["/dev/a\nopen 1/fd/1 /dev/vfio/12 x", "/dev/a\nunreadable vfio-open why"])
def test_a_name_with_a_line_end_is_no_evidence(machine: Machine, node: str) -> None:
    machine.open(node)
    assert look(machine) == look(machine)._replace(open_vfio=(), unreadable=())


def test_only_btrfs_is_believed_what_it_lies_on(machine: Machine) -> None:
    # Anybody may mount a tmpfs in a namespace of his own, and call its source what he likes.
    machine.block("8:0", "pci0000:00/0000:00:03.0/block/sda")
    machine.mount("0:77", "/mnt", "/dev/sda", "tmpfs")
    assert {str(use.address) for use in look(machine).disks} == {"0000:00:04.0"}
    machine.mount("0:78", "/mnt", "/dev/sda", "btrfs")
    assert {str(use.address) for use in look(machine).disks} == {"0000:00:04.0", "0000:00:03.0"}


@pytest.fixture
def holder(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that is looked at as it is, with /dev/full for a display's device."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    machine.node("/dev/full", 1, 7, f"{DISPLAY_PLACE}/drm/card0")
    text = "import os, sys; os.open('/dev/full', getattr(os, sys.argv[1])); print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", text, os.environ["HOLDS"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    (machine.root / f"proc/{process.pid}").symlink_to(f"/proc/{process.pid}")
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize(("flags", "opened"), [("O_RDONLY", True), ("O_WRONLY", True), ("O_PATH", False)])
def test_the_kernel_tells_what_is_open_from_what_is_only_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, flags: str, opened: bool
) -> None:
    # Anybody may have a descriptor of any node with O_PATH, which opens nothing.
    monkeypatch.setenv("HOLDS", flags)
    request.getfixturevalue("holder")
    assert (Address(0, 1, 0, 0) in {use.address for use in look(machine).open_devices}) == opened


def test_stat_is_asked_for_what_the_kernel_knows(machine: Machine) -> None:
    done = subprocess.run(
        ["/usr/bin/stat", "-L", "-c", "node %n %f %t:%T", "/dev/full"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "node /dev/full 21b6 1:7\n"
    assert Path("/dev/full").is_char_device()
