"""The whole runbook through pyinfra's command line, on fake hosts that answer as recorded ones do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.deploys.recorded import PASSPHRASE, PUBLIC_KEY
from tests.unit.deploys.runs import ROOT, Run, assert_tools, start, start_all

pytestmark = pytest.mark.commands
FAMILIES = ("fedora", "debian", "dracut", "ubuntu")
_FOUR = """
    ("@fake/fedora", r.data(r.Recorded(r.FEDORA, needs_reboot=False))),
    ("@fake/debian", r.data(r.Recorded(r.DEBIAN, needs_reboot=False))),
    ("@fake/dracut", r.data(r.Recorded(r.DEBIAN_DRACUT))),
    ("@fake/ubuntu", r.data(r.Recorded(r.UBUNTU, needs_reboot=False))),
"""
# One host, deployed and then planned for again: ``answers`` are what it says by then, ``keys`` what its data asks for.
_SETTLED = """
    ("@fake/settled", r.saying({answers}, r.data(
        r.Recorded(r.DEBIAN, needs_reboot=False), postgres_password="a password"{keys}
    ))),
"""
# The point on the other side of the axis is one of the curve too.
_OPPOSITE = 2**256 - 2**32 - 977 - int(PUBLIC_KEY[66:], 16)
# Each is a run for that host, a plan but for the last: what is asked for anew, and what the node says of its secrets.
_CHANGES = {
    "nothing": ("", ""),
    "image": (', node_image="quay.io/gevulot/node:next"', ""),
    "peers": (', p2p_listen="0.0.0.0:9999", peers=["10.0.0.0/8"]', ""),
    "password": ("", ', gevulot_db_password="different"'),
    "converted": ("", ', gevulot_db_url="different"'),
    "operator": (f', acl_whitelist=["04{PUBLIC_KEY[2:66]}{_OPPOSITE:064x}"]', ""),
    "applied": ("", ""),
}
_URL = "postgres://gevulot:url-password@db.example.net:5433/gevulot"
# Each is one run of pyinfra: what the inventory holds, and the arguments.
_RUNS = {
    "plan": (_FOUR, ("--dry", "--json")),
    "apply": (_FOUR, ("-y",)),
    "wrong data": (
        """
    ("@fake/one", r.data(r.Recorded(r.DEBIAN))),
    ("@fake/two", r.data(r.Recorded(r.DEBIAN), reboot="maybe")),
    ("@fake/three", r.data(r.Recorded(r.FEDORA), p2p_listne="0.0.0.0:9999")),
""",
        ("-y",),
    ),
    "refused": (
        """
    ("@fake/one", r.data(r.Recorded(r.DEBIAN))),
    ("@fake/two", r.data(r.Recorded(r.DEBIAN_12))),
    ("@fake/three", r.data(r.Recorded(r.FEDORA), seccomp_profile="/etc/own.json")),
    ("@fake/four", r.saying(
        {"places /etc": ["root", "place /etc/gevulot/node.env", "mount /", "directory"]},
        r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/five", r.saying(
        {"list-unit-files --no-legend": ["unit nvidia-persistenced.service runs /usr/bin/nvidia-persistenced"],
         "modules.alias; do": [
            f"{kind} nvidia /devices/pci0000:00/0000:00:01.0/0000:01:00.0" for kind in ("offers", "drives")
         ] + ["tables 1"]},
        r.data(r.Recorded(r.DEBIAN)))),
