"""Looking at hosts on a real kernel, as whom and how an operator may: facts alone, status, a collected host."""

from __future__ import annotations

import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import FactBase

import facts
from deploys import manifest
from tests.lab import collected
from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress, step
from tests.lab.run import PYINFRA, ROOT, environment, pyinfra
from tests.lab.topology import NETWORK_SLOT

# Those that are asked about something of which there is no usual one, or whose arguments no command line can hold.
QUESTIONS = {
    *("ArchivedFile", "DiscoveryPeers", "FactBatch", "FirstLine", "PublishedAccess", "VsockTrial"),
    *("AccessList", "PostgresOpenToLoopback", "PostgresSchema"),
}
_RECORDS = {"directories": manifest.STATE_DIRECTORIES}
_NODE = {"container": manifest.NODE_CONTAINER}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "BaselineRecord": _RECORDS,
    "ChangedSince": {"unit": manifest.NODE_UNIT, "files": manifest.NODE_FILES},
    "Container": _NODE | {"variables": (manifest.GPU_DEVICES,)},
    "DatabasePasswords": _NODE,
    "DiskSpace": {"directory": manifest.NODE_DATA},
    "DriverUsers": {"words": ("nvidia",)},
    "ExistingNodeParts": _RECORDS | {"units": (), "word": manifest.NODE_ACCOUNT},
    "HeldPackages": {"packages": ("podman",)},
    "HostRole": {"path": manifest.DEPLOYED},
    "InitramfsContents": {"files": manifest.INITRAMFS_FILES},
    "InstalledKernels": {"modules": manifest.MODULES},
    "KernelCommandLine": {"drop_in": manifest.GRUB_DROP_IN.path},
    "KernelModules": {"modules": manifest.MODULES},
    "Listeners": {"ports": (22,)},
    "NodeActivity": _NODE
    | {"listen": "127.0.0.1:8888", "logs": f"{manifest.NODE_DATA}/data/log", "verification": "gevulot-verification"},
    "NodeFirewall": {"table": manifest.NODE_TABLE},
    "NodeParts": {"paths": (manifest.NODE_DATA,), "account": manifest.NODE_ACCOUNT, "unit": manifest.NODE_UNIT},
    "PciBinding": {"program": manifest.PCIBIND.path},
    "PlainFiles": {"paths": manifest.FILES},
    "Platform": {"directory": manifest.NODE_DATA},
    "PostgresDataRelease": {"directory": f"{manifest.NODE_DATA}/postgres"},
    "PreexistingFailures": {"records": (manifest.FAILED_UNITS,)},
    "RebootAttempts": _RECORDS,
    "RivalClaims": {"own": manifest.VFIO_IDS_TEXTS},
    "StaleInitramfs": {"inputs": manifest.INITRAMFS_INPUTS},
    "StorageState": {"directory": manifest.NODE_DATA, "parts": (f"{manifest.NODE_DATA}/postgres",), "quadlet": "/none"},
    "TreeDigest": {"directory": "/usr/local/lib/pcibind"},
    "UnitRuns": {"unit": manifest.NODE_UNIT, "needed": manifest.NODE_REQUIRES},
    "Units": {"units": manifest.STATUS_UNITS},
    "VerificationTime": {"path": manifest.VERIFIED},
    "VirtualMachine": _NODE | {"qemu": "qemu-system-x86_64", "prefix": "gevulot-verification", "directory": "/none"},
}

ROOT_PORTS = ("0000:00:04.0", "0000:00:05.0")
KINDS = {0: "bochs-drm", 1: "snd_hda_intel", 2: "xhci_hcd", 3: "serial"}

INVENTORY = """\
from tests.lab.inventory import data
from tests.lab.machine import Machine

machine = Machine.attach({name!r})
sudoer = data(machine, user="operator")
nodes = [
    ("root", data(machine)),
    ("sudoer", sudoer),
    ("mere", {{key: value for key, value in sudoer.items() if key != "_sudo"}}),
    ("gone", data(machine) | {{"ssh_port": 1}}),
]
"""


@dataclass(frozen=True, slots=True)
class Hosts:
    """One machine under four names: as root, over sudo, without either, and as one that is down."""

    machine: Machine
    inventory: Path

    def fleet(self, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code of the fleet's status, and each host's state by its name."""
        words = [sys.executable, "-m", "deploys.fleet", str(self.inventory), "--output", "json", *arguments]
        done = run(words)
        assert done.stdout.startswith("{"), done.stderr
        return done.returncode, {host["name"]: host for host in json.loads(done.stdout)["hosts"]}

    def facts(self, *words: str, limit: str = "root") -> dict[str, Any]:
        """What the facts say of one of the hosts: the fact as it was named → its value."""
        done = run([PYINFRA, "--limit", limit, str(self.inventory), "fact", *words, "--json"])
        assert done.returncode == 0, done.stderr
        return {fact: hosts[limit] for fact, hosts in json.loads(done.stdout).items()}


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def hosts(say: Progress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    inventory = tmp_path_factory.mktemp("fleet") / "nodes.py"
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        inventory.write_text(INVENTORY.format(name=machine.name))
        yield Hosts(machine, inventory)


def public() -> dict[str, list[str]]:
    """All public facts, as pyinfra's command line names them → their arguments there."""
    options = {}
    for module in (import_module(f"facts.{each.name}") for each in pkgutil.iter_modules(facts.__path__)):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, FactBase) and kind.__module__ == module.__name__ and name not in QUESTIONS:
                arguments = ARGUMENTS.get(name, {})
                options[f"{module.__name__}.{name}"] = [f"{key}={json.dumps(each)}" for key, each in arguments.items()]
    return options


