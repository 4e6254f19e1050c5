"""A machine made of files: /sys, /proc, /dev and /etc in a directory, and a kernel that reacts.

Names and formats are those of Linux 6.12. The kernel's reactions are few: overrides, unbind,
probe, bind, and the device nodes of VFIO's groups and devices.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pcibind.commands.system import System
from pcibind.model.errors import StuckError
from pcibind.model.pci import Address, Identity
from pcibind.read.files import Paths
from pcibind.read.kernel import Access

if TYPE_CHECKING:
    from pcibind.read.kernel import T, Task

DISPLAY = dict(vendor=0x10DE, device=0x2684, subsystem=(0x10DE, 0x16F4), class_code=0x030000)
AUDIO = dict(vendor=0x10DE, device=0x22BA, subsystem=(0x10DE, 0x16F4), class_code=0x040300)
USB = dict(vendor=0x10DE, device=0x1AD8, subsystem=(0x10DE, 0x16F4), class_code=0x0C0330)
PORT = dict(vendor=0x8086, device=0x4C01, subsystem=(0, 0), class_code=0x060400)
NIC = dict(vendor=0x8086, device=0x10D3, subsystem=(0x8086, 0xA01F), class_code=0x020000)
NVME = dict(vendor=0x144D, device=0xA80A, subsystem=(0x144D, 0xA801), class_code=0x010802)

# The modules whose drivers have another name.
MODULES = {"xhci_hcd": "xhci_pci"}


class Fault(NamedTuple):
    """What an access fails with; a late one does what it was asked before it fails."""

    error: BaseException
    late: bool = False


@dataclass
class Machine:
    """The directory, what drivers take which functions, and a log of what was written."""

    root: Path
    defaults: dict[str, str] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    # What an access fails with, by the end of the path and the text written.
    faults: dict[tuple[str, str], Exception] = field(default_factory=dict)
    # Drivers that nothing can be taken from, or that refuse to take anything.
    sticky: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    # Groups that others have open, or a device of which they have bound to an iommufd; what /proc shows is no matter.
    busy: set[str] = field(default_factory=set)
    # Functions on vfio-pci that others have open: unbinding them waits for those.
    in_use: set[str] = field(default_factory=set)
    # Groups that tasks of ours keep open.
    kept: set[str] = field(default_factory=set)
    # What device nodes the kernel makes: for groups (CONFIG_VFIO_GROUP), for devices (CONFIG_VFIO_DEVICE_CDEV).
    has_groups: bool = True
    has_cdevs: bool = False
    # Modules that no alias loads.
    blacklist: set[str] = field(default_factory=set)
    # Called before each access, with its position.
    watchers: list[Callable[[int], None]] = field(default_factory=list)
    # Functions whose lock somebody holds forever: every access that takes it hangs.
    locked: set[str] = field(default_factory=set)
    # Every access so far, and what those at some positions fail with.
    asked: list[Access] = field(default_factory=list)
    failing: dict[int, Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for directory in (
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers",
            "sys/kernel/iommu_groups",
            "sys/class/net",
            "sys/class/block",
            "sys/dev/block",
            "sys/dev/char",
            "proc/net",
            "proc/self",
            "proc/1/fd",
            "dev/vfio",
            "etc/pcibind",
            "run",
            "var/lib",
        ):
            (self.root / directory).mkdir(parents=True)
        (self.root / "sys/bus/pci/drivers_probe").touch()
        self.file("proc/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n")
        self.file("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")
        self.file("proc/net/tcp", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n")
        self.file("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro quiet\n")
        self.file("proc/swaps", "Filename Type Size Used Priority\n")
        self.file("proc/iomem", "00000000-00000fff : Reserved\n")
        majors = "195 nvidia\n195 nvidiactl\n235 nvidia-uvm\n236 nvidia-caps\n242 vfio-dev\n243 vfio\n"
        self.file("proc/devices", f"Character devices:\n  1 mem\n{majors}\nBlock devices:\n  8 sd\n")
        self.file("dev/numbers", "/dev/null 21b6 1:3\n/dev/vfio/vfio 21b6 a:c4\n")
        for node, number in (("nvidiactl", 255), ("nvidia-modeset", 254), *((f"nvidia{n}", n) for n in range(8))):
            self.node(f"/dev/{node}", 195, number)
        self.node("/dev/nvidia-uvm", 235, 0)
        self.node("/dev/nvidia-caps/nvidia-cap1", 236, 1)
        (self.root / "proc/1/fd/0").symlink_to("/dev/null")

    @property
    def paths(self) -> Paths:
        return Paths(str(self.root))

    @property
    def host(self) -> System:
        return System(self.paths, self, node_seconds=0.05)

    def file(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def virtual_function(self, address: str) -> None:
        """Let a function have a first virtual one; only the link to it is there."""
        (self.root / "sys/bus/pci/devices" / address / "virtfn0").symlink_to("../0000:f0:10.0")

    def virtual_functions(self, port: str, physical: str, addresses: Sequence[str], group: int) -> None:
        """Plug virtual functions in beside their physical one, which is behind a port; each in a group of its own."""
        for number, address in enumerate(addresses):
            self.function(f"{port}/{address}", **(NIC | {"device": 0x10CA}), driver="igbvf", group=group + number)
            (self.root / "sys/bus/pci/devices" / address / "physfn").symlink_to(f"../{physical}")
            (self.root / "sys/bus/pci/devices" / physical / f"virtfn{number}").symlink_to(f"../{address}")

    def firmware(
        self, address: str, *, header: Sequence[int] = (), ranges: Sequence[tuple[int, int, int]] = ()
    ) -> None:
        """Give a function the first words of its configuration space, and its memory ranges: start, end, flags."""
        device = self.root / "sys/bus/pci/devices" / address
        (device / "config").write_bytes(b"".join(word.to_bytes(4, "little") for word in header))
        lines = [*ranges, *[(0, 0, 0)] * (13 - len(ranges))]
        (device / "resource").write_text("".join("{:#018x} {:#018x} {:#018x}\n".format(*line) for line in lines))

    def configure(self, text: str, name: str = "boards.toml") -> None:
        self.file(f"etc/pcibind/{name}", text)

    def function(
        self,
        place: str,
        *,
        vendor: int,
        device: int,
        subsystem: tuple[int, int],
        class_code: int,
        driver: str | None = None,
        group: int | None = None,
        boot_vga: bool | None = None,
    ) -> str:
        """Plug a function in at a path under /sys/devices; return its address."""
        address = place.rpartition("/")[2]
        directory = self.root / "sys/devices" / place
        directory.mkdir(parents=True)
        attributes = {
            "vendor": f"{vendor:#06x}",
            "device": f"{device:#06x}",
            "subsystem_vendor": f"{subsystem[0]:#06x}",
            "subsystem_device": f"{subsystem[1]:#06x}",
            "class": f"{class_code:#08x}",
            "driver_override": "(null)",
            "modalias": Identity(vendor, device, *subsystem, class_code).modalias,
        }
        if boot_vga is not None:
            attributes["boot_vga"] = str(int(boot_vga))
        for name, text in attributes.items():
            (directory / name).write_text(f"{text}\n")
        (self.root / "sys/bus/pci/devices" / address).symlink_to(f"../../../devices/{place}")
        if group is not None:
            members = self.root / f"sys/kernel/iommu_groups/{group}/devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(f"../../../../devices/{place}")
            (directory / "iommu_group").symlink_to(members.parent)
        if driver is not None:
            self.defaults[address] = driver
            self.load(driver)
            self.take(address, driver)
        return address

    def unplug(self, address: str) -> None:
        """Take a function out, and whatever is behind it."""
        link = self.root / "sys/bus/pci/devices" / address
        directory = link.resolve()
        for other in list((self.root / "sys/bus/pci/devices").iterdir()):
            if directory in (other.resolve(), *other.resolve().parents):
                for member in self.root.glob(f"sys/kernel/iommu_groups/*/devices/{other.name}"):
                    member.unlink()
                other.unlink()
        shutil.rmtree(directory)

    # The kernel's reactions.

    def carry_out(self, tasks: Sequence[Task[T]]) -> list[T]:
        """Answer the accesses of each task in turn."""
        return [self._run(task) for task in tasks]

    def _run(self, task: Task[T]) -> T:
        try:
            access = next(task)
            while True:
                try:
                    answer = self.perform(access)
                except (OSError, StuckError) as error:
                    access = task.throw(error)
                else:
                    access = task.send(answer)
        except StopIteration as stop:
            return stop.value
        finally:
            self.kept.clear()

    def perform(self, access: Access) -> str:
        """The answer to one access, unless it is one that is to fail."""
        for watcher in self.watchers:
            watcher(len(self.asked))
        fault = self.failing.get(len(self.asked))
        self.asked.append(access)
        if fault is None or fault.late:
            answer = self.answer(access)
        if fault is not None:
            raise fault.error
        return answer

    def answer(self, access: Access) -> str:
        """What the kernel does when it is asked this."""
        if self.locked and access.kind in ("read", "read-all", "write"):
            functions = {path.split("/")[-2] for path in access.targets if path.endswith("/driver_override")}
            if self.locked & {*functions, access.text.strip()}:
                raise StuckError(f"{access} did not come back within {access.seconds:g} s", 77)
        paths = [Path(target) for target in access.targets]
        match access.kind:
            case "read":
                return self.read(paths[0])
            case "read-all":
                return "\n".join(path.read_text().strip() if path.exists() else "" for path in paths)
            case "write":
                self.write(paths[0], access.text)
            case "keep-open":
                self.keep_open(paths[0])
            case "modprobe":
                self.load_module(access.targets[0])
            case "modules":
                return "\n".join(MODULES.get(driver, driver) for driver in self.drivers_for(access.targets[0]))
            case "wait":
                return " ".join(str(path) for path in paths if not path.exists())
        return ""

    def read(self, path: Path) -> str:
        return path.read_text().strip()

    def keep_open(self, node: Path) -> None:
        """What the kernel does when a group's device node is opened."""
        if not node.exists():
            raise FileNotFoundError(2, "No such file or directory")
        if node.name in self.busy | self.kept:
            raise OSError(16, "Device or resource busy")
        self.kept.add(node.name)

    def write(self, path: Path, text: str) -> None:
        """What the kernel does when `text` is written to a sysfs file."""
        relative = str(path.relative_to(self.root))
        for (end, content), fault in self.faults.items():
            if relative.endswith(end) and text.strip() == content:
                raise fault
        assert path.parent.exists(), f"{path} is not there"
        self.writes.append((relative, text.strip()))
        match path.name:
            case "driver_override":
                path.write_text(f"{text.strip() or '(null)'}\n")
            case "unbind":
                if not path.exists():
                    raise FileNotFoundError(2, "No such file or directory", str(path))
                if path.parent.name == "vfio-pci" and text.strip() in self.in_use:
                    raise StuckError(f"writing {text.strip()} to {path} did not come back within 30 s", 77)
                if path.parent.name not in self.sticky:
                    self.leave(text.strip())
            case "drivers_probe":
                self.probe(text.strip())
            case "bind":
                if path.parent.name in self.refusing:
                    raise OSError(22, "Invalid argument")
                # No driver is bound to a device whose override names another.
                if self.override(text.strip()) not in ("(null)", path.parent.name):
                    raise OSError(19, "No such device")
                self.take(text.strip(), path.parent.name)
            case _:
                raise AssertionError(f"nobody should write to {path}")

    def load_module(self, name: str) -> None:
        """What modprobe does: by name, or by the alias of a device whose driver is known."""
        self.writes.append(("modprobe", name))
        for end, fault in self.faults.items():
            if end == ("modprobe", name):
                raise fault
        if name.startswith("pci:"):
            for driver in self.drivers_for(name):
                if MODULES.get(driver, driver) not in self.blacklist:
                    self.load(driver)
        else:
            self.load({module: driver for driver, module in MODULES.items()}.get(name, name))

    def drivers_for(self, alias: str) -> list[str]:
        """The drivers of the modules that an alias leads to, blacklisted or not."""
        return list(
            dict.fromkeys(
                driver
                for address, driver in self.defaults.items()
                if os.path.exists(path := Path(self.paths.device(Address.parse(address)), "modalias"))
                and path.read_text() == f"{alias}\n"
            )
        )

    def load(self, driver: str) -> None:
        directory = self.root / "sys/bus/pci/drivers" / driver
        directory.mkdir(exist_ok=True)
        (directory / "unbind").touch()
        links = self.root / "sys/module" / MODULES.get(driver, driver) / "drivers"
        links.mkdir(parents=True, exist_ok=True)
        (links / f"pci:{driver}").touch()

    def probe(self, address: str) -> None:
        directory = self.root / "sys/bus/pci/devices" / address
        if (directory / "driver").is_symlink():
            return
        override = (directory / "driver_override").read_text().strip()
        driver = self.defaults.get(address) if override == "(null)" else override
        loaded = (self.root / "sys/bus/pci/drivers" / (driver or "none")).exists()
        if driver and loaded and driver not in self.refusing:
            self.take(address, driver)

    def take(self, address: str, driver: str) -> None:
        directory = (self.root / "sys/bus/pci/devices" / address).resolve()
        (directory / "driver").symlink_to(self.root / "sys/bus/pci/drivers" / driver)
        if driver == "vfio-pci":
            group = self.group_of(address)
            if self.has_groups:
                (self.root / "dev/vfio" / group).touch()
                (self.root / "sys/class/vfio").mkdir(exist_ok=True)
            (self.root / "sys/class/vfio-dev").mkdir(exist_ok=True)
            # As ida_alloc_max() of drivers/vfio/vfio_main.c: the lowest number that no device has.
            devices = (self.root / "sys/bus/pci/devices").iterdir()
            used = {each for link in devices if (link / "vfio-dev").is_dir() for each in os.listdir(link / "vfio-dev")}
            number = next(name for name in (f"vfio{n}" for n in count()) if name not in used)
            (directory / "vfio-dev" / number).mkdir(parents=True)
            if self.has_cdevs:
                self._add_cdev(directory / "vfio-dev" / number)

    def _add_cdev(self, device: Path) -> None:
        (device / "dev").write_text("511:0\n")
        self.file(f"dev/vfio/devices/{device.name}", "")
        self.file("dev/iommu", "")

    def add_cdevs(self) -> None:
        """Be a machine whose kernel makes device nodes of functions, of those too that are bound already."""
        self.has_cdevs = True
        for device in (self.root / "sys/bus/pci/devices").glob("*/vfio-dev/*"):
            self._add_cdev(device)

    def leave(self, address: str) -> None:
        directory = self.root / "sys/bus/pci/devices" / address
        (directory / "driver").unlink(missing_ok=True)
        if not (directory / "vfio-dev").exists():
            return
        for device in (directory / "vfio-dev").iterdir():
            (self.root / "dev/vfio/devices" / device.name).unlink(missing_ok=True)
        shutil.rmtree(directory / "vfio-dev")
        group = self.group_of(address)
        if not any(self.driver(member) == "vfio-pci" for member in self.members(group)):
            (self.root / "dev/vfio" / group).unlink(missing_ok=True)

    def reboot(self) -> None:
        """Start anew: what is under /run is gone, and each function is on the driver it comes up with."""
        shutil.rmtree(self.root / "run")
        (self.root / "run").mkdir()
        shutil.rmtree(self.root / "dev/vfio")
        (self.root / "dev/vfio").mkdir()
        for link in (self.root / "sys/bus/pci/devices").iterdir():
            self.leave(link.name)
            (link / "driver_override").write_text("(null)\n")
        if "vfio-pci" not in self.defaults.values():
            shutil.rmtree(self.root / "sys/bus/pci/drivers/vfio-pci", ignore_errors=True)
        for link in (self.root / "sys/bus/pci/devices").iterdir():
            self.probe(link.name)

    # What tests ask.

    def driver(self, address: str) -> str | None:
        link = self.root / "sys/bus/pci/devices" / address / "driver"
        return link.readlink().name if link.is_symlink() else None

    def group_of(self, address: str) -> str:
        return (self.root / "sys/bus/pci/devices" / address / "iommu_group").readlink().name

    def members(self, group: str) -> list[str]:
        return [link.name for link in (self.root / f"sys/kernel/iommu_groups/{group}/devices").iterdir()]

    def cdev(self, address: str) -> str:
        """The path of a function's own device node, as processes see it."""
        (device,) = (self.root / "sys/bus/pci/devices" / address / "vfio-dev").iterdir()
        return f"/dev/vfio/devices/{device.name}"

    def override(self, address: str) -> str:
        return (self.root / "sys/bus/pci/devices" / address / "driver_override").read_text().strip()

    def drivers(self) -> dict[str, tuple[str | None, str]]:
        names = sorted(p.name for p in (self.root / "sys/bus/pci/devices").iterdir())
        return {name: (self.driver(name), self.override(name)) for name in names}

    def node(self, name: str, major: int, minor: int, place: str = "", kind: str = "char") -> None:
        """Make a device node, and its link in sysfs where it is a device's at a path under /sys/devices."""
        with (self.root / "dev/numbers").open("a") as file:
            file.write(f"{name} {dict(char='21b0', block='61b0')[kind]} {major:x}:{minor:x}\n")
        link = self.root / f"sys/dev/{kind}/{major}:{minor}"
        if place and not link.is_symlink():
            link.symlink_to(f"../../devices/{place}")

    def open(self, node: str, process: int = 4242, comm: str = "qemu-system-x86") -> None:
        """Let a process have a device node open."""
        group = node.rpartition("/")[2]
        if node.startswith("/dev/vfio/") and group.isdecimal():
            self.node(node, 243, int(group), f"virtual/vfio/{group}")
            self.busy.add(group)
        self.file(f"proc/{process}/comm", f"{comm}\n")
        directory = self.root / f"proc/{process}/fd"
        directory.mkdir(exist_ok=True)
        (directory / str(len(list(directory.iterdir())))).symlink_to(node)

    def login(self, claimed: str, *, established: bool = True, ancestor: bool = True) -> None:
        """Let a process have an SSH_CONNECTION in its environment: of the user who runs pcibind, or of another."""
        self.file("proc/self/status", f"Name:\tsh\nPPid:\t{900 if ancestor else 1}\n")
        self.file("proc/900/status", "Name:\tbash\nPPid:\t1\n")
        self.file("proc/900/environ", f"HOME=/root\0SSH_CONNECTION={claimed}\0")
        if established:
            self.connection(claimed)

    def connection(self, claimed: str) -> None:
        """A TCP connection between these ends: address and port of the peer, then of this host."""
        peer, peer_port, local, port = claimed.split()
        file = self.root / ("proc/net/tcp6" if ":" in local else "proc/net/tcp")
        ends = f"{_hexadecimal(local)}:{int(port):04X} {_hexadecimal(peer)}:{int(peer_port):04X}"
        with file.open("a") as lines:
            lines.write(f"   1: {ends} 01 00000000:00000000 02:0009C5A2 00000000     0        0 31415 4 0\n")

    def ssh_server(self, process: int, inode: int, program: str = "/usr/lib/openssh/sshd-session") -> None:
        """Let a process run a program, and have a socket."""
        (self.root / f"proc/{process}/fd").mkdir(parents=True)
        (self.root / f"proc/{process}/exe").symlink_to(program)
        (self.root / f"proc/{process}/fd/4").symlink_to(f"socket:[{inode}]")

    def interface(self, name: str, place: str) -> None:
        (self.root / "sys/class/net" / name).symlink_to(f"../../devices/{place}/net/{name}")

    def route(self, *lines: str) -> None:
        with (self.root / "proc/net/route").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def block(self, number: str, target: str) -> None:
        name = target.rpartition("/")[2]
        (self.root / "sys/dev/block" / number).symlink_to(f"../../devices/{target}")
        (self.root / "sys/class/block" / name).mkdir(exist_ok=True)

    def mount(self, number: str, point: str, source: str, kind: str = "ext4") -> None:
        with (self.root / "proc/self/mountinfo").open("a") as file:
            file.write(f"30 1 {number} / {point} rw,relatime - {kind} {source} rw\n")


