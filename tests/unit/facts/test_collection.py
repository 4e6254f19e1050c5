"""What is collected of a host: all that decides how it is, and nothing that tells whose it is."""

from __future__ import annotations

import contextlib
import json
import string
from collections.abc import Mapping
from ipaddress import IPv6Address
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyinfra.api.exceptions import FactProcessError

from facts.collection import PARTS, Collection, parse
from facts.redaction import REDACTED, Redaction
from pcibind.remote import topology_text
from tests.unit.deploys import recorded

PCI = (*recorded.gpu(1, 1, group=12), recorded.NIC, recorded.NVME)

# --- a host that answers


def answer(
    cmdline: str = "ro intel_iommu=on",
    topology: tuple[str, ...] = (),
    evidence: tuple[str, ...] = (),
    host: tuple[str, ...] = (),
    name: str = "gpu1",
    pretty: str = "Debian GNU/Linux 13 (trixie)",
    release: str = "6.12.48+deb13-amd64",
) -> list[str]:
    """What the command prints on a recorded host, with more lines in each of its sections."""
    first, *middle, last = recorded.topology(*PCI)
    head, *uses, end = recorded.evidence()
    return [
        "gevulot-collection 1",
        "=== topology",
        *(first, *middle, *topology, last),
        "=== evidence",
        *(head, *uses, *evidence, end),
        "=== host",
        f"hide {name}",
        f"uname {name} {release} x86_64",
        *("os ID=debian", 'os VERSION_ID="13"', f'os PRETTY_NAME="{pretty}"'),
        f"arguments {cmdline}",
        *("acpi APIC", "acpi DMAR", "net class/net/eno1/type:1"),
        *("system Version=257 (257.8-1~deb13u1)", "system SystemState=degraded", "system NFailedUnits=1"),
        *("unit Id=gevulot-node.service", "unit LoadState=loaded", "unit ActiveState=active", "unit"),
        *("unit Id=pcibind.service", "unit LoadState=not-found", "unit ActiveState=inactive"),
        *("asked vfio -", "asked vfio_pci loaded", "asked kvm -", "asked nouveau -"),
        "module /lib/modules/6.12/modules.dep:kernel/drivers/vfio/pci/vfio-pci.ko",
        "module /lib/modules/6.12/modules.builtin:kernel/drivers/vfio/vfio.ko",
        *host,
        "=== end",
    ]


def arguments(line: str, *hidden: str) -> list[str]:
    return list(Redaction(hidden).arguments(line))


def test_a_host_is_read_part_by_part() -> None:
    host = parse(answer())
    assert host.platform == (
        "id=debian",
        "version=13",
        "name=Debian GNU/Linux 13 (trixie)",
        "kernel=6.12.48+deb13-amd64",
        "architecture=x86_64",
    )
    assert host.unreadable == ()
    assert host.arguments == ("ro", "intel_iommu=on")
    assert host.acpi == ("APIC", "DMAR")
    assert host.modules == ("vfio built-in loaded", "vfio_pci module loaded", "kvm missing -", "nouveau missing -")
    assert host.units == (
        "systemd Version=257 (257.8-1~deb13u1) SystemState=degraded NFailedUnits=1",
        "gevulot-node.service LoadState=loaded ActiveState=active",
        "pcibind.service LoadState=not-found ActiveState=inactive",
    )
    assert host.devices == ("disk nvme 0000:00:1e.0", "network ethernet 0000:00:1f.0")
    assert host.uses == ("default-route 0000:00:1f.0", "disk 0000:00:1e.0")
    assert topology_text.parse(list(host.topology)) == topology_text.parse(recorded.topology(*PCI))


def test_a_file_has_one_string_a_line_and_the_same_order_for_every_look() -> None:
    first, *middle, last = (f"./0000:00:1f.0/{name}:0x1" for name in ("vendor", "device", "class", "subsystem_device"))
    one = parse(answer(topology=(first, *middle, last)))
    other = parse(answer(topology=(last, *reversed(middle), first)))
    assert one.text() == other.text()
    document = json.loads(one.text())
    assert [*document] == ["format", "version", *PARTS]
    assert document == one.to_json()
    strings = [each for part in PARTS for each in document[part]]
    # Format and version, a pair of brackets for each part, and one around all.
    assert len(one.text().splitlines()) == len(strings) + 2 + 2 * sum(bool(document[part]) for part in PARTS) + 2 + sum(
        not document[part] for part in PARTS
    )


