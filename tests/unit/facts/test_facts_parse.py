"""What each fact makes of a command's recorded output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.container import Container, ContainerState
from facts.database import MIGRATIONS, TABLES, PostgresDataRelease, PostgresOpenToLoopback, PostgresSchema, Schema
from facts.initramfs import EARLY, InitramfsContents, StaleInitramfs
from facts.kernel import InterruptRemapping, KernelCommandLine, KernelModules, Module
from facts.node import NodeParts, PathEntry
from facts.pci import PciBinding, PciRecord, PciTopology, PciUsage, RecordedBoards
from facts.platform import HostPlatform, Platform
from facts.podman import ImageIds
from facts.tree import TreeDigest
from facts.unit import ChangedSince, FailedUnits, SystemState, Units
from pcibind.model import record
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import Selector
from pcibind.read.initramfs import LIST, Contents
from tests.unit.deploys import recorded

DEBIAN = recorded.platform(recorded.DEBIAN)


def test_the_platform_is_read_line_by_line() -> None:
    assert Platform().process(DEBIAN) == HostPlatform(
        distribution="debian",
        like=(),
        version="13",
        name="Debian GNU/Linux 13 (trixie)",
        kernel="6.12.0",
        architecture="x86_64",
        systemd=True,
        cores=96,
        memory_kib=528_870_912,
        disk_kib=1_992_294_400,
        virtualisation="vmx",
        iommu_table="DMAR",
        tools=frozenset({"update-initramfs", "update-grub", "apt-get"}),
        boot=frozenset({"grub"}),
        initramfs_owners=frozenset({"initramfs-tools"}),
        kernel_hooks=frozenset(),
        podman=None,
        podman_offered="5.4.2+ds1-1+b2",
        systemd_release=257,
        python="3.13",
    )


def test_a_platform_with_the_first_version_of_cgroups_is_read_as_such() -> None:
    assert Platform().process(["legacy_cgroups=yes", "end=yes"]).legacy_cgroups
    assert not Platform().process(["end=yes"]).legacy_cgroups


def test_a_platform_that_says_little_is_read_too() -> None:
    host = Platform().process(["os ID=", "podman_offered=(none)", "end=yes"])
    assert (host.distribution, host.cores, host.systemd, host.podman_offered) == ("", 0, False, None)


def test_one_of_two_firmware_tables_counts() -> None:
    assert Platform().process(["iommu_table=DMAR", "iommu_table=IVRS", "end=yes"]).iommu_table == "DMAR"


def test_modules_are_files_built_in_or_missing() -> None:
    modules = KernelModules().process(["vfio_pci built-in loaded", "vsock module -", "vfio_mdev missing -"])
    assert modules["vfio_pci"] == Module("vfio_pci", "built-in", True)
    assert [modules[name].exists for name in ("vfio_pci", "vsock", "vfio_mdev")] == [True, True, False]


SYSTEMCTL = """Id=gevulot-node.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
NeedDaemonReload=no
UnitFileState=generated
ActiveEnterTimestamp=@1763800000