def _hexadecimal(address: str) -> str:
    packed = ipaddress.ip_address(address.partition("%")[0]).packed
    return "".join(packed[at : at + 4][::-1].hex() for at in range(0, len(packed), 4)).upper()


def board(machine: Machine, port: str, bus: int, group: int | None) -> list[str]:
    """A board of three functions behind a root port at device `port`, 01 for example."""
    slot = f"pci0000:00/0000:00:{port}.0"
    machine.function(slot, **PORT, driver="pcieport", group=group)
    drivers = ("nouveau", "snd_hda_intel", "xhci_hcd")
    return [
        machine.function(f"{slot}/0000:{bus:02x}:00.{n}", **kind, driver=driver, group=group)
        for n, (kind, driver) in enumerate(zip((DISPLAY, AUDIO, USB), drivers, strict=True))
    ]


def gpu_host(root: Path, *, iommu: bool = True) -> Machine:
    """Two twin boards at 0000:00/01.0/00 and 0000:00/02.0/00, a NIC, and an NVMe disk."""
    machine = Machine(root)
    board(machine, "01", 1, 12 if iommu else None)
    board(machine, "02", 2, 13 if iommu else None)
    machine.function("pci0000:00/0000:00:03.0", **NIC, driver="e1000e", group=3 if iommu else None)
    machine.function("pci0000:00/0000:00:04.0", **NVME, driver="nvme", group=4 if iommu else None)
    machine.interface("eth0", "pci0000:00/0000:00:03.0")
    machine.route(
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
    )
    machine.block("259:1", "pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/nvme0n1p1")
    machine.mount("259:1", "/", "/dev/nvme0n1p1")
    return machine


def stuck(process: int = 77) -> StuckError:
    """What an access that does not come back ends with."""
    return StuckError("writing did not come back within 30 s", process)