def test_a_function_keeps_the_order_of_its_modules() -> None:
    aliases = ("alias pci:v000010DEd*sv*sd*bc03sc*i* nova_core", "alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau")
    lines = list(parse(answer(topology=(*aliases, *aliases))).topology)
    assert [line for line in lines if line.startswith("alias")] == list(aliases)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda", "disk ata 0000:00:17.0"),
        ("pci0000:00/0000:00:14.0/usb1/1-4/1-4:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "disk usb 0000:00:14.0"),
        ("pci0000:00/0000:00:01.0/0000:01:00.0/host2/port-2:0/block/sdc", "disk scsi 0000:01:00.0"),
        ("pci0000:00/0000:00:04.0/virtio1/block/vda", "disk virtio 0000:00:04.0"),
        (
            "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0/nvme0n1",
            "disk nvme 10000:e1:00.0",
        ),
        ("pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0", "disk mmc 0000:00:1a.0"),
        ("virtual/block/dm-0", None),
        ("virtual/block/loop0", None),
    ],
)
def test_a_disk_is_described_by_its_bus_and_its_controller(target: str, expected: str | None) -> None:
    name = target.rpartition("/")[2]
    lines = (f"link dev/block/9:1 ../../devices/{target}", f"link dev/block/9:2 ../../devices/{target}/{name}p1")
    devices = set(parse(answer(evidence=lines)).devices) - {"disk nvme 0000:00:1e.0", "network ethernet 0000:00:1f.0"}
    assert devices == ({expected} if expected else set())


def test_a_disk_with_several_controllers_names_all_of_them() -> None:
    lines = (
        "link dev/block/259:9 ../../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
        "link class/nvme-subsystem/nvme-subsys0/nvme0 ../../../pci0000:00/0000:00:06.0/nvme/nvme0",
        "link class/nvme-subsystem/nvme-subsys0/nvme1 ../../../pci0000:00/0000:00:05.0/nvme/nvme1",
    )
    assert "disk nvme 0000:00:05.0 0000:00:06.0" in parse(answer(evidence=lines)).devices


def test_an_interface_is_described_by_its_kind() -> None:
    links = tuple(
        f"link class/net/{name} ../../devices/pci0000:00/0000:00:0{slot}.0/net/{name}"
        for slot, name in enumerate(("wlp1s0", "ib0", "odd0"), start=1)
    )
    net = ("net class/net/wlp1s0/uevent:DEVTYPE=wlan", "net class/net/wlp1s0/type:1", "net class/net/ib0/type:32")
    devices = parse(answer(evidence=links, host=net)).devices
    assert {"network wlan 0000:00:01.0", "network infiniband 0000:00:02.0", "network other 0000:00:03.0"} <= {*devices}


def test_the_use_of_a_function_is_described_without_its_user() -> None:
    lines = (
        "ssh 198.51.100.7 50000 192.168.1.5 22",
        "tcp 0501A8C0:0016 076433C6:C350 31415",
        "link bus/pci/devices/0000:00:1f.0/virtfn0 ../0000:00:1f.1",
        "boot_vga ./0000:01:00.0/boot_vga:1",
        "nvidia /proc/driver/nvidia/gpus/0000:01:00.0/information:Device Minor: \t 0",
        *recorded.opened("/dev/nvidia0", 4711, "acme-miner"),
        *recorded.opened("/dev/vfio/12", 4712, "acme-vm"),
        "link class/net/acme0 ../../devices/pci0000:00/0000:00:05.0/net/acme0",
        "address6 20010db8000000000000000000000001 07 40 00 80 acme0",
        "link dev/char/226:1 ../../devices/pci0000:00/0000:00:06.0/drm/card1",
        "open 4713/fd/9 /dev/dri/card1 acme-desktop",
        "node 4713/fd/9 21b0 e2:1",
    )
    host = parse(answer(evidence=lines))
    assert {
        "ssh 0000:00:1f.0",
        "virtual-functions 0000:00:1f.0",
        "boot-display 0000:01:00.0",
        "nvidia-open 0000:01:00.0",
        "vfio-open group 12",
        "network 0000:00:05.0",
        "device-open 0000:00:06.0",
    } <= {*host.uses}
    assert not any(word in host.text() for word in ("acme", "4711", "nvme0n1", "eno1", "192.168"))


