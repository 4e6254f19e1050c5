"""Hosts as their commands describe them: recorded answers, in the formats that the facts' commands print.

``responses`` makes of a ``Recorded`` host what pyinfra's ``@fake`` connector answers; ``watch`` writes down, as one
JSON line each, every command and upload that pyinfra sends to any fake host; and ``settled`` makes of what was written
down the answers of a host where all of that was done.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from io import IOBase
from pathlib import Path
from types import FrameType
from typing import Any

from pyinfra.api import State
from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_state

from deploys import library
from deploys.manifest import RECORD
from deploys.preflight import login
from deploys.steps.packages import PACKAGES
from deploys.transport import remote
from facts.database import MIGRATIONS, TABLES
from pcibind.model import record
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import Selector
from pcibind.remote import topology_text

PASSPHRASE = "a passphrase of this network only"
ARGUMENTS = "intel_iommu=on iommu=pt"
# The generator of secp256k1, which is the public key of the secret 1.
PUBLIC_KEY = (
    "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
)
KERNEL = "BOOT_IMAGE=/boot/vmlinuz-6.12.0 root=UUID=0a1b ro quiet"


# --- the platform


@dataclass(frozen=True)
class Distribution:
    """What tells one distribution from another, in the answer about the platform."""

    name: str
    os: str
    version: str
    tools: tuple[str, ...]
    boot: tuple[str, ...]
    podman: str = ""
    offered: str = ""
    like: str = ""
    # The packages that update-initramfs is of, and the kernel hooks of generators.
    owners: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()


_APT = ("update-grub", "apt-get")
_INITRAMFS_TOOLS = ("initramfs-tools",)
FEDORA = Distribution(
    "Fedora Linux 43 (Server Edition)", "fedora", "43", ("dracut", "grubby", "dnf", "podman", "getenforce"), ("grub2",),
    podman="5.3.1",
)  # fmt: skip
DEBIAN = Distribution(
    "Debian GNU/Linux 13 (trixie)", "debian", "13", ("update-initramfs", *_APT), ("grub",), offered="5.4.2+ds1-1+b2",
    owners=_INITRAMFS_TOOLS,
)  # fmt: skip
DEBIAN_DRACUT = replace(DEBIAN, tools=("dracut", *_APT), owners=(), hooks=("dracut",))
UBUNTU = Distribution(
    "Ubuntu 24.04.2 LTS", "ubuntu", "24.04", ("update-initramfs", *_APT), ("grub",), offered="4.9.3+ds1-1ubuntu0.2",
    like="debian", owners=_INITRAMFS_TOOLS,
)  # fmt: skip
DEBIAN_12 = Distribution(
    "Debian GNU/Linux 12 (bookworm)", "debian", "12", ("update-initramfs", *_APT, "podman"), ("grub",), podman="4.3.1",
    owners=_INITRAMFS_TOOLS,
)  # fmt: skip


def platform(distribution: Distribution, **changes: str | None) -> list[str]:
    """The answer of the platform's command. ``changes`` replace single lines; ``None`` leaves one out."""
    release = {"ID": distribution.os, "ID_LIKE": distribution.like, "VERSION_ID": distribution.version}
    lines: dict[str, str | None] = {
        **{f"os {key}": f'"{value}"' for key, value in release.items() if value},
        "os PRETTY_NAME": f'"{distribution.name}"',
        "kernel": "6.12.0",
        "architecture": "x86_64",
        "hostname": "gpu1",
        "systemd": "yes",
        "systemd_release": "257",
        "python": "3.13",
        "legacy_cgroups": None,
        "cores": "96",
        "memory_kib": str(512 * 1024**2 - 8_000_000),
        "virtualisation": "vmx",
        "iommu_table": "DMAR",
        "disk_kib": str(1900 * 1024**2),
    }
    end: dict[str, str | None] = {"podman": distribution.podman}
    if not distribution.podman:
        end["podman_offered"] = distribution.offered or "(none)"
    end["end"] = "yes"
    text = [f"{key}={value}" for key, value in {**lines, **_known(changes, lines)}.items() if value is not None]
    text += [f"tool={tool}" for tool in distribution.tools] + [f"boot={boot}" for boot in distribution.boot]
    text += [f"initramfs_owner={each}" for each in distribution.owners]
    text += [f"kernel_hook={each}" for each in distribution.hooks]
    text += [f"{key}={value}" for key, value in {**end, **_known(changes, end)}.items() if value is not None]
    return text


