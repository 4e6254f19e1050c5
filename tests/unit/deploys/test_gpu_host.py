"""A GPU host without a node, by pyinfra's command line on fake hosts; what it has in common with a node; and its move
from the names of earlier versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploys import library, manifest, preflight
from deploys.assessment import legacy_files
from deploys.assessment.kernel_arguments import defeats
from deploys.assessment.verdict import Verdict
from deploys.preflight import HostState
from deploys.preflight.services import Services
from deploys.settings import HostSettings, read, read_host
from facts.barred_modules import ModuleBar
from facts.kernel import CommandLines, KernelModules
from facts.platform import parse
from facts.secret_store import SecretStoreState
from pcibind.change import boot_files
from pcibind.read import evidence_text
from pcibind.remote import topology_text
from tests.unit.deploys import recorded as r
from tests.unit.deploys.recorded import Recorded
from tests.unit.deploys.runs import ROOT, Run, start
from tests.unit.deploys.test_families import FAMILIES

commands_only = pytest.mark.commands
GPU_HOST, NODE = "deploys/gpu_host.py", "deploys/node.py"
PARTS = ["device /dev/kvm 660 root:kvm", "device /dev/vfio/12 660 root:kvm", "rooted /"]


def bare(distribution: r.Distribution, **settings: Any) -> dict[str, Any]:
    """A bare host which is right once it has rebooted, in an inventory without a secret."""
    host = Recorded(distribution)

    def when_rebooted(after: list[str], before: list[str]) -> r.Answer:
        return r.Answer(lambda: after if host.rebooted else before)

    answers: dict[str | re.Pattern[str], Any] = {
        "rooted $(df": when_rebooted(PARTS, PARTS[2:]),
        "modinfo -F": when_rebooted(r.modules(loaded=True), r.modules(loaded=False)),
        "-newercm": when_rebooted([], ["/boot/initrd.img-6.12.0 is older than /etc/modprobe.d/gpu-host-boards.conf"]),
        "systemctl show --timestamp=unix -p Id": r.units_that_run("pcibind.service"),
    }
    return r.without_node(r.saying(answers, r.data(host, **settings)))


def of_earlier_version(*texts: str, script: str, archived: tuple[str, ...] = ()) -> dict[str, Any]:
    """A host that an earlier version deployed, and that needs no reboot."""
    first, *rest = r.before(deployed="", archived=archived)
    known = [line for line in rest if not line.startswith("deployed")]
    answers: dict[str | re.Pattern[str], Any] = {
        "echo privileged": [first, f"place {FORMER}", "former", *known],
        f"existing {manifest.RECORD} ": f"{FORMER}/before.json",
        "existing /etc/modules-load.d/gevulot-node.conf": manifest.NODE_MODULES_LOAD.path,
        "texts /etc": texts or r.FORMER_NAMED,
        "texts /etc/pcibind/gevulot.toml": r.FORMER_NAMED[r.FORMER_NAMED.index("file /etc/pcibind/gevulot.toml") :],
        "then echo different": "different",
        "systemctl show --timestamp=unix -p Id": r.units_that_run(),
    }
    data = r.saying(answers, r.data(Recorded(r.DEBIAN, needs_reboot=False)))
    return data if script == NODE else r.without_node(data)


# pcibind's configuration of an earlier version; and the same where somebody has put a link in its place since.
REQUEST = r.FORMER_NAMED[r.FORMER_NAMED.index(f"file {legacy_files.REQUEST}") :]
LINKED = (*r.FORMER_NAMED[: -len(REQUEST)], REQUEST[0], "link /srv/mine.toml", *REQUEST[1:])

FORMER = manifest.FORMER_STATE_DIRECTORY
_FOUR = """
    ("@fake/fedora", t.bare(t.r.FEDORA)),
    ("@fake/debian", t.bare(t.r.DEBIAN)),
    ("@fake/dracut", t.bare(t.r.DEBIAN_DRACUT)),
    ("@fake/ubuntu", t.bare(t.r.UBUNTU)),