def test_unreadable_parts_are_described_in_words_that_name_nobody() -> None:
    host = parse(
        answer(
            topology=("unreadable /lib/modules/6.12-acme1/modules.alias, so no module is known",),
            evidence=(
                "unreadable vfio-open the open files of other processes cannot be read",
                "mount 99 1 8:99 / /srv/our-customer rw - ext4 /dev/sdz rw",
            ),
            host=("unreadable kernel arguments: /proc/cmdline cannot be read",),
            name="acme1",
        )
    )
    assert host.unreadable == (
        "kernel arguments: /proc/cmdline cannot be read",
        f"/lib/modules/6.12-{REDACTED}/modules.alias, so no module is known",
        "for the guard vfio-open: the open files of other processes cannot be read",
        "for the guard nvidia-open: the open files of other processes cannot be read",
        "for the guard device-open: the open files of other processes cannot be read",
        "for the guard disk: the open files of other processes cannot be read",
        "for the guard disk: it is not known in full",
    )


def test_a_host_that_pcibind_cannot_read_is_collected_all_the_same() -> None:
    host = parse(answer(topology=("./0000:00:1f.0/vendor:blue",), evidence=("mount our-customer",)))
    assert host.unreadable == (
        "the topology: PCI device 0000:00:1f.0: vendor reads 'blue', expected a hexadecimal number up to 0xffff",
        "the use of the PCI devices: pcibind cannot understand it, at mount",
    )
    assert "./0000:00:1f.0/vendor:blue" in host.topology


def test_modules_are_unknown_where_the_kernels_list_is_not_there() -> None:
    lines = [line for line in answer() if not line.startswith("module ")]
    host = parse([*lines[:-1], "unreadable modules: /lib/modules/6/modules.dep cannot be read", lines[-1]])
    assert host.modules[:2] == ("vfio unknown -", "vfio_pci unknown loaded")


def test_an_answer_that_was_cut_short_is_refused_wherever_it_was_cut() -> None:
    lines = answer()
    for length in range(len(lines)):
        with pytest.raises(ValueError, match="expected"):
            parse(lines[:length])


def test_a_host_whose_answer_is_refused_fails_alone() -> None:
    with pytest.raises(FactProcessError, match="found 'motd', expected the line 'gevulot-collection 1' first"):
        Collection().process(["motd", *answer()])


@given(st.data())
def test_no_answer_however_mangled_ends_a_run(data: st.DataObject) -> None:
    lines = answer(
        evidence=(
            *recorded.opened("/dev/vfio/12", 4712, "vm"),
            "link bus/pci/devices/0000:00:1f.0/virtfn0 ../0000:00:1f.1",
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, len(lines) - 2))
        words = lines[number].split(" ")
        lines[number] = data.draw(
            st.one_of(
                st.just(" ".join(words[: data.draw(st.integers(0, len(words)))])),
                st.just(lines[number].replace("/", "")),
                st.just(words[0] + " /virtfn0 x"),
                st.text(max_size=20),
                st.sampled_from(lines),
            )
        )
    with contextlib.suppress(ValueError):
        json.loads(parse(lines).text())


# --- what must not be collected


@pytest.mark.parametrize(
    "line",
    [
        "ro quiet splash nomodeset rd.auto",
        "intel_iommu=on,sm_on iommu=pt iommu.passthrough=1 amd_iommu=on intremap=off",
        "console=tty0 console=ttyS0,115200n8 consoleblank=0 vga=791 video=efifb:off",
        "vfio-pci.ids=10de:2684,10de:22ba vfio_pci.ids=1002:73bf:1849:5201 vfio-pci.disable_vga=1",
        "modprobe.blacklist=nouveau,snd_hda_intel module_blacklist=nvidia-drm rd.driver.blacklist=nova_core",
        "pci=realloc=off,noaer pcie_acs_override=downstream,multifunction pcie_aspm=off pcie_aspm.policy=performance",
        "hugepagesz=1G hugepages=64 default_hugepagesz=1G transparent_hugepage=madvise isolcpus=managed_irq,1-31,33-63",
        "crashkernel=1G-4G:192M,4G-64G:256M memmap=64M$0x18800000 nvidia-drm.modeset=1 kvm.ignore_msrs=1",
    ],
)
def test_arguments_that_are_known_to_be_harmless_are_kept(line: str) -> None:
    assert arguments(line) == line.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("root=UUID=0a1b2c3d-0001-0002-0003-000000000004", ["root=UUID=REDACTED"]),
        ("root=LABEL=our-customer resume=PARTUUID=1-2", ["root=LABEL=REDACTED", "resume=PARTUUID=REDACTED"]),
        ("root=/dev/mapper/acme-root rd.lvm.lv=acme/root", ["root=REDACTED", "rd.lvm.lv=REDACTED"]),
        ("BOOT_IMAGE=/vmlinuz-6.12 ip=192.0.2.1::192.0.2.254", ["BOOT_IMAGE=REDACTED", "ip=REDACTED"]),
        ("my.token=hunter2 secret=", ["my.token=REDACTED", "secret=REDACTED"]),
        # Blanks between quotation marks are part of a value.
        ('pass="one two three" ro', ["pass=REDACTED", "ro"]),
        ('"pass=one two" ro', ['"pass=REDACTED', "ro"]),
        ('pass="one two', ["pass=REDACTED"]),
        # A harmless name does not make its value harmless.
        ("console=00:11:22:33:44:55 video=S4EWNX0M", ["console=REDACTED", "video=REDACTED"]),
        ("vfio-pci.ids=2001:db8::1 iommu=2001:db8:1:2:3:4:5:6", ["vfio-pci.ids=REDACTED", "iommu=REDACTED"]),
        # What no = is in may be a token, too.
        ("S4EWNX0M712345F ro 192.0.2.1", ["REDACTED", "ro", "REDACTED"]),
        # The first program's own arguments.
        ("ro -- --token=hunter2 hunter2", ["ro", "--", "REDACTED"]),
        ("192.0.2.1=x", ["REDACTED=REDACTED"]),
    ],
)
def test_the_values_of_all_other_arguments_are_lost(line: str, expected: list[str]) -> None:
    assert arguments(line) == expected