def _known(changes: dict[str, str | None], lines: dict[str, str | None]) -> dict[str, str | None]:
    return {key: value for key, value in changes.items() if key in lines}


def modules(missing: tuple[str, ...] = (), loaded: bool = True) -> list[str]:
    """The answer about kernel modules: a Debian kernel's, with kvm as a module."""
    return [
        f"{name} {'missing -' if name in missing else 'module loaded' if loaded else 'module -'}"
        for name in ("vfio", "vfio_pci", "vfio_iommu_type1", "vsock", "vhost_vsock", "kvm")
    ]


# --- nftables


def guard(cgroup: str = '"system.slice/gevulot-node.service"', services: str = "8888,9944,9995,9999") -> list[str]:
    """nft's chains that keep others from the QMP ports, as 1.0 and 1.1 print them, with a cgroup as JSON."""
    own = '"family":"inet","table":"gevulot","handle":1'
    named = f'{{"match":{{"op":"==","left":{{"socket":{{"key":"cgroupv2"}}}},"right":{cgroup}}}}}'
    mark, tcp = '{"meta":{"key":"mark"}}', '{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}}'
    ports = '{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[%s]}}}'
    chains = {
        '"name":"own","type":"filter","hook":"output","prio":300,"policy":"accept"': (
            f'{{"mangle":{{"key":{mark},"value":{{"&":[{mark},4026531839]}}}}}}',
            f'{named},{{"mangle":{{"key":{mark},"value":{{"|":[{mark},268435456]}}}}}}',
        ),
        '"name":"qmp","type":"filter","hook":"prerouting","prio":-300,"policy":"accept"': (
            f'{ports % services},{{"accept":null}}',
            f'{tcp},{named},{{"reject":{{"type":"tcp reset"}}}}',
        ),
    }
    lines = []
    for chain, rules in chains.items():
        name = chain.split('"')[3]
        objects = [f'{{"chain":{{{own},{chain}}}}}']
        objects += [f'{{"rule":{{{own},"chain":"{name}","expr":[{rule}]}}}}' for rule in rules]
        lines.append(f'table {{"nftables":[{",".join(objects)}]}}')
    return [*lines, "end"]


# --- PCI


@dataclass(frozen=True)
class Pci:
    """One function: its place under /sys/devices, and what its files say."""

    place: str
    vendor: int
    device: int
    code: int
    driver: str | None = None
    group: int | None = None
    boot_vga: bool = False

    @property
    def address(self) -> str:
        return self.place.rpartition("/")[2]


def gpu(slot: int, bus: int, device: int = 0x2684, drivers: tuple[str | None, ...] = ("nouveau", "snd_hda_intel"),
        group: int | None = None, vendor: int = 0x10DE) -> list[Pci]:  # fmt: skip
    """A graphics board of two functions, behind the root port at device ``slot``."""
    port = f"pci0000:00/0000:00:{slot:02x}.0"
    kinds = ((device, 0x030000), (0x22BA, 0x040300))
    return [Pci(port, 0x8086, 0x4C01, 0x060400, "pcieport", group)] + [
        Pci(f"{port}/0000:{bus:02x}:00.{number}", vendor, each, code, drivers[number], group)
        for number, (each, code) in enumerate(kinds)
    ]