""",
        ("-y",),
    ),
    "one host's own": (
        """
    ("@fake/dead", r.saying({"record.json": r.recorded_boards(*r.gpu(1, 1), *r.gpu(2, 2))}, r.data(
        r.Recorded(r.DEBIAN)))),
    ("@fake/silent", r.saying({"pcibind-evidence": r.evidence_of_silence()}, r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/good", r.data(r.Recorded(r.DEBIAN))),
    ("@fake/ready", r.data(r.Recorded(r.DEBIAN, needs_reboot=False))),
""",
        ("-y",),
    ),
    "one host's own, planned": (
        """
    ("@fake/silent", r.saying({"pcibind-evidence": r.evidence_of_silence()}, r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/good", r.data(r.Recorded(r.DEBIAN))),
""",
        ("--dry",),
    ),
    "all their own": (
        """
    ("@fake/silent", r.saying({"pcibind-evidence": r.evidence_of_silence()}, r.data(r.Recorded(r.DEBIAN)))),
""",
        ("-y",),
    ),
    "one's own and another's": (
        """
    ("@fake/silent", r.saying({"pcibind-evidence": r.evidence_of_silence()}, r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/old", r.data(r.Recorded(r.DEBIAN_12))),
    ("@fake/good", r.data(r.Recorded(r.DEBIAN))),
""",
        ("-y",),
    ),
    "never": (
        """
    ("@fake/pending", r.saying(
        {"':/etc/gevulot-key:'": "Volume=/var/lib/gevulot/key:/etc/gevulot-key:ro,z",
         "^GEVULOT_P2P_LISTEN_ADDR=": "0.0.0.0:9999"},
        r.data(r.Recorded(r.DEBIAN), reboot="never"))),
    ("@fake/settled", r.data(r.Recorded(r.DEBIAN, needs_reboot=False), reboot="never")),
""",
        ("-y",),
    ),
    "rolling": (
        """
    ("@fake/one", r.saying({"_SYSTEMD_UNIT=gpu-power": "no power\\x1b[2J"}, r.data(
        r.Recorded(r.DEBIAN, failed_after="gpu-power.service")))),
    ("@fake/two", r.data(r.Recorded(r.DEBIAN))),
    ("@fake/three", r.data(r.Recorded(r.FEDORA))),
""",
        ("-y",),
    ),
    "no sudo": (
        """
    ("@fake/cut", r.saying({"": {"success": False, "stderr": "sudo: a password is required"}},
        r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/ready", r.data(r.Recorded(r.DEBIAN))),
""",
        ("-y",),
    ),
    "serial": (
        """
    ("@fake/one", r.data(r.Recorded(r.DEBIAN))),
    ("@fake/two", r.data(r.Recorded(r.DEBIAN))),
""",
        ("-y", "--serial"),
    ),
    "unreadable": (
        """
    ("@fake/one", r.data(r.Recorded(r.DEBIAN, boot_id_readable=False))),
    ("@fake/two", r.data(r.Recorded(r.DEBIAN))),
""",
        ("-y",),
    ),
    "ids left over": (
        """
    ("@fake/left", r.saying({"echo privileged": r.before(f"{r.ARGUMENTS} vfio-pci.ids=10de:2684")}, r.data(r.Recorded(
        r.FEDORA, needs_reboot=False, configured="intel_iommu=on iommu=pt vfio-pci.ids=10de:2684"
    )))),
    ("@fake/former", r.saying({"echo privileged": r.before(None)}, r.data(r.Recorded(
        r.FEDORA, needs_reboot=False, configured="intel_iommu=on iommu=pt vfio-pci.ids=10de:2684"
    )))),
    ("@fake/own", r.data(r.Recorded(
        r.FEDORA, needs_reboot=False, configured="intel_iommu=on iommu=pt vfio-pci.ids=1000:0072"
    ))),
    ("@fake/own-since", r.saying({"echo privileged": r.before()}, r.data(r.Recorded(
        r.FEDORA, needs_reboot=False, configured="intel_iommu=on iommu=pt vfio-pci.ids=10de:2684"
    )))),
    ("@fake/both", r.saying({"awk -v file=": ["ids=1000:0072 /etc/modprobe.d/own.conf"]}, r.data(r.Recorded(
        r.FEDORA, needs_reboot=False, configured="iommu=pt vfio-pci.ids=8086:1533"
    ), vfio_ids=True))),
    ("@fake/back", r.saying(
        {"echo privileged": r.before(
            f"{r.ARGUMENTS} vfio-pci.ids=8086:1533,10de:2684", "root=x vfio-pci.ids=8086:1533"
        )},
        r.data(r.Recorded(
            r.FEDORA, needs_reboot=False, configured="intel_iommu=on iommu=pt vfio-pci.ids=8086:1533,10de:2684"
        )))),
    ("@fake/done", r.data(r.Recorded(r.FEDORA, needs_reboot=False, configured="intel_iommu=on iommu=pt"))),
    ("@fake/lacking", r.data(r.Recorded(r.FEDORA, needs_reboot=False, configured="iommu=pt"))),
""",
        ("-y",),
    ),
    "former": (
        """
    ("@fake/former", r.saying(
        {"echo privileged": r.before(None, archived=("/etc/modprobe.d/vfio.conf",)), "texts /etc": r.FORMER,
         "--compare.*echo different": "different"},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
    ("@fake/strange", r.saying({"texts /etc": r.FORMER}, r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
    ("@fake/through", r.saying(
        {"echo privileged": r.before(None), "texts /etc": [r.FORMER[0], "link /etc/nvidia/a.conf", *r.FORMER[1:4]]},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
""",
        ("-y",),
    ),
    "not up": (
        """
    ("@fake/loop", r.saying(
        {"systemctl show -p Id": r.loop(), "/healthz": r.SILENT, "rooted $(df": ["rooted /"],
         "create_connection((host.strip": "203.0.113.7:9999 connection refused",
         "systemctl show --timestamp=unix -p Id":
            ["Id=gevulot-node.service", "LoadState=loaded", "ActiveState=activating", "SubState=auto-restart",
             "NeedDaemonReload=no", "NRestarts=6"]},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False), p2p_discovery=["203.0.113.7:9999"]),
    )),
    ("@fake/migrating", r.saying(
        {"systemctl show --timestamp=unix -p Id":
            ["Id=gevulot-node.service", "LoadState=loaded", "ActiveState=inactive", "SubState=dead",
             "NeedDaemonReload=no", "", "Id=gevulot-migrate.service", "LoadState=loaded", "ActiveState=activating",
             "SubState=auto-restart", "Result=exit-code", "NeedDaemonReload=no"]},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)),
    )),
    ("@fake/start", r.saying(
        {"systemctl show -p Id": r.loop(),
         "start_unit.sh start gevulot-node": {"success": False, "stderr": "It did not start."}},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)),
    )),
""",
        ("-y",),
    ),
    "rollout": (
        """
    *((f"@fake/{name}", r.saying(
        {"systemctl show --timestamp=unix -p Id": r.units_that_run(), **r.env_is_newer(),
         "start_unit.sh restart": {"success": False, "stderr": "gevulot-node.service did not start"}},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)),
    )) for name in ("one", "two", "three")),
""",
        ("-y",),
    ),
    "taken back": (
        f"""
    ("@fake/plain", r.saying(
        {{"^Secret=gevulot-db-password": "Secret=gevulot-db-password", "^AutoUpdate=": "AutoUpdate=registry",
          "echo privileged": r.before(auto_update_timer="disabled"),
          "podman-auto-update.timer": ["Id=podman-auto-update.timer", "LoadState=loaded", "ActiveState=active",
          "SubState=waiting", "NeedDaemonReload=no", "UnitFileState=enabled"]}},
        r.data(r.Recorded(r.DEBIAN, functions=(r.NIC, r.NVME)), boards=[], postgres_url="{_URL}"),
    )),
    ("@fake/others", r.saying(
        {{"^AutoUpdate=": "AutoUpdate=registry", "echo privileged": r.before(auto_update_timer="enabled"),
          "podman-auto-update.timer": ["Id=podman-auto-update.timer", "LoadState=loaded", "ActiveState=active",
          "SubState=waiting", "NeedDaemonReload=no", "UnitFileState=enabled"]}},
        r.data(r.Recorded(r.DEBIAN, functions=(r.NIC, r.NVME)), boards=[], postgres_url="{_URL}"),
    )),
""",
        ("-y",),
    ),
    "early": (
        """
    ("@fake/account", r.saying({r.login.PROBE: ["login-begins", "1000", *r.login.ANSWER[2:]]},
        r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/key", r.saying({r.re.compile(r"node_key\\.sh state /"): "lost"}, r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/port", r.saying({"list-sockets": [
        "listen tcp 0100007F 1538 7", "holder 7 812 python3", "in /system.slice/other-database.service", "end"]},
        r.data(r.Recorded(r.FEDORA)))),
    ("@fake/storage", r.saying({" storage /": [
        "real /srv/data", "parent directory /srv/data", "mount ext4 rw /", "entry photos", "end"]},
        r.data(r.Recorded(r.DEBIAN), storage_directory="/srv/data"))),
    ("@fake/secret", r.saying({"podman secret inspect --showsecret": [
        "damaged gevulot-db-url Error: no such secret", "listed gevulot-db-url", "root /srv", "end"]},
        r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/hand", r.saying({"/before.tar": [
        "file gevulot-postgres.service other /etc/containers/systemd/gevulot-postgres.container",
        "volume gevulot-postgres.service /srv/postgres:/var/lib/postgresql/data", "end"]},
        r.data(r.Recorded(r.DEBIAN)))),
    ("@fake/ready", r.data(r.Recorded(r.DEBIAN))),
""",
        ("--dry", "-y"),
    ),
    "degraded": (
        """
    ("@fake/before", r.saying(
        {"s/^/failed /": "failed fail2ban.service", "list-units --failed": "fail2ban.service",
         "is-system-running": "degraded", "rooted $(df": ["rooted /"]},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
    ("@fake/broken", r.saying(
        {"list-units --failed": "fail2ban.service", "is-system-running": "degraded", "rooted $(df": ["rooted /"]},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
    ("@fake/linked", r.saying(
        {" storage /": ["real /data/disk1/gevulot", "parent link /var/lib/gevulot", "mount ext4 rw /data", "end"]},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
    ("@fake/guide", r.saying({r.re.compile(r"node_key\\.sh state /"): "legacy"},
        r.data(r.Recorded(r.DEBIAN, needs_reboot=False)))),
""",
        ("-y",),
    ),
    "settle": (_SETTLED.format(answers="{}", keys=""), ("-y",)),
    "external": (
        f"""
    ("@fake/plain", r.data(
        r.Recorded(r.DEBIAN, functions=(r.NIC, r.NVME)), boards=[], postgres_url="{_URL}", auto_update=True
    )),
""",
        ("-y", "-vvv", "--diff"),
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All runs, side by side: most of their time is waiting."""
    yield from start_all(tmp_path_factory, _RUNS, "deploys/node.py")


@pytest.fixture(scope="module")
def plans(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Plans for the host that the run "settle" deployed, and another run."""
    assert runs["settle"].sent
    path = str(runs["settle"].directory / "sent.jsonl")
    wanted: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, (keys, names) in _CHANGES.items():
        answers = f"r.settled({path!r}, '@fake/settled'{names})"
        wanted[name] = (
            _SETTLED.format(answers=answers, keys=keys),
            ("-y",) if name == "applied" else ("--dry", "--json"),
        )
    yield from start_all(tmp_path_factory, wanted, "deploys/node.py")


@pytest.mark.parametrize(
    ("host", "expected", "unexpected"),
    [
        ("fedora", ("dnf install", "dracut --regenerate-all", "grubby --update-kernel=ALL"),
         ("apt-get", "update-initramfs", "update-grub")),
        ("debian", ("apt-get", "update-initramfs -u -k all", "update-grub"),
         ("dnf ", "dracut --", "grubby --update")),
        ("dracut", ("apt-get", "dracut --regenerate-all", "update-grub"),
         ("dnf ", "update-initramfs -u", "grubby --update")),
        ("ubuntu", ("apt-get", "update-initramfs -u -k all", "update-grub"),
         ("dnf ", "dracut --", "grubby --update")),
    ],
)  # fmt: skip
def test_each_family_is_managed_with_its_own_tools(
    runs: dict[str, Run], host: str, expected: tuple[str, ...], unexpected: tuple[str, ...]
) -> None:
    assert_tools(runs["apply"], host, expected, unexpected)


@pytest.mark.parametrize("host", FAMILIES)
def test_every_operation_that_ran_was_in_the_plan(runs: dict[str, Run], host: str) -> None:
    ran = set(runs["apply"].operations(host))
    assert len(ran) > 20
    assert {name for name in ran if name not in runs["plan"].planned(host)} - _other_family(host) == set()


def _other_family(host: str) -> set[str]:
    """One line of the runbook has a name for each generator; pyinfra keeps both under one operation."""
    other = "initramfs-tools" if host in ("fedora", "dracut") else "dracut"
    return {f"Rebuild the initramfs | Rebuild the initramfs with {other}"}


def test_a_dry_run_asks_and_changes_nothing(runs: dict[str, Run]) -> None:
    assert runs["plan"].exit_code == 0
    assert runs["plan"].sent
    assert [each for each in runs["plan"].sent if each.kind != "question"] == []


def test_the_plan_lists_what_is_known_only_after_the_reboot(runs: dict[str, Run]) -> None:
    assert {
        "Reboot when needed | Reboot when the live state needs it",
        "Bind the boards | Bind the chosen boards",
        "Start Postgres | Start Postgres",
        "Start Postgres | Reconcile the database's password",
        "Start the node | Start the node",
        "Verify the node | Verify the node",
    } <= runs["plan"].planned("dracut")


def test_only_the_host_whose_live_state_needs_it_reboots(runs: dict[str, Run]) -> None:
    rebooted = [each.host for each in runs["apply"].sent if "systemctl reboot" in each.text]
    assert rebooted == ["@fake/dracut"]


@pytest.mark.parametrize("host", FAMILIES)
def test_the_steps_run_in_the_order_of_the_guide(runs: dict[str, Run], host: str) -> None:
    order = [name.partition(" | ")[0] for name in runs["apply"].operations(host)]
    steps = list(dict.fromkeys(order))
    # The reboot binds the boards by itself.
    bound_here = [] if host == "dracut" else ["Bind the boards"]
    assert [step for step in steps if step != "Reboot when needed"] == [
        "Record the host as it was",
        "Install packages",
        "Configure the sockets",
        "Configure the kernel",
        "Prepare the passthrough",
        "Rebuild the initramfs",
        "Load modules",
        *bound_here,
        "Make the account and the storage",
        "Pull images",
        "Make the database's secrets",
        "Make the node's key",
        "Configure Postgres",
        "Configure the firewall",
        "Configure the node",
        "Start Postgres",
        "Start the firewall",
        "Start the node",
        "Grant access",
    ]


def test_wrong_data_of_any_host_stops_the_run_before_any_command(runs: dict[str, Run]) -> None:
    run = runs["wrong data"]
    assert run.exit_code != 0
    assert run.sent == []
    assert "@fake/two: gevulot_reboot is 'maybe'" in run.output
    assert "@fake/three: gevulot_p2p_listne: unknown key; did you mean gevulot_p2p_listen?" in run.output
    assert "Traceback" not in run.output


def test_a_refused_host_stops_the_run_before_any_host_is_changed(runs: dict[str, Run]) -> None:
    run = runs["refused"]
    assert run.exit_code != 0
    assert [each for each in run.sent if each.kind != "question"] == []
    assert "no host was changed" in run.output
    assert "@fake/two: Podman 4.3.1 is installed" in run.output
    assert "@fake/three: gevulot_seccomp_profile is /etc/own.json, which the host does not have" in run.output
    assert "@fake/four: /etc/gevulot/node.env is a directory; expected a file of the deploy" in run.output
    assert "@fake/five: nvidia-persistenced.service runs /usr/bin/nvidia-persistenced, which needs the" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("account", "commands run as the account number 1000 instead of root"),
        ("key", "/var/lib/gevulot/key/node.key is missing, but /etc/gevulot/node-key.sha256 records one"),
        ("port", "port 5432 of gevulot_postgres_port is taken by python3 (pid 812, other-database.service)"),
        ("storage", "gevulot_storage_directory is /srv/data, which is not empty (photos)"),
        ("secret", "Podman's secret store /srv/secrets lists gevulot-db-url, which cannot be read"),
        ("hand", "gevulot-postgres.service is made from /etc/containers/systemd/gevulot-postgres.container, which no"),
    ],
)
def test_a_dry_run_refuses_all_hosts_at_once_for_what_would_fail_in_the_run(
    runs: dict[str, Run], host: str, words: str
) -> None:
    run = runs["early"]
    assert run.exit_code != 0
    assert [each for each in run.sent if each.kind != "question"] == []
    assert f"@fake/{host}: {words}" in run.output
    assert run.output.count(f"\n@fake/{host}: ") == 1
    assert "@fake/ready: " not in run.output
    assert "Traceback" not in run.output


def test_what_others_had_degraded_before_is_shown_and_what_failed_since_fails(runs: dict[str, Run]) -> None:
    run = runs["degraded"]
    assert re.search(
        r"\[@fake/before\] system degraded, as before the run: fail2ban.service|"
        r"\n system degraded, as before the run: fail2ban.service",
        run.output,
    )
    assert "FAIL system degraded: fail2ban.service (expected running)" in run.output
    remembered = [each.host for each in run.sent if ">/var/lib/gpu-host/failed-units.new" in each.text]
    assert remembered == ["@fake/broken"]


def test_a_storage_that_is_a_link_is_used_by_its_own_path(runs: dict[str, Run]) -> None:
    commands = "\n".join(runs["degraded"].commands("linked"))
    assert "mkdir -p /data/disk1/gevulot" in commands
    assert not re.search("/var/lib/gevulot/(key|data|postgres)", commands)


def test_a_key_where_the_guide_puts_it_is_reported_and_taken_over(runs: dict[str, Run]) -> None:
    assert "/var/lib/gevulot/node.key is a key of a node that was set up before" in runs["degraded"].output
    assert any("node_key.sh adopt /var/lib/gevulot/key" in each for each in runs["degraded"].commands("guide"))


def test_a_host_with_a_dead_board_is_left_as_it_is_and_the_others_go_on(runs: dict[str, Run]) -> None:
    run = runs["one host's own"]
    assert run.exit_code != 0
    for name in ("dead", "silent"):
        assert run.commands(name) == []
    assert "[@fake/dead] refused: the chosen board 0000:00/02.0/00 is absent" in run.output
    assert "[@fake/silent] refused: board 0000:00/01.0/00 (0000:01:00.0): no-response" in run.output
    assert "Traceback" not in run.output
    for name in ("good", "ready"):
        assert "Start the node | Start the node" in run.operations(name)


def test_a_host_that_was_left_out_holds_up_nobodys_reboot(runs: dict[str, Run]) -> None:
    run = runs["one host's own"]
    assert [each.host for each in run.sent if "systemctl reboot" in each.text] == ["@fake/good"]
    assert "not rebooted because" not in run.output


def test_a_plan_ends_with_an_error_when_a_host_would_be_left_out(runs: dict[str, Run]) -> None:
    run = runs["one host's own, planned"]
    assert run.exit_code != 0
    assert "[@fake/silent] refused: board 0000:00/01.0/00" in run.output
    assert "Start the node" in run.output


def test_a_run_whose_every_host_is_refused_says_why_and_changes_nothing(runs: dict[str, Run]) -> None:
    run = runs["all their own"]
    assert run.exit_code != 0
    assert run.commands("silent") == []
    assert "no host was changed" in run.output
    assert "@fake/silent: board 0000:00/01.0/00 (0000:01:00.0): no-response" in run.output


def test_a_refusal_that_stops_all_stops_the_others_too(runs: dict[str, Run]) -> None:
    run = runs["one's own and another's"]
    assert run.exit_code != 0
    assert [each for each in run.sent if each.kind != "question"] == []
    assert "@fake/old: Podman 4.3.1 is installed" in run.output
    assert "Traceback" not in run.output


def test_no_reboot_allowed_means_that_nothing_runs_after_the_pending_reboot(runs: dict[str, Run]) -> None:
    steps = {name.partition(" | ")[0] for name in runs["never"].operations("pending")}
    assert steps == {
        "Record the host as it was",
        "Install packages",
        "Configure the sockets",
        "Configure the kernel",
        "Prepare the passthrough",
        "Rebuild the initramfs",
    }
    assert not any("systemctl reboot" in each.text for each in runs["never"].sent)


def test_no_reboot_allowed_says_what_is_pending(runs: dict[str, Run]) -> None:
    output = runs["never"].output
    assert "[@fake/pending] a reboot is pending: the kernel does not run with intel_iommu=on iommu=pt" in output
    assert "[@fake/settled] a reboot is pending" not in output


def test_only_the_operator_of_a_node_whose_key_lay_in_its_container_is_warned_and_once(runs: dict[str, Run]) -> None:
    output = runs["never"].output
    assert output.count("the node's key was readable at port 9995") == 1
    assert "[@fake/pending] the node's key was readable at port 9995" in output
    assert "[@fake/pending] the node listens at 0.0.0.0:9999 until this run, and only at 127.0.0.1:9999" in output
    assert "move /var/lib/gevulot/key/node.key and /etc/gevulot/node-key.sha256 away" in output


def test_no_reboot_allowed_holds_nobody_back_who_needs_none(runs: dict[str, Run]) -> None:
    assert "Start the node | Start the node" in runs["never"].operations("settled")


def test_a_host_that_fails_its_check_after_a_reboot_stops_all_further_reboots(runs: dict[str, Run]) -> None:
    run = runs["rolling"]
    assert [each.host for each in run.sent if "systemctl reboot" in each.text] == ["@fake/one"]
    assert "[@fake/one] the reboot failed: units failed that had not before: gpu-power.service" in run.output
    for host in ("two", "three"):
        assert f"[@fake/{host}] not rebooted because @fake/one failed" in run.output
        assert "Start the node | Start the node" not in run.operations(host)
    assert run.exit_code != 0


def test_what_a_failed_unit_printed_is_shown_without_what_steers_a_terminal(runs: dict[str, Run]) -> None:
    assert "The journal of gpu-power.service:\n no power" in runs["rolling"].output
    assert "\x1b[2J" not in runs["rolling"].output


def test_hosts_one_after_the_other_reboot_when_it_is_their_turn(runs: dict[str, Run]) -> None:
    # pyinfra chooses who is first, and that host ends unverified here: the other one is deployed, but not rebooted.
    run = runs["serial"]
    changes = [each for each in run.sent if each.kind != "question"]
    (rebooted,) = [number for number, each in enumerate(changes) if "systemctl reboot" in each.text]
    first = changes[rebooted].host
    (other,) = {"@fake/one", "@fake/two"} - {first}
    assert {each.host for each in changes[:rebooted]} == {first}
    assert "Rebuild the initramfs | Rebuild the initramfs with initramfs-tools" in run.operations(other[6:])
    assert f"[{first}] rebooted, and passed its checks" in run.output
    assert f"[{other}] not rebooted because {first} failed" in run.output


def test_a_host_whose_boots_cannot_be_distinguished_is_not_rebooted(runs: dict[str, Run]) -> None:
    run = runs["unreadable"]
    assert not any("systemctl reboot" in each.text for each in run.sent)
    assert "[@fake/one] the reboot failed: its boot identifier could not be read, so it was not" in run.output
    assert "[@fake/two] not rebooted because @fake/one failed" in run.output
    assert run.exit_code != 0


_TAKEN_BACK = "Configure the kernel | Remove the files of the first versions"


def test_the_files_of_an_earlier_version_are_taken_back_without_a_reboot(runs: dict[str, Run]) -> None:
    run = runs["former"]
    commands = run.commands("former")
    taken = [each.text for each in run.sent if each.host == "@fake/former" and each.operation == _TAKEN_BACK]
    changes = [text for text in taken if text in commands]
    assert changes[0] == "rm -f /etc/modprobe.d/nvidia.conf"
    assert "tar -C / -xpf /var/lib/gpu-host/before.tar etc/modprobe.d/vfio.conf" in changes[1]
    assert changes[2:] == ["rm -f /etc/udev/rules.d/99-vfio.rules"], (
        "and the operator's own modules-load.d/vfio.conf stays"
    )
    assert not any("systemctl reboot" in each for each in commands)
    assert sum("update-initramfs -u" in each for each in commands) == 1


def test_files_of_those_names_on_a_host_without_a_record_are_not_touched(runs: dict[str, Run]) -> None:
    assert _TAKEN_BACK not in runs["former"].operations("strange")


def test_a_link_that_an_earlier_version_wrote_through_stays_and_is_reported(runs: dict[str, Run]) -> None:
    assert _TAKEN_BACK not in runs["former"].operations("through")
    assert "an earlier deploy wrote through it into /etc/nvidia/a.conf" in runs["former"].output


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("left", ["--args='intel_iommu=on iommu=pt' --remove-args=vfio-pci.ids=10de:2684"]),
        # Of an earlier version, which kept no record: recognized by the models of the host's display boards.
        ("former", ["--args='intel_iommu=on iommu=pt' --remove-args=vfio-pci.ids=10de:2684"]),
        # The operator's, before the first deploy and since.
        ("own", []),
        ("own-since", []),
        # The kernel keeps the last one only: one argument has both, and the undo of that brings the operator's back.
        ("both", ["--args='intel_iommu=on iommu=pt vfio-pci.ids=8086:1533,1000:0072,10de:22ba,10de:2684'"]),
        (
            "back",
            ["--args='intel_iommu=on iommu=pt vfio-pci.ids=8086:1533' --remove-args=vfio-pci.ids=8086:1533,10de:2684"],
        ),
        ("lacking", ["--args='intel_iommu=on iommu=pt'"]),
        ("done", []),
    ],
)
def test_grubby_sets_what_lacks_and_takes_away_what_a_deploy_set_and_nothing_else(
    runs: dict[str, Run], host: str, expected: list[str]
) -> None:
    commands = [each for each in runs["ids left over"].commands(host) if "grubby --update" in each]
    assert [each.partition("--update-kernel=ALL ")[2] for each in commands] == expected


def test_a_settled_host_has_an_empty_plan(plans: dict[str, Run]) -> None:
    assert plans["nothing"].exit_code == 0
    assert plans["nothing"].planned("settled") == set()


def test_another_image_of_the_node_plans_all_that_follows_and_nothing_else(plans: dict[str, Run]) -> None:
    assert plans["image"].planned("settled") == {
        "Pull images | Pull the image of the node",
        "Configure the node | Write /etc/systemd/system/gevulot-migrate.service",
        "Configure the node | Write /etc/containers/systemd/gevulot-node.container",
        "Configure the node | Reload systemd",
        "Start the node | Start the node",
        "Grant access | Bring the node's access list up to date",
    }


def test_another_password_plans_all_that_follows_and_nothing_else(plans: dict[str, Run]) -> None:
    assert plans["password"].planned("settled") == {
        "Make the database's secrets | Set the database's password",
        "Start Postgres | Start Postgres",
        "Start Postgres | Reconcile the database's password",
        "Grant access | Bring the node's access list up to date",
    }


def test_the_url_that_an_earlier_deploy_gave_the_node_is_removed(plans: dict[str, Run]) -> None:
    assert plans["converted"].planned("settled") == {"Start the node | Remove the database's URL with its password"}


def test_another_operators_key_plans_its_access_and_nothing_else(plans: dict[str, Run]) -> None:
    assert plans["operator"].planned("settled") == {"Grant access | Bring the node's access list up to date"}


@pytest.mark.parametrize("host", FAMILIES)
def test_the_nodes_own_key_is_put_on_its_list(runs: dict[str, Run], host: str) -> None:
    commands = runs["apply"].commands(host)
    assert [each.rpartition(" peer ")[2] for each in commands if " peer " in each] == [f"{PUBLIC_KEY} whitelist"]


def test_networks_of_peers_plan_a_table_and_a_restart_and_nothing_else(plans: dict[str, Run]) -> None:
    assert plans["peers"].planned("settled") == {
        "Configure the firewall | Write /etc/gevulot/firewall.nft",
        "Configure the node | Write /etc/gevulot/node.env",
        "Start the firewall | Start the firewall",
        "Start the node | Start the node",
        "Grant access | Bring the node's access list up to date",
    }


@pytest.mark.parametrize("name", _CHANGES)
def test_a_plan_for_a_settled_host_changes_nothing(plans: dict[str, Run], name: str) -> None:
    assert [each for each in plans[name].sent if each.kind != "question"] == []


def test_the_files_of_a_step_are_asked_for_in_one_command(plans: dict[str, Run]) -> None:
    asked = [each.text for each in plans["applied"].sent if "' files " in each.text]
    assert [len(re.findall(r"/\S+", text.rpartition("' files ")[2])) for text in asked] == [1, 4, 8, 3, 4, 7]


def test_a_host_that_answers_nothing_is_reported_once(runs: dict[str, Run]) -> None:
    run = runs["no sudo"]
    assert run.exit_code != 0
    assert len(re.findall("sudo: a password is required", run.output)) == 1
    assert [each for each in run.sent if each.host == "@fake/cut" and each.kind != "question"] == []


LOOP = (
    'gevulot-node.service is not up: no discovery peer answers ("ERROR gevulot: Failed to connect to any P2P node. '
    'Quitting."); started 7 times in 84 s, every 12 s'
)


def test_a_node_in_a_restart_loop_fails_the_deploy_with_its_cause_first(runs: dict[str, Run]) -> None:
    output = runs["not up"].output
    assert runs["not up"].exit_code != 0
    assert f"first: {LOOP}, expected active; correct gevulot_p2p_discovery (203.0.113.7:9999)" in output
    assert "health check no answer: the health check says nothing; see `journalctl -u gevulot-node`, since" in output
    asked = [each for each in runs["not up"].sent if each.host == "@fake/loop" and "systemctl show -p Id" in each.text]
    assert len(asked) == 1, "it was waited for"


def test_a_node_in_a_restart_loop_is_started_anew_and_its_counter_with_it(runs: dict[str, Run]) -> None:
    (command,) = [each for each in runs["not up"].commands("loop") if "start_unit.sh" in each and "node" in each]
    assert "start_unit.sh restart gevulot-node.service 1800 300 " in command


def test_a_migration_that_waits_for_its_next_try_is_tried_at_once(runs: dict[str, Run]) -> None:
    commands = [each for each in runs["not up"].commands("migrating") if "start_unit.sh" in each]
    assert any("start_unit.sh restart gevulot-node.service " in each for each in commands)


def test_a_start_that_fails_says_the_cause_and_quotes_the_causes_journal(runs: dict[str, Run]) -> None:
    output = runs["not up"].output
    assert f"@fake/start] {LOOP}" in output
    assert "@fake/start] the journal of gevulot-node.service: " in output
    assert "Verify the node | Verify the node" not in runs["not up"].operations("start")


def test_discovery_addresses_are_tried_before_anything_is_changed_and_only_if_there_are_any(
    runs: dict[str, Run],
) -> None:
    run = runs["not up"]
    assert "no address of gevulot_p2p_discovery answers this host (203.0.113.7:9999: connection refused)" in run.output
    assert {each.host for each in run.sent if "create_connection((host.strip" in each.text} == {"@fake/loop"}


def test_a_node_without_boards_needs_no_reboot_and_binds_nothing(runs: dict[str, Run]) -> None:
    commands = "\n".join(runs["external"].commands("plain"))
    assert "systemctl reboot" not in commands
    assert "Start the node | Start the node" in runs["external"].operations("plain")


def test_an_external_database_leaves_no_postgres_on_the_node(runs: dict[str, Run]) -> None:
    operations = " ".join(runs["external"].operations("plain"))
    assert "Set the database's URL" in operations
    assert "Remove the database's URL" not in operations
    assert "Start Postgres" not in operations
    assert "Pull the image of Postgres" not in operations


def test_a_restart_that_fails_is_the_last_one_of_the_run(runs: dict[str, Run]) -> None:
    run = runs["rollout"]
    assert run.exit_code != 0
    restarted = [each.host for each in run.sent if "start_unit.sh restart" in each.text]
    assert len(restarted) == 1, "all hosts run the same: what fails on one fails on each"
    refused = {"@fake/one", "@fake/two", "@fake/three"} - set(restarted)
    for host in refused:
        assert f"[{host}] gevulot-postgres.service is not restarted, because gevulot-postgres.service failed on " \
            f"{restarted[0]}" in run.output  # fmt: skip
    assert not any("Start the node | Start the node" in run.operations(each[6:]) for each in refused)


def test_a_database_of_its_own_is_stopped_after_the_node_runs_with_an_external_one(runs: dict[str, Run]) -> None:
    operations = runs["taken back"].operations("plain")
    retired = "Retire Postgres | Stop the node's own Postgres and keep its data"
    assert operations.index("Start the node | Start the node") < operations.index(retired)
    (command,) = [each for each in runs["taken back"].commands("plain") if "systemctl stop gevulot-postgres" in each]
    assert "rm -f /etc/gevulot/pg_hba.conf /etc/gevulot/pg_ident.conf /etc/containers/systemd/gevulot-postgres.con" in (
        command
    )
    assert "/var/lib/gevulot" not in command
    # Somebody else's unit of that name has no secret of ours.
    assert retired not in runs["taken back"].operations("others")


def test_automatic_updates_are_switched_off_where_a_deploy_switched_them_on(runs: dict[str, Run]) -> None:
    operations = runs["taken back"].operations("plain")
    off, quadlet = (
        f"Configure the node | {name}"
        for name in ("Disable automatic updates", "Write /etc/containers/systemd/gevulot-node.container")
    )
    # The Quadlet says that a deploy asked for them.
    assert operations.index(off) < operations.index(quadlet)
    assert "systemctl disable --now podman-auto-update.timer" in runs["taken back"].commands("plain")
    assert off not in runs["taken back"].operations("others")


def test_automatic_updates_switch_their_timer_on(runs: dict[str, Run]) -> None:
    assert "Start the node | Enable automatic updates" in runs["external"].operations("plain")


@pytest.mark.parametrize("secret", [PASSPHRASE, "url-password"])
def test_no_secret_is_printed_or_part_of_a_command(runs: dict[str, Run], secret: str) -> None:
    run = runs["external"]
    assert "Set the network's passphrase" in run.output
    assert secret not in run.output
    assert [each.text for each in run.sent if secret in each.text] == []


@pytest.mark.parametrize("name", _RUNS)
def test_no_run_prints_the_passphrase(runs: dict[str, Run], name: str) -> None:
    assert PASSPHRASE not in runs[name].output


def test_an_unedited_example_is_refused_as_the_template(tmp_path: Path) -> None:
    run = start(tmp_path, str(ROOT / "examples/quick_start.py"), str(ROOT / "deploys/node.py"), "--dry")
    assert run.exit_code != 0
    assert "the inventory is still the template" in run.output
    assert "Traceback" not in run.output