def test_a_name_of_the_host_is_nowhere_kept_not_even_as_a_harmless_value() -> None:
    assert arguments("video=acme1 acme1 ro", "acme1.example.com") == ["video=REDACTED", "REDACTED", "ro"]


@pytest.mark.parametrize(
    "text",
    [
        "6.12.48+deb13-amd64",
        "6.8.0-1015-azure",
        "5.14.0-427.13.1.el9_4.x86_64",
        "6.11.4-301.fc41.x86_64",
        "5.4.17-2136.330.7.1.el8uek.x86_64",
        "5.15.167.4-microsoft-standard-WSL2",
    ],
)
def test_the_releases_of_kernels_are_no_addresses(text: str) -> None:
    assert Redaction().release(text) == text


@pytest.mark.parametrize("name", ["CPU1SLOT2", "PCIE_SLOT1", "CPU SLOT6 PCI-E 4.0 X16", "J6B1", "0-1", "Slot 12"])
def test_slots_keep_the_names_that_mainboards_have_for_them(name: str) -> None:
    line = f"bus/pci/slots/{name}/address:0000:01:00"
    assert Redaction().topology(line) == line


@pytest.mark.parametrize("name", ["@ssh/acme1.ours.org", "acme1.ours.org", "ACME1"])
def test_a_host_is_known_by_each_part_of_its_name(name: str) -> None:
    text = Redaction((name,)).text("6.12-acme1 of acme1 ours.org")
    assert "acme1" not in text
    assert ("ours.org" in text) == (name == "ACME1")


def test_what_everybody_is_called_is_no_name() -> None:
    redaction = Redaction(("root", "ubuntu", "localhost", ""))
    assert redaction.text("id=ubuntu root") == "id=ubuntu root"


def test_a_short_name_is_one_only_as_a_word() -> None:
    assert Redaction(("pc",)).text("pc pcie") == f"{REDACTED} pcie"


_NAMES = st.from_regex(r"[a-z][a-z0-9]{3,12}(-[a-z0-9]{1,6})?", fullmatch=True, alphabet=string.printable)
_MACS = st.binary(min_size=6, max_size=6)
SECRETS: Mapping[str, st.SearchStrategy[str]] = {
    "MAC": _MACS.map(lambda each: each.hex(":")),
    "MAC in capitals": _MACS.map(lambda each: each.hex("-").upper()),
    "MAC of a switch": _MACS.map(lambda each: each.hex(".", 2)),
    "MAC in a name": _MACS.map(lambda each: f"enx{each.hex()}"),
    "GUID": st.binary(min_size=8, max_size=8).map(lambda each: each.hex(":")),
    "IPv4": st.ip_addresses(v=4).map(str),
    "IPv6": st.ip_addresses(v=6).map(str),
    "IPv6 in full": st.ip_addresses(v=6).map(lambda each: IPv6Address(each).exploded),
    "UUID": st.uuids().map(str),
    "UUID in capitals": st.uuids().map(lambda each: str(each).upper()),
    "machine-id": st.uuids().map(lambda each: UUID(str(each)).hex),
    "WWN": st.binary(min_size=8, max_size=8).map(lambda each: f"0x{each.hex()}"),
    "disk by id": st.binary(min_size=8, max_size=8).map(lambda each: f"naa.{each.hex()}"),
    "serial number": st.text(string.ascii_uppercase + string.digits, min_size=8, max_size=20).filter(
        lambda each: 2 <= sum(character.isdigit() for character in each) < len(each)
    ),
    "serial number of digits": st.from_regex(r"[1-9][0-9]{9,15}", fullmatch=True, alphabet=string.printable),
}