NIC = Pci("pci0000:00/0000:00:1f.0", 0x8086, 0x10D3, 0x020000, "e1000e")
NVME = Pci("pci0000:00/0000:00:1e.0", 0x144D, 0xA80A, 0x010802, "nvme")
BOUND: tuple[str | None, ...] = ("vfio-pci", "vfio-pci")


def topology(*functions: Pci) -> list[str]:
    """The answer about the PCI topology."""
    lines = []
    for each in functions:
        lines.append(f"./{each.address} ../../../devices/{each.place}")
        if each.driver:
            lines.append(f"./{each.address}/driver ../../../../bus/pci/drivers/{each.driver}")
        if each.group is not None:
            lines.append(f"./{each.address}/iommu_group ../../../../kernel/iommu_groups/{each.group}")
        lines += [f"./{each.address}/{name}:{value}" for name, value in attributes(each).items()]
    return ["pcibind-topology 2", *lines, "pcibind-topology end"]


def attributes(each: Pci) -> dict[str, str]:
    """The files of one function in sysfs."""
    return {
        "vendor": f"{each.vendor:#06x}",
        "device": f"{each.device:#06x}",
        "subsystem_vendor": "0x1458",
        "subsystem_device": "0x40bf",
        "class": f"{each.code:#08x}",
        "boot_vga": "1" if each.boot_vga else "0",
        "driver_override": "(null)",
    }


def evidence(route: Pci | None = NIC, disk: Pci | None = NVME) -> list[str]:
    """The answer about the use of PCI devices: who carries the default route, and whose disk is mounted at /."""
    lines = ["route4 Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"]
    if route:
        lines.insert(0, f"link class/net/eno1 ../../devices/{route.place}/net/eno1")
        lines.append("route4 eno1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0")
    if disk:
        lines.insert(0, f"link dev/block/259:2 ../../devices/{disk.place}/nvme/nvme0/nvme0n1/nvme0n1p2")
        lines.append("mount 28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw")
    lines.append("swap Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")
    lines.append("iomem 00000000-00000fff : Reserved")
    lines.append("major Character devices:")
    return ["pcibind-evidence 1", *lines, "ssh ", "pcibind-evidence end"]


def opened(node: str, pid: int, comm: str) -> tuple[str, ...]:
    """What is answered of a process that has a device of NVIDIA's or a VFIO group open."""
    name, major = ("nvidia", 195) if "nvidia" in node else ("vfio", 243)
    minor = int("".join(digit for digit in node if digit.isdecimal()))
    return (
        f"major {major} {name}",
        f"link dev/char/{major}:{minor} ../../devices/virtual/vfio/{minor}",
        f"open {pid}/fd/3 {node} {comm}",
        f"node {pid}/fd/3 21b0 {major:x}:{minor:x}",
    )


def evidence_of_silence() -> list[str]:
    """As ``evidence``, of a host whose first board does not answer."""
    lines = evidence()
    return [*lines[:-1], f"config 0000:01:00.0 {' '.join(['ffffffff'] * 16)}", lines[-1]]


def recorded_boards(*functions: Pci) -> list[str]:
    """The answer about pcibind's record, of a host on which it recorded these."""
    boards = topology_text.parse(topology(*functions)).boards()
    known = (RecordedBoard.of(board, Selector.parse(board.model), None) for board in boards)
    return record.dump(Record(tuple(known), "any")).splitlines()


# --- whole hosts


@dataclass
class Recorded:
    """A host that answers; ``rebooted`` is set when it gets the command to reboot, and may change what it says."""

    distribution: Distribution
    functions: tuple[Pci, ...] = (*gpu(1, 1), NIC, NVME)
    functions_after: tuple[Pci, ...] = (*gpu(1, 1, drivers=BOUND, group=12), NIC, NVME)
    needs_reboot: bool = True
    failed_after: str = ""
    # Whether it starts the entry that was written.
    boots_as_configured: bool = True
    route: Pci = NIC
    changes: dict[str, str | None] = field(default_factory=dict)
    # Arguments that the boot loader's entries have.
    configured: str = ""
    boot_id_readable: bool = True
    rebooted: bool = False

    @property
    def ready(self) -> bool:
        """Whether it runs with the IOMMU on."""
        return self.rebooted or not self.needs_reboot


