"""Hosts behind aliases, other ports, jump hosts, proxies and passwords, on real SSH servers of this machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploys import servers
from tests.unit.deploys.servers import ROOT, Server

PROBES = Path(__file__).parent / "probes"
PASSWORD = "a sudo 'password' with $signs"
PASSPHRASE = "mole harbour lantern 41"

pytestmark = [
    pytest.mark.commands,
    pytest.mark.skipif(bool(servers.MISSING), reason=servers.MISSING or "-"),
]


@dataclass(frozen=True)
class Site:
    """A host, the jump hosts before it, and an ssh_config with an alias for each way to it."""

    directory: Path
    host: Server
    jump: Server
    gate: Server
    forwarded: int
    dropping: int

    @property
    def config(self) -> Path:
        return self.directory / "ssh_config"

    def inventory(self, *ways: str, **data: Any) -> str:
        """Hosts named by aliases of the ssh_config, which says everything else about them."""
        data = {"ssh_config_file": str(self.config), **data}
        return f"nodes = {[(way, data) for way in ways]!r}\n"


def _alias(name: str, server: Server, site: Path, *more: str, port: int | None = None) -> str:
    address = "127.0.0.1" if port else server.address
    lines = (
        f"HostName {address}",
        f"Port {port or server.port}",
        f"IdentityFile {site}/operator",
        f"UserKnownHostsFile {site}/known_hosts",
        "StrictHostKeyChecking yes",
        *more,
    )
    return "\n  ".join((f"Host {name}", *lines)) + "\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    operator = servers.key(directory / "operator")
    with (
        servers.server(directory / "host", "127.0.9.1", operator, PASSWORD) as host,
        servers.server(directory / "jump", "127.0.9.2", operator) as jump,
        servers.server(directory / "gate", "127.0.9.3", operator) as gate,
        servers.forward((host.address, host.port)) as forwarded,
        servers.forward((host.address, host.port), idle=3) as dropping,
    ):
        proxy = f"ProxyCommand ssh -F {directory}/ssh_config -W %h:%p jump"
        (directory / "ssh_config").write_text(
            "\n".join(
                (
                    _alias("alias", host, directory),
                    _alias("jump", jump, directory),
                    _alias(gate.address, gate, directory),
                    _alias("jumped", host, directory, "ProxyJump jump"),
                    _alias("jumped-twice", host, directory, f"ProxyJump jump,{gate.address}:{gate.port}"),
                    _alias("proxied", host, directory, proxy),
                    _alias("forwarded", host, directory, port=forwarded),
                    _alias("dropping", host, directory, port=dropping),
                    _alias("jumped-dropping", host, directory, "ProxyJump jump", port=dropping),
                )
            )
        )
        known = [each.host_key() for each in (host, jump, gate)]
        known += [f"[127.0.0.1]:{port} {host.host_key().partition(' ')[2]}" for port in (forwarded, dropping)]
        (directory / "known_hosts").write_text("".join(known))
        yield Site(directory, host, jump, gate, forwarded, dropping)


def probe(
    tmp_path: Path, inventory: str, name: str = "ways", environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run one of the probes on each host, and return what it wrote down by the host's name."""
    directory = tmp_path / "probed"
    directory.mkdir()
    run = servers.pyinfra(
        tmp_path,
        inventory,
        str(PROBES / f"{name}.py"),
        "-y",
        environment={"PROBED": str(directory), **(environment or {})},
    )
    results = {path.name: json.loads(path.read_text()) for path in directory.iterdir()}
    assert results, run.stdout + run.stderr
    return results


def words(run: subprocess.CompletedProcess[str]) -> str:
    """What was printed, each run of blanks as one."""
    assert "Traceback" not in run.stdout + run.stderr, run.stderr
    return re.sub(" +", " ", run.stdout + run.stderr)