@pytest.mark.parametrize("text", ["000000000000G", "ZZ000000000000", "Z0123456789abZ9"])
def test_a_serial_number_with_a_long_number_in_it_goes_as_a_whole(text: str) -> None:
    assert Redaction().text(f"{text} ") == f"{REDACTED} "


@given(kind=st.sampled_from(sorted(SECRETS)), data=st.data())
def test_nothing_is_left_of_what_has_a_shape(kind: str, data: st.DataObject) -> None:
    left = Redaction().text(f"{data.draw(SECRETS[kind])} ")
    assert left.removeprefix("enx").removeprefix("0x") == f"{REDACTED} "


@pytest.mark.parametrize(
    "text",
    [
        "abcdefab-abcd-abcd-abcd-abcdefabcdef",
        "abcdefabcdefabcd",
        "1A2B-3C4D",
        "alice@example.com",
        "fe80::1%eno1",
        "::ffff:192.0.2.1",
        "by-id/ata-DISK_OF_OURS",
        "nqn.2014-08.org:ours",
        "wwn-ours",
    ],
)
def test_nothing_is_left_of_what_has_a_rare_shape(text: str) -> None:
    assert Redaction().text(text) == REDACTED


def planted(name: str, user: str, secret: str, free: str, key: str, prefix: str) -> str:
    """A collection of a host that says these wherever a host may: `secret` in its arguments, `free` anywhere."""
    element = free.replace("/", "")
    return parse(
        answer(
            cmdline=f'ro {key}="{secret}" "{key}={secret}" {name} user={user} {free} -- {secret}',
            topology=(
                f"bus/pci/slots/{prefix}{free}/address:0000:01:00",
                f"bus/pci/slots/{name} of {user}/address:0000:02:00",
                f"./0000:01:00.0/driver_override:{free}",
                f"./0000:01:00.1/driver_override:{name}",
                f"./0000:00:1e.0 ../../../devices/LNX/{free}/pci0000:00/0000:00:1e.0",
                f"unreadable /lib/modules/6.12-{name}/{prefix}{free}",
            ),
            evidence=(
                f"link class/net/{element} ../../devices/pci0000:00/0000:00:1f.0/net/{element}",
                f"link dev/block/8:7 ../../devices/pci0000:00/0000:00:1e.0/{element}/block/{name}",
                f"mount 99 1 8:99 / /srv/{user}/{secret} rw - ext4 /dev/{name} rw",
                f"ssh {free} 1 {free} 22",
                f"unreadable disk /srv/{user} of {name}",
            ),
            host=(f"hide {user}", f"unreadable x: {prefix}{free} of {user}", f"acpi {free}"),
            name=name,
            pretty=f"Debian of {name.partition('.')[0]} {prefix}{free}",
            release=f"6.12.48-{name}-{free.replace(' ', '')}",
        )
    ).text()


@given(
    name=_NAMES,
    domain=st.sampled_from(["", ".example.com"]),
    user=_NAMES,
    kind=st.sampled_from([*SECRETS, "token"]),
    key=st.sampled_from(["root", "my.token", "rd.luks.uuid", "ip", "console", "vfio-pci.ids", "video"]),
    prefix=st.sampled_from(["", "x", "by-id/", "("]),
    data=st.data(),
)
def test_what_tells_whose_host_it_is_never_survives(
    name: str, domain: str, user: str, kind: str, key: str, prefix: str, data: st.DataObject
) -> None:
    # A token has no shape by which it is one: it is lost as the value of an argument.
    token = kind == "token"
    secret = data.draw(st.text(string.ascii_letters + string.digits + "+/_ ", min_size=6) if token else SECRETS[kind])
    # What stands there anyway tells nothing.
    there = planted("§", "§", "§", "§", key, prefix).lower() + REDACTED.lower()
    for each in (name, user, secret):
        assume(each.strip() and each.lower() not in there)
    text = planted(f"{name}{domain}", user, secret, "nothing" if token else secret, key, prefix)
    for each in (name, user, secret):
        assert each.lower() not in text.lower()
    # And what is left can still be read.
    left = topology_text.parse(json.loads(text)["topology"])
    assert [each.identity for each in left.functions] == [
        each.identity for each in topology_text.parse(recorded.topology(*PCI)).functions
    ]
