"""The table at the end: what a node must be, against what was read back from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from deploys.assessment.kernel_arguments import REMAPPING_OFF, effective
from deploys.assessment.verdict import Verdict
from deploys.settings import Settings
from facts.access import Access
from facts.container import GPU_DEVICES, ContainerState
from facts.database import Schema
from facts.firewall import Firewall, Table
from facts.kernel import CommandLines, Module
from facts.node import Parts
from facts.pci import Usage
from facts.unit import Unit
from pcibind.decide import judgement
from pcibind.decide.guards import check_firmware
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Board, Topology
from pcibind.read.initramfs import Contents


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. ``ok`` is ``None`` for what is shown and not judged."""

    what: str
    found: str
    ok: bool | None
    expected: str = ""


def kernel(lines: CommandLines, arguments: tuple[str, ...], remapping: bool, *, node: bool = True) -> list[Check]:
    wanted = " ".join(arguments)
    live = effective(lines.live, arguments, node=node)
    configured = bool(lines.next) and all(effective(line, arguments, node=node) for line in lines.next)
    lacks = "not in the entry that boots next" if lines.next else "could not match an entry"
    return [
        Check("kernel arguments, live", wanted if live else " ".join(lines.live), live, wanted),
        Check("kernel arguments, configured", wanted if configured else lacks, configured, wanted),
        Check("interrupt remapping", "on" if remapping else "off", remapping, f"on; {REMAPPING_OFF}"),
    ]


def modules(found: dict[str, Module], names: Iterable[str]) -> Check:
    missing = [name for name in names if name not in found or not found[name].loaded]
    return Check("kernel modules", f"not loaded: {', '.join(missing)}" if missing else "loaded", not missing, "loaded")


def board(topology: Topology, wanted: Board) -> list[Check]:
    """One board: every function on vfio-pci, and nothing else but it and bridges in its groups."""
    found = topology.board_at(wanted.path)
    if found is None:
        return [Check(f"board {wanted.path}", "not present", False, wanted.model)]
    drivers = [f".{function.number} {function.driver or 'no driver'}" for function in found.functions]
    bound = all(function.driver == "vfio-pci" for function in found.functions)
    grouped = bool(found.groups) and all(function.iommu_group is not None for function in found.functions)
    strangers = judgement.list_blocking_functions(topology, found)
    return [
        Check(
            f"board {found.address} ({found.model})",
            f"{len(drivers)} functions on vfio-pci" if bound else ", ".join(drivers),
            bound,
            "every function on vfio-pci",
        ),
        Check(
            f"IOMMU group of {found.address}",
            f"held by host drivers: {', '.join(strangers)}"
            if strangers
            else ", ".join(map(str, found.groups)) or "none",
            grouped and not strangers,
            "a group without host drivers",
        ),
    ]


def firmware(usage: Usage | None, boards: Iterable[Board], allowed: Iterable[str]) -> list[Check]:
    """Whether the firmware left each board so that a virtual machine can have it."""
    right = "each function answers, all memory has an address"
    checks = []
    for each in boards:
        wrong = [
            refusal.found
            for refusal in check_firmware(each, usage.evidence if usage else Evidence())
            if refusal.guard not in allowed
        ]
        found = "not read" if usage is None else "; ".join(wrong) or right
        checks.append(Check(f"firmware's work on {each.address}", found, None if usage is None else not wrong, right))
    return checks


def devices(parts: Parts, boards: Iterable[Board]) -> list[Check]:
    """The device nodes that a workload opens to use the boards."""
    checks = [_device("/dev/kvm", parts)]
    for group in sorted({group for each in boards for group in each.groups}):
        path = f"/dev/vfio/{group}"
        entry = parts.devices.get(path)
        owner = entry.owner if entry else "missing"
        checks.append(Check(path, owner, owner == "root:kvm", "root:kvm"))
    return checks


def sockets(parts: Parts) -> list[Check]:
    """The devices through which a node and its virtual machines talk."""
    return [_device(path, parts) for path in ("/dev/vsock", "/dev/vhost-vsock")]


def _device(path: str, parts: Parts) -> Check:
    return Check(path, "present" if path in parts.devices else "missing", path in parts.devices, "present")


def account(parts: Parts, settings: Settings) -> list[Check]:
    storage = parts.paths.get(settings.storage_directory)
    return [
        Check("user gevulot", f"groups {' '.join(sorted(parts.groups))}", {"gevulot", "kvm"} <= parts.groups, "in kvm"),
        Check(
            f"storage {settings.storage_directory}",
            f"{storage.mode} {storage.owner}, on {parts.mount}" if storage else "missing",
            storage is not None and (storage.mode, storage.owner) == ("750", "root:gevulot"),
            "750 root:gevulot",
        ),
        Check(
            "mount that the node requires",
            parts.required_mounts or "none",
            settings.storage_directory in parts.required_mounts.split(),
            settings.storage_directory,
        ),
    ]


