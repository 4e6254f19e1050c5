"""From a host's answers to its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deploys.assessment.observations import Observations
from deploys.assessment.status import judge
from deploys.assessment.status_document import HostStatus, Severity
from deploys.manifest import GPU_DEVICES, MODULES
from deploys.settings import HostSettings, Settings
from facts import firewall
from facts.access import AccessKeys
from facts.activity import Activity, Failure, Machine
from facts.batch import Unreadable
from facts.container import ContainerState
from facts.database import MIGRATIONS, TABLES, Schema
from facts.disk import VolumeSpace
from facts.firewall import Firewall
from facts.kernel import CommandLines, KernelModules
from facts.node import NodeResources, PathEntry
from facts.pci import Binding, PciTopology, PciUsage, RecordedBoards
from facts.platform import parse
from facts.runs import UnitRuns
from facts.unit import Unit
from pcibind.model.pci import Topology
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import Selector
from pcibind.read.initramfs import LIST, Contents
from tests.unit.deploys import recorded
from tests.unit.deploys.recorded import BOUND, DEBIAN, gpu

ARGUMENTS = ("root=UUID=0", "intel_iommu=on", "iommu=pt")
GIB = 1024**2
IMAGE = "quay.io/gevulot/node:latest"


def settings(**changed: Any) -> Settings:
    return Settings(psk_passphrase="a passphrase of this network only", **changed)


CONTAINER = ContainerState(
    True, "sha256:0123", IMAGE, frozenset({"/dev/vfio/12"}), settings().environment() | {GPU_DEVICES: "0000:01:00.0"}
)


def topology(*functions: Any) -> Any:
    return PciTopology().process(recorded.topology(*functions))


def on_record(pci: Topology) -> RecordedBoards:
    (board,) = (each for each in pci.boards() if each.display_functions)
    return RecordedBoards(Record((RecordedBoard.of(board, Selector.parse(board.model), None),)))


def unit(name: str, **changed: Any) -> Unit:
    values = {"load": "loaded", "active": "active", "sub": "running", "result": "success", "needs_reload": False}
    return Unit(**({"name": name, "enabled": "enabled", "since": 1} | values | changed))


def healthy() -> Observations:
    """A healthy node with one board."""
    pci = topology(*gpu(1, 1, drivers=BOUND, group=12))
    return Observations(
        platform=parse(recorded.platform(DEBIAN)),
        topology=pci,
        usage=PciUsage().process(recorded.evidence()),
        record=on_record(pci),
        binding=Binding(0, {"boards": [{"path": "0000:00/01.0/00", "state": "bound", "detail": ""}]}),
        lines=CommandLines(ARGUMENTS, (ARGUMENTS,)),
        remapping=True,
        modules=KernelModules().process(recorded.modules()),
        units={
            name: unit(name)
            for name in (
                *(f"gevulot-{each}.service" for each in ("node", "migrate", "postgres", "firewall")),
                "pcibind.service",
            )
        },
        container=CONTAINER,
        firewall=firewall.parse(recorded.guard()),
        secrets=["gevulot-db-password", "gevulot-psk-passphrase"],
        schema=Schema(16, TABLES | {MIGRATIONS}),
        access=AccessKeys("04aa", frozenset({"04aa"}), frozenset({"04aa"})),
        activity=Activity(200),
        key="ok",
        space=VolumeSpace(1000 * GIB, 500 * GIB, "/"),
        verified=1763850000,
    )


def look(observed: Observations, **asked: Any) -> HostStatus:
    return judge("gpu1", settings(**asked), observed)


def test_the_status_of_a_healthy_node_is_ok() -> None:
    status = look(healthy())
    assert (status.severity, status.reasons) == (Severity.OK, ())
    assert status.boards is not None
    assert (status.boards.wanted, status.boards.bound, status.boards.list[0].viable) == (1, 1, True)
    assert (status.verified, status.health) == ("2025-11-22T22:20:00Z", 200)
    assert set(MODULES) <= set(healthy().modules)


@pytest.mark.parametrize(
    ("changed", "severity", "reason"),
    [
        ({"activity": Activity(None)}, Severity.WRONG, "the health check says nothing"),
        ({"key": "lost"}, Severity.WRONG, "the node's key is lost"),
        ({"key": "changed"}, Severity.WRONG, "the node's key is changed"),
        ({"schema": None}, Severity.WRONG, "database: no answer (asked on the host)"),
        ({"schema": Schema(16, TABLES)}, Severity.WRONG, "database schema: missing: _sqlx_migrations"),
        ({"schema": Schema(15, TABLES | {MIGRATIONS})}, Severity.WRONG, "release 15 (asked on the host), expected"),
        ({"secrets": []}, Severity.WRONG, "the secret gevulot-db-password is missing"),
        (
            {"access": AccessKeys("04aa", frozenset({"04bb"}), frozenset({"04aa"}))},
            Severity.WRONG,
            "own key may submit: no, expected yes; run deploys/node.py",
        ),
        ({"container": None}, Severity.WRONG, "container gevulot-node: not running"),
        ({"container": replace(CONTAINER, devices=frozenset())}, Severity.WRONG, "VFIO groups in the container"),
        (
            {"container": replace(CONTAINER, mounts=frozenset({"/var/lib/gevulot/key"}))},
            Severity.WRONG,
            "node key in the container: can be read: /var/lib/gevulot/key is mounted",
        ),
        (
            {"container": replace(CONTAINER, name="old")},
            Severity.ATTENTION,
            "runs old",
        ),
        ({"binding": Binding(2, {"boards": [], "errors": ["a.toml: bad"]})}, Severity.WRONG, "pcibind: a.toml: bad"),
        ({"binding": Binding(5, {"boards": []})}, Severity.WRONG, "pcibind status ends with 5"),
        ({"firewall": Firewall(None, frozenset({9999}))}, Severity.WRONG, "everybody: a program listens on 9999"),
        ({"firewall": firewall.parse(recorded.guard("1488"))}, Severity.WRONG, "QMP: every local user: the rules of"),
        ({"remapping": False}, Severity.WRONG, "interrupt remapping is off"),
        ({"units": {}}, Severity.WRONG, "no node is deployed"),
        ({"space": VolumeSpace(100 * GIB, 5 * GIB, "/")}, Severity.ATTENTION, "5 GiB left of 100 GiB"),
        ({"stale_initramfs": ["/boot/initrd.img is older than x"]}, Severity.ATTENTION, "older than x"),
        (
            {"initramfs": Contents({LIST: "a"}, {"/boot/initrd.img-1": {LIST: "b"}})},
            Severity.ATTENTION,
            f"/boot/initrd.img-1 holds another {LIST} than the host has",
        ),
        (
            {"initramfs": Contents(unlisted={"/boot/initrd.img-1": "there is no program zstd"})},
            Severity.ATTENTION,
            "could not be read: there is no program zstd",
        ),
        ({"record": RecordedBoards()}, Severity.WRONG, "pcibind has no record"),
        ({"binding": None}, Severity.WRONG, "pcibind is not installed"),
        (
            {"lines": replace(healthy().lines, menu="/boot/grub/grub.cfg", made=("quiet",))},
            Severity.ATTENTION,
            "no entry of /boot/grub/grub.cfg starts this system",
        ),
        ({"reboot_required": ["/run/reboot-required"]}, Severity.ATTENTION, "a reboot is pending"),
        ({"unreadable": ("binding: no",)}, Severity.ATTENTION, "could not be read: binding: no"),
    ],
)
def test_what_is_the_matter_is_a_reason(changed: dict[str, Any], severity: Severity, reason: str) -> None:
    status = look(replace(healthy(), **changed))
    assert status.severity is severity
    assert [each for each in status.reasons if reason in each]


def test_a_node_in_a_restart_loop_is_never_active_and_says_its_cause_first() -> None:
    status = look(replace(healthy(), runs=UnitRuns().process(recorded.loop()), activity=Activity(None), container=None))
    assert status.severity is Severity.WRONG
    (reason,) = status.reasons
    assert reason.startswith("gevulot-node.service is not up: no discovery peer answers")
    assert "started 7 times in 84 s, every 12 s" in reason
    assert status.node is not None
    assert status.node.unit == "restarting"


def test_a_unit_that_failed_is_wrong_and_its_health_is_no_further_reason() -> None:
    observed = healthy()
    units = {
        **observed.units,
        "gevulot-node.service": unit("gevulot-node.service", active="failed", result="exit-code"),
    }
    status = look(replace(observed, units=units, activity=Activity(None), container=None))
    assert status.reasons == ("gevulot-node.service: failed (exit-code), expected active",)


def test_what_the_node_does_stands_in_its_row() -> None:
    (idle, busy) = (
        look(replace(healthy(), activity=Activity(200, machines=each))) for each in ((), (Machine(90, 7, 1),))
    )
    assert idle.activity is not None
    assert (idle.activity.state, idle.activity.programs) == ("idle", ())
    assert busy.activity is not None
    assert (busy.severity, busy.activity.state) == (Severity.OK, "busy")
    assert [(each.guest_cid, each.boards, each.seconds) for each in busy.activity.programs] == [(7, 1, 90)]


def test_a_program_that_cannot_start_is_wrong_and_quotes_qemu() -> None:
    failure = Failure("ab" * 32, 14, 180, 4, "qemu: group 12 is not viable")
    host = look(replace(healthy(), activity=Activity(503, failures=(failure,))))
    assert host.severity is Severity.WRONG
    assert "transaction abababababab… cannot start: 14 tries within 3 min, the last 4 s ago" in host.reasons[0]
    assert "group 12 is not viable; a host driver holds another device" in host.reasons[0]


def test_a_node_without_execution_needs_no_health_check() -> None:
    container = replace(CONTAINER, environment={**CONTAINER.environment, "GEVULOT_NODE_NO_EXECUTION": "true"})
    host = look(replace(healthy(), activity=Activity(None), container=container), no_execution=True)
    assert (host.severity, host.reasons) == (Severity.OK, ())
    assert host.activity is not None
    assert host.activity.state == "no execution"


def test_a_board_on_its_hosts_driver_is_named_with_what_pcibind_says() -> None:
    pci = topology(*gpu(1, 1, group=12))
    reported = {
        "path": "0000:00/01.0/00",
        "state": "unbound",
        "detail": "0000:01:00.0: expected vfio-pci, found nouveau",
    }
    host = look(replace(healthy(), topology=pci, binding=Binding(5, {"boards": [reported]})))
    assert host.severity is Severity.WRONG
    assert "expected vfio-pci, found nouveau" in host.reasons[0]
    assert host.boards is not None
    assert (host.boards.bound, host.boards.list[0].state) == (0, "unbound")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"config 0000:01:00.1 {' '.join(['ffffffff'] * 16)}", "no-response: 0000:01:00.1 does not answer"),
        ("memory 0000:01:00.0 1 0x0 0x1ffffffff 0x2014220c", "unassigned-memory: memory range 1 of 0000:01:00.0"),
        ("reserved iommu_groups/12/reserved_regions:0x1 0x2 direct", "reserved-memory: the firmware keeps memory"),
    ],
)
def test_why_a_guest_cannot_have_a_bound_board_is_a_reason(line: str, words: str) -> None:
    usage = recorded.evidence()
    host = look(replace(healthy(), usage=PciUsage().process([*usage[:-1], line, usage[-1]])))
    assert host.severity is Severity.WRONG
    assert any(words in reason and "gevulot_board_guards_allowed" in reason for reason in host.reasons)


def test_an_argument_that_keeps_the_boards_from_vfio_is_named_before_what_follows_from_it() -> None:
    off = CommandLines((*ARGUMENTS, "pcibind=off"), (ARGUMENTS,))
    pci = topology(*gpu(1, 1))
    stopped = {"gevulot-node.service": unit("gevulot-node.service", active="inactive", sub="dead")}
    host = judge("a", settings(), replace(healthy(), lines=off, topology=pci, units=healthy().units | stopped))
    assert host.severity is Severity.WRONG
    first, *others = host.reasons
    assert first.startswith("the kernel runs with pcibind=off: pcibind takes no board at such a boot")
    assert any("gevulot-node" in each for each in others)


def test_a_device_of_the_host_in_the_boards_group_is_a_reason() -> None:
    disk = recorded.Pci("pci0000:00/0000:00:0a.0", 0x144D, 0xA80A, 0x010802, "nvme", 12)
    host = look(replace(healthy(), topology=topology(*gpu(1, 1, drivers=BOUND, group=12), disk)))
    assert any("also holds 0000:00:0a.0" in reason for reason in host.reasons)
    assert host.boards is not None
    assert host.boards.list[0].viable is False


def test_a_board_that_the_initramfs_took_and_nobody_asked_for_is_named() -> None:
    observed = healthy()
    usage = recorded.evidence()
    text = recorded.topology(*gpu(1, 1, drivers=BOUND, group=12), *gpu(2, 2, 0x1E87, group=13))
    text = [line.replace("(null)", "vfio-pci") if "0000:02:00.0/driver_override" in line else line for line in text]
    early = PciUsage().process([*usage[:-1], "early 0000:02:00.0", usage[-1]])
    host = look(replace(observed, topology=PciTopology().process(text), usage=early))
    assert any("0000:00/02.0/00 is not asked for, but the initramfs gives it" in reason for reason in host.reasons)


def test_what_the_login_may_not_read_is_no_refusal_of_a_board() -> None:
    usage = recorded.evidence()
    blind = [f"unreadable {guard} not allowed" for guard in ("vfio-open", "disk", "default-route")]
    pci = topology(*gpu(1, 1, group=12))
    host = look(replace(healthy(), topology=pci, usage=PciUsage().process([*usage[:-1], *blind, usage[-1]])))
    assert not any("cannot tell" in reason for reason in host.reasons)


def test_a_recorded_board_that_is_gone_is_absent_and_nobody_is_sent_to_a_configuration_by_hand() -> None:
    host = look(replace(healthy(), topology=topology(recorded.NIC)))
    assert any("is absent" in reason for reason in host.reasons)
    assert not any("remove it from the configuration" in reason for reason in host.reasons)
    assert host.boards is not None
    assert host.boards.list[0].verdict == "absent"


def test_pcibind_not_enabled_and_arguments_not_configured_are_lint() -> None:
    observed = healthy()
    units = {**observed.units, "pcibind.service": unit("pcibind.service", enabled="disabled")}
    host = look(replace(observed, units=units, lines=CommandLines(ARGUMENTS, (("root=UUID=0",),))))
    assert host.severity is Severity.ATTENTION
    assert len(host.lint) == 2
    assert host.kernel_arguments is not None
    assert (host.kernel_arguments.live, host.kernel_arguments.configured) == (True, False)


def test_the_only_advice_for_a_bare_host_is_to_deploy_it() -> None:
    observed = Observations(platform=parse(recorded.platform(DEBIAN)), topology=topology(recorded.NIC), key="missing")
    host = look(observed)
    assert [reason for reason in host.reasons if "deploys/node.py" in reason]
    assert host.key is not None
    assert host.key.state == "missing"
    assert host.database is None


# --- a host that is to have no node


def gpu_host(**changed: Any) -> Observations:
    """A host as deploys/gpu_host.py leaves it."""
    devices = {path: PathEntry(path, "660", "root:kvm") for path in ("/dev/kvm", "/dev/vfio/12")}
    parts = NodeResources(devices, {}, frozenset(), None, "/", "")
    bare = replace(
        healthy(), units={"pcibind.service": unit("pcibind.service")}, container=None, firewall=None, secrets=[],
        schema=None, access=None, activity=None, key="missing", space=None, parts=parts, deployed="gpu_host",
    )  # fmt: skip
    return replace(bare, **changed)


@pytest.mark.parametrize("asked", [settings(), HostSettings()])
def test_a_gpu_host_is_ok_without_a_node(asked: HostSettings) -> None:
    status = judge("gpu1", asked, gpu_host())
    assert (status.severity, status.reasons, status.deployed_as) == (Severity.OK, (), "gpu_host")
    assert (status.node, status.key, status.database, status.storage, status.secrets_missing) == (None,) * 5
    assert status.boards is not None
    assert (status.boards.wanted, status.boards.bound) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"remapping": False}, "interrupt remapping is off"),
        (
            {"record": RecordedBoards()},
            "pcibind has no record, so the next boot binds no board; run deploys/gpu_host.py",
        ),
        ({"lines": CommandLines(ARGUMENTS, (("root=UUID=0",),))}, "the next boot would be without intel_iommu=on"),
        ({"parts": NodeResources({}, {}, frozenset(), None, "/", "")}, "/dev/vfio/12: missing, expected root:kvm"),
    ],
)
def test_problems_of_a_host_without_a_node_are_reported(changed: dict[str, Any], reason: str) -> None:
    status = judge("gpu1", settings(), gpu_host(**changed))
    assert any(each.startswith(reason) for each in status.reasons), status.reasons
    assert not any("node.py" in each for each in status.reasons)


def test_what_of_a_node_cannot_be_read_is_of_no_concern_to_a_host_without_one() -> None:
    unread = {"container": Unreadable("it hangs"), "lines": Unreadable("it hangs too")}
    observed = Observations.of({"platform": gpu_host().platform, "deployed": "gpu_host", **unread})
    assert judge("gpu1", settings(), observed).unreadable == ("lines: it hangs too",)


def test_an_argument_that_only_a_node_minds_is_no_matter_of_a_host_without_one() -> None:
    line = (*ARGUMENTS, "systemd.unified_cgroup_hierarchy=0")
    status = judge("gpu1", settings(), gpu_host(lines=CommandLines(line, (line,))))
    assert (status.severity, status.reasons) == (Severity.OK, ())


def test_a_node_whose_unit_is_gone_is_a_broken_node() -> None:
    status = look(gpu_host(deployed="node"))
    assert (status.severity, status.deployed_as) == (Severity.WRONG, "node")
    assert "no node is deployed: it has no gevulot-node.service; run deploys/node.py" in status.reasons


def test_a_node_that_is_there_counts_whatever_was_written_down() -> None:
    status = look(replace(healthy(), deployed="gpu_host"))
    assert (status.severity, status.deployed_as, status.health) == (Severity.OK, "node", 200)


def test_a_host_that_does_not_answer_is_down() -> None:
    host = look(Observations.of({"platform": Unreadable("the connection ended before it was read")}))
    assert host.severity is Severity.DOWN
    assert "the connection ended" in host.reasons[0]


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        ("gevulot-migrate.service", {"load": "not-found"}, "not-found, expected success"),
        ("gevulot-migrate.service", {"result": "exit-code"}, "active (exit-code), expected success"),
        ("gevulot-firewall.service", {"load": "not-found"}, "gevulot-firewall.service: not-found, expected active"),
        ("gevulot-postgres.service", {"load": "not-found"}, "gevulot-postgres.service: not-found, expected active"),
        ("gevulot-postgres.service", {"active": "failed"}, "failed (success), expected active"),
        ("gevulot-node.service", {"needs_reload": True}, "daemon-reload"),
        ("pcibind.service", {"active": "failed"}, "pcibind.service failed at this boot"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be_is_named(name: str, changed: dict[str, Any], reason: str) -> None:
    observed = healthy()
    status = look(replace(observed, units={**observed.units, name: unit(name, **changed)}))
    assert status.severity is not Severity.OK
    assert [each for each in status.reasons if reason in each], status.reasons


@pytest.mark.parametrize("active", ["reloading", "activating"])
def test_a_firewall_that_takes_new_rules_up_is_no_fault(active: str) -> None:
    observed = healthy()
    name = "gevulot-firewall.service"
    status = look(replace(observed, units={**observed.units, name: unit(name, active=active)}))
    assert (status.severity, status.reasons) == (Severity.OK, ())


def test_a_board_that_is_recorded_but_not_asked_for_is_reported() -> None:
    status = look(replace(healthy(), container=None), boards=())
    assert [each for each in status.reasons if "on record but not asked for" in each]


@pytest.mark.parametrize(
    "part", ["topology", "record", "units", "lines", "remapping", "schema", "access", "key", "container"]
)
def test_an_unreadable_part_is_reported_and_not_judged(part: str) -> None:
    every = {name: getattr(healthy(), name) for name in Observations.__slots__ if name not in ("unreadable", "unknown")}
    status = look(Observations.of({**every, part: Unreadable("no answer within 40 s")}))
    assert (status.severity, status.reasons) == (
        Severity.ATTENTION,
        (f"could not be read: {part}: no answer within 40 s",),
    )
    assert status.unreadable


def test_without_root_what_is_roots_is_not_called_missing() -> None:
    every = {name: getattr(Observations(), name) for name in ("container", "secrets", "schema")}
    kept = {name: getattr(healthy(), name) for name in Observations.__slots__ if name not in ("unreadable", "unknown")}
    status = look(Observations.of({**kept, **every, "user": "1000", "key": "lost"}))
    assert status.severity is Severity.ATTENTION
    assert all("needs root" in reason for reason in status.reasons)


def test_an_external_database_is_not_asked() -> None:
    secrets = ["gevulot-db-url", "gevulot-psk-passphrase"]
    observed = replace(healthy(), schema=None, access=None, secrets=secrets)
    host = look(observed, postgres_url="postgres://user:password@db:5432/gevulot")
    assert host.severity is Severity.OK
    assert host.database is not None
    assert host.database.kind == "external"


def test_every_answer_can_be_written_as_json() -> None:
    import json

    text = json.dumps(look(healthy()).to_json())
    assert "0000:01:00.0" in text


def test_what_the_topology_could_not_read_is_a_reason() -> None:
    *lines, end = recorded.topology(*gpu(1, 1, drivers=BOUND, group=12))
    late = PciTopology().process([*lines, "pcibind-topology late", end])
    host = look(replace(healthy(), topology=late))
    assert any("driver overrides, behind a device that hangs" in reason for reason in host.reasons)


def test_a_menu_that_this_login_may_not_read_says_nothing_about_the_next_boot() -> None:
    host = look(replace(healthy(), lines=CommandLines(ARGUMENTS, (), hidden="/boot/grub/grub.cfg")))
    assert host.kernel_arguments is not None
    assert (host.kernel_arguments.configured, host.lint) == (None, ())


def test_a_podman_that_does_not_say_its_version_is_a_reason() -> None:
    observed = healthy()
    assert observed.platform is not None
    host = look(replace(observed, platform=replace(observed.platform, podman=None, tools=frozenset({"podman"}))))
    assert host.reasons == ("Podman is installed, but does not print its version: it hangs or fails",)


def test_a_firmware_without_an_iommu_is_reported_with_the_next_step() -> None:
    observed = healthy()
    assert observed.platform is not None
    without = topology(*gpu(1, 1, drivers=BOUND, group=None))
    host = look(replace(observed, platform=replace(observed.platform, iommu_table=None), topology=without))
    assert any("the firmware offers none" in reason for reason in host.reasons)
    assert host.kernel_arguments is not None
    assert (host.kernel_arguments.wanted, host.kernel_arguments.live) == ((), None)


def test_a_system_that_no_deploy_takes_is_named() -> None:
    observed = healthy()
    assert observed.platform is not None
    host = look(replace(observed, platform=replace(observed.platform, boot=frozenset({"ostree"})), units={}))
    assert any("deploys/node.py refuses it: the host runs from an image" in reason for reason in host.reasons)
