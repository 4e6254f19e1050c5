"""Who reaches the node's ports: the rules, and the program that holds them, on this kernel."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploys import manifest, settings
from deploys.assessment import checks, qmp
from deploys.settings import Settings
from deploys.steps import firewall
from facts.firewall import NodeFirewall
from facts.unit import Unit
from tests.unit.deploys.test_templates import render

PEERS = ("198.51.100.0/24", "2001:db8:1::/64")
# The other end's addresses: inside and outside of the networks, with the node's beside each.
INSIDE = {"198.51.100.2": "198.51.100.1", "2001:db8:1::2": "2001:db8:1::1"}
OUTSIDE = {"203.0.113.2": "203.0.113.1", "2001:db8:2::2": "2001:db8:2::1"}

SERVER = """
import socket, sys, threading
for port in (9999, 9995, 7777):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=lambda each=listener: [each.accept() for _ in iter(int, 1)], daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
"""
CONNECT = """
import socket, sys
source, address, port = sys.argv[1:]
try:
    socket.create_connection((address, int(port)), 1, source_address=(source, 0) if source else None)
except OSError:
    sys.exit(1)
"""


def asked(**keys: Any) -> Settings:
    data = {"psk_passphrase": "the own one", "p2p_listen": "[::]:9999", "peers": PEERS} | keys
    return settings.read("gpu1", {f"gevulot_{key}": value for key, value in data.items()})


def rules(**keys: Any) -> str:
    return render(manifest.FIREWALL_RULES.path[1:], **firewall.variables(asked(**keys)))


def qmp_rules(**changes: Any) -> str:
    return render(manifest.QMP_RULES.path[1:], **(qmp.variables(asked()) | changes))


# --- the rules


def test_the_table_is_its_makers_own_and_opens_nothing() -> None:
    text = rules()
    assert "flags owner" in text
    assert "type filter hook input priority -10; policy accept;" in text


def test_loopback_and_the_named_networks_come_before_the_drop_of_everybody_else() -> None:
    lines = [line.strip() for line in rules().splitlines()]
    at = lines.index('iifname "lo" accept')
    assert [line for line in lines[at + 1 :] if line.startswith("tcp")] == [
        "tcp dport { 9995, 9999 } ip saddr @peers4 accept",
        "tcp dport { 9995, 9999 } ip6 saddr @peers6 accept",
        "tcp dport { 9995, 9999 } drop",
    ]
    assert "elements = { 198.51.100.0/24 }" in lines
    assert "elements = { 2001:db8:1::/64 }" in lines


def test_the_ports_are_those_that_are_set() -> None:
    assert "tcp dport { 7001, 7002 } drop" in rules(p2p_listen="0.0.0.0:7002", http_port=7001)


@pytest.mark.parametrize(("peers", "other"), [(["10.0.0.0/8"], "peers6"), (["2001:db8::/32"], "peers4")])
def test_a_family_without_networks_is_closed(peers: list[str], other: str) -> None:
    text = rules(peers=peers)
    assert other not in text
    assert "tcp dport { 9995, 9999 } drop" in text


def test_networks_inside_of_others_are_not_listed_twice() -> None:
    assert "elements = { 10.0.0.0/8 }" in rules(peers=["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8"])


def test_without_networks_of_peers_the_table_restricts_no_port_of_theirs() -> None:
    text = rules(p2p_listen="127.0.0.1:9999", peers=[])
    assert "chain input" not in text
    assert "peers" not in text
    assert "chain qmp" in text


def test_others_may_connect_to_the_nodes_services_and_to_nothing_else_of_it() -> None:
    lines = qmp_rules().splitlines()
    services = lines.index("add rule inet gevulot qmp tcp dport { 8888, 9944, 9995, 9999 } accept")
    node = 'socket cgroupv2 level 2 "system.slice/gevulot-node.service"'
    assert services < lines.index(f"add rule inet gevulot qmp {node} reject with tcp reset")
    metrics = qmp.variables(asked(metrics_listen="127.0.0.1:9000", json_rpc_listen="0.0.0.0:8545"))
    assert metrics["services"] == [8545, 8888, 9000, 9995, 9999]


# --- the program, in network namespaces of its own

NAMESPACES = [
    *([] if os.geteuid() == 0 else ["the rights of root"]),
    *(each for each in ("ip", "nsenter") if not shutil.which(each)),
]
NFTABLES = [
    *NAMESPACES,
    *([] if shutil.which("nft") else ["nft"]),
    *([] if find_library("nftables") else ["libnftables"]),
]
# nft resolves a path below this one; version 2 may be mounted beside version 1.
CGROUPS = Path("/sys/fs/cgroup")
UNIFIED = next((each for each in (CGROUPS / "unified", CGROUPS) if (each / "cgroup.controllers").exists()), None)
in_namespaces = pytest.mark.skipif(bool(NAMESPACES), reason=f"needs {', '.join(NAMESPACES)}")
on_this_kernel = pytest.mark.skipif(bool(NFTABLES), reason=f"needs {', '.join(NFTABLES)}")


def inside(namespace: str) -> list[str]:
    """`ip netns exec` would hide the cgroups."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


