"""Ports that others listen on: who is a stranger, what collides, and what an operator reads."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from deploys import settings
from deploys.assessment.verdict import Findings
from deploys.preflight.ports import collides, judge_ports, list_ports
from facts.listeners import Listener, Listeners

NODE = "/system.slice/gevulot-node.service"


def asked(**keys: Any) -> settings.Settings:
    return settings.read("gpu1", {"gevulot_psk_passphrase": "the own one", **{f"gevulot_{k}": keys[k] for k in keys}})


def refusals(*listeners: Listener, **keys: Any) -> list[str]:
    findings = Findings()
    judge_ports(listeners, asked(**keys), findings)
    return findings.refusals


def listener(port: int, address: str = "127.0.0.1", **more: Any) -> Listener:
    return Listener(ip_address(address), port, **({"program": "python3", "pid": 812, "unit": "other.service"} | more))


def read(*lines: str, groups: tuple[str, ...] = (NODE,)) -> list[Listener]:
    return Listeners().process([*lines, *(f"group {each}" for each in groups), "end"])


@pytest.mark.parametrize(
    ("port", "key"),
    [(5432, "postgres_port"), (8888, "healthcheck_listen"), (9944, "json_rpc_listen"), (9995, "http_port"),
     (9999, "p2p_listen")],
)  # fmt: skip
def test_each_port_that_a_stranger_has_is_refused_with_its_key_and_the_program(port: int, key: str) -> None:
    (text,) = refusals(listener(port))
    assert text.startswith(f"port {port} of gevulot_{key} is taken by python3 (pid 812, other.service) at 127.0.0.1:")
    assert f"expected 127.0.0.1:{port} to be free. Stop it (systemctl disable --now other.service)" in text
    assert f"set gevulot_{key} to another port" in text


def test_ports_are_those_that_are_set() -> None:
    keys = {"postgres_port": 5433, "metrics_listen": "127.0.0.1:9100", "http_port": 9996}
    assert list_ports(asked(**keys)) == (5433, 8888, 9100, 9944, 9996, 9999)
    assert refusals(listener(5432), listener(9995), **keys) == []
    assert len(refusals(listener(5433), listener(9996), listener(9100), **keys)) == 3


def test_what_is_not_asked_for_is_not_refused() -> None:
    assert refusals(listener(5432), postgres_url="postgres://a:b@192.0.2.1/d") == []
    assert refusals(listener(8888), no_execution=True) == []


def test_a_program_of_the_nodes_own_is_no_stranger_whatever_it_is_called() -> None:
    (own,) = read("listen tcp 0100007F 270F 7", "holder 7 900 python3", f"in {NODE}/libpod-payload-0a1b/init")
    assert own.ours
    assert refusals(own) == []


@pytest.mark.parametrize(
    "group",
    ["/system.slice/gevulot-node.service-x.service", "/system.slice/other.service", "/", "",
     "/user.slice/user-0.slice/user@0.service/app.slice/gevulot-node.service"],
)  # fmt: skip
def test_a_program_that_is_only_called_as_the_node_is_a_stranger(group: str) -> None:
    (other,) = read("listen tcp 0100007F 270F 7", "holder 7 900 gevulot", f"in {group}")
    assert not other.ours
    assert "gevulot (pid 900" in refusals(other)[0]


def test_without_a_running_unit_nothing_is_ours() -> None:
    (other,) = read("listen tcp 0100007F 270F 7", "holder 7 900 gevulot", "in /", groups=("", "/"))
    assert not other.ours


def test_a_socket_that_systemd_listens_at_for_others_is_named_by_its_unit() -> None:
    lines = ("listen tcp 0100007F 1538 7", "activated 127.0.0.1:5432 proxy.socket proxy.service", "holder 7 1 systemd")
    (other,) = read(*lines, "in /init.scope")
    assert "systemd (pid 1, proxy.socket)" in refusals(other)[0]
    assert "systemctl disable --now proxy.socket" in refusals(other)[0]


def test_of_systemd_and_the_program_that_it_started_the_program_is_named() -> None:
    lines = ("holder 7 1 systemd", "in /init.scope", "holder 7 77 proxy", "in /system.slice/proxy.service")
    (other,) = read("listen tcp 0100007F 1538 7", *lines)
    assert "proxy (pid 77, proxy.service)" in refusals(other)[0]


def test_a_users_own_unit_is_named_with_its_manager_and_no_command_that_would_not_stop_it() -> None:
    group = "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service"
    (text,) = refusals(*read("listen tcp 0100007F 22B8 7", "holder 7 77 web", f"in {group}"))
    assert "web (pid 77, web.service of user@1000.service)" in text
    assert "Stop it, set gevulot_healthcheck_listen" in text


def test_a_listener_without_a_process_is_refused_too() -> None:
    (text,) = refusals(*read("listen tcp 0100007F 22B8 7"))
    assert "the kernel, or a program that could not be found, at 127.0.0.1:8888" in text


def test_what_a_stranger_calls_itself_cannot_steer_the_terminal() -> None:
    (text,) = refusals(*read("listen tcp 0100007F 22B8 7", "holder 7 77 \x1b[31mweb", "in /"))
    assert "\x1b" not in text


def test_an_answer_that_is_cut_off_is_no_empty_host() -> None:
    with pytest.raises(Exception, match="ended too early"):
        Listeners().process(["listen tcp 0100007F 22B8 7"])


_PLACES = ("127.0.0.1", "0.0.0.0", "127.0.0.2", "::1", "::", "::ffff:127.0.0.1", ":: alone")


def _open(place: str, port: int) -> socket.socket:
    """Listen as a program does; ``alone`` is for IPv6 only."""
    address, _, alone = place.partition(" ")
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(alone))
    try:
        made.bind((address, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def _unmapped(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


@pytest.mark.parametrize("ours", _PLACES[:-1])
@pytest.mark.parametrize("theirs", _PLACES)
def test_two_addresses_collide_where_this_kernel_says_so(ours: str, theirs: str) -> None:
    try:
        other = _open(theirs, 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with other:
        port = other.getsockname()[1]
        try:
            _open(ours, port).close()
            refused = False
        except OSError:
            refused = True
    address, _, alone = theirs.partition(" ")
    stranger = Listener(_unmapped(address), port, both=not alone)
    assert collides(_unmapped(ours), stranger) == refused


# --- the fact, on this machine


def asked_of_this_machine(port: int) -> list[Listener]:
    command = Listeners().command((port,), ("gevulot-node.service",))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return Listeners().process(done.stdout.splitlines())


@pytest.mark.parametrize("place", _PLACES)
def test_a_program_that_listens_is_found_with_its_address_and_its_process(place: str) -> None:
    try:
        opened = _open(place, 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with opened:
        (one,) = asked_of_this_machine(opened.getsockname()[1])
    address = ip_address(place.removesuffix(" alone"))
    assert one.address == (getattr(address, "ipv4_mapped", None) or address)
    assert (one.pid, bool(one.program), one.ours) == (os.getpid(), True, False)
    if address.is_unspecified and shutil.which("ss"):
        assert one.both != place.endswith(" alone")


def test_a_port_that_nobody_listens_on_has_no_listener() -> None:
    with _open("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
    assert asked_of_this_machine(port) == []


@pytest.mark.kernel
def test_a_program_in_another_network_namespace_does_not_count() -> None:
    program = "import socket, time; s = socket.create_server(('', 9999)); print(flush=True); time.sleep(60)"
    with subprocess.Popen(["unshare", "--net", sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        listeners = asked_of_this_machine(9999)
        process.kill()
    assert listeners == []
