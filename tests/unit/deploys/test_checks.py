"""The table at the end: nothing wrong gives no failed line, and every wrong thing gives one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from deploys import settings
from deploys.assessment import checks
from deploys.assessment.checks import Check
from deploys.manifest import GPU_DEVICES
from deploys.preflight import Verdict
from deploys.settings import Settings
from facts.access import AccessKeys
from facts.container import ContainerState
from facts.database import MIGRATIONS, TABLES, Schema
from facts.firewall import Firewall, parse
from facts.kernel import CommandLines, Module
from facts.node import NodeResources, PathEntry
from facts.pci import PciUsage
from facts.unit import Unit
from pcibind.model.pci import Topology
from pcibind.read.initramfs import Contents
from pcibind.remote import topology_text
from tests.unit.deploys.recorded import BOUND, Pci, evidence, gpu, topology

ARGUMENTS = ("intel_iommu=on", "iommu=pt")
ON = ("ro", *ARGUMENTS)
KEY = "/var/lib/gevulot/key/node.key"
OWN, OTHER = "04" + "a" * 128, "04" + "b" * 128
SETTINGS = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one"})


def read(*functions: Pci) -> Topology:
    return topology_text.parse(topology(*functions))


TWO_FUNCTIONS = {GPU_DEVICES: "0000:01:00.0,0000:01:00.1"}


def unit(name: str, **changes: Any) -> Unit:
    return replace(Unit(name, "loaded", "active", "running", "success", False, "generated", 1), **changes)


ENVIRONMENT = SETTINGS.environment()
CONTAINER = ContainerState(
    True, "sha256:0a1b", "node:1", frozenset({"/dev/vfio/12", "/dev/kvm"}),
    ENVIRONMENT | {GPU_DEVICES: "0000:01:00.0"}, frozenset({"/var/lib/gevulot/data", "/run/gevulot-key"}),
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """What is read back of a node that is all right."""

    settings: Settings = SETTINGS
    lines: CommandLines = CommandLines(ON, (ON, ON))  # noqa: RUF009
    remapping: bool = True
    modules: tuple[Module, ...] = (Module("vfio_pci", "module", True),)
    topology: Topology = read(*gpu(1, 1, drivers=BOUND, group=12))  # noqa: RUF009
    parts: NodeResources = NodeResources(  # noqa: RUF009
        {
            **{path: PathEntry(path, "660", "root:kvm") for path in ("/dev/kvm", "/dev/vfio/12")},
            **{path: PathEntry(path, "666", "root:root") for path in ("/dev/vsock", "/dev/vhost-vsock")},
        },
        {
            KEY: PathEntry(KEY, "600", "root:root", 32),
            "/var/lib/gevulot": PathEntry("/var/lib/gevulot", "750", "root:gevulot", 4096),
        },
        frozenset({"gevulot", "kvm"}),
        None,
        "/",
        "/var/lib/gevulot",
    )
    key_state: str = "ok"
    schema: Schema | None = Schema(16, TABLES | {MIGRATIONS})  # noqa: RUF009
    open_to_loopback: bool = False
    container: ContainerState | None = CONTAINER
    environment: tuple[str, ...] | None = ()
    access: AccessKeys = AccessKeys(OWN, frozenset({OWN}), frozenset({OWN}))  # noqa: RUF009
    published: str = ""
    waiting: bool = False
    units: tuple[Unit, ...] = (
        unit("gevulot-node.service"),
        unit("gevulot-migrate.service", active="inactive", sub="dead"),
    )
    binder: Unit | None = unit("pcibind.service", enabled="enabled")  # noqa: RUF009
    stale: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    port: str = "closed"

    def failed(self) -> list[Check]:
        """The failed lines of the whole table."""
        wanted = read(*gpu(1, 1)).boards()
        units = {each.name: each for each in self.units}
        boards = checks.verdict_boards(self.topology, Verdict((), (), boards=wanted))
        rows = [
            *checks.kernel(self.lines, ARGUMENTS, self.remapping),
            checks.modules({each.name: each for each in self.modules}, ("vfio_pci",)),
            *checks.board(self.topology, wanted[0]),
            *checks.devices(self.parts, boards),
            *checks.sockets(self.parts),
            *checks.account(self.parts, self.settings),
            *checks.key(self.parts, self.settings, self.key_state),
            *checks.database(self.schema, self.settings, "here", self.open_to_loopback),
            *checks.container(self.container, self.settings, boards),
            checks.environment(None if self.environment is None else list(self.environment), self.settings),
            checks.access(self.access, self.settings, self.published),
            checks.hand_over("/run/gevulot-key/node.key", self.waiting),
            *checks.units(units, ("gevulot-node.service",)),
            checks.migration(units),
            checks.port(5432, self.port),
            checks.initramfs(self.stale, Contents(images={"/boot/i": self.held})),
            checks.enabled(self.binder),
        ]
        return [check for check in rows if check.passed is False]


@pytest.mark.parametrize(
    ("lines", "ok", "expected"),
    [
        ((), True, "each function answers, all memory has an address"),
        ((f"config 0000:01:00.0 {' '.join(['ffffffff'] * 16)}",), False, "0000:01:00.0 does not answer"),
        (("memory 0000:01:00.0 1 0x0 0x1ffffffff 0x2014220c",), False, "memory range 1 of 0000:01:00.0 has no address"),
    ],
)
def test_the_firmware_s_work_on_a_board_has_a_row(lines: tuple[str, ...], ok: bool, expected: str) -> None:
    usage = evidence()
    usage_read = PciUsage().process([*usage[:-1], *lines, usage[-1]])
    boards = read(*gpu(1, 1, drivers=BOUND, group=12)).boards()
    (check,) = checks.firmware(usage_read, boards, ())
    assert (check.passed, expected in check.actual) == (ok, True)
    (accepted,) = checks.firmware(usage_read, boards, ("no-response", "unassigned-memory"))
    assert accepted.passed
    (unread,) = checks.firmware(None, boards, ())
    assert unread.passed is None


def with_parts(**changes: Any) -> Callable[[Node], Node]:
    return lambda node: replace(node, parts=replace(node.parts, **changes))


def with_key(**changes: Any) -> Callable[[Node], Node]:
    entry = replace(PathEntry(KEY, "600", "root:root", 32), **changes)
    return lambda node: replace(node, parts=replace(node.parts, paths=node.parts.paths | {KEY: entry}))


def with_storage(**changes: Any) -> Callable[[Node], Node]:
    entry = replace(PathEntry("/var/lib/gevulot", "750", "root:gevulot", 4096), **changes)
    return lambda node: replace(node, parts=replace(node.parts, paths=node.parts.paths | {entry.path: entry}))


def with_container(**changes: Any) -> Callable[[Node], Node]:
    return lambda node: replace(node, container=replace(node.container, **changes))  # type: ignore[type-var]


def without(path: str) -> Callable[[Node], Node]:
    return lambda node: replace(
        node,
        parts=replace(
            node.parts,
            devices={key: value for key, value in node.parts.devices.items() if key != path},
            paths={key: value for key, value in node.parts.paths.items() if key != path},
        ),
    )


def with_(**changes: Any) -> Callable[[Node], Node]:
    return lambda node: replace(node, **changes)


STRANGER = Pci("pci0000:00/0000:00:01.1", 0x1B21, 0x0612, 0x010601, "ahci", 12)
MIGRATION_FAILED = unit("gevulot-migrate.service", active="failed", result="exit-code")


def test_a_node_that_is_all_right_has_no_failed_line() -> None:
    assert Node().failed() == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (with_(lines=CommandLines(("ro",), (ON,))), "kernel arguments, live"),
        (with_(lines=CommandLines(ON, (ON, ("ro",)))), "kernel arguments, configured"),
        (with_(lines=CommandLines(ON, ())), "kernel arguments, configured"),
        (with_(remapping=False), "interrupt remapping"),
        (with_(modules=()), "kernel modules"),
        (with_(modules=(Module("vfio_pci", "module", False),)), "kernel modules"),
        (with_(topology=read(*gpu(1, 1, drivers=("vfio-pci", "snd_hda_intel"), group=12))), "board 0000:01:00.0"),
        (with_(topology=read(*gpu(1, 1, drivers=("vfio-pci", None), group=12))), "board 0000:01:00.0"),
        (with_(topology=read(*gpu(2, 1, drivers=BOUND, group=12))), "board 0000:00/01.0/00"),
        (with_(topology=read(*gpu(1, 1, drivers=BOUND))), "IOMMU group of 0000:01:00.0"),
        (with_(topology=read(*gpu(1, 1, drivers=BOUND, group=12), STRANGER)), "IOMMU group of 0000:01:00.0"),
        (without("/dev/kvm"), "/dev/kvm"),
        (without("/dev/vsock"), "/dev/vsock"),
        (without("/dev/vhost-vsock"), "/dev/vhost-vsock"),
        (without("/dev/vfio/12"), "/dev/vfio/12"),
        (with_parts(groups=frozenset({"gevulot"})), "user gevulot"),
        (with_parts(groups=frozenset()), "user gevulot"),
        (without("/var/lib/gevulot"), "storage /var/lib/gevulot"),
        (with_storage(mode="755"), "storage /var/lib/gevulot"),
        (with_storage(owner="root:root"), "storage /var/lib/gevulot"),
        (with_(stale=["/boot/initrd.img-1 is older than /etc/modprobe.d"]), "initramfs"),
        (with_(held={"/etc/modprobe.d/vfio.conf": "digest"}), "initramfs"),
        (with_(binder=None), "pcibind.service at the next boot"),
        (with_(binder=unit("pcibind.service", enabled="disabled")), "pcibind.service at the next boot"),
        (without(KEY), "node key"),
        (with_key(mode="644"), "node key"),
        (with_key(owner="gevulot:gevulot"), "node key"),
        (with_key(size=64), "node key"),
        (with_(key_state="changed"), "node key's fingerprint"),
        (with_(schema=None), "database"),
        (with_(schema=Schema(15, TABLES | {MIGRATIONS})), "database"),
        (with_(schema=Schema(16, frozenset(TABLES))), "database schema"),
        (with_(schema=Schema(16, frozenset({MIGRATIONS}))), "database schema"),
        (with_(open_to_loopback=True), "database on loopback without password"),
        (with_(environment=("GEVULOT_DB_URL",)), "database password in the node's environment"),
        (with_(environment=None), "database password in the node's environment"),
        (with_(access=AccessKeys(OWN, frozenset({OTHER}), frozenset({OWN}))), "own key may submit"),
        (with_(access=AccessKeys(OWN, None, frozenset({OWN}))), "own key may submit"),
        (with_(access=AccessKeys(None, frozenset({OTHER}), frozenset())), "own key may submit"),
        (with_(container=None), "container gevulot-node"),
        (with_container(running=False), "container gevulot-node"),
        (with_container(environment=ENVIRONMENT), "GEVULOT_GPU_DEVICES"),
        (with_container(environment=ENVIRONMENT | {GPU_DEVICES: ""}), "GEVULOT_GPU_DEVICES"),
        (with_container(environment=ENVIRONMENT | TWO_FUNCTIONS), "GEVULOT_GPU_DEVICES"),
        (with_container(environment=CONTAINER.environment | {"RUST_LOG": "trace"}), "settings in the container"),
        (with_container(devices=frozenset({"/dev/kvm"})), "VFIO groups in the container"),
        (with_container(devices=frozenset({"/dev/vfio/12", "/dev/vfio/13"})), "VFIO groups in the container"),
        (with_container(mounts=frozenset({"/var/lib/gevulot/key"})), "node key in the container"),
        (with_container(mounts=frozenset({"/var/lib/gevulot/key/node.key"})), "node key in the container"),
        (with_container(mounts=frozenset({"/var/lib/gevulot"})), "node key in the container"),
        (with_(waiting=True), "node key's hand-over"),
        (with_(units=(Node.units[1],)), "gevulot-node.service"),
        (with_(units=(unit("gevulot-node.service", active="failed"), Node.units[1])), "gevulot-node.service"),
        (with_(units=(Node.units[0],)), "gevulot-migrate.service"),
        (with_(units=(Node.units[0], MIGRATION_FAILED)), "gevulot-migrate.service"),
        (with_(port="open"), "port 5432 from outside"),
    ],
)  # fmt: skip
def test_each_wrong_thing_gives_a_failed_line_that_says_what_was_expected(
    change: Callable[[Node], Node], what: str
) -> None:
    failed = change(Node()).failed()
    assert any(check.name.startswith(what) for check in failed), [check.name for check in failed]
    assert all(check.expected for check in failed)


def test_all_functions_are_expected_where_they_are_asked_for() -> None:
    asked = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_gpu_functions": "all"})
    assert [check.name for check in Node(settings=asked).failed()] == ["GEVULOT_GPU_DEVICES"]
    assert with_container(environment=ENVIRONMENT | TWO_FUNCTIONS)(Node(settings=asked)).failed() == []


def test_a_node_without_boards_has_no_gpu_variable_and_no_groups() -> None:
    state = ContainerState(True, "sha256:0a1b", "node:1", frozenset({"/dev/kvm"}), ENVIRONMENT)
    assert [check.passed for check in checks.container(state, SETTINGS, [])] == [True] * 5


def test_a_setting_that_the_container_did_not_start_with_is_named_with_what_was_asked_for() -> None:
    asked = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_cpus": 8})
    (failed,) = with_container(environment=CONTAINER.environment | {"RUST_LOG": "trace"})(Node(settings=asked)).failed()
    assert (failed.actual, failed.expected) == (
        "RUST_LOG is 'trace'; GEVULOT_CPUS is not set",
        f"RUST_LOG={ENVIRONMENT['RUST_LOG']}, GEVULOT_CPUS=8",
    )


def test_an_empty_gpu_variable_is_wrong_even_without_boards() -> None:
    state = ContainerState(True, "sha256:0a1b", "node:1", frozenset({"/dev/kvm"}), ENVIRONMENT | {GPU_DEVICES: ""})
    assert [check.name for check in checks.container(state, SETTINGS, []) if not check.passed] == [
        "GEVULOT_GPU_DEVICES"
    ]


def test_a_port_that_was_not_looked_at_is_neither_right_nor_wrong() -> None:
    assert checks.port(5432, "not checked: Network is unreachable").passed is None


PEERS = settings.read(
    "gpu1",
    {
        "gevulot_psk_passphrase": "the own one",
        "gevulot_p2p_listen": "[::]:9999",
        "gevulot_peers": ("203.0.113.0/24", "198.51.100.7", "2001:db8::/32"),
    },
)
ANY = PEERS.model_copy(update={"peers": ("any",)})


def table(**changes: str) -> Firewall:
    """The node's table as nft prints it, each of ``changes`` made to its text; 9999 and 9995 listen at [::]."""
    ports = '{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[9995,9999]}}}'
    rules = [
        '{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"accept":null}',
        *(
            f'{ports},{{"match":{{"op":"==","left":{{"payload":{{"protocol":"{protocol}","field":"saddr"}}}},'
            f'"right":"@{name}"}}}},{{"accept":null}}'
            for protocol, name in (("ip", "peers4"), ("ip6", "peers6"))
        ),
        f'{ports},{{"drop":null}}',
    ]
    own = '"family":"inet","table":"gevulot","handle":1'
    objects = [
        '{"metainfo":{"version":"1.1.3","release_name":"x","json_schema_version":1}}',
        '{"table":{"family":"inet","name":"gevulot","handle":1,"flags":"owner"}}',
        f'{{"set":{{{own},"name":"peers4","type":"ipv4_addr","flags":["interval"],'
        '"elem":["198.51.100.7",{"prefix":{"addr":"203.0.113.0","len":24}}]}}',
        f'{{"set":{{{own},"name":"peers6","type":"ipv6_addr","flags":["interval"],'
        '"elem":[{"prefix":{"addr":"2001:db8::","len":32}}]}}',
        f'{{"chain":{{{own},"name":"input","type":"filter","hook":"input","prio":-10,"policy":"accept"}}}}',
        *(f'{{"rule":{{{own},"chain":"input","expr":[{rule}]}}}}' for rule in rules),
    ]
    text = f'{{"nftables":[{",".join(objects)}]}}'
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return parse([*LISTENING, f"table {text}", "end"])