"""
# Each is one run: the script, what the inventory holds, and the arguments.
_RUNS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "plan": (GPU_HOST, _FOUR, ("--dry", "--json")),
    "apply": (GPU_HOST, _FOUR, ("-y",)),
    "typo": (
        GPU_HOST,
        """("@fake/one", t.bare(t.r.DEBIAN, rebot="never")), ("@fake/two", t.bare(t.r.DEBIAN, http_port="x"))""",
        ("-y",),
    ),
    "refused": (
        GPU_HOST,
        """
    ("@fake/table", t.r.without_node(t.r.data(t.Recorded(t.r.DEBIAN, changes={"iommu_table": None})))),
    ("@fake/place", t.r.saying(
        {"places /etc": ["root", "place /etc/pcibind/gpu-host.toml", "mount /", "directory"]}, t.bare(t.r.DEBIAN))),
    ("@fake/ready", t.bare(t.r.DEBIAN)),
""",
        ("--dry", "-y"),
    ),
    "wants no node": (
        GPU_HOST,
        """
    ("@fake/old", t.r.saying({"node_key.sh": "lost", "list-sockets": ["listen tcp 0100007F 1538 7", "end"]},
        t.r.without_node(t.r.data(t.Recorded(t.r.DEBIAN_12, needs_reboot=False))))),
""",
        ("--dry", "--json"),
    ),
    "status": (
        "deploys/status.py",
        """
    *((f"@fake/{name}", t.r.saying(
        {"id -u": "0", "cat /var/lib/gpu-host/deploy": word}, t.bare(t.r.DEBIAN, http_port="x")))
      for name, word in (("host", "gpu_host"), ("node", "node"))),
""",
        ("-y",),
    ),
    "host settle": (GPU_HOST, '("@fake/settled", t.bare(t.r.DEBIAN)),', ("-y",)),
    "node settle": (
        NODE,
        '("@fake/settled", t.r.data(t.Recorded(t.r.DEBIAN, needs_reboot=False), postgres_password="a password")),',
        ("-y",),
    ),
    "earlier, planned": (
        NODE, f'("@fake/settled", t.of_earlier_version(script={NODE!r})),', ("--dry", "--json"),
    ),
    "earlier, node": (NODE, f'("@fake/settled", t.of_earlier_version(script={NODE!r})),', ("-y",)),
    "earlier, host": (GPU_HOST, f'("@fake/settled", t.of_earlier_version(script={GPU_HOST!r})),', ("-y",)),
    "earlier, with a file of today's name": (
        NODE,
        f"""("@fake/settled", t.r.saying(
        {{"existing {manifest.BLACKLIST.path}": ["{manifest.BLACKLIST.path}", "{manifest.MODULES_LOAD.path}"]}},
        t.of_earlier_version(script={NODE!r}))),""",
        ("-y",),
    ),
    "earlier, with a link": (
        GPU_HOST,
        f"""("@fake/settled", t.r.saying(
        {{"/etc/pcibind/*.toml": ["file /etc/pcibind/gevulot.toml", *t.REQUEST[1:]]}},
        t.of_earlier_version(*t.LINKED, script={GPU_HOST!r}))),""",
        ("--dry", "-y"),
    ),
    "earlier, with files of before": (
        NODE,
        f'''("@fake/settled", t.of_earlier_version(script={NODE!r},
        archived=("/etc/udev/rules.d/99-gevulot-vfio.rules", "/etc/pcibind/gevulot.toml"))),''',
        ("-y",),
    ),
}  # fmt: skip
# Runs on a host where another run has been: the script, the run before, what the host was deployed as, more answers.
_AFTER: dict[str, tuple[str, str, str, str]] = {
    "host again": (GPU_HOST, "host settle", "gpu_host", "{}"),
    "host after node": (GPU_HOST, "node settle", "node", "{}"),
    "node again": (NODE, "node settle", "node", "{}"),
    **{
        f"host after {what}, by a word that nobody wrote": (
            GPU_HOST, f"{what} settle", "n0de", f'{{"existing /etc/modules-load.d/gevulot-node.conf": "{path}"}}',
        )
        for what, path in (("node", manifest.NODE_MODULES_LOAD.path), ("host", ""))
    },
    "node after host": (NODE, "host settle", "gpu_host", "{}"),
    "node after host, where files were made since": (
        NODE, "host settle", "gpu_host",
        '{"existing /etc/modules-load.d/gevulot-node.conf": "/etc/gevulot/firewall.nft"}',
    ),
}  # fmt: skip


def _start(directory: Path, script: str, hosts: str, arguments: tuple[str, ...], before: str = "") -> Run:
    inventory = directory / "inventory.py"
    inventory.write_text(
        "from tests.unit.deploys import test_gpu_host as t\n\n"
        f"{before}\nt.r.watch({str(directory / 'sent.jsonl')!r})\nnodes = [{hosts}]\n"
    )
    return start(directory, str(inventory), str(ROOT / script), *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All runs, side by side, and then those on hosts where others have been."""
    done = {
        name: _start(tmp_path_factory.mktemp("run"), script, hosts, arguments)
        for name, (script, hosts, arguments) in _RUNS.items()
    }
    for name, (script, earlier, deployed, more) in _AFTER.items():
        assert done[earlier].sent
        path = str(done[earlier].directory / "sent.jsonl")
        data = "t.r.data(t.Recorded(t.r.DEBIAN, needs_reboot=False), postgres_password='a password')"
        data = data if script == NODE else f"t.r.without_node({data})"
        answers = f"{{**t.r.settled({path!r}, '@fake/settled', {deployed!r}), **{more}}}"
        hosts = f"('@fake/settled', t.r.saying({answers}, {data})),"
        arguments = ("-y",) if more != "{}" else ("--dry", "--json")
        done[name] = _start(tmp_path_factory.mktemp("run"), script, hosts, arguments)
    yield done
    for run in done.values():
        run.process.kill()
        run.process.wait()