class Answer(dict[str, Any]):
    """A response whose text is made when it is asked for."""

    def __init__(self, text: Callable[[], str | list[str]]) -> None:
        super().__init__(stdout="")
        self._text = text

    def get(self, key: str, default: Any = None) -> Any:
        return self._text() if key == "stdout" else default


def responses(host: Recorded) -> dict[str | re.Pattern[str], Any]:
    """What the fake connector answers for this host. The first match wins; anything else succeeds and says nothing."""

    def reboot() -> str:
        host.rebooted = True
        return ""

    def boot_loader() -> str:
        host.configured = f"{host.configured} {ARGUMENTS}"
        return ""

    def line() -> list[str]:
        live = ARGUMENTS if host.ready and host.boots_as_configured else ""
        return [f"live {KERNEL} {live}", f"configured {KERNEL} {host.configured}"]

    def boot_id() -> str:
        return "second" if host.rebooted else "first"

    return {
        login.PROBE: list(login.ANSWER),
        "systemctl reboot": Answer(reboot),
        "/reboot.json": "",
        "boot_id": Answer(boot_id) if host.boot_id_readable else {"success": False, "stderr": "Permission denied"},
        "iommu_table=": platform(host.distribution, **host.changes),
        "uname -s": "Linux",
        "command -v useradd": "/usr/sbin/useradd",
        "modinfo -F": modules(loaded=False),
        "pcibind-topology": Answer(lambda: topology(*(host.functions_after if host.ready else host.functions))),
        "pcibind-evidence": evidence(host.route),
        "/proc/cmdline": Answer(line),
        re.compile("update-grub$|grubby --update"): Answer(boot_loader),
        "/proc/interrupts": "yes",
        "is-system-running": "running",
        "list-units --failed": Answer(lambda: host.failed_after if host.rebooted else ""),
        "pcibind status": Answer(lambda: ["{}", "0" if host.rebooted else "1"]),
        "-newercm": "/boot/initrd.img-6.12.0 is older than /etc/modprobe.d/gpu-host-boards.conf",
        re.compile(r"node_key\.sh state /"): "missing",
        re.compile(r" check gevulot-"): "absent",
        "FROM acl_whitelist": [f"own {PUBLIC_KEY}", "answered"],
        "/healthz": '{"health": 200, "waited": 0, "age": 60, "machines": [], "failures": []}',
        "allow-vsock check": '{"opens": true, "reason": "", "options": []}',
        "echo open": "closed",
        "nft list tables": "end",
        "systemctl show --timestamp=unix -p Id": [
            "Id=gevulot-node.service", "LoadState=not-found", "ActiveState=inactive", "SubState=dead",
            "NeedDaemonReload=no",
        ],
    }  # fmt: skip


def data(host: Recorded, **settings: Any) -> dict[str, Any]:
    """A fake host's data: its answers, without delay, and what its operator asks for."""
    ours = {f"gevulot_{key}": value for key, value in ({"psk_passphrase": PASSPHRASE} | settings).items()}
    return {"fake_responses": responses(host), "fake_delay": 0, "fake_delay_jitter": 0} | ours


# --- hosts that were deployed before

UNITS = (
    *("pcibind.service", "gevulot-migrate.service", "gevulot-key.service", "gevulot-node.service"),
    *("gevulot-postgres.service", "gevulot-firewall.service"),
)


def units_that_run(*names: str) -> list[str]:
    """systemd's answer about the units of a deployed node."""
    return [
        line
        for unit in names or UNITS
        for line in (f"Id={unit}", "LoadState=loaded", "ActiveState=active", "SubState=running", "NeedDaemonReload=no",
                     "UnitFileState=enabled", "")
    ]  # fmt: skip


