"""The table at the end: what a node must be, against what was read back from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from deploys.assessment.kernel_arguments import REMAPPING_OFF, holds
from deploys.assessment.verdict import Verdict
from deploys.manifest import GPU_DEVICES, MIGRATION_UNIT, NODE_CONTAINER
from deploys.settings import Settings
from facts.access import AccessKeys
from facts.container import ContainerState
from facts.database import Schema
from facts.firewall import Firewall, Table
from facts.kernel import CommandLines, Module
from facts.node import NodeResources
from facts.pci import DeviceUsage
from facts.unit import Unit
from pcibind.decide import judgement
from pcibind.decide.guards import check_firmware
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Board, Topology
from pcibind.read.initramfs import Contents


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. ``passed`` is ``None`` for what is shown and not judged."""

    name: str
    actual: str
    passed: bool | None
    expected: str = ""


def kernel(lines: CommandLines, arguments: tuple[str, ...], remapping: bool, *, node: bool = True) -> list[Check]:
    wanted = " ".join(arguments)
    live, configured = holds(lines, arguments, node=node)
    lacks = "not in the entry that boots next" if lines.next else "could not match an entry"
    return [
        Check("kernel arguments, live", wanted if live else " ".join(lines.live), live, wanted),
        Check("kernel arguments, configured", wanted if configured else lacks, configured, wanted),
        Check("interrupt remapping", "on" if remapping else "off", remapping, f"on; {REMAPPING_OFF}"),
    ]


def modules(present: dict[str, Module], names: Iterable[str]) -> Check:
    missing = [name for name in names if name not in present or not present[name].loaded]
    return Check("kernel modules", f"not loaded: {', '.join(missing)}" if missing else "loaded", not missing, "loaded")


def board(topology: Topology, wanted: Board) -> list[Check]:
    """One board: every function on vfio-pci, and nothing else but it and bridges in its groups."""
    board = topology.board_at(wanted.path)
    if board is None:
        return [Check(f"board {wanted.path}", "not present", False, wanted.model)]
    drivers = [f".{function.number} {function.driver or 'no driver'}" for function in board.functions]
    bound = all(function.driver == "vfio-pci" for function in board.functions)
    grouped = bool(board.groups) and all(function.iommu_group is not None for function in board.functions)
    strangers = judgement.list_blocking_functions(topology, board)
    return [
        Check(
            f"board {board.address} ({board.model})",
            f"{len(drivers)} functions on vfio-pci" if bound else ", ".join(drivers),
            bound,
            "every function on vfio-pci",
        ),
        Check(
            f"IOMMU group of {board.address}",
            f"held by host drivers: {', '.join(strangers)}"
            if strangers
            else ", ".join(map(str, board.groups)) or "none",
            grouped and not strangers,
            "a group without host drivers",
        ),
    ]


def firmware(usage: DeviceUsage | None, boards: Iterable[Board], allowed: Iterable[str]) -> list[Check]:
    """Whether the firmware left each board so that a virtual machine can have it."""
    right = "each function answers, all memory has an address"
    checks = []
    for each in boards:
        wrong = [
            refusal.found
            for refusal in check_firmware(each, usage.evidence if usage else Evidence())
            if refusal.guard not in allowed
        ]
        actual = "not read" if usage is None else "; ".join(wrong) or right
        checks.append(Check(f"firmware's work on {each.address}", actual, None if usage is None else not wrong, right))
    return checks


def devices(parts: NodeResources, boards: Iterable[Board]) -> list[Check]:
    """The device nodes that a workload opens to use the boards."""
    checks = [_device("/dev/kvm", parts)]
    for group in sorted({group for each in boards for group in each.groups}):
        path = f"/dev/vfio/{group}"
        entry = parts.devices.get(path)
        owner = entry.owner if entry else "missing"
        checks.append(Check(path, owner, owner == "root:kvm", "root:kvm"))
    return checks


def sockets(parts: NodeResources) -> list[Check]:
    """The devices through which a node and its virtual machines talk."""
    return [_device(path, parts) for path in ("/dev/vsock", "/dev/vhost-vsock")]


def _device(path: str, parts: NodeResources) -> Check:
    return Check(path, "present" if path in parts.devices else "missing", path in parts.devices, "present")


def account(parts: NodeResources, settings: Settings) -> list[Check]:
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