# --- a bare host


@commands_only
def test_a_bare_host_becomes_a_gpu_host_and_its_table_is_right(runs: dict[str, Run]) -> None:
    run = runs["apply"]
    assert run.exit_code == 0, run.output[-5000:]
    assert run.output.count(" passed, 0 failed") == len(FAMILIES)
    for row in ("kernel arguments, live", "interrupt remapping", "board 0000:01:00.0", "initramfs", "/dev/vfio/12"):
        assert run.output.count(f"ok {row}") == len(FAMILIES), row
    assert "Traceback" not in run.output


@commands_only
@pytest.mark.parametrize("host", FAMILIES)
def test_the_steps_are_the_first_of_a_node(runs: dict[str, Run], host: str) -> None:
    steps = list(dict.fromkeys(name.partition(" | ")[0] for name in runs["apply"].operations(host)))
    # The reboots of all hosts are one host's operation.
    assert [step for step in steps if step not in ("Reboot when needed", "")] == [
        "Record the host as it was",
        "Install packages",
        "Configure the kernel",
        "Prepare the passthrough",
        "Rebuild the initramfs",
    ]


@commands_only
@pytest.mark.parametrize("host", FAMILIES)
def test_every_operation_that_ran_was_in_the_plan(runs: dict[str, Run], host: str) -> None:
    ran = set(runs["apply"].operations(host))
    other = "initramfs-tools" if host in ("fedora", "dracut") else "dracut"
    other_family = {f"Rebuild the initramfs | Rebuild the initramfs with {other}"}
    assert len(ran) > 12
    assert ran - runs["plan"].planned(host) - other_family == set()