def key(parts: Parts, settings: Settings, state: str) -> list[Check]:
    entry = parts.paths.get(f"{settings.key_directory}/node.key")
    good = entry is not None and (entry.mode, entry.owner, entry.size) == ("600", "root:root", 32)
    found = f"{entry.size} bytes, {entry.mode} {entry.owner}" if entry else "missing"
    return [
        Check("node key", found, good, "32 bytes, 600 root:root"),
        Check("node key's fingerprint", state, state == "ok", "ok"),
        Check("public key", f"{parts.public_key[:20]}…" if parts.public_key else "not shown by this image", None),
    ]


def database(found: Schema | None, settings: Settings, seen_from: str, open_to_loopback: bool) -> list[Check]:
    if found is None:
        return [Check("database", f"no answer ({seen_from})", False, "reachable with the password")]
    wanted = str(settings.postgres_release) if settings.own_postgres else "15 or 16"
    fits = str(found.release) == wanted if settings.own_postgres else found.release in (15, 16)
    missing = found.missing
    checks = [
        Check("database", f"reachable, release {found.release} ({seen_from})", fits, f"release {wanted}"),
        Check(
            "database schema",
            f"missing: {', '.join(missing)}" if missing else "12 tables, migrations recorded",
            not missing,
            "12 tables, migrations recorded",
        ),
    ]
    if settings.own_postgres:
        checks.append(
            Check(
                "database on loopback without password",
                "lets anybody in" if open_to_loopback else "refused",
                not open_to_loopback,
                "refused",
            )
        )
    return checks


def hand_over(fifo: str, waiting: bool) -> Check:
    """The key's way into the container is closed once the node has read it."""
    found = f"{fifo} still waits for the node" if waiting else "done, nothing left of it"
    return Check("node key's hand-over", found, not waiting, "done, nothing left of it")


def _holding(mounts: Iterable[str], directory: str) -> list[str]:
    """Those of the mounts that hold a directory or a part of it."""
    wanted = PurePosixPath(directory)
    paths = [PurePosixPath(mount) for mount in mounts]
    return sorted(str(each) for each in paths if wanted.is_relative_to(each) or each.is_relative_to(wanted))


def container(state: ContainerState | None, settings: Settings, boards: list[Board]) -> list[Check]:
    """The node's container: it runs with the settings asked for, and has exactly the chosen boards' devices."""
    if state is None or not state.running:
        return [Check("container gevulot-node", "not running", False, "running")]
    functions = [
        str(function.address)
        for each in boards
        for function in (each.display_functions if settings.gpu_functions == "display" else each.functions)
    ]
    groups = {f"/dev/vfio/{group}" for each in boards for group in each.groups}
    given = {device for device in state.devices if re.fullmatch(r"/dev/vfio/[0-9]+", device)}
    holding = _holding(state.mounts, settings.key_directory)
    listed = set((state.gpu_devices or "").split(",")) - {""}
    return [
        Check("container gevulot-node", f"running, image {state.image[:19]}", True, "running"),
        _environment(state, settings),
        Check(
            GPU_DEVICES,
            "not set" if state.gpu_devices is None else state.gpu_devices or "empty",
            listed == set(functions) and (state.gpu_devices is None) == (not boards) and state.gpu_devices != "",
            ",".join(functions) or "not set",
        ),
        Check(
            "VFIO groups in the container",
            " ".join(sorted(given)) or "none",
            given == groups,
            " ".join(sorted(groups)) or "none",
        ),
        Check(
            "node key in the container",
            f"can be read: {', '.join(holding)} is mounted" if holding else "not mounted",
            not holding,
            "not mounted",
        ),
    ]


def _environment(state: ContainerState, settings: Settings) -> Check:
    """Whether the node started with the settings of today. What a setting leaves to the image is not judged."""
    asked = settings.environment()
    differ = [
        f"{name} is {state.environment[name]!r}" if name in state.environment else f"{name} is not set"
        for name, value in asked.items()
        if state.environment.get(name) != value
    ]
    expected = ", ".join(f"{name}={asked[name]}" for name in asked if state.environment.get(name) != asked[name])
    return Check("settings in the container", "; ".join(differ) or f"{len(asked)} as asked", not differ, expected)


def access(found: Access, settings: Settings, published: str) -> Check:
    """Whether the node accepts its own results. ``published`` says what the list at a URL has, if one is set."""
    what = "own key may submit"
    if found.own_is_listed:
        return Check(what, "yes", True, "yes")
    if published:
        return Check(what, f"not yet; {published}", None)
    if found.own is not None and found.listed is None and not settings.own_postgres:
        return Check(what, "the external database was not read; no forwarding", None)
    no = "its public key is not known" if found.own is None else "no" if found.listed is not None else "not read"
    return Check(what, no, False, "yes")


def environment(found: list[str] | None, settings: Settings) -> Check:
    """The node serves any file of its host to its peers, its environment too. An external URL has its password."""
    what = "database password in the node's environment"
    if not settings.own_postgres:
        return Check(what, f"in {', '.join(found)}, as of an external database" if found else "none", None)
    named = "not read" if found is None else ", ".join(found) or "none"
    return Check(what, named, found == [], "none")