LISTENING = [
    "listen    0: 00000000000000000000000000000000:270F 00000000000000000000000000000000:0000 0A 00000000:00000000",
    "listen    1: 00000000:270B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0",
    "listen    2: 0100007F:22B8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0",
    "listen    3: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000",
    "listen    4: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A 00000000:00000000",
]
NO_TABLE = parse([*LISTENING, "end"])


def test_what_listens_outside_of_loopback_is_read_in_both_families() -> None:
    assert NO_TABLE.outside == {9999, 9995}


def test_the_named_networks_alone_reach_the_ports_when_the_kernels_table_says_so() -> None:
    check = checks.peers(table(), PEERS)
    assert (check.name, check.passed) == ("who may reach 9999 and 9995", True)
    assert check.actual == "198.51.100.7/32, 203.0.113.0/24, 2001:db8::/32"


@pytest.mark.parametrize(
    ("changes", "actual"),
    [
        ({'"198.51.100.7",': ""}, "other networks: 203.0.113.0/24, 2001:db8::/32"),
        ({'"len":24': '"len":23', '"203.0.113.0"': '"203.0.112.0"'}, "other networks"),
        ({'"198.51.100.7"': '{"range":["198.51.100.7","198.51.100.9"]}'}, "other networks"),
        ({'{"drop":null}': '{"accept":null}'}, "other rules"),
        ({'"right":"lo"': '"right":"eth0"'}, "other rules"),
        ({"9995,9999": "9999"}, "other rules"),
        ({'"hook":"input"': '"hook":"forward"'}, "other rules"),
        ({'"==","left":{"payload":{"protocol":"ip",': '"!=","left":{"payload":{"protocol":"ip",'}, "other rules"),
    ],
)  # fmt: skip
def test_a_table_that_is_not_as_it_was_asked_for_is_wrong(changes: dict[str, str], actual: str) -> None:
    check = checks.peers(table(**changes), PEERS)
    assert check.passed is False
    assert actual in check.actual