@commands_only
@pytest.mark.parametrize("host", FAMILIES)
def test_nothing_that_is_done_to_a_host_is_named_after_gevulot(runs: dict[str, Run], host: str) -> None:
    done = [*runs["apply"].commands(host), *runs["apply"].operations(host), *runs["plan"].planned(host)]
    assert len(done) > 30
    assert [each for each in done if "gevulot" in each.lower()] == []
    assert [each for each in done if re.search(r"podman|quay\.io|postgres|nftables|node_key", each)] == []


def test_no_file_of_a_host_names_gevulot() -> None:
    templates = [manifest.TEMPLATES / f"{file.path[1:]}.j2" for file in manifest.HOST]
    texts = [path.read_text() for path in templates if path.exists()]
    assert len(texts) == 4
    texts += [*(content.decode() for content in library.read_tree().values()), library.WRAPPER]
    texts += [boot_files.rule(), boot_files.dracut(), boot_files.initramfs_hook(), *boot_files.units().values()]
    assert [text for text in (*texts, *(file.path for file in manifest.HOST)) if "gevulot" in text.lower()] == []
    assert "gevulot" not in manifest.STATE_DIRECTORY


@commands_only
def test_a_host_needs_no_secret_and_no_value_of_a_nodes_but_a_typo_is_refused(runs: dict[str, Run]) -> None:
    run = runs["typo"]
    assert run.exit_code != 0
    assert "@fake/one: gevulot_rebot: unknown key; did you mean gevulot_reboot?" in run.output
    assert "@fake/two: " not in run.output
    assert run.sent == []


# --- one judgement of the host


@commands_only
def test_a_host_is_refused_in_the_dry_run_with_all_others(runs: dict[str, Run]) -> None:
    run = runs["refused"]
    assert run.exit_code != 0
    assert "@fake/table: the firmware has no IOMMU table" in run.output
    assert "@fake/place: /etc/pcibind/gpu-host.toml is a directory; expected a file of the deploy" in run.output
    assert "@fake/ready: " not in run.output
    assert [each for each in run.sent if each.kind != "question"] == []


@commands_only
def test_no_question_of_a_node_is_asked_of_a_host(runs: dict[str, Run]) -> None:
    run = runs["wants no node"]
    assert run.exit_code == 0, run.output
    assert not any("node_key.sh" in each.text or "list-sockets" in each.text for each in run.sent)
    assert not any("PG_VERSION" in each.text or "podman secret" in each.text for each in run.sent)


def verdicts(
    distribution: r.Distribution = r.DEBIAN,
    functions: tuple[r.Pci, ...] = (*r.gpu(1, 1), r.NIC, r.NVME),
    changes: dict[str, str | None] | None = None,
    missing: tuple[str, ...] = (),
    more: dict[str, Any] | None = None,
    **keys: Any,
) -> tuple[Verdict, Verdict]:
    """What is reported of a machine that is to be a GPU host, and of the same one that is to be a node."""
    state = HostState(
        parse(r.platform(distribution, **(changes or {}))),
        KernelModules().process(r.modules(missing)),
        topology_text.parse(r.topology(*functions)),
        evidence_text.parse(r.evidence()),
        **(more or {}),
    )
    data = {f"gevulot_{key}": value for key, value in ({"psk_passphrase": r.PASSPHRASE} | keys).items()}
    return preflight.judge_host(state, read_host("gpu1", data)), preflight.judge(state, read("gpu1", data))