def env_is_newer() -> dict[str | re.Pattern[str], Any]:
    """Of each unit, that an input changed after it started."""
    newer = ["since Thu 2026-11-26 05:25:38.123456 UTC", "file 9999999999.000000000 /etc/gevulot/node.env", "end"]
    return {'echo "since': newer}


def left_by(path: str, name: str) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """What runs leave on a host: mode and owner of each file and directory, and the digest of each file's content.

    ``path`` is where ``watch`` wrote the runs down, one after the other.
    """
    modes: dict[str, tuple[str, str]] = {}
    uploads: dict[str, str] = {}
    for each in sent(Path(path)):
        if each.host != name or each.kind != "command":
            continue
        words = shlex.split(each.text)
        if words[:2] == ["mkdir", "-p"] and len(words) == 3:
            modes[words[2]] = ("755", "root:root")
        elif words[:1] == ["chmod"] and len(words) == 3:
            modes[words[2]] = (words[1], modes.get(words[2], ("", "root:root"))[1])
        elif words[:1] == ["chown"] and len(words) == 3:
            modes[words[2]] = (modes.get(words[2], ("755",))[0], words[1])
        elif words[3:4] == ["put_file.sh"]:
            modes[words[5]] = (words[4], "root:root")
            uploads[words[6]] = words[5]
        for gone in re.findall(r"(?:^|[;&] )rm -r?f ([^;&|]+)", each.text):
            for place in shlex.split(gone):
                modes.pop(place, None)
    digests = dict(line.split("  ")[::-1] for line in Path(f"{path}.files").read_text().splitlines())
    digests |= {place: digests[upload] for upload, place in uploads.items()}
    return modes, {place: digest for place, digest in digests.items() if place in modes}


def settled(path: str, name: str, deployed: str = "node", **changed: str) -> dict[str | re.Pattern[str], Any]:
    """What a Debian host answers after the run that ``watch`` wrote down in ``path``, where it was called ``name``.

    ``deployed`` is what it was deployed as; ``changed`` says of single secrets, spelt with underscores, what the node
    says of them instead of ``same``.
    """
    answers: dict[str | re.Pattern[str], Any] = {}
    modes, digests = left_by(path, name)
    for place in [place for place in modes if place in digests]:
        for parent in Path(place).parents:
            modes.setdefault(str(parent), ("755", "root:root"))
    for place, (mode, owner) in modes.items():
        kind = stat.S_IFREG if place in digests else stat.S_IFDIR
        user, _, group = owner.partition(":")
        answers[f"test -e {place} ||"] = (
            f"user={user} group={group} mode={stat.filemode(kind | int(mode, 8))} atime=1 mtime=1 ctime=1 size=1 "
            f"'{place}'"
        )
        if place in digests:
            answers[re.compile(f"done\n' files {re.escape(place)}$")] = f"{mode} {owner} {digests[place]}  - {place}"
    boards = topology_text.parse(topology(*gpu(1, 1, drivers=BOUND, group=12))).boards()
    secrets = ("gevulot-db-password", "gevulot-db-url", "gevulot-psk-passphrase")
    return answers | {
        'echo "since': ["since Thu 2026-11-26 05:25:38.123456 UTC", "end"],
        f"existing {RECORD} ": RECORD,
        "echo privileged": before(deployed=deployed),
        "dpkg -l": [f"ii  {package}  1.0  amd64  text" for package in PACKAGES["apt"]],
        "cat /etc/group": ["kvm:x:101:gevulot", "gevulot:x:999:"],
        "cat /etc/passwd": "gevulot:x:999:999::/var/lib/gevulot:/usr/sbin/nologin|gevulot|gevulot kvm||!",
        "cd /usr/local/lib/pcibind": f"{library.digest(library.read_tree())}  -",
        "UnitFileState pcibind.service": ["Id=pcibind.service", "UnitFileState=enabled"],
        "record.json": record.dump(
            Record(tuple(RecordedBoard.of(board, Selector.parse(board.model), None) for board in boards), "any")
        ).splitlines(),
        "/proc/cmdline": [f"live {KERNEL} {ARGUMENTS}", f"configured {KERNEL} {ARGUMENTS}"],
        "modinfo -F": modules(loaded=True),
        "-newercm": [],
        "pcibind status": ["{}", "0"],
        "image inspect": [f"{image} sha256:0a" for image in
                          ("docker.io/library/postgres:16-alpine", "quay.io/gevulot/node:latest")],
        **({"node_key.sh state /": "ok"} if deployed == "node" else {}),
        "systemctl show --timestamp=unix -p Id": units_that_run(*(UNITS if deployed == "node" else UNITS[:1])),
        "FROM acl_whitelist": [f"own {PUBLIC_KEY}", "answered", f"listed {PUBLIC_KEY}", f"recorded {PUBLIC_KEY}"],
        "podman exec gevulot-postgres": ["release 160004", *(f"table {each}" for each in (*TABLES, MIGRATIONS))],
        **{f" check {each} ": changed.get(each.replace("-", "_"), "same") for each in secrets},
    }  # fmt: skip


