"""pcibind on a machine of the lab, alone: put there as the deploy puts it, and asked what it sees."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

from deploys import library
from tests.lab.machine import Machine

HOLDER = r"""
import fcntl, os, socket, struct, sys
SET_IOMMU, SET_CONTAINER, GET_DEVICE = 0x3B66, 0x3B68, 0x3B6A
TYPE1 = 1
how, *what = sys.argv[1:]
held = []
if how == "vfio":
    group, address = what
    container = os.open("/dev/vfio/vfio", os.O_RDWR)
    opened = os.open(f"/dev/vfio/{group}", os.O_RDWR)
    fcntl.ioctl(opened, SET_CONTAINER, struct.pack("i", container))
    fcntl.ioctl(container, SET_IOMMU, TYPE1)
    held = [fcntl.ioctl(opened, GET_DEVICE, bytearray(address.encode() + b"\0"))]
    os.close(opened)
    os.close(container)
else:
    held = [os.open(path, os.O_RDWR) for path in what]
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
if how != "openly":
    # Sent and never received: from here on they are in no process's table.
    socket.send_fds(ours, [b"."], held)
    for descriptor in held:
        os.close(descriptor)
open("/run/held", "w").close()
import signal
signal.pause()
"""
"""Holds devices open: `openly PATH…`, or on their way through a socket, `hidden PATH…` and `vfio GROUP ADDRESS`."""

_FUNCTIONS = r"""timeout 60 python3 -I -S -c '
import os
root = "/sys/bus/pci/devices"
def last(path): return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""
for name in sorted(os.listdir(root)):
    device = f"{root}/{name}"
    group = last(f"{device}/iommu_group")
    port = os.path.realpath(device).split("/")[-2].rpartition(":")[2]
    node = "node" if group and os.path.exists(f"/dev/vfio/{group}") else ""
    override = open(f"{device}/driver_override").read().strip()
    print(name, port, last(f"{device}/driver"), override, group, node, sep="|")
'"""


@dataclass(frozen=True, slots=True)
class Function:
    """A function as sysfs shows it: the port that it sits behind (`04.0`), its driver or nothing, and so on."""

    port: str
    driver: str
    override: str
    group: str
    node: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command ended with: its exit code, its report, and what it wrote beside."""

    code: int
    report: dict[str, Any]
    text: str

    def states(self) -> dict[str, tuple[str, str]]:
        """Each board's verdict and state, by its path."""
        return {board["path"]: (board["verdict"], board["state"]) for board in self.report["boards"]}

    def detail(self, path: str) -> str:
        """What is reported of the board at a path."""
        return next(str(board["detail"]) for board in self.report["boards"] if board["path"] == path)

    def guards(self) -> set[tuple[str, str]]:
        """The guards that refused, each with the function that it speaks of."""
        return {(refusal["guard"], refusal["address"] or "") for refusal in self.report["refusals"]}


@dataclass(frozen=True, slots=True)
class Binder:
    """A machine with pcibind on it."""

    machine: Machine

    @classmethod
    def install(cls, machine: Machine) -> Binder:
        """Put pcibind there, and let it write what a boot needs; its unit is not enabled."""
        buffer = io.BytesIO()
        files = {f"usr/local/lib/pcibind/{path}": content for path, content in library.read_tree().items()}
        files |= {
            "usr/local/sbin/pcibind": library.WRAPPER.encode(),
            "root/hold.py": HOLDER.encode(),
        }
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o755 if content.startswith(b"#!") else 0o644
                archive.addfile(entry, io.BytesIO(content))
        machine.ssh(
            "base64 -d | tar -C / --no-same-owner --no-overwrite-dir -xz"
            " && python3 -m compileall -q /usr/local/lib/pcibind && mkdir -p /etc/pcibind"
            " && pcibind setup && systemctl daemon-reload",
            stdin=base64.b64encode(buffer.getvalue()).decode(),
        )
        return cls(machine)

    def configure(self, *selectors: str, allow: tuple[str, ...] = (), require: str = "all") -> None:
        """Choose boards: `path = "0000:00/04.0/00"`, …"""
        overrides = f"allow = {json.dumps(allow)}"
        boards = "".join(f"[[board]]\n{selector}\n{overrides}\n" for selector in selectors)
        self.machine.ssh("cat >/etc/pcibind/boards.toml", stdin=f'require_boards = "{require}"\n{boards}')

    def choose(self, *slots: int) -> None:
        """Choose the boards at these slots by their paths."""
        self.configure(*(f'path = "{path(slot)}"' for slot in slots))

    def run(self, command: str, prefix: str = "") -> Answer:
        """Run a command of pcibind with --json; `prefix` goes before it."""
        done = self.machine.ssh(f"{prefix} pcibind {command} --json", check=False)
        report = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return Answer(done.returncode, report, done.stdout + done.stderr)

    def functions(self) -> dict[str, Function]:
        """Every PCI function, by its address."""
        lines = (line.split("|") for line in self.machine.ssh(_FUNCTIONS).stdout.splitlines())
        return {name: Function(*rest) for name, *rest in lines}

    def board(self, slot: int) -> dict[str, Function]:
        """The functions behind the port at a slot, by their addresses."""
        return {name: each for name, each in self.functions().items() if each.port == f"{slot:02x}.0"}

    def bound(self) -> set[int]:
        """The slots whose boards are on vfio-pci with every function, their groups' device nodes there."""
        boards: dict[str, list[Function]] = {}
        for function in self.functions().values():
            boards.setdefault(function.port, []).append(function)
        ready = ("vfio-pci", "vfio-pci", "node")
        return {
            int(port.split(".")[0], 16)
            for port, board in boards.items()
            if all((each.driver, each.override, each.node) == ready for each in board)
        }

    def handed_over(self) -> str:
        """What is handed over; empty when nothing is."""
        return self.machine.ssh("cat /run/pcibind/devices.env 2>/dev/null", check=False).stdout

    def hold(self, *arguments: str) -> None:
        """Let a process hold devices open, as `HOLDER` describes, until `let_go`."""
        self.machine.ssh(
            "rm -f /run/held; systemd-run --quiet --collect --unit=holder python3 /root/hold.py "
            f"{' '.join(arguments)}; for i in $(seq 100); do [ -e /run/held ] && exit 0; sleep 0.1; done; exit 1"
        )

    def let_go(self) -> None:
        """End what `hold` started."""
        self.machine.ssh("systemctl kill --signal=KILL holder; sleep 0.5")


def path(slot: int) -> str:
    """The bridge-relative path of the board at a slot."""
    return f"0000:00/{slot:02x}.0/00"