def test_every_fact_works_alone_and_gives_json(hosts: Hosts) -> None:
    names = public()
    assert len(names) > 25
    answers = hosts.facts(*(word for name, words in names.items() for word in (name, *words)))
    # pyinfra puts the arguments behind the name.
    assert {name.partition(" ")[0] for name in answers} == set(names)


def test_the_whole_topology_is_read_in_the_kernels_own_words(hosts: Hosts) -> None:
    topology = hosts.facts("facts.pci.PciTopology")["facts.pci.PciTopology"]
    functions = {each["address"]: each for each in topology["functions"]}
    assert set(functions) == set(hosts.machine.ssh("ls /sys/bus/pci/devices").stdout.split())
    for bus, port in enumerate(ROOT_PORTS, start=1):
        board = [functions[f"0000:{bus:02x}:00.{number}"] for number in KINDS]
        assert [each["driver"] for each in board] == list(KINDS.values())
        assert {each["iommu_group"] for each in board} == {board[0]["iommu_group"]}
        assert {each["path"] for each in board} == {f"{functions[port]['path']}/00.{number}" for number in KINDS}
        # On a machine with the argument iommu=pt.
        assert {each["iommu_group_type"] for each in board} == {"identity"}
        assert [[module["name"] for module in each["modules"]] for each in board[:3]] == [
            ["bochs"],
            ["snd_hda_intel"],
            ["xhci_pci"],
        ]
        # The kernel of Debian has the last two built in.
        assert board[3]["modules"] == [] or board[3]["modules"][0]["built_in"]
    assert topology["unreadable"] == []


def test_the_status_names_what_the_host_needs(hosts: Hosts) -> None:
    usage = hosts.facts("facts.pci.PciUsage")["facts.pci.PciUsage"]
    nic = f"0000:00:{NETWORK_SLOT:02x}.0"
    assert {each["address"] for each in usage["route_nics"] + usage["ssh_nics"]} == {nic}


def test_without_root_the_topology_is_the_same_and_unreadable_parts_are_listed(hosts: Hosts) -> None:
    (root,) = hosts.facts("facts.pci.PciTopology").values()
    (mere,) = hosts.facts("facts.pci.PciTopology", limit="mere").values()
    assert [each["address"] for each in mere["functions"]] == [each["address"] for each in root["functions"]]
    assert all(mere["functions"][number]["driver"] == each["driver"] for number, each in enumerate(root["functions"]))


def test_one_look_shows_a_host_that_is_down_and_one_that_was_never_deployed(hosts: Hosts) -> None:
    before = hosts.machine.ssh("systemctl is-system-running; find /etc /usr/local /var/lib/gevulot -newer /etc | sort")
    code, status = hosts.fleet()
    assert code == 5
    assert next(iter(status)) == "gone"
    assert (status["gone"]["severity"], status["gone"]["topology"]) == ("down", None)
    assert "port 1 on 127.0.0.1" in status["gone"]["reasons"][0]
    for name in ("root", "sudoer"):
        assert status[name]["severity"] == "wrong"
        assert (status[name]["boards"]["wanted"], status[name]["boards"]["bound"]) == (2, 0)
        assert status[name]["unreadable"] == []
        assert any(each.startswith("no node is deployed") for each in status[name]["reasons"])
    assert any("needs root" in each for each in status["mere"]["unreadable"])
    assert status["mere"]["boards"] == status["root"]["boards"]
    after = hosts.machine.ssh("systemctl is-system-running; find /etc /usr/local /var/lib/gevulot -newer /etc | sort")
    assert after.stdout == before.stdout


@pytest.mark.soak
def test_a_podman_that_hangs_hides_nothing_else(hosts: Hosts, say: Progress) -> None:
    hosts.machine.ssh(
        "printf '#!/bin/sh\\nexec sleep 1000\\n' >/usr/local/bin/podman && chmod 755 /usr/local/bin/podman"
    )
    with step(say, "looking at a host whose Podman hangs", takes="about two minutes"):
        code, status = hosts.fleet("--limit", "root")
    hosts.machine.ssh("rm /usr/local/bin/podman")
    assert (code, status["root"]["severity"]) == (4, "wrong")
    assert status["root"]["boards"]["wanted"] == 2
    assert {each.partition(":")[0] for each in status["root"]["unreadable"]} == {
        *("access", "container", "schema", "secrets")
    }


@pytest.mark.soak
def test_a_collected_host_tells_nobody_whose_it_is_and_starts_in_the_lab(
    hosts: Hosts, say: Progress, tmp_path: Path
) -> None:
    name = hosts.machine.name
    done = pyinfra([hosts.machine], "-y", "--data", f"collect_directory={tmp_path}", deploy="deploys/collect.py")
    assert done.code == 0, done.output
    path = tmp_path / f"{name}.collected.json"
    text = path.read_text()
    assert len(text) < 20_000
    uuid = hosts.machine.ssh("findmnt -no UUID /").stdout.strip()
    for secret in (name, uuid, *hosts.machine.ssh("cat /sys/class/net/*/address /etc/machine-id").stdout.split()):
        assert secret not in text or set(secret) <= set("0:"), f"{secret} is shown"
    imitation = collected.load(path)
    with (
        step(say, "booting a collected host", takes="about a minute"),
        Machine.start(imitation.topology, preparation=IOMMU, warm=False, progress=say) as twin,
    ):
        # Its empty slots are not imitated.
        shown = "cd /sys/bus/pci/devices && for each in */class; do echo $each $(cat $each); done | grep -v ' 0x0604'"
        assert twin.ssh(shown).stdout == hosts.machine.ssh(shown).stdout