def key(parts: NodeResources, settings: Settings, state: str) -> list[Check]:
    entry = parts.paths.get(f"{settings.key_directory}/node.key")
    good = entry is not None and (entry.mode, entry.owner, entry.size) == ("600", "root:root", 32)
    actual = f"{entry.size} bytes, {entry.mode} {entry.owner}" if entry else "missing"
    return [
        Check("node key", actual, good, "32 bytes, 600 root:root"),
        Check("node key's fingerprint", state, state == "ok", "ok"),
        Check("public key", f"{parts.public_key[:20]}…" if parts.public_key else "not shown by this image", None),
    ]


def schema(schema: Schema | None, settings: Settings, route: str) -> list[Check]:
    """The database's release and tables. ``route`` says how it was asked."""
    if schema is None:
        return [Check("database", f"no answer ({route})", False, "reachable with the password")]
    wanted = str(settings.postgres_release) if settings.own_postgres else "15 or 16"
    fits = str(schema.release) == wanted if settings.own_postgres else schema.release in (15, 16)
    missing = schema.missing
    return [
        Check("database", f"reachable, release {schema.release} ({route})", fits, f"release {wanted}"),
        Check(
            "database schema",
            f"missing: {', '.join(missing)}" if missing else "12 tables, migrations recorded",
            not missing,
            "12 tables, migrations recorded",
        ),
    ]


def database(answer: Schema | None, settings: Settings, route: str, accepts_anybody: bool) -> list[Check]:
    """The rows of ``schema``, and of the node's own database that of ``loopback``, which means nothing alone."""
    rows = schema(answer, settings, route)
    return [*rows, loopback(accepts_anybody)] if answer is not None and settings.own_postgres else rows


def loopback(accepts_anybody: bool) -> Check:
    """Whether the node's own database accepts a login over loopback without a password."""
    name = "database on loopback without password"
    return Check(name, "accepted" if accepts_anybody else "refused", not accepts_anybody, "refused")


def hand_over(fifo: str, waiting: bool) -> Check:
    """The key's way into the container is closed once the node has read it."""
    actual = f"{fifo} still waits for the node" if waiting else "done, nothing left of it"
    return Check("node key's hand-over", actual, not waiting, "done, nothing left of it")


def _holding(mounts: Iterable[str], directory: str) -> list[str]:
    """Those of the mounts that hold a directory or a part of it."""
    wanted = PurePosixPath(directory)
    paths = [PurePosixPath(mount) for mount in mounts]
    return sorted(str(each) for each in paths if wanted.is_relative_to(each) or each.is_relative_to(wanted))


