"""Only named networks reach the peer-to-peer ports: the rules, and the program that holds them, on this kernel."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploys import checks, settings
from deploys.push import TEMPLATES
from deploys.settings import Settings
from deploys.steps import firewall
from facts.firewall import NodeFirewall
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
    return render(firewall.RULES[1:], **firewall.variables(asked(**keys)))


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


# --- the program, in network namespaces of its own

NAMESPACES = [
    *([] if os.geteuid() == 0 else ["the rights of root"]),
    *([] if shutil.which("ip") else ["ip"]),
]
NFTABLES = [
    *NAMESPACES,
    *([] if shutil.which("nft") else ["nft"]),
    *([] if find_library("nftables") else ["libnftables"]),
]
in_namespaces = pytest.mark.skipif(bool(NAMESPACES), reason=f"needs {', '.join(NAMESPACES)}")
on_this_kernel = pytest.mark.skipif(bool(NFTABLES), reason=f"needs {', '.join(NFTABLES)}")


@dataclass
class Namespaces:
    """A node and its outside, joined by a cable."""

    node: str
    outside: str

    def run(self, where: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", "netns", "exec", where, *words], capture_output=True, text=True, check=False)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.node, *words],
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
    found = Namespaces(f"gevulot-node-{os.getpid()}", f"gevulot-outside-{os.getpid()}")
    with ExitStack() as stack:
        for name in (found.node, found.outside):
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        cable = ["ip", "-n", found.node, "link", "add", "near", "type", "veth", "peer", "name", "far"]
        subprocess.run([*cable, "netns", found.outside], check=True)
        for name, device, addresses in (
            (found.node, "near", [*INSIDE.values(), *OUTSIDE.values()]),
            (found.outside, "far", [*INSIDE, *OUTSIDE]),
        ):
            for address in addresses:
                length = ["/64", "nodad"] if ":" in address else ["/24"]
                words = [address + length[0], "dev", device, *length[1:]]
                subprocess.run(["ip", "-n", name, "address", "add", *words], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        server = found.start(sys.executable, "-c", SERVER)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        yield found


@pytest.fixture
def holder(namespaces: Namespaces, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, once it says that it is ready."""
    program, table = tmp_path / "firewall", tmp_path / "firewall.nft"
    program.write_text((TEMPLATES / f"{firewall.PROGRAM[1:]}.j2").read_text())
    table.write_text(rules())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(30)
        process = namespaces.start(
            sys.executable, "-I", str(program), str(table), NOTIFY_SOCKET=str(tmp_path / "notify")
        )
        try:
            assert notify.recv(100) == b"READY=1"
            yield process
        finally:
            process.kill()
            process.wait()


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
    said = namespaces.run(namespaces.node, "sh", "-c", NodeFirewall().command()).stdout.splitlines()
    assert checks.peers(NodeFirewall().process(said), asked()).ok


@pytest.mark.kernel
@on_this_kernel
def test_the_table_goes_when_the_program_is_killed(namespaces: Namespaces, holder: subprocess.Popen[str]) -> None:
    assert "table inet gevulot" in namespaces.table()
    holder.kill()
    holder.wait()
    end = time.monotonic() + 10
    while "table inet gevulot" in namespaces.table():
        assert time.monotonic() < end


@pytest.mark.kernel
@on_this_kernel
def test_a_table_of_the_same_name_stops_the_program(namespaces: Namespaces, tmp_path: Path) -> None:
    namespaces.run(namespaces.node, "nft", "add", "table", "inet", "gevulot")
    program, table = tmp_path / "firewall", tmp_path / "firewall.nft"
    program.write_text((TEMPLATES / f"{firewall.PROGRAM[1:]}.j2").read_text())
    table.write_text(rules())
    done = namespaces.run(namespaces.node, sys.executable, "-I", str(program), str(table))
    assert done.returncode == 1
    assert "expected the table inet gevulot" in done.stderr