@pytest.mark.parametrize(
    ("shown", "asked", "ok", "actual"),
    [
        (NO_TABLE, PEERS, False, "everybody: the nftables table inet gevulot is missing"),
        (Firewall(None, frozenset()), PEERS, False, "everybody: the nftables table inet gevulot is missing"),
        (None, PEERS, False, "unknown"),
        (Firewall(None, frozenset({22})), SETTINGS, True, "loopback only"),
        (Firewall(None, frozenset({22, 9995})), SETTINGS, False, "everybody: a program listens on 9995"),
        (table(), SETTINGS, False, "not asked for"),
        (NO_TABLE, ANY, None, "everybody, as gevulot_peers says"),
        (table(), ANY, False, "not asked for"),
    ],
)
def test_who_may_reach_the_ports_is_what_the_host_shows(
    shown: Firewall | None, asked: Settings, ok: bool | None, actual: str
) -> None:
    check = checks.peers(shown, asked)
    assert check.passed is ok
    assert actual in check.actual


def test_a_database_that_gives_no_answer_is_not_called_closed_to_others() -> None:
    assert [check.name for check in checks.database(None, SETTINGS, "here", False)] == ["database"]


def test_an_active_unit_whose_file_is_gone_fails() -> None:
    gone = Unit("a.service", "not-found", "active", "running", "success", True, "", 1)
    (check,) = checks.units({"a.service": gone}, ("a.service",))
    assert (check.passed, check.actual) == (False, "not-found")