def container(state: ContainerState | None, settings: Settings, boards: list[Board]) -> list[Check]:
    """The node's container: it runs with the settings asked for, and has exactly the chosen boards' devices."""
    if state is None or not state.running:
        return [Check(f"container {NODE_CONTAINER}", "not running", False, "running")]
    functions = [
        str(function.address)
        for each in boards
        for function in (each.display_functions if settings.gpu_functions == "display" else each.functions)
    ]
    groups = {f"/dev/vfio/{group}" for each in boards for group in each.groups}
    given = {device for device in state.devices if re.fullmatch(r"/dev/vfio/[0-9]+", device)}
    holding = _holding(state.mounts, settings.key_directory)
    value = state.environment.get(GPU_DEVICES)
    listed = set((value or "").split(",")) - {""}
    return [
        Check(f"container {NODE_CONTAINER}", f"running, image {state.image[:19]}", True, "running"),
        _environment(state, settings),
        Check(
            GPU_DEVICES,
            "not set" if value is None else value or "empty",
            listed == set(functions) and (value is None) == (not boards) and value != "",
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


def access(access: AccessKeys, settings: Settings, published: str) -> Check:
    """Whether the node accepts its own results. ``published`` says what the list at a URL has, if one is set."""
    what = "own key may submit"
    if access.own_is_listed:
        return Check(what, "yes", True, "yes")
    if published:
        return Check(what, f"not yet; {published}", None)
    if access.own is not None and access.listed is None and not settings.own_postgres:
        return Check(what, "the external database was not read; no forwarding", None)
    no = "its public key is not known" if access.own is None else "no" if access.listed is not None else "not read"
    step = "run deploys/node.py" if settings.acl_whitelist_url is None else "see gevulot_acl_whitelist_url"
    return Check(what, no, False, f"yes; {step}")


def environment(variables: list[str] | None, settings: Settings) -> Check:
    """The node serves any file of its host to its peers, its environment too. An external URL has its password."""
    what = "database password in the node's environment"
    if not settings.own_postgres:
        return Check(what, f"in {', '.join(variables)}, as of an external database" if variables else "none", None)
    named = "not read" if variables is None else ", ".join(variables) or "none"
    return Check(what, named, variables == [], "none")


def units(units: dict[str, Unit], wanted: Iterable[str]) -> list[Check]:
    """A row for each of the wanted units, which are to be active. One whose file is gone does not start again."""
    rows = []
    for name in wanted:
        unit = units.get(name)
        passed = unit is not None and unit.load == "loaded" and unit.running
        rows.append(Check(name, _state(unit), passed, "active"))
    return rows


def migration(units: dict[str, Unit]) -> Check:
    """A oneshot that has finished is inactive again; what counts is its result."""
    unit = units.get(MIGRATION_UNIT)
    if unit is None or unit.load != "loaded":
        return Check(MIGRATION_UNIT, _state(unit), False, "success")
    return Check(MIGRATION_UNIT, f"{unit.active} ({unit.result or unit.sub})", unit.result == "success", "success")


def _state(unit: Unit | None) -> str:
    if unit is None:
        return "unknown"
    if unit.load != "loaded":
        return unit.load
    return f"{unit.active} ({unit.sub if unit.running else unit.result or unit.sub})"


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


def peers(firewall: Firewall | None, settings: Settings) -> Check:
    """Who may reach the peer-to-peer ports, by the kernel's table and by where something listens."""
    what = f"who may reach {' and '.join(map(str, settings.p2p_ports))}"
    wanted = _table(settings) if settings.peer_networks else None
    rules = [each for each in firewall.table.rules if each.startswith(_OF_PEERS)] if firewall and firewall.table else []
    names = ", ".join(wanted.networks) if wanted else "everybody" if settings.open_to_any else "loopback only"
    if firewall is None:
        return Check(what, "unknown: the ports and the table could not be read", False, names)
    if wanted is not None:
        if firewall.table is None or not rules:
            state = "is missing" if firewall.table is None else "does not restrict them"
            return Check(what, f"everybody: the nftables table inet gevulot {state}", False, names)
        if firewall.table.networks != wanted.networks:
            return Check(what, f"other networks: {', '.join(firewall.table.networks) or 'none'}", False, names)
        if tuple(rules) != wanted.rules:
            return Check(what, "unknown: the nftables table inet gevulot has other rules", False, names)
        return Check(what, names, True, names)
    if rules:
        return Check(what, "networks that are not asked for, by the table inet gevulot", False, names)
    if settings.open_to_any:
        return Check(what, "everybody, as gevulot_peers says", None)
    outside = sorted(firewall.outside & set(settings.p2p_ports))
    if outside:
        ports = " and ".join(map(str, outside))
        return Check(what, f"everybody: a program listens on {ports} outside of loopback", False, names)
    return Check(what, names, True, names)


def saved_rules(firewall: Firewall | None) -> list[Check]:
    """A saved ruleset with the node's table: it names a cgroup, which does not exist when a boot loads the file.

    Only what nftables.service loads by itself is judged; of another file nobody knows whether something includes it.
    """
    what, right = "saved rulesets", "only the host's own tables"
    advice = "has the table inet gevulot, so a boot that loads it refuses all of the file; remove that table from it"
    return [
        Check(what, f"{path} {advice}", False if path in _LOADED_AT_BOOT else None, right)
        for path in (firewall.saved if firewall else ())
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
    return [present for each in verdict.boards if (present := topology.board_at(each.path)) is not None]


def table(host: str, checks: list[Check]) -> list[str]:
    """Return the checks as lines of text, the failed ones with what was expected."""
    width = max(len(check.name) for check in checks)
    lines = [f"What was verified on {host}:"]
    for check in checks:
        mark = {True: "ok  ", False: "FAIL", None: "    "}[check.passed]
        expected = f"  (expected {check.expected})" if check.passed is False else ""
        lines.append(f"  {mark} {check.name:<{width}}  {check.actual}{expected}")
    passed, failed = (sum(check.passed is each for check in checks) for each in (True, False))
    lines.append(f"  {passed} passed, {failed} failed")
    return lines