@dataclass
class Namespaces:
    """A node and its outside, joined by a cable."""

    node: str
    outside: str

    def run(self, where: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*inside(where), *words], capture_output=True, text=True, check=False)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*inside(self.node), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment,
        )  # fmt: skip

    def connects(self, source: str, port: int) -> bool:
        """Whether the outside connects from one of its addresses."""
        target = (INSIDE | OUTSIDE)[source]
        return self.run(self.outside, sys.executable, "-c", CONNECT, source, target, str(port)).returncode == 0

    def guarded(self) -> bool:
        """Whether exactly the named networks reach exactly the peer-to-peer ports."""
        reached = {(each, port) for each in INSIDE | OUTSIDE for port in (9999, 9995) if self.connects(each, port)}
        return reached == {(each, port) for each in INSIDE for port in (9999, 9995)}

    def table(self) -> str:
        return self.run(self.node, "nft", "list", "tables").stdout


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    pair = Namespaces(f"gevulot-node-{os.getpid()}", f"gevulot-outside-{os.getpid()}")
    with ExitStack() as stack:
        for name in (pair.node, pair.outside):
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        cable = ["ip", "-n", pair.node, "link", "add", "near", "type", "veth", "peer", "name", "far"]
        subprocess.run([*cable, "netns", pair.outside], check=True)
        for name, device, addresses in (
            (pair.node, "near", [*INSIDE.values(), *OUTSIDE.values()]),
            (pair.outside, "far", [*INSIDE, *OUTSIDE]),
        ):
            for address in addresses:
                length = ["/64", "nodad"] if ":" in address else ["/24"]
                words = [address + length[0], "dev", device, *length[1:]]
                subprocess.run(["ip", "-n", name, "address", "add", *words], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        server = pair.start(sys.executable, "-c", SERVER)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        yield pair


@dataclass
class Holder:
    """The program, started with the files beside it, and what it says to systemd."""

    namespaces: Namespaces
    directory: Path
    notify: socket.socket
    process: subprocess.Popen[str]

    def reload(self) -> None:
        """As systemd does for Type=notify-reload."""
        before = time.monotonic_ns() // 1000
        self.process.send_signal(signal.SIGHUP)
        begun, _, at = self.notify.recv(100).decode().partition("\nMONOTONIC_USEC=")
        assert begun == "RELOADING=1"
        assert int(at) >= before
        assert self.notify.recv(100) == b"READY=1"


def held(namespaces: Namespaces, directory: Path) -> list[str]:
    """The program's command line, with its files in the directory."""
    files = [directory / name for name in ("firewall", "firewall.nft", "qmp.nft")]
    for file, text in zip(files, (render(manifest.FIREWALL_PROGRAM.path[1:]), rules(), qmp_rules()), strict=True):
        file.write_text(text)
    return [sys.executable, "-I", *map(str, files)]


@contextmanager
def started(namespaces: Namespaces, directory: Path) -> Iterator[Holder]:
    """The program, once it says that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(directory / "notify"))
        notify.settimeout(30)
        process = namespaces.start(*held(namespaces, directory), NOTIFY_SOCKET=str(directory / "notify"))
        try:
            assert notify.recv(100) == b"READY=1"
            yield Holder(namespaces, directory, notify, process)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def holder(namespaces: Namespaces, tmp_path: Path) -> Iterator[Holder]:
    with started(namespaces, tmp_path) as program:
        yield program


@pytest.mark.kernel
@on_this_kernel
def test_the_program_has_a_handler_for_the_reloads_signal_as_systemd_demands(holder: Holder) -> None:
    status = Path(f"/proc/{holder.process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    assert int(caught, 16) >> (signal.SIGHUP - 1) & 1


@pytest.mark.kernel
@in_namespaces
def test_without_the_program_strangers_reach_every_port(namespaces: Namespaces) -> None:
    assert all(namespaces.connects(source, port) for source in INSIDE | OUTSIDE for port in (9999, 9995, 7777))


@pytest.mark.kernel
@on_this_kernel
@pytest.mark.usefixtures("holder")
def test_only_the_named_networks_reach_the_ports_and_loopback_is_not_cut(namespaces: Namespaces) -> None:
    assert namespaces.guarded()
    assert all(namespaces.connects(source, 7777) for source in INSIDE | OUTSIDE)
    for address in ("127.0.0.1", "::1", *OUTSIDE.values()):
        assert namespaces.run(namespaces.node, sys.executable, "-c", CONNECT, "", address, "9999").returncode == 0


@pytest.mark.kernel
@on_this_kernel
@pytest.mark.usefixtures("holder")
@pytest.mark.parametrize("words", [("flush", "ruleset"), ("delete", "table", "inet", "gevulot")])
def test_others_cannot_take_the_table_away(namespaces: Namespaces, words: tuple[str, ...]) -> None:
    namespaces.run(namespaces.node, "nft", *words)
    assert namespaces.guarded()


@pytest.mark.kernel
@on_this_kernel
@pytest.mark.usefixtures("holder")
def test_the_kernels_table_is_read_back_as_what_was_asked_for(namespaces: Namespaces) -> None:
    printed = namespaces.run(namespaces.node, "sh", "-c", NodeFirewall().command("gevulot")).stdout.splitlines()
    assert checks.peers(NodeFirewall().process(printed), asked()).passed


@pytest.mark.kernel
@on_this_kernel
def test_the_table_goes_when_the_program_is_killed(namespaces: Namespaces, holder: Holder) -> None:
    assert "table inet gevulot" in namespaces.table()
    holder.process.kill()
    holder.process.wait()
    end = time.monotonic() + 10
    while "table inet gevulot" in namespaces.table():
        assert time.monotonic() < end


@pytest.mark.kernel
@on_this_kernel
def test_a_table_of_the_same_name_that_nobody_owns_is_replaced_and_named(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    saved = "table inet gevulot { chain input { type filter hook input priority 0; policy drop; }; }"
    assert namespaces.run(namespaces.node, "nft", saved).returncode == 0
    with started(namespaces, tmp_path) as program:
        assert program.process.stdout is not None
        assert "There is a table inet gevulot already" in program.process.stdout.readline()
        assert namespaces.guarded()
        assert "policy drop" not in namespaces.run(namespaces.node, "nft", "list", "ruleset").stdout


@pytest.mark.kernel
@on_this_kernel
@pytest.mark.usefixtures("holder")
def test_a_table_of_the_same_name_that_another_program_owns_stops_the_program(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    done = namespaces.run(namespaces.node, *held(namespaces, tmp_path / "second"))
    assert done.returncode == 1
    assert "expected it in the table inet gevulot" in done.stderr
    assert namespaces.guarded()


# --- the QMP ports, with a cgroup in the node's place

QMP, SERVICE, OTHER = 1028, 8888, 5432
# Listens on each of the ports, and ends every connection itself, as a QEMU does that is killed.
LISTEN = """
import socket, sys, threading
def serve(listener):
    while True:
        listener.accept()[0].close()
for port in sys.argv[1:]:
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=serve, args=(listener,)).start()
print("listening", flush=True)
"""
# Prints which of the ports it reaches, at which address.
TRY = """
import os, socket, sys
user, mark, source, addresses, *ports = sys.argv[1:]
made = []
for address in addresses.split(","):
    for port in map(int, ports):
        each = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        each.settimeout(5)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(mark, 0))
        if source != "0":
            each.bind(("", int(source)))
        made.append((each, address, port))