def units(found: dict[str, Unit], wanted: Iterable[str]) -> list[Check]:
    return [
        Check(name, f"{found[name].active} ({found[name].sub})" if name in found else "unknown",
              name in found and found[name].running, "active")
        for name in wanted
    ]  # fmt: skip


def migration(found: dict[str, Unit]) -> Check:
    """A oneshot that is done is inactive again; what counts is its result."""
    unit = found.get("gevulot-migrate.service")
    good = unit is not None and unit.load == "loaded" and unit.result == "success"
    return Check("gevulot-migrate.service", f"{unit.active}, {unit.result}" if unit else "unknown", good, "success")


def port(number: int, answer: str) -> Check:
    ok = {"closed": True, "open": False}.get(answer)
    return Check(f"port {number} from outside", answer, ok, "closed")


_OF_PEERS = ("chain input ", "input: ")


def _table(settings: Settings) -> Table:
    """The table that keeps everybody but the named networks from the peer-to-peer ports, as the kernel shows it."""
    ports = f"tcp dport {{ {', '.join(map(str, sorted(settings.p2p_ports)))} }}"
    networks = settings.peer_networks
    rules = ["chain input filter input -10 accept", "input: iifname lo accept"]
    if any(network.version == 4 for network in networks):
        rules.append(f"input: {ports} ip saddr @peers4 accept")
    if any(network.version == 6 for network in networks):
        rules.append(f"input: {ports} ip6 saddr @peers6 accept")
    return Table(tuple(map(str, networks)), (*rules, f"input: {ports} drop"))


def peers(found: Firewall | None, settings: Settings) -> Check:
    """Who may reach the peer-to-peer ports, by the kernel's table and by where something listens."""
    what = f"who may reach {' and '.join(map(str, settings.p2p_ports))}"
    wanted = _table(settings) if settings.peer_networks else None
    rules = [each for each in found.table.rules if each.startswith(_OF_PEERS)] if found and found.table else []
    names = ", ".join(wanted.networks) if wanted else "everybody" if settings.open_to_any else "loopback only"
    if found is None:
        return Check(what, "unknown: the ports and the table could not be read", False, names)
    if wanted is not None:
        if found.table is None or not rules:
            state = "is missing" if found.table is None else "does not restrict them"
            return Check(what, f"everybody: the nftables table inet gevulot {state}", False, names)
        if found.table.networks != wanted.networks:
            return Check(what, f"other networks: {', '.join(found.table.networks) or 'none'}", False, names)
        if tuple(rules) != wanted.rules:
            return Check(what, "unknown: the nftables table inet gevulot has other rules", False, names)
        return Check(what, names, True, names)
    if rules:
        return Check(what, "networks that are not asked for, by the table inet gevulot", False, names)
    if settings.open_to_any:
        return Check(what, "everybody, as gevulot_peers says", None)
    outside = sorted(found.outside & set(settings.p2p_ports))
    if outside:
        ports = " and ".join(map(str, outside))
        return Check(what, f"everybody: a program listens on {ports} outside of loopback", False, names)
    return Check(what, names, True, names)


def saved_rules(found: Firewall | None) -> list[Check]:
    """A saved ruleset with the node's table: it names a cgroup, which does not exist when a boot loads the file.

    Only what nftables.service loads by itself is judged; of another file nobody knows whether something includes it.
    """
    what, right = "saved rulesets", "only the host's own tables"
    advice = "has the table inet gevulot, so a boot that loads it refuses all of the file; remove that table from it"
    return [
        Check(what, f"{path} {advice}", False if path in _LOADED_AT_BOOT else None, right)
        for path in (found.saved if found else ())
    ]


_LOADED_AT_BOOT = ("/etc/nftables.conf", "/etc/sysconfig/nftables.conf")


def initramfs(stale: list[str], contents: Contents) -> Check:
    wrong = contents.outdated(stale)
    right = f"newer than /etc; {contents.unknown[0]}" if contents.unknown else "holds what /etc says"
    return Check("initramfs", wrong[0] if wrong else right, not wrong, "what /etc says")


def enabled(unit: Unit | None) -> Check:
    """pcibind's unit must also run at the next boot."""
    state = unit.enabled if unit else "unknown"
    return Check("pcibind.service at the next boot", state, state == "enabled", "enabled")


def verdict_boards(topology: Topology, verdict: Verdict) -> list[Board]:
    """The chosen boards as they are now: numbers may have changed since the preflight."""
    return [found for each in verdict.boards if (found := topology.board_at(each.path)) is not None]


def table(host: str, checks: list[Check]) -> list[str]:
    """The checks as lines of text, the failed ones with what was expected."""
    width = max(len(check.what) for check in checks)
    lines = [f"What was verified on {host}:"]
    for check in checks:
        mark = {True: "ok  ", False: "FAIL", None: "    "}[check.ok]
        expected = f"  (expected {check.expected})" if check.ok is False else ""
        lines.append(f"  {mark} {check.what:<{width}}  {check.found}{expected}")
    wrong = sum(check.ok is False for check in checks)
    lines.append(f"  {sum(check.ok is True for check in checks)} right, {wrong} wrong")
    return lines