def before(
    arguments: str | None = ARGUMENTS,
    configured: str = KERNEL,
    archived: tuple[str, ...] = (),
    auto_update_timer: str = "",
    deployed: str = "node",
) -> list[str]:
    """The answer about what a bare host was before, and about the arguments that deploys set since, if known.

    ``deployed`` is what the host was deployed as.
    """
    document = {
        "version": 1, "kernel_command_line": configured.split(), "configured_command_lines": [configured.split()],
        "system_state": "running", "functions": [], "auto_update_timer": auto_update_timer,
    }  # fmt: skip
    files = [f"archived {path}" for path in ("/etc/hostname", *archived)]
    known = [] if arguments is None else ["arguments", *(f"argument {each}" for each in arguments.split())]
    return [
        "begin",
        "place /var/lib/gpu-host",
        "privileged",
        "archive",
        *files,
        *known,
        f"deployed {deployed}",
        "record",
        *json.dumps(document).splitlines(),
    ]


# What an earlier version wrote under names that others use too, as the host answers for the texts.
FORMER = (
    *(
        "file /etc/modprobe.d/nvidia.conf",
        "text # The boards belong to virtual machines: keep the host's drivers off them.",
    ),
    *("text blacklist nvidia", "text blacklist nouveau"),
    *("file /etc/modprobe.d/vfio.conf", "text # Binding is per device, by pcibind's driver override."),
    *("file /etc/modules-load.d/vfio.conf", "text # the operator's", "text vfio"),
    *("file /etc/udev/rules.d/99-vfio.rules", 'text SUBSYSTEM=="vfio", OWNER="root", GROUP="kvm"'),
)


def _answered(texts: dict[str, str]) -> tuple[str, ...]:
    return tuple(
        line
        for path, text in texts.items()
        for line in (f"file {path}", *(f"text {each}" for each in text.splitlines()))
    )