LINE = "root=UUID=0a1b ro intremap=off"
_BOTH: list[dict[str, Any]] = [
    {"changes": {"iommu_table": None}},
    {"changes": {"virtualisation": None}},
    {"changes": {"systemd": None}},
    {"changes": {"python": "3.9"}},
    {"missing": ("vfio_pci",)},
    {"missing": ("kvm",)},
    {"functions": (r.NIC, r.NVME), "boards": ["10de:2684"]},
    {"more": {"held_packages": ("kmod",)}},
    {"more": {"lines": CommandLines(tuple(LINE.split()), (tuple(LINE.split()),))}},
    {"more": {"barred": (ModuleBar("blacklist", "vfio_pci", "/etc/modprobe.d/mine.conf:1"),)}},
]
_NODE_ONLY: list[dict[str, Any]] = [
    {"distribution": r.DEBIAN_12},
    {"distribution": replace(r.DEBIAN, offered="4.3.1+ds1-8")},
    {"changes": {"legacy_cgroups": "yes"}},
    {"changes": {"systemd_release": "252"}},
    {"missing": ("vsock", "vhost_vsock")},
    {"changes": {"cores": "8"}, "enforce_minimum": True},
    {
        "functions": (replace(r.gpu(1, 1)[1], place="pci0000:00/0000:00:02.0", code=0x120000), r.NIC),
        "boards": ["0000:00:02.0"],
    },
    {"more": {"data_release": "15"}},
    {"more": {"services": Services(key_state="lost")}},
    {"more": {"services": Services(secrets=SecretStoreState(path="/srv/secrets", problem="it is damaged"))}},
    {"more": {"barred": (ModuleBar("blacklist", "vhost_vsock", "/etc/modprobe.d/mine.conf:1"),)}},
]


@pytest.mark.parametrize("what", _BOTH, ids=str)
def test_what_a_host_cannot_do_is_refused_in_the_same_words_for_it_and_for_a_node(what: dict[str, Any]) -> None:
    host, node = verdicts(**what)
    assert len(host.refusals) == 1
    (refusal,) = host.refusals
    same = refusal.replace("defeats the host", "defeats the node")
    # The modules that are expected are more for a node, and reported after what is missing.
    assert any(
        each.partition("; expected all of")[0] == same.partition("; expected all of")[0] for each in node.refusals
    )
    assert host.of_host == node.of_host


@pytest.mark.parametrize("what", _NODE_ONLY, ids=str)
def test_what_only_a_node_cannot_do_without_is_no_refusal_of_a_host(what: dict[str, Any]) -> None:
    host, node = verdicts(**what)
    assert host.refusals == ()
    assert len(node.refusals) == 1


def test_the_facts_of_a_host_are_the_same_without_a_node() -> None:
    host, node = verdicts()
    assert (host.warnings, node.warnings) == ((), ())
    assert (host.of_node, node.of_node) == (False, True)
    assert replace(node, of_node=False, node_modules=()) == host
    assert host.all_modules == ("vfio", "vfio_pci", "vfio_iommu_type1")


def test_a_host_without_a_board_to_hand_over_is_reported() -> None:
    host, _ = verdicts(functions=(r.NIC, r.NVME))
    assert host.refusals == ()
    assert host.warnings[0].startswith("no supported GPU (RTX 3090, 4090) was found, so no board is handed over;")


@pytest.mark.parametrize(
    "argument",
    ["systemd.unified_cgroup_hierarchy=0", "modprobe.blacklist=vhost_vsock", "systemd.mask=gevulot-node",
     "initcall_blacklist=vsock_init"],
)  # fmt: skip
def test_an_argument_that_only_a_node_minds_does_not_defeat_a_host(argument: str) -> None:
    assert defeats((argument,), "DMAR", "vmx", node=False) == ()
    assert len(defeats((argument,), "DMAR", "vmx")) == 1


def test_an_argument_that_keeps_boards_from_a_host_keeps_them_from_its_node() -> None:
    for argument in ("iommu=off", "nointremap", "modprobe.blacklist=vfio_pci", "systemd.mask=pcibind", "nomodule"):
        assert defeats((argument,), "DMAR", "vmx", node=False) == defeats((argument,), "DMAR", "vmx") != ()


# --- status


@commands_only
def test_the_values_of_a_nodes_keys_matter_to_the_status_of_a_node_only(runs: dict[str, Run]) -> None:
    host, node = re.split("\n@fake/node", runs["status"].output.partition("@fake/host wrong")[2])
    assert "none: GPU host" in host
    assert "gevulot_http_port" not in host
    assert "run deploys/gpu_host.py, and reboot where it asks for that" in host
    assert "gevulot_http_port is 'x': expected a whole number" in node