@pytest.fixture(scope="module")
def reached(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    inventory = site.inventory("alias", "jumped", "jumped-twice", "proxied", "forwarded") + (
        "import socket\n"
        f"sock = socket.create_connection({(site.host.address, site.host.port)!r})\n"
        f"nodes.append(('given', {{**nodes[0][1], 'ssh_hostname': 'alias', "
        "'ssh_paramiko_connect_kwargs': {'sock': sock}}))\n"
    )
    return probe(tmp_path_factory.mktemp("ways"), inventory)


@pytest.mark.parametrize("way", ["alias", "jumped", "jumped-twice", "proxied", "forwarded", "given"])
def test_programs_of_a_shell_run_whichever_way_the_host_is_reached(reached: dict[str, Any], way: str) -> None:
    assert reached[way]["text"] == 'it\'s "42" of $(id -u)'


@pytest.mark.parametrize(
    ("way", "doubt"),
    [("jumped", "a jump host"), ("jumped-twice", "a jump host"), ("proxied", "a proxy"), ("given", "a proxy")],
)
def test_another_machine_that_carries_the_connection_is_not_taken_for_the_host(
    reached: dict[str, Any], way: str, doubt: str
) -> None:
    assert (reached[way]["address"], reached[way]["doubt"]) == (None, f"behind {doubt}")


def test_a_forwarded_port_leaves_the_other_ports_in_doubt(site: Site, reached: dict[str, Any]) -> None:
    expected = f"127.0.0.1:{site.forwarded} is forwarded to the host's port {site.host.port}"
    assert (reached["forwarded"]["address"], reached["forwarded"]["doubt"]) == ("127.0.0.1", expected)


def test_this_machine_itself_is_not_looked_at_from_outside(site: Site, reached: dict[str, Any]) -> None:
    assert reached["alias"]["doubt"] == f"{site.host.address} is this machine"


@pytest.mark.kernel
def test_a_host_that_is_reached_directly_is_looked_at_where_ssh_goes_to(site: Site, tmp_path: Path) -> None:
    address, own = "198.18.77.2", "198.18.77.1"
    with (
        servers.neighbour(address, own) as namespace,
        servers.server(tmp_path / "direct", address, site.directory / "operator", namespace=namespace) as direct,
    ):
        (tmp_path / "known_hosts").write_text(f"{address} {direct.host_key().partition(' ')[2]}")
        (tmp_path / "config").write_text(
            _alias("direct", direct, site.directory).replace(f"{site.directory}/known", f"{tmp_path}/known")
        )
        results = probe(tmp_path, f"nodes = [('direct', {{'ssh_config_file': {str(tmp_path / 'config')!r}}})]\n")
    assert (results["direct"]["address"], results["direct"]["doubt"]) == (address, "")


def test_every_hop_is_kept_alive(reached: dict[str, Any]) -> None:
    assert {way: result["hops"] for way, result in reached.items()} == {
        "alias": ["TCP"],
        "forwarded": ["TCP"],
        "given": ["TCP"],
        "proxied": ["program"],
        "jumped": ["channel", "TCP"],
        "jumped-twice": ["channel", "channel", "TCP"],
    }


@pytest.mark.parametrize("way", ["dropping", "jumped-dropping"])
def test_a_silent_command_outlives_a_router_that_forgets_idle_connections(site: Site, tmp_path: Path, way: str) -> None:
    assert probe(tmp_path, site.inventory(way, prepared=True), "silence") == {way: ["answered"]}


def test_without_keep_alives_such_a_router_ends_it(site: Site, tmp_path: Path) -> None:
    results = probe(tmp_path, site.inventory("dropping", prepared=False), "silence")
    assert results["dropping"] != ["answered"]


def test_a_host_that_is_away_leaves_no_connections_on_its_jump_host(site: Site, tmp_path: Path) -> None:
    with servers.server(tmp_path / "target", "127.0.9.4", site.directory / "operator") as target:
        (tmp_path / "known_hosts").write_text((site.directory / "known_hosts").read_text() + target.host_key())
        (tmp_path / "config").write_text(
            site.config.read_text().replace(f"{site.directory}/known_hosts", f"{tmp_path}/known_hosts")
            + _alias("leaving", target, site.directory, "ProxyJump jump").replace(
                f"{site.directory}/known_hosts", f"{tmp_path}/known_hosts"
            )
        )
        inventory = f"nodes = [('leaving', {{'ssh_config_file': {str(tmp_path / 'config')!r}}})]\n"
        environment = {
            "SSHD": str(servers.SSHD),
            "TARGET": str(target.process.pid),
            "CONFIGURATION": str(target.configuration),
            "JUMP": str(site.jump.process.pid),
        }
        result = probe(tmp_path, inventory, "returning", environment)["leaving"]
    assert (result["up"], result["down"], result["back"]) == ([True] * 3, [False] * 5, True)
    assert result["answer"] == ["answered"]
    assert max(result["counts"]) <= result["counts"][0], result["counts"]


@pytest.mark.parametrize("way", ["alias", "jumped"])
def test_a_dry_run_reads_the_host_with_a_sudo_password(site: Site, tmp_path: Path, way: str) -> None:
    # The preflight refuses this for every host, so that no machine on which the test runs comes into question.
    profile = {"gevulot_seccomp_profile": "/nowhere/profile.json"}
    data = {"_sudo": True, "_sudo_password": PASSWORD, "gevulot_psk_passphrase": PASSPHRASE, **profile}
    run = servers.pyinfra(tmp_path, site.inventory(way, **data), str(ROOT / "deploys/node.py"), "--dry")
    output = words(run)
    assert run.returncode != 0
    assert f"{way}: gevulot_seccomp_profile is /nowhere/profile.json" in output
    assert PASSWORD not in output


def test_a_sudo_password_that_sudo_refuses_is_one_sentence(site: Site, tmp_path: Path) -> None:
    data = {"_sudo": True, "_sudo_password": "another password", "gevulot_psk_passphrase": PASSPHRASE}
    run = servers.pyinfra(tmp_path, site.inventory("alias", **data), str(ROOT / "deploys/node.py"), "--dry")
    output = words(run)
    assert run.returncode != 0
    assert "alias: commands cannot be run as root" in output, output
    assert "sudo: 1 incorrect password attempt" in output, output
    assert "another password" not in output


def test_status_and_collect_read_a_host_behind_a_jump_host(site: Site, tmp_path: Path) -> None:
    inventory = site.inventory("jumped", _sudo=True, _sudo_password=PASSWORD)
    status = words(servers.pyinfra(tmp_path, inventory, str(ROOT / "deploys/status.py"), "-y"))
    row = next(line.split() for line in status.splitlines() if line.startswith("jumped "))
    assert row[1] != "down", status
    collect = words(servers.pyinfra(tmp_path, inventory, str(ROOT / "deploys/collect.py"), "-y"))
    assert (tmp_path / "jumped.collected.json").exists(), collect


def test_arguments_that_break_commands_are_refused_for_all_hosts_before_one_is_asked(
    site: Site, tmp_path: Path
) -> None:
    log = site.host.directory / "log"
    before = log.read_text().count("Starting session")
    data = {"_use_sudo_login": True, "_sudo": True, "_sudo_password": PASSWORD, "gevulot_psk_passphrase": PASSPHRASE}
    inventory = site.inventory("alias", "jumped", **data)
    for deploy in ("node", "undo"):
        output = words(servers.pyinfra(tmp_path, inventory, str(ROOT / f"deploys/{deploy}.py"), "-y"))
        for way in ("alias", "jumped"):
            assert f"{way}: _use_sudo_login is True: a login shell reads the command a second time" in output
        assert "no host was changed" in output
        assert PASSWORD not in output
    status = words(servers.pyinfra(tmp_path, inventory, str(ROOT / "deploys/status.py"), "-y"))
    assert status.count("_use_sudo_login is True") == 2
    assert log.read_text().count("Starting session") == before


# --- host keys


def test_a_host_key_that_is_not_the_known_one_is_one_sentence(site: Site, tmp_path: Path) -> None:
    changed, unknown, new, aliased = (tmp_path / name for name in ("changed", "unknown", "new", "aliased"))
    name = f"[{site.host.address}]:{site.host.port}"
    changed.write_text(f"{name} {site.jump.host_key().partition(' ')[2]}")
    unknown.touch()
    new.touch()
    aliased.touch()
    login = {
        "ssh_hostname": site.host.address,
        "ssh_port": site.host.port,
        "ssh_key": str(site.directory / "operator"),
        "ssh_config_file": "/dev/null",
    }
    hosts = [
        ("changed", {**login, "ssh_known_hosts_file": str(changed)}),
        ("unknown", {**login, "ssh_known_hosts_file": str(unknown), "ssh_strict_host_key_checking": "yes"}),
        ("new", {**login, "ssh_known_hosts_file": str(new)}),
        # pyinfra has a default of its own, which comes before ssh_config's "yes".
        ("alias", {"ssh_config_file": str(site.config), "ssh_known_hosts_file": str(aliased)}),
    ]
    run = servers.pyinfra(tmp_path, f"nodes = {hosts!r}\n", "-y", "exec", "--", "true")
    output = words(run)
    assert f"[changed] SSH host key error (Host key for {site.host.address} does not match.)" in output
    assert f"ssh-keygen -R {name}" in output
    assert f"[unknown] SSH error (StrictPolicy: No host key for {name} found in known_hosts)" in output
    assert "[new] Connected" in output
    assert "[alias] Connected" in output
    assert new.read_text().strip() == site.host.host_key().strip()
    assert unknown.read_text() == ""