# What later versions wrote of a host, under names of its node's.
FORMER_NAMED = _answered(
    {
        "/etc/modprobe.d/gevulot-boards.conf": (
            "# The chosen boards belong to virtual machines: keep the host's display drivers off them. These are the "
            "modules that\n# this host's kernels offer for the boards' display functions, without those that another "
            "of its devices needs. The\n# driver override of pcibind keeps off all others: those of the boards' other "
            "functions, and one installed later.\nblacklist nouveau\nblacklist nvidia_current\n# Asked for by "
            "gevulot_vfio_ids: every card of these models goes to vfio-pci, one added later included.\noptions "
            "vfio-pci ids=10de:2684,10de:22ba\n"
        ),
        "/etc/udev/rules.d/99-gevulot-vfio.rules": 'SUBSYSTEM=="vfio", OWNER="root", GROUP="kvm"\n',
        "/etc/default/grub.d/zz-gevulot.cfg": (
            "# Written by the Gevulot deploy: the IOMMU for PCI passthrough. The kernel takes the last of each "
            'argument.\nGRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on iommu=pt"\n'
            "# A file that is read after this one may assign that variable anew: then the other one has them too.\n"
            "for gevulot_last in /etc/default/grub.d/*.cfg; do :; done\n"
            'if [ "$gevulot_last" != /etc/default/grub.d/zz-gevulot.cfg ]; then\n'
            '  GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intel_iommu=on iommu=pt"\nfi\nunset gevulot_last\n'
        ),
        "/etc/pcibind/gevulot.toml": (
            '# Boards that pcibind hands to vfio-pci.\nrequire_boards = "any"\n\n[[board]]\nmodel = "10de:2684"\n'
            'allow = ["boot-display", "framebuffer"]\n'
        ),
    }
)


def without_node(data: dict[str, Any]) -> dict[str, Any]:
    """A fake host's data without a secret, as an operator writes it who wants no node."""
    return {key: value for key, value in data.items() if key != "gevulot_psk_passphrase"}


def saying(answers: dict[str | re.Pattern[str], Any], data: dict[str, Any]) -> dict[str, Any]:
    """A fake host's data with these answers before its own."""
    own = {key: text for key, text in data["fake_responses"].items() if key not in answers}
    return data | {"fake_responses": answers | own}


# --- the record of what was sent


@dataclass(frozen=True)
class Sent:
    """One message to a fake host: a question, a command or an upload; and of which operation, while they run."""

    host: str
    kind: str
    text: str
    operation: str | None


class _Watch(logging.Handler):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        if not str(record.msg).startswith("[fake] simulating") or not isinstance(record.args, tuple):
            return
        name, text = record.args
        state = ctx_state.get()  # type: ignore[no-untyped-call]
        sent = Sent(str(name), _kind(record), str(text), _operation(state, str(name)))
        self._file.write(json.dumps(asdict(sent)) + "\n")
        self._file.flush()


def _kind(record: logging.LogRecord) -> str:
    if "put_file" in str(record.msg):
        return "upload"
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        # A fact, and what the deploy asks beside its facts, for what must not be printed.
        if frame.f_code.co_name == "_get_fact":
            return "question"
        if frame.f_code is remote.run.__code__ and "systemctl reboot" not in str(record.args):
            return "question"
        frame = frame.f_back
    return "command"


def _operation(state: State, name: str) -> str | None:
    host = state.inventory.get_host(name)
    if host is None or not state.is_executing or not host.current_op_hash:
        return None
    return ", ".join(sorted(state.get_op_meta(host.current_op_hash).names))


