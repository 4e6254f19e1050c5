"""pcibind's guards on a real kernel, as an operator meets them and in the sandbox of pcibind's own unit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.board import BOOT_DISPLAY, CARD_DISK, GPU
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress
from tests.lab.topology import DISK_SLOT, NETWORK_SLOT, Port, Topology
from tests.system.binder import Binder, path

COMPANY = Topology(
    "company",
    (
        Port(0x4, GPU),
        Port(0x5, conventional=("bochs-display", "intel-hda", "e1000")),
        Port(0x6, conventional=("bochs-display", "intel-hda", f"virtio-blk-pci,drive={CARD_DISK}")),
        Port(0x7, BOOT_DISPLAY),
    ),
)
"""A board, a network card and a disk in the groups of two displays, and the display of the firmware."""

NIC, DISK = f"0000:00:{NETWORK_SLOT:02x}.0", f"0000:00:{DISK_SLOT:02x}.0"

SANDBOX = """\
[Unit]
ConditionPathExists=
[Service]
Type=oneshot
RemainAfterExit=no
SuccessExitStatus=3
ExecStart=
ExecStart=/usr/bin/python3 -I /usr/local/lib/pcibind/__main__.py plan --json
StandardOutput=truncate:/root/sandbox.json
"""


@pytest.fixture(scope="module")
def binder(say: Progress) -> Iterator[Binder]:
    with Machine.start(COMPANY, preparation=IOMMU, progress=say) as machine:
        yield Binder.install(machine)


def behind(binder: Binder, slot: int) -> list[str]:
    """The addresses of the devices on the conventional bus behind a port."""
    directories = binder.machine.ssh(
        f"ls -d /sys/bus/pci/devices/0000:00:{slot:02x}.0/0000:??:00.0/0000:??:0[1-9].0"
    ).stdout.split()
    return [each.rpartition("/")[2] for each in directories]


def test_what_the_host_needs_is_refused_by_name_outside_and_inside_the_units_sandbox(binder: Binder) -> None:
    binder.choose(4)
    assert binder.run("apply").code == 0
    before = binder.functions()
    group = next(iter(binder.board(4).values())).group
    binder.hold(f"openly /dev/vfio/{group}")
    display, audio, ethernet = behind(binder, 5)
    _, other_audio, disk = behind(binder, 6)
    firmwares = next(iter(binder.board(7)))
    binder.configure(
        f'address = "{NIC}"',
        f'address = "{DISK}"',
        f'address = "{display}"',
        f'path = "{path(6)}.0/01"',
        f'path = "{path(7)}"',
        'model = "8086:100e"',
    )
    expected = {
        ("default-route", NIC),
        ("ssh", NIC),
        ("disk", DISK),
        ("foreign-device", audio),
        ("class", ethernet),
        ("foreign-device", other_audio),
        ("foreign-device", disk),
        ("boot-display", firmwares),
        # Board 4 is not wanted any more, and would be given back.
        ("vfio-open", ""),
    }
    refused = binder.run("apply")
    assert refused.code == 3
    assert refused.guards() - {("foreign-device", "")} == expected, refused.text
    assert binder.functions() == before

    unit = "/run/systemd/system/pcibind.service.d/plan.conf"
    binder.machine.ssh(f"mkdir -p {unit.rpartition('/')[0]} && cat >{unit} && systemctl daemon-reload", stdin=SANDBOX)
    binder.machine.ssh("systemctl start pcibind.service; journalctl -b -u pcibind.service -o cat --no-pager >&2")
    sandboxed = json.loads(binder.machine.ssh("cat /root/sandbox.json").stdout)
    # Word for word, but for the mount points of the sandbox.
    outside = binder.run("plan").report["refusals"]
    for inside, beside in zip(sandboxed["refusals"], outside, strict=True):
        assert inside | {"found": ""} == beside | {"found": ""}
        assert inside["found"].partition(" is mounted at ")[0] == beside["found"].partition(" is mounted at ")[0]
    assert {(each["guard"], each["address"] or "") for each in sandboxed["refusals"]} == refused.guards()
    binder.machine.ssh(f"rm {unit} && systemctl daemon-reload")
    binder.let_go()


def test_a_group_of_several_cards_goes_as_a_whole_when_each_is_named(binder: Binder) -> None:
    before = binder.functions()
    cards = behind(binder, 5)
    binder.configure(*(f'address = "{each}"' for each in cards))
    answer = binder.run("apply")
    assert answer.code == 0, answer.text
    now = binder.functions()
    assert {now[each].driver for each in cards} == {"vfio-pci"}
    assert len({now[each].group for each in cards}) == 1
    # The bridge that is in the group with them is nobody's to take.
    bridges = [name for name, each in now.items() if each.group == now[cards[0]].group and name not in cards]
    assert bridges
    assert all(now[each].driver == before[each].driver for each in bridges)
    assert binder.run("release").code == 0


def test_a_disk_that_shares_a_displays_group_can_be_taken_only_while_it_is_idle(binder: Binder) -> None:
    binder.configure(*(f'address = "{each}"' for each in behind(binder, 6)))
    disk = behind(binder, 6)[2]
    binder.machine.ssh("mount -o ro /dev/vdb /mnt")
    refused = binder.run("apply")
    assert (refused.code, ("disk", disk) in refused.guards()) == (3, True), refused.text
    assert "vdb is mounted at /mnt" in refused.text
    binder.machine.ssh("umount /mnt")
    assert binder.run("apply").code == 0
    assert binder.run("release").code == 0
    binder.machine.ssh("mount -o ro /dev/vdb /mnt && umount /mnt")


def test_the_only_display_is_taken_by_who_says_so(binder: Binder) -> None:
    before = binder.functions()
    binder.choose(7)
    assert {guard for guard, _ in binder.run("apply").guards()} == {"boot-display"}
    binder.configure(f'path = "{path(7)}"', allow=("boot-display",))
    answer = binder.run("apply")
    assert answer.code == 0, answer.text
    assert 7 in binder.bound()
    assert binder.run("release").code == 0
    assert binder.functions() == before


def test_a_wrong_configuration_binds_nothing_and_says_where(binder: Binder) -> None:
    before = binder.functions()
    binder.configure(f'path = "{path(4)}"', allow=("everything",))
    answer = binder.run("apply")
    assert answer.code == 2
    assert "/etc/pcibind/boards.toml:4: allow: 'everything'; expected some of default-route" in answer.text
    assert binder.functions() == before