os.setuid(int(user))
for each, address, port in made:
    try:
        each.connect((address, port))
    except ConnectionRefusedError:
        continue
    each.recv(1)
    each.close()
    print(address, port)
"""
LOOPBACK = ("127.0.0.1", "::1")
with_cgroups = pytest.mark.skipif(UNIFIED is None, reason="needs cgroups version 2")


class Cgroup:
    """A cgroup in the place of the node's unit, with a listener at a QMP port and at one of the node's services."""

    def __init__(self, namespaces: Namespaces) -> None:
        assert UNIFIED is not None
        self.namespaces = namespaces
        self.directory = UNIFIED / f"gevulot-{os.getpid()}"
        self.name = str(self.directory.relative_to(CGROUPS))
        self._listener: subprocess.Popen[str] | None = None

    def words(self, *words: str) -> list[str]:
        return ["sh", "-c", f'echo $$ >{self.directory}/cgroup.procs && exec "$@"', "in", *words]

    def start(self) -> None:
        self.directory.mkdir()
        self._listener = listening(self.namespaces, *self.words(), ports=(QMP, SERVICE))

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.kill()
            self._listener.wait()
            self._listener = None
        # Its last process may still be on its way out.
        for _ in range(100):
            with suppress(OSError):
                self.directory.rmdir()
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.directory} is still in use")

    def connects(self, *ports: int, source: int = 0) -> set[str]:
        """Which ports its own processes reach."""
        return reached(self.namespaces, *self.words(), ports=ports, source=source)


def listening(namespaces: Namespaces, *words: str, ports: tuple[int, ...]) -> subprocess.Popen[str]:
    server = namespaces.start(*words, sys.executable, "-c", LISTEN, *map(str, ports))
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    return server


def reached(
    namespaces: Namespaces, *words: str, ports: tuple[int, ...], user: int = 0, mark: int = 0, source: int = 0,
    where: str = "", addresses: tuple[str, ...] = LOOPBACK,
) -> set[str]:  # fmt: skip
    program = [sys.executable, "-c", TRY, str(user), str(mark), str(source), ",".join(addresses), *map(str, ports)]
    done = namespaces.run(where or namespaces.node, *words, *program)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def at(*ports: int, addresses: tuple[str, ...] = LOOPBACK) -> set[str]:
    return {f"{address} {port}" for address in addresses for port in ports}


@pytest.fixture
def cgroup(holder: Holder) -> Iterator[Cgroup]:
    """The node's place as it is after a start: with its rules, and beside it a listener of the host's."""
    place = Cgroup(holder.namespaces)
    (holder.directory / "qmp.nft").write_text(qmp_rules(cgroup=place.name, level=1))
    other = listening(holder.namespaces, ports=(OTHER,))
    try:
        place.start()
        holder.reload()
        yield place
    finally:
        other.kill()
        other.wait()
        if place.directory.exists():
            place.stop()


def qmp_row(cgroup: Cgroup) -> tuple[bool | None, str]:
    """What the table at the end of a deploy says of the QMP ports."""
    printed = cgroup.namespaces.run(
        cgroup.namespaces.node, "sh", "-c", NodeFirewall().command("gevulot")
    ).stdout.splitlines()
    node = Unit("gevulot-node.service", "loaded", "active", "running", "success", False, "generated", 1)
    row = qmp.check(NodeFirewall().process(printed), asked(), node, cgroup.name)
    return row.passed, row.actual


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_only_the_node_reaches_its_qmp_ports(cgroup: Cgroup) -> None:
    assert cgroup.connects(QMP, SERVICE, OTHER) == at(QMP, SERVICE, OTHER)
    for user in (0, 65534):
        assert reached(cgroup.namespaces, ports=(QMP, SERVICE, OTHER), user=user) == at(SERVICE, OTHER)
    assert qmp_row(cgroup) == (True, "the node only")


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_the_nodes_packet_mark_helps_nobody_else(cgroup: Cgroup) -> None:
    mark = qmp.variables(asked())["bit"]
    assert reached(cgroup.namespaces, ports=(QMP, OTHER), mark=mark) == at(OTHER)


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_neighbours_do_not_reach_the_qmp_ports_either(cgroup: Cgroup) -> None:
    namespaces, addresses = cgroup.namespaces, tuple(INSIDE.values())
    answers = reached(namespaces, ports=(QMP, SERVICE, OTHER), where=namespaces.outside, addresses=addresses)
    assert answers == at(SERVICE, OTHER, addresses=addresses)


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_an_ended_connection_of_the_nodes_own_lets_nobody_in(cgroup: Cgroup) -> None:
    # The listener ends it, so that the kernel keeps its addresses and ports for a minute.
    assert cgroup.connects(QMP, source=40000) == at(QMP)
    assert reached(cgroup.namespaces, ports=(QMP,), source=40000) == set()


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_a_service_of_the_hosts_beside_the_qmp_ports_is_reached(cgroup: Cgroup) -> None:
    other = listening(cgroup.namespaces, ports=(QMP + 1,))
    try:
        assert reached(cgroup.namespaces, ports=(QMP + 1,)) == at(QMP + 1)
    finally:
        other.kill()
        other.wait()


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_a_neighbour_may_use_the_ports_of_an_ended_connection_to_a_service_again(cgroup: Cgroup) -> None:
    namespaces, addresses = cgroup.namespaces, tuple(INSIDE.values())
    other = listening(namespaces, ports=(QMP + 1,))
    try:
        for _ in range(3):
            answers = reached(namespaces, ports=(QMP + 1,), where=namespaces.outside, addresses=addresses, source=40000)
            assert answers == at(QMP + 1, addresses=addresses)
    finally:
        other.kill()
        other.wait()


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_a_node_that_starts_again_is_guarded_after_a_reload_and_its_old_rules_are_named(
    cgroup: Cgroup, holder: Holder
) -> None:
    cgroup.stop()
    cgroup.start()
    passed, actual = qmp_row(cgroup)
    assert passed is False
    assert "of an earlier start of the node" in actual
    holder.reload()
    assert qmp_row(cgroup) == (True, "the node only")
    assert reached(cgroup.namespaces, ports=(QMP, SERVICE, OTHER)) == at(SERVICE, OTHER)
    assert cgroup.connects(QMP) == at(QMP)


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_rules_that_cannot_be_loaded_end_the_program(cgroup: Cgroup, holder: Holder) -> None:
    cgroup.stop()
    holder.process.send_signal(signal.SIGHUP)
    assert holder.process.wait(30) == 1
    end = time.monotonic() + 10
    while "table inet gevulot" in cgroup.namespaces.table():
        assert time.monotonic() < end


@pytest.mark.kernel
@on_this_kernel
@with_cgroups
def test_a_reload_leaves_the_networks_of_peers_alone(cgroup: Cgroup, holder: Holder) -> None:
    holder.reload()
    assert cgroup.namespaces.guarded()