Id=gevulot-migrate.service
LoadState=not-found
ActiveState=inactive
SubState=dead
Result=success
NeedDaemonReload=no
UnitFileState=
ActiveEnterTimestamp=
""".splitlines()


def test_units_are_read_from_their_blocks() -> None:
    units = Units().process(SYSTEMCTL)
    node, migration = units["gevulot-node.service"], units["gevulot-migrate.service"]
    assert (node.running, node.needs_reload, node.enabled, node.since) == (True, False, "generated", 1763800000)
    assert (migration.running, migration.since) == (False, 0)


def test_a_unit_that_systemd_does_not_know_needs_a_reload() -> None:
    assert Units().process(SYSTEMCTL)["gevulot-migrate.service"].needs_reload


INSPECTED = {
    "running": True, "image": "sha256:0a1b", "name": "node:1", "pid": 4242, "devices": ["/dev/kvm", "/dev/vfio/12"],
    "mounts": ["/srv/node/data", "/run/gevulot-key"],
    "environment": ["GEVULOT_GPU_DEVICES=0000:01:00.0,0000:01:00.1", None],
}  # fmt: skip


@pytest.mark.parametrize(
    ("printed", "environment", "boards"),
    [
        (["GEVULOT_GPU_DEVICES=01:00.0,01:00.1", None], {"GEVULOT_GPU_DEVICES": "01:00.0,01:00.1"}, "01:00.0,01:00.1"),
        (["GEVULOT_GPU_DEVICES=", "RUST_LOG=a=b", None], {"GEVULOT_GPU_DEVICES": "", "RUST_LOG": "a=b"}, ""),
        ([None], {}, None),
    ],
)
def test_a_container_tells_its_devices_and_its_boards(
    printed: list[str | None], environment: dict[str, str], boards: str | None
) -> None:
    state = Container().process([json.dumps(INSPECTED | {"environment": printed})])
    mounts = frozenset({"/srv/node/data", "/run/gevulot-key"})
    assert state == ContainerState(
        True, "sha256:0a1b", "node:1", frozenset({"/dev/kvm", "/dev/vfio/12"}), environment, mounts
    )
    assert state.environment.get("GEVULOT_GPU_DEVICES") == boards


def test_a_node_s_parts_are_read_by_their_kind() -> None:
    parts = NodeParts().process(
        [
            "device /dev/kvm 660 root:kvm",
            "device /dev/vfio/12 660 root:kvm",
            "groups gevulot kvm",
            "path /var/lib/gevulot 750 root:gevulot 4096",
            "path /var/lib/gevulot/key/node.key 600 root:root 32",
            "public 04abcd",
            "rooted /var/lib/gevulot",
            "required /var/lib/gevulot",
        ]
    )
    assert set(parts.devices) == {"/dev/kvm", "/dev/vfio/12"}
    assert parts.paths["/var/lib/gevulot/key/node.key"] == PathEntry(
        "/var/lib/gevulot/key/node.key", "600", "root:root", 32
    )
    assert parts.groups == {"gevulot", "kvm"}
    assert (parts.public_key, parts.mount, parts.required_mounts) == ("04abcd", "/var/lib/gevulot", "/var/lib/gevulot")


def test_a_node_without_account_and_key_is_read_too() -> None:
    parts = NodeParts().process(["groups ", "public ", "rooted /", "required "])
    assert (parts.groups, parts.public_key, parts.paths) == (frozenset(), None, {})


ROWS = ["release 160004", *(f"table {name}" for name in sorted(TABLES)), f"table {MIGRATIONS}"]


def test_a_database_tells_its_release_and_tables() -> None:
    schema = PostgresSchema().process(ROWS)
    assert schema == Schema(16, TABLES | {MIGRATIONS})
    assert schema.missing == []


def test_a_database_that_is_not_migrated_misses_its_tables() -> None:
    assert PostgresSchema().process(["release 150010"]).missing == sorted(TABLES | {MIGRATIONS})
    assert PostgresSchema().process(ROWS[:-1]).missing == [MIGRATIONS]


def test_the_pci_facts_read_what_pcibind_prints() -> None:
    (board,) = PciTopology().process(recorded.topology(*recorded.gpu(1, 1, group=12))).boards()
    assert (str(board.address), board.model, board.groups) == ("0000:01:00.0", "10de:2684", (12,))
    assert [use.what for use in PciUsage().process(recorded.evidence()).evidence.route_nics] == [
        "eno1 carries the default route"
    ]
    written = Record((RecordedBoard.of(board, Selector.parse("10de:2684"), None),))
    assert PciRecord().process(record.dump(written).splitlines()).record == written


@pytest.mark.parametrize(("code", "bound"), [("0", True), ("1", False)])
def test_a_binding_is_judged_by_the_exit_code(code: str, bound: bool) -> None:
    binding = PciBinding().process(["{", '"boards": []', "}", code])
    assert (binding.bound, binding.report) == (bound, {"boards": []})


@pytest.mark.parametrize("state", ["unbound", "failed", "stuck", "refused", "recorded"])
def test_enough_boards_for_pcibind_are_not_every_board(state: str) -> None:
    report = json.dumps({"boards": [{"state": "bound"}, {"state": state}]})
    assert not PciBinding().process([report, "0"]).bound
    released = json.dumps({"boards": [{"state": "bound"}, {"state": "released"}]})
    assert PciBinding().process([released, "0"]).bound


@pytest.mark.parametrize(
    ("fact", "output", "answer"),
    [
        (InterruptRemapping(), ["yes"], True),
        (InterruptRemapping(), ["no"], False),
        (PostgresDataRelease(), ["15 "], "15"),
        (PostgresOpenToLoopback(), ["open"], True),
        (PostgresOpenToLoopback(), ["closed"], False),
        (SystemState(), ["degraded"], "degraded"),
        (SystemState(), ["starting"], "starting"),
        (
            SystemState(),
            ["starting", " 71 gevulot-node.service    start waiting", "120 dev-x.device start running"],
            "starting, waiting for 71 gevulot-node.service start waiting; 120 dev-x.device start running",
        ),
        (FailedUnits(), ["a.service", ""], ["a.service"]),
        (ChangedSince(), ["since ", "file 1700000000.5 /etc/gevulot/node.env", "end"], []),
        (
            ChangedSince(),
            [
                "since Tue 2023-11-14 22:13:20.123456 UTC",
                "file 1700000000.123456789 /etc/a b",
                "file 1700000000.12 /c",
                "secret 1700000000123457000 x",
                "secret 1700000000123456000 y",
                "image 0a 0a",
                "end",
            ],
            ["/etc/a b", "secret x"],
        ),
        (ChangedSince(), ["since Tue 2023-11-14 22:13:20.123456 UTC", "image 0a 0b", "end"], ["image"]),
        (StaleInitramfs(), ["/boot/initrd.img-1 is older than /etc/x"], ["/boot/initrd.img-1 is older than /etc/x"]),
        (TreeDigest(), ["0a1b  -"], "0a1b"),
        (ImageIds(), ["quay.io/x/y:1 sha256:0a"], {"quay.io/x/y:1": "sha256:0a"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FactBase) else None,
)
def test_a_short_answer_is_read(fact: FactBase[Any], output: list[str], answer: object) -> None:
    assert fact.process(output) == answer


@pytest.mark.parametrize(
    ("fact", "output"),
    [
        (Platform(), DEBIAN[:-1]),
        (Platform(), ["cores=many", "end=yes"]),
        (KernelModules(), ["vfio"]),
        (NodeParts(), ["path /a 600"]),
        (PciTopology(), ["nothing of the kind"]),
        (PciTopology(), recorded.topology(*recorded.gpu(1, 1))[:-1]),
        (PciUsage(), recorded.evidence()[:-1]),
        (PciRecord(), ["{"]),
        (PciRecord(), ['{"version": 99}']),
        (PciBinding(), ["Traceback", "1"]),
        (Units(), ["LoadState=loaded"]),
        (Container(), ["Error: no such container"]),
        (Container(), ["{}"]),
        (PostgresSchema(), ["psql: error"]),
        (PostgresSchema(), ["table program"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FactBase) else None,
)
def test_an_answer_that_makes_no_sense_fails_its_host_only(fact: FactBase[Any], output: list[str]) -> None:
    # pyinfra keeps this one exception to the host; any other ends the run for all of them.
    with pytest.raises(FactProcessError):
        fact.process(output)


@pytest.mark.parametrize(
    "value",
    [
        Platform().process(DEBIAN),
        KernelModules().process(["vfio module -"])["vfio"],
        KernelCommandLine().process(["live ro root=UUID=1", "menu /boot/grub/grub.cfg", "configured ro"]),
        Units().process(SYSTEMCTL)["gevulot-node.service"],
        Container().process([json.dumps(INSPECTED)]),
        NodeParts().process(["groups kvm", "device /dev/kvm 660 root:kvm"]),
        PostgresSchema().process(ROWS),
        PciBinding().process(["{}", "0"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_fact_returns_can_be_printed_by_pyinfra(value: Any) -> None:
    assert json.dumps(value.to_json())


def test_what_the_pci_facts_return_can_be_written_as_json() -> None:
    topology = PciTopology().process(recorded.topology(*recorded.gpu(1, 1, group=12)))
    usage = PciUsage().process(recorded.evidence())
    (board,) = topology.boards()
    written = RecordedBoards(Record((RecordedBoard.of(board, Selector.parse("10de:2684"), None),)))
    for fact in (topology, usage, written, RecordedBoards()):
        json.dumps(fact.to_json())
    (first, *_) = (each for each in topology.to_json()["functions"] if not each["bridge"])
    assert (first["address"], first["class_name"], first["iommu_group"]) == ("0000:01:00.0", "VGA display", 12)
    assert usage.to_json()["route_nics"][0]["what"] == "eno1 carries the default route"


RULE, SCRIPT, _ = EARLY
IMAGE = "/boot/initrd.img-6.12"
VFIO = "/etc/modprobe.d/vfio.conf"
NOTHING = ""


def test_the_contents_of_each_initramfs_are_read_beside_the_hosts_own() -> None:
    contents = Contents(
        {LIST: "a"},
        {IMAGE: {LIST: "a", RULE: "b"}},
        {"/boot/initrd.img-8": "it ends"},
        {"/boot/initrd.img-7": "there is no program zstd"},
        "6.13",
    )
    assert InitramfsContents().process([json.dumps(contents.to_json())]) == contents
    assert InitramfsContents().process([]) == Contents()
    assert contents.unknown == ("/boot/initrd.img-7 could not be read: there is no program zstd",)


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"other": 1}', "host a b"])
def test_another_line_is_no_initramfs_contents(line: str) -> None:
    with pytest.raises(FactProcessError):
        InitramfsContents().process([line])


ON_HOST = {RULE: "rule", SCRIPT: "script", LIST: "list"}
USR_RULE, USR_SCRIPT = "/usr/lib/udev/rules.d/05-pcibind.rules", "/usr/lib/pcibind/early"
PACKAGED = {USR_RULE: "rule", USR_SCRIPT: "script", LIST: "list"}


@pytest.mark.parametrize(
    ("host", "held", "difference"),
    [
        (ON_HOST, ON_HOST, None),
        (ON_HOST, {RULE: "rule", LIST: "list"}, f"{IMAGE} lacks {SCRIPT}"),
        (ON_HOST, ON_HOST | {LIST: "other"}, f"{IMAGE} holds another {LIST} than the host has"),
        ({}, {LIST: "list"}, f"{IMAGE} still holds {LIST}, which the host does not have"),
        ({RULE: "rule", LIST: "list"}, {RULE: "rule", LIST: "list"}, f"the host lacks {SCRIPT}"),
        # No board is chosen.
        (ON_HOST | {LIST: NOTHING}, {}, None),
        (ON_HOST | {LIST: NOTHING}, ON_HOST | {LIST: NOTHING}, None),
        (ON_HOST | {LIST: NOTHING}, ON_HOST, f"{IMAGE} holds another {LIST} than the host has"),
        # initramfs-tools copies a rule of /etc, and a package has its files below /usr/lib alone.
        (ON_HOST, ON_HOST | {USR_RULE: "rule"}, None),
        (ON_HOST, ON_HOST | {USR_RULE: "former"}, None),
        (ON_HOST, {USR_RULE: "rule", SCRIPT: "script", LIST: "list"}, None),
        (ON_HOST, {USR_RULE: "rule", LIST: "list"}, f"{IMAGE} lacks {SCRIPT}"),
        (ON_HOST | {LIST: NOTHING}, {USR_RULE: "rule"}, None),
        (PACKAGED, PACKAGED, None),
        (PACKAGED, PACKAGED | {RULE: "former"}, f"{IMAGE} holds another {RULE} than the host has"),
        ({LIST: NOTHING}, {USR_RULE: "rule"}, f"{IMAGE} still holds {USR_RULE}, which the host does not have"),
        # Not every generator takes these.
        ({VFIO: "vfio"}, {}, None),
        ({VFIO: "vfio"}, {VFIO: "other"}, f"{IMAGE} holds another {VFIO} than the host has"),
    ],
)
def test_an_initramfs_is_unlike_its_host(host: dict[str, str], held: dict[str, str], difference: str | None) -> None:
    assert Contents(host, {IMAGE: held}).differences == ((difference,) if difference else ())


def test_times_count_only_for_an_image_that_was_not_read() -> None:
    contents = Contents(ON_HOST, {IMAGE: ON_HOST}, unlisted={"/boot/initrd.img-7": "there is no program zstd"})
    stale = [f"{image} is older than /etc/modprobe.d" for image in (IMAGE, "/boot/initrd.img-7", "/boot/initrd.img-5")]
    assert contents.outdated(stale) == tuple(stale[1:])
    assert Contents(ON_HOST, {IMAGE: {}}).outdated([])[0] == f"{IMAGE} lacks {RULE}"


def test_a_kernel_without_an_image_matters_when_a_board_is_to_be_taken_early() -> None:
    missing = "no initramfs of the running kernel 6.13 was found in /boot"
    assert Contents(ON_HOST, without="6.13").differences == (missing,)
    assert Contents(without="6.13").differences == ()


def test_a_damaged_image_is_a_difference() -> None:
    assert Contents(damaged={IMAGE: "it ends"}).differences == (f"{IMAGE} is damaged: it ends",)


@pytest.mark.parametrize(
    "output",
    [
        ["since 1 day ago", "end"],
        ["since Tue 2023-11-14 22:13:20.123456 CET", "end"],
        ["since Tue 2023-11-14 22:13:20.123456 UTC", "file 1700000000,5 /etc/a", "end"],
        ["since Tue 2023-11-14 22:13:20.123456 UTC", "file ? /etc/a", "end"],
        ["since Tue 2023-11-14 22:13:20.123456 UTC", "secret x", "end"],
        ["since Tue 2023-11-14 22:13:20.123456 UTC"],
        ["sh: systemctl: not found", "end"],
    ],
)
def test_a_time_that_cannot_be_read_does_not_mean_that_nothing_changed(output: list[str]) -> None:
    with pytest.raises(FactProcessError):
        ChangedSince().process(output)