def test_an_external_database_may_be_of_either_release() -> None:
    asked = settings.read(
        "gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_postgres_url": "postgres://a:b@c/d"}
    )
    for release, right in ((14, False), (15, True), (16, True)):
        (first, _) = checks.schema(Schema(release, TABLES | {MIGRATIONS}), asked, "here")
        assert first.passed is right


def test_of_an_external_database_the_password_is_only_named() -> None:
    asked = settings.read(
        "gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_postgres_url": "postgres://a:b@c/d"}
    )
    check = checks.environment(["GEVULOT_DB_URL"], asked)
    assert (check.passed, check.actual) == (None, "in GEVULOT_DB_URL, as of an external database")


def test_a_list_of_an_external_database_that_was_not_read_is_neither_right_nor_wrong() -> None:
    asked = settings.read(
        "gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_postgres_url": "postgres://a:b@c/d"}
    )
    assert checks.access(AccessKeys(OWN, None, frozenset({OWN})), asked, "").passed is None
    assert checks.access(AccessKeys(OWN, frozenset({OTHER}), frozenset({OWN})), asked, "").passed is False


def test_a_list_at_a_url_is_its_publishers_affair_until_the_node_has_taken_the_key_from_it() -> None:
    published = "the list at gevulot_acl_whitelist_url lacks it"
    lacking = checks.access(AccessKeys(OWN, frozenset({OTHER}), frozenset()), SETTINGS, published)
    assert (lacking.passed, lacking.actual) == (None, f"not yet; {published}")
    assert checks.access(AccessKeys(OWN, frozenset({OWN}), frozenset()), SETTINGS, published).passed


def test_the_table_marks_each_line_and_counts() -> None:
    lines = checks.table("gpu1", [Check("a", "b", True), Check("longer", "d", False, "e"), Check("g", "h", None)])
    assert lines == [
        "What was verified on gpu1:",
        "  ok   a       b",
        "  FAIL longer  d  (expected e)",
        "       g       h",
        "  1 passed, 1 failed",
    ]