# --- runs after one another


@commands_only
@pytest.mark.parametrize("name", ["host again", "host after node", "node again"])
def test_a_run_after_one_of_its_kind_or_of_more_plans_nothing(runs: dict[str, Run], name: str) -> None:
    assert runs[name].exit_code == 0, runs[name].output
    assert runs[name].planned("settled") == set()
    assert [each for each in runs[name].sent if each.kind != "question"] == []


@commands_only
def test_a_node_on_a_gpu_host_finds_the_hosts_part_done(runs: dict[str, Run]) -> None:
    changes = runs["node after host"].planned("settled")
    own = {"Configure the kernel", "Prepare the passthrough", "Load modules", "Bind the boards", "Reboot when needed"}
    assert {each for each in changes if each.partition(" | ")[0] in own} == set()
    assert f"Record the host as it was | Write {manifest.DEPLOYED}" in changes
    assert f"Configure the sockets | Write {manifest.NODE_MODULES_LOAD.path}" in changes
    assert f"Record the host as it was | Write {manifest.RECORD}" not in changes
    assert {"Start the node | Start the node", "Make the node's key | Make the node's key"} <= changes


@commands_only
def test_what_was_put_into_a_nodes_places_since_is_archived_before_the_host_becomes_one(runs: dict[str, Run]) -> None:
    commands = runs["node after host, where files were made since"].commands("settled")
    archived = next(number for number, each in enumerate(commands) if f"-rf {manifest.ARCHIVE}.new" in each)
    place_of_word = next(number for number, each in enumerate(commands) if each.startswith("echo node >"))
    written = next(number for number, each in enumerate(commands) if "put_file.sh" in each)
    assert " etc/gevulot/firewall.nft " in commands[archived]
    assert archived < place_of_word < written


@commands_only
@pytest.mark.parametrize(("what", "kind"), [("node", "node"), ("host", "gpu_host")])
def test_a_word_that_nobody_wrote_makes_no_gpu_host_of_a_node(runs: dict[str, Run], what: str, kind: str) -> None:
    commands = runs[f"host after {what}, by a word that nobody wrote"].commands("settled")
    assert [each for each in commands if manifest.DEPLOYED in each] == [
        f"echo {kind} >{manifest.DEPLOYED}.new && sync {manifest.DEPLOYED}.new && "
        f"mv {manifest.DEPLOYED}.new {manifest.DEPLOYED}"
    ]


# --- hosts of earlier versions

_REMOVED = [
    "/etc/udev/rules.d/99-gevulot-vfio.rules",
    "/etc/modprobe.d/gevulot-boards.conf",
    "/etc/default/grub.d/zz-gevulot.cfg",
]