def sent(path: Path) -> list[Sent]:
    """What was written down there; nothing when no host was reached."""
    return [Sent(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def watch(path: str) -> None:
    """Write down what is sent to fake hosts, and let them answer for several facts or files in one command.

    To be called from an inventory; what pyinfra prints stays as it is.
    """
    logger = logging.getLogger("pyinfra")
    for handler in logger.handlers:
        handler.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_Watch(Path(path)))
    put_file = FakeConnector.put_file

    def put(self: FakeConnector, content: str | IOBase, place: str, *more: Any, **arguments: Any) -> bool:
        if isinstance(content, str):
            whole: bytes | str = Path(content).read_bytes()
        else:
            content.seek(0)
            whole = content.read()
        with Path(f"{path}.files").open("a", encoding="utf-8") as file:
            file.write(f"{sha256(whole.encode() if isinstance(whole, str) else whole).hexdigest()}  {place}\n")
        return put_file(self, content, place, *more, **arguments)

    FakeConnector.put_file = put  # type: ignore[method-assign, assignment]
    look = FakeConnector._lookup_response

    def look_at_each(self: FakeConnector, command: str) -> tuple[bool, CommandOutput]:
        if match := _FILES.match(command):
            texts = [text for path in shlex.split(match[2]) for text in look(self, match[1] + path)[1].stdout_lines]
            return True, CommandOutput([OutputLine("stdout", text) for text in texts])
        whole = look(self, command)
        parts = together(command)
        if not (parts and whole[0]):
            return whole
        lines = []
        for name, text in parts:
            success, output = look(self, text)
            lines += [f"\x01{name}", *output.stdout_lines, "", f"\x01{name} {int(not success)}"]
        return True, CommandOutput([OutputLine("stdout", line) for line in lines])

    FakeConnector._lookup_response = look_at_each  # type: ignore[method-assign]


_FILES = re.compile(r"(.*done\n' files )(.*)", re.DOTALL)


def together(command: str) -> list[tuple[str, str]]:
    """The names and the commands of the facts that one command asks for, if it is such a one."""
    if "\\001%s\\n" not in command:
        return []
    words = [word.removesuffix(";") for word in shlex.split(command)]
    starts = [place for place, word in enumerate(words) if word == "\\001%s\\n"]
    return [(words[start + 1], words[words.index("-c", start) + 1]) for start in starts]


# --- what systemd and the journal say of units


STARTING, RESTART_SCHEDULED = "7d4958e842da4a758f6c1cdc7b36dcc5", "5eb03494b6584870a536b337290809b3"
NODE = "gevulot-node.service"


def shown(unit: str = NODE, **properties: str) -> str:
    """One unit as ``systemctl show`` prints it; a node runs and requires its database by default."""
    values = {
        **{"Id": unit, "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success"},
        **{"NRestarts": "0", "InvocationID": "1" * 32, "ExecMainStatus": "0", "StateChangeTimestampMonotonic": "0"},
        "Requires": "sysinit.target gevulot-migrate.service gevulot-postgres.service pcibind.service",
        "BindsTo": "gevulot-firewall.service",
    }
    return "\n".join(f"{name}={value}" for name, value in (values | properties).items())


def started(second: float, *, by_itself: bool, unit: str = NODE) -> list[str]:
    """The journal of one start, by systemd itself or by somebody."""
    kinds = (RESTART_SCHEDULED, STARTING) if by_itself else (STARTING,)
    return [
        json.dumps({"__MONOTONIC_TIMESTAMP": str(int(second * 1e6)), "MESSAGE_ID": kind, "UNIT": unit})
        for kind in kinds
    ]


def wrote(text: str, *, unit: str = NODE, run: str = "1", **changed: str) -> str:
    """One line of a container's in the journal: as an array of bytes where it has escapes."""
    message: str | list[int] = list(text.encode()) if "\x1b" in text else text
    container = {"CONTAINER_NAME": unit.removesuffix(".service"), "SYSLOG_IDENTIFIER": unit.removesuffix(".service")}
    entry = {"_PID": "900", "_SYSTEMD_UNIT": unit, "_SYSTEMD_INVOCATION_ID": run * 32} | container | changed
    return json.dumps({"__MONOTONIC_TIMESTAMP": "1", "MESSAGE": message} | entry)


QUIT = (
    "\x1b[2m2026-11-26T02:00:01Z\x1b[0m \x1b[31mERROR\x1b[0m \x1b[2mgevulot\x1b[0m\x1b[2m:\x1b[0m "
    "Failed to connect to any P2P node. Quitting."
)


def loop() -> list[str]:
    """A node without an answer of its network, in the pause before its next start."""
    starts = [line for number in range(7) for line in started(1000 + 12 * number, by_itself=number > 0)]
    waiting = shown(ActiveState="activating", SubState="auto-restart", Result="exit-code", NRestarts="6")
    return ["now 1084.00", *waiting.splitlines(), *starts, wrote(QUIT)]


SILENT = '{"health": null, "waited": 0, "age": null, "machines": null, "failures": []}'
"""What is read of a node whose health check does not answer, without a container."""