@commands_only
@pytest.mark.parametrize("name", ["earlier, node", "earlier, host"])
def test_a_host_of_an_earlier_version_is_moved_on_without_a_reboot(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    commands = run.commands("settled")
    assert commands[0].endswith(f"mv -T {FORMER} {manifest.STATE_DIRECTORY} && sync {manifest.RECORD}")
    assert not any(f"-cf {manifest.ARCHIVE}" in each for each in commands), "it has a record"
    assert commands[1].startswith("echo node >"), "it was a node, and stays one"
    removed = [each for each in commands if each.startswith("rm -f /etc/") and "gevulot" in each]
    assert sorted(removed) == sorted(f"rm -f {path}" for path in _REMOVED)
    assert "mv -fT /etc/pcibind/gevulot.toml /etc/pcibind/gpu-host.toml" in commands
    assert not any("systemctl reboot" in each for each in commands)
    assert sum("update-initramfs -u" in each for each in commands) == 1


@commands_only
@pytest.mark.parametrize("name", ["earlier, node", "earlier, host"])
def test_the_new_file_is_there_before_the_former_one_goes(runs: dict[str, Run], name: str) -> None:
    commands = runs[name].commands("settled")
    for today, former in manifest.FORMER_NAMES.items():
        if today == manifest.PCIBIND_BOARDS.path:
            continue
        written = next(number for number, each in enumerate(commands) if "put_file.sh" in each and f" {today} " in each)
        assert written < commands.index(f"rm -f {former}"), today


@commands_only
def test_a_run_for_the_host_alone_leaves_the_nodes_files_on_a_node(runs: dict[str, Run]) -> None:
    commands = runs["earlier, host"].commands("settled")
    assert not any(path in each for each in commands for path in manifest.NODE_FILES)


@commands_only
def test_a_plan_for_a_host_of_an_earlier_version_names_its_move_and_no_second_record(runs: dict[str, Run]) -> None:
    run = runs["earlier, planned"]
    changes = run.planned("settled")
    assert run.commands("settled") == []
    assert {
        f"Record the host as it was | Move the record of earlier deploys to {manifest.STATE_DIRECTORY}",
        f"Record the host as it was | Write {manifest.DEPLOYED}",
        "Configure the kernel | Remove the files of earlier versions",
        "Configure the kernel | Remove the drop-in of earlier versions",
        "Prepare the passthrough | Rename the configuration of earlier versions",
    } <= changes
    assert f"Record the host as it was | Write {manifest.RECORD}" not in changes


@commands_only
def test_a_file_of_others_with_a_name_of_todays_is_archived_before_the_record_moves(runs: dict[str, Run]) -> None:
    run = runs["earlier, with a file of today's name"]
    archived, moved, *_ = run.commands("settled")
    new = f"{FORMER}/before.tar.new"
    words = f"{manifest.BLACKLIST.path[1:]} {manifest.MODULES_LOAD.path[1:]}"
    assert f"tar -C / -rf {new} {words} && sync {new} && mv {new} " in archived
    (asked,) = {each.text for each in run.sent if f"existing {manifest.BLACKLIST.path} " in each.text}
    assert manifest.MODULES_LOAD.path in asked, "a name that no earlier version had"
    assert " mv -T " in moved


@commands_only
def test_files_from_before_the_first_deploy_come_back_at_their_former_places(runs: dict[str, Run]) -> None:
    commands = runs["earlier, with files of before"].commands("settled")
    restore = f"tar -C / -xpf {manifest.ARCHIVE} etc"
    assert any(each.startswith(f"{restore}/udev/rules.d/99-gevulot-vfio.rules") for each in commands)
    (renamed,) = [each for each in commands if each.startswith("mv -fT /etc/pcibind/gevulot.toml")]
    assert f" && {restore}/pcibind/gevulot.toml" in renamed


@commands_only
def test_a_link_in_place_of_the_former_configuration_is_refused_since_each_board_would_be_asked_for_twice(
    runs: dict[str, Run],
) -> None:
    run = runs["earlier, with a link"]
    assert run.exit_code != 0
    assert "@fake/settled: /etc/pcibind/gpu-host.toml:4: model 10de:2684 is also chosen at /etc/pcibind/gevu" in (
        run.output
    )
    assert run.commands("settled") == []


@commands_only
@pytest.mark.parametrize("name", ["earlier, node", "earlier, host"])
def test_a_move_ends_when_no_file_has_a_former_name(runs: dict[str, Run], name: str) -> None:
    commands = runs[name].commands("settled")
    assert f"touch {FORMER}/renaming && mv -T" in commands[0], "it starts before the record is moved"
    ended = commands.index(f"rm -f {manifest.RENAMING}")
    gone = [commands.index(f"rm -f {path}") for path in _REMOVED]
    assert max(*gone, commands.index("mv -fT /etc/pcibind/gevulot.toml /etc/pcibind/gpu-host.toml")) < ended


def test_the_settings_of_a_host_know_nothing_of_a_node() -> None:
    assert not any(hasattr(HostSettings(), name) for name in ("storage_directory", "psk_passphrase", "node_image"))
