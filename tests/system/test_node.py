"""One host, from bare to verified, and what happens to it afterwards. The tests build on each other, in their order."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra

from deploys import manifest
from facts.database import MIGRATIONS, TABLES
from facts.initramfs import EARLY, InitramfsContents
from facts.virtual_machine import SECONDS, VirtualMachine, VirtualMachineResult
from tests.lab.containers.build import PUBLICLY_KNOWN_KEY
from tests.lab.inventory import passphrase
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, command, plan_of, pyinfra
from tests.system.exposure import exposure
from tests.system.story import DRIVERS, STRANGER, Story, running_state, treasure, wait_for_node
from tests.system.story import deployed as start_deployed

BOARDS = ("0000:00/04.0/00", "0000:00/05.0/00")
"""The default topology's boards by their bridge-relative paths, which no renumbering changes."""


AS_BEFORE = r"""
cd /etc/containers/systemd
systemctl stop gevulot-node.service
sed -i -e 's|^Volume=/run/gevulot-key:.*|Volume=/var/lib/gevulot/key:/etc/gevulot-key:ro,z|' \
  -e '/^RunInit=/d' -e '/^ExecSt/d' -e '/^SuccessExitStatus=/d' \
  -e '/gevulot-vsock/d' -e '/VSOCK_PODMAN_OPTIONS/d' -e '/gevulot-firewall/d' gevulot-node.container
sed -i -e 's|^GEVULOT_NODE_KEY_FILE=.*|GEVULOT_NODE_KEY_FILE=/etc/gevulot-key/node.key|' \
  -e '/^GEVULOT_P2P_DISCOVERY_ADDR=/d' /etc/gevulot/node.env
rm /etc/systemd/system/gevulot-key.service /usr/local/libexec/gevulot/hand-over-key
systemctl stop gevulot-firewall.service
rm /etc/systemd/system/gevulot-firewall.service /etc/gevulot/*.nft
rm -f /usr/local/libexec/gevulot/allow-vsock
systemctl daemon-reload
systemctl start gevulot-node.service
"""
"""Makes of a node what earlier versions deployed: the key's directory is mounted into the container."""

REFUSE_VSOCK = """
import json, sys
def condition(index, operator, value):
    return {"index": index, "value": value, "valueTwo": 0, "op": f"SCMP_CMP_{operator}"}
def rule(action, *conditions, **more):
    return {"names": ["socket"], "action": f"SCMP_ACT_{action}", "args": conditions, **more}
with open("/usr/share/containers/seccomp.json") as file:
    profile = json.load(file)
audit = ["CAP_AUDIT_WRITE"]
profile["syscalls"] = [each for each in profile["syscalls"] if each["names"] != ["socket"]] + [
    rule("ERRNO", condition(0, "EQ", 40), errnoRet=1),
    rule("ERRNO", condition(0, "EQ", 16), condition(2, "EQ", 9), errnoRet=22, excludes={"caps": audit}),
    rule("ALLOW", condition(0, "EQ", 16), condition(2, "NE", 9), excludes={"caps": audit}),
    rule("ALLOW", condition(0, "NE", 16), excludes={"caps": audit}),
    rule("ALLOW", condition(0, "NE", 40), includes={"caps": audit}),
]
with open(sys.argv[1], "w") as file:
    json.dump(profile, file)
"""
"""Writes the host's own seccomp profile with the rules for sockets that containers-common has from 0.67 on."""


STALLED = r"""
import json, time, urllib.error, urllib.request

def ask(port, path="/", data=None):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code

def wait(status):
    deadline = time.monotonic() + 120
    while ask(8888, "/healthz") != status and time.monotonic() < deadline:
        time.sleep(0.5)
    print(ask(8888, "/healthz"))

def stall(seconds):
    ask(9944, data=json.dumps({"method": "stand_in_stall", "params": {"seconds": seconds}}).encode())

wait(200)
stall(600)
wait(503)
stall(0)
wait(200)
"""
"""Prints the node's health while its scheduler's loop runs, while it stands, and when it runs again."""


def drivers(machine: Machine, board: str) -> list[str]:
    """The driver of each function of the board at a bridge-relative path."""
    root, *bridges, slot = board.split("/")
    domain = root.split(":")[0]
    names = []
    for line in machine.ssh(DRIVERS).stdout.splitlines():
        path, _, driver = line.partition(" ")
        parts = [part for part in path.split("/") if part.startswith(f"{domain}:")]
        if [part.split(":")[2] for part in parts[:-1]] == bridges and parts[-1].split(":")[2].split(".")[0] == slot:
            names.append(driver)
    return names


def address(machine: Machine, board: str) -> str:
    """The present address of the first function behind a board's root port."""
    port = board.split("/")[1]
    return machine.ssh(f"ls /sys/bus/pci/devices/0000:00:{port}/ | grep -m1 '\\.0$' | grep ^0000").stdout.strip()


def group(machine: Machine, function: str) -> str:
    return machine.ssh(f"basename $(readlink /sys/bus/pci/devices/{function}/iommu_group)").stdout.strip()


@dataclass(frozen=True, slots=True)
class Deployed:
    """The machine of these tests, and how it came to be what it is."""

    machine: Machine
    story: Story


@pytest.fixture(scope="module")
def deployed(registry: Path, say: Progress) -> Iterator[Deployed]:
    machine, story = start_deployed(registry, say)
    with machine:
        yield Deployed(machine, story)


@pytest.fixture(scope="module")
def machine(deployed: Deployed) -> Machine:
    return deployed.machine


@pytest.fixture(scope="module")
def story(deployed: Deployed) -> Story:
    return deployed.story


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the states of hosts."""
    return tmp_path_factory.mktemp("known")


@pytest.fixture
def host(machine: Machine) -> testinfra.host.Host:
    options = " ".join(
        f"-o {option}" for option in ("StrictHostKeyChecking=yes", f"UserKnownHostsFile={machine.known_hosts}")
    )
    return testinfra.get_host(
        f"ssh://root@{machine.host}:{machine.port}", ssh_identity_file=str(machine.key), ssh_extra_args=options
    )


def test_a_plan_names_everything_that_is_then_executed(story: Story) -> None:
    assert story.plan.code == 0, story.plan.output
    planned = set(plan_of(story.plan.report))
    executed = set(changes_of(story.never.report)) | set(changes_of(story.first.report))
    assert executed, "nothing was executed"
    assert executed <= planned


def test_a_plan_changes_nothing(story: Story) -> None:
    """The first run after the plan found everything still to do, the record of the bare host first of all."""
    assert "Record the host as it was | Write /var/lib/gpu-host/before.json" in changes_of(story.never.report)


def test_without_permission_to_reboot_nothing_that_runs_is_changed(story: Story) -> None:
    assert story.never.code == 0, story.never.output
    assert story.after_never == story.bare


def test_without_permission_to_reboot_the_pending_reboot_is_reported(story: Story) -> None:
    assert "a reboot is pending: the kernel does not run with intel_iommu=on iommu=pt" in story.never.output


def test_the_deploy_succeeds_and_its_table_has_nothing_wrong(story: Story) -> None:
    assert story.first.code == 0, story.first.output[-5000:]
    assert ", 0 failed" not in story.first.output.replace(" passed, 0 failed", "")
    assert " passed, 0 failed" in story.first.output


def test_the_host_rebooted_once(story: Story, machine: Machine) -> None:
    assert machine.boot_id() != story.bare["boot"]
    boots = machine.ssh("journalctl --list-boots --no-pager -o json").stdout
    assert len(json.loads(boots)) == 2


def test_every_function_of_both_boards_is_on_vfio_pci(machine: Machine) -> None:
    for board in BOARDS:
        assert drivers(machine, board) == ["vfio-pci"] * 4


def test_the_whole_system_is_running(host: testinfra.host.Host) -> None:
    assert host.check_output("systemctl is-system-running") == "running"
    for unit in ("gevulot-node.service", "gevulot-postgres.service", "pcibind.service"):
        assert host.service(unit).is_running


def test_the_generated_unit_verifies(host: testinfra.host.Host) -> None:
    assert host.service("pcibind.service").is_valid


def test_no_driver_of_a_module_ever_touched_a_board(machine: Machine) -> None:
    """The early override stands before any module loads; only what is built into the kernel was held for a moment."""
    bare, deployed = (machine.ssh(f"journalctl -k -b {boot} -o cat --no-pager").stdout for boot in ("-1", "0"))
    for driver in ("snd_hda_intel", "xhci_hcd", "bochs-drm"):
        touched = re.compile(rf"{driver}.* 0000:0[12]:00\.")
        assert touched.search(bare), "a bare host's log says nothing of this driver, so its absence shows nothing"
        assert not touched.search(deployed)


def test_the_user_is_a_member_of_kvm(host: testinfra.host.Host) -> None:
    assert {"gevulot", "kvm"} <= set(host.user("gevulot").groups)


def test_the_key_is_the_nodes_own_and_nobody_else_can_read_it(host: testinfra.host.Host) -> None:
    key = host.file("/var/lib/gevulot/key/node.key")
    assert (key.size, key.mode, key.user, key.group) == (32, 0o600, "root", "root")
    assert key.content != PUBLICLY_KNOWN_KEY
    assert not host.file("/var/lib/gevulot/data/node.key").exists


def test_the_node_gives_its_key_to_nobody_by_any_spelling(machine: Machine) -> None:
    exposed = exposure(machine)
    assert exposed.works, "no file was given, so this shows nothing"
    assert any(target.startswith("//proc/1/fd/") for target in exposed.descriptors), "the init was not looked at"
    assert exposed.asked > 50
    assert exposed.given == []


def test_nothing_of_the_hand_over_is_left(host: testinfra.host.Host) -> None:
    assert not host.file("/run/gevulot-key").exists
    assert host.check_output("systemctl show -p ActiveState,Result gevulot-key.service").splitlines() == [
        "Result=success",
        "ActiveState=inactive",
    ]


def test_the_tables_and_the_record_of_migrations_exist(host: testinfra.host.Host) -> None:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    tables = host.check_output("podman exec gevulot-postgres psql -U gevulot -d gevulot -Atc %s", query).split()
    assert set(tables) == TABLES | {MIGRATIONS}
    assert len(TABLES) == 12


def test_loopback_asks_for_the_password(host: testinfra.host.Host) -> None:
    answer = host.run("podman exec gevulot-postgres psql -w -h 127.0.0.1 -U gevulot -d gevulot -c 'SELECT 1'")
    assert answer.rc != 0
    assert "no password supplied" in answer.stderr


def test_only_root_reaches_the_databases_socket(machine: Machine) -> None:
    connect = (
        "python3 -c 'import socket; "
        'socket.socket(socket.AF_UNIX).connect("/run/gevulot-postgres/socket/.s.PGSQL.5432")\''
    )
    machine.ssh(connect)
    refused = machine.ssh(f"runuser -u operator -- {connect}", check=False)
    assert refused.returncode != 0
    assert "PermissionError" in refused.stderr


def test_the_node_has_no_database_password_in_its_environment(machine: Machine) -> None:
    password, _ = secrets_of(machine)
    pid = machine.ssh("podman container inspect --format '{{.State.Pid}}' gevulot-node").stdout.strip()
    # The pattern is matched by the shell itself, so that it is in no process's arguments.
    search = machine.ssh(
        f'read -r pattern; case "$(tr "\\0" "\\n" </proc/{pid}/environ)" in *"$pattern"*) echo there ;; '
        "*GEVULOT_DB_URL=*) echo none ;; esac",
        stdin=f"{password}\n",
    )
    assert search.stdout.strip() == "none"
    assert "gevulot-db-url" not in machine.ssh("podman secret ls --format '{{.Name}}'").stdout.split()


def access_list(machine: Machine) -> list[str]:
    query = "SELECT key FROM acl_whitelist ORDER BY 1"
    return machine.ssh(f"podman exec gevulot-postgres psql -U gevulot -d gevulot -Atc '{query}'").stdout.split()


def test_the_nodes_own_key_is_on_its_list_after_the_first_deploy(machine: Machine) -> None:
    assert access_list(machine) == [machine.ssh("cat /etc/gevulot/node-key.public").stdout.strip()]


def test_a_program_proves_vsock_its_workspace_and_exactly_the_listed_boards(machine: Machine) -> None:
    command = "podman exec gevulot-node /gevulot stand-in-program --slowness 5 --limit 900"
    report = json.loads(machine.ssh(command, timeout=1000).stdout)
    displays = [address(machine, board) for board in BOARDS]
    assert report["devices"] == displays
    # As the kernel of the program's machine sees them: where the real node's program saw them too.
    functions = [(each["host"], each["address"], each["id"]) for each in report["functions"]]
    assert functions == [(displays[0], "00:06.0", "1234:1111"), (displays[1], "00:07.0", "1234:1111")]
    assert all(bar["address"] for function in report["functions"] for bar in function["bars"])
    # Its task came over vsock, and its result through the workspace.
    assert report["guest_cid"] >= 4
    assert report["workspace"]["file"] == "proof.dat"


def test_the_health_check_sees_a_scheduler_that_stands(machine: Machine) -> None:
    assert machine.ssh("python3 -I -", stdin=STALLED).stdout.split() == ["200", "503", "200"]


VERIFICATION = ("gevulot-node", "qemu-system-x86_64", manifest.VERIFICATION_MACHINE, manifest.NODE_DATA)


def trial(machine: Machine) -> VirtualMachineResult:
    """What comes of the virtual machine that a deploy starts to verify the node."""
    fact = VirtualMachine()
    return fact.process(machine.ssh(fact.command(*VERIFICATION), timeout=180).stdout.splitlines())


def test_the_first_deploy_started_a_virtual_machine_from_the_nodes_image(story: Story) -> None:
    row = r"ok +virtual machine from the node's image +kvm, QEMU \d+\.\d+\.\d+"
    assert re.search(row, story.first.output), story.first.output[-5000:]


def test_an_image_that_lacks_a_rom_is_shown_in_qemus_own_words(machine: Machine) -> None:
    rom, away = "/usr/lib/ipxe/qemu/efi-e1000e.rom", "/usr/lib/ipxe/away.rom"
    machine.ssh(f"podman exec gevulot-node mv {rom} {away}")
    try:
        machine_trial = trial(machine)
    finally:
        machine.ssh(f"podman exec gevulot-node mv {away} {rom}")
    assert (machine_trial.accelerator, machine_trial.version) == (None, None)
    assert machine_trial.reason.endswith('failed to find romfile "efi-e1000e.rom"')
    assert trial(machine).accelerator == "kvm"


@pytest.mark.soak
def test_nothing_of_a_virtual_machine_that_hangs_is_left_in_the_container(machine: Machine) -> None:
    fact = VirtualMachine()
    words = (VERIFICATION[0], "/tmp/hanging", *VERIFICATION[2:])
    hanging = fact.command(*words).removesuffix(str(SECONDS)) + "20"
    machine.ssh(
        "podman exec -i gevulot-node sh -c 'cat >/tmp/hanging; chmod 755 /tmp/hanging'",
        stdin="#!/bin/sh\nwhile :; do read -r line || sleep 1; done\n",
    )
    result = fact.process(machine.ssh(hanging, timeout=180).stdout.splitlines())
    assert result.reason.startswith("no answer within")
    running = machine.ssh("podman top gevulot-node args").stdout
    assert "/gevulot" in running
    assert "/tmp/hanging" not in running
    machine.ssh("podman exec gevulot-node rm /tmp/hanging")
    machine.ssh("systemctl is-active gevulot-node.service")


def test_the_container_has_the_boards_groups_and_no_others(machine: Machine) -> None:
    wanted = {f"/dev/vfio/{group(machine, address(machine, board))}" for board in BOARDS} | {"/dev/vfio/vfio"}
    inside = machine.ssh("podman exec gevulot-node find /dev/vfio -type c").stdout.split()
    assert set(inside) == wanted


def test_no_secret_is_in_what_pyinfra_printed(story: Story, machine: Machine) -> None:
    for secret in secrets_of(machine):
        assert secret not in story.first.output
        assert secret not in story.never.output + story.plan.output


def test_no_secret_is_in_the_journal_or_in_any_process_arguments(machine: Machine) -> None:
    pattern = "\n".join(secrets_of(machine))
    search = machine.ssh(
        "cat >/run/patterns; chmod 600 /run/patterns; "
        "journalctl --no-pager -o export | grep -c -a -F -f /run/patterns; "
        "grep -c -a -F -f /run/patterns /root/arguments; grep -c -a gevulot-postgres /root/arguments; "
        "rm /run/patterns",
        stdin=pattern,
        check=False,
    )
    journal, arguments, recorded = (int(count) for count in search.stdout.split())
    assert recorded > 0, "no arguments were recorded, so nothing is shown"
    assert (journal, arguments) == (0, 0)


def test_no_secret_is_in_a_file_that_others_can_read(machine: Machine) -> None:
    search = machine.ssh(
        "cat >/tmp/patterns; grep -r -l -a -F -f /tmp/patterns --exclude=patterns --exclude-dir=proc --exclude-dir=sys "
        "/etc /home /opt /root /run /srv /tmp /usr/local /var 2>/dev/null; rm /tmp/patterns",
        stdin="\n".join(secrets_of(machine)),
        user="operator",
        check=False,
    )
    assert search.stdout == ""


def secrets_of(machine: Machine) -> list[str]:
    password = machine.ssh("podman secret inspect --showsecret --format '{{.SecretData}}' gevulot-db-password").stdout
    return [password.strip(), passphrase()]


def test_a_second_run_changes_nothing_and_neither_would_a_third(machine: Machine, say: Progress) -> None:
    machine.ssh(f"podman exec gevulot-node /gevulot peer {STRANGER} whitelist")
    # A unit restarts for other content alone; a backup, say, changes a file's times.
    machine.ssh("touch /etc/gevulot/node.env /etc/gevulot/firewall.nft /etc/gevulot/pg_hba.conf")
    before = treasure(machine)
    with step(say, "deploying a second time", takes="about a minute"):
        second = pyinfra([machine], "-y", "--json")
    assert second.code == 0, second.output[-3000:]
    assert changes_of(second.report) == []
    with step(say, "planning a third run", takes="about a minute"):
        third = pyinfra([machine], "--dry", "--json")
    assert third.code == 0, third.output[-3000:]
    assert plan_of(third.report) == []
    assert treasure(machine) == before


@pytest.mark.soak
def test_an_emptied_access_list_gets_the_nodes_own_key_back(machine: Machine, say: Progress) -> None:
    own = machine.ssh("cat /etc/gevulot/node-key.public").stdout.strip()
    before = access_list(machine)
    empty = "podman exec gevulot-postgres psql -U gevulot -d gevulot -c"
    machine.ssh(f"{empty} \"DELETE FROM acl_whitelist WHERE key = '{own}'\"")
    with step(say, "deploying with the node's key off its list", takes="about a minute"):
        run = pyinfra([machine], "-y", "--json")
    assert run.code == 0, run.output[-3000:]
    assert changes_of(run.report) == ["Grant access | Bring the node's access list up to date"]
    assert access_list(machine) == before
    assert {own, STRANGER} <= set(before), "nothing of others was on the list, so this shows nothing"


def fleet(machine: Machine, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of the fleet's status for this machine, and what it says of it."""
    words = [sys.executable, "-m", "deploys.fleet", "inventories/lab.py", "--limit", machine.name, "--output", "json"]
    done = command([machine], [*words, *arguments])
    assert done.stdout.startswith("{"), done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    return done.returncode, host


def test_the_status_of_a_verified_node_is_ok_and_reading_it_changes_nothing(machine: Machine, kept: Path) -> None:
    before = treasure(machine), running_state(machine)
    code, host = fleet(machine, "--known", str(kept), "--keep")
    assert (code, host["severity"], host["reasons"]) == (0, "ok", [])
    assert (host["boards"]["wanted"], host["boards"]["bound"]) == (2, 2)
    assert host["key"]["state"] == "present"
    assert host["activity"] == {"state": "idle", "programs": []}
    assert host["database"] == {"kind": "own", "reachable": True, "release": 16, "missing": []}
    assert host["verified"]
    functions = {each["address"]: each for each in host["topology"]["functions"]}
    display = functions[address(machine, BOARDS[0])]
    assert (display["driver"], display["iommu_group_type"]) == ("vfio-pci", "identity")
    assert [each["name"] for each in display["modules"]] == ["bochs"]
    assert host["topology"]["unreadable"] == []
    contents = InitramfsContents().process(
        machine.ssh(InitramfsContents().command(manifest.INITRAMFS_FILES)).stdout.splitlines()
    )
    (held,) = contents.images.values()
    assert set(EARLY) <= set(held)
    assert (contents.differences, contents.unknown) == ((), ())
    assert (treasure(machine), running_state(machine)) == before


def test_pyinfra_shows_the_same_as_a_table(machine: Machine) -> None:
    shown = pyinfra([machine], "-y", deploy="deploys/status.py")
    assert shown.code == 0
    assert re.search(rf"^{machine.name} +ok +2/2 +on +yes/yes +no ", shown.output, re.M), shown.output[-2000:]


def wait_for_status(machine: Machine, state: str, reason: str = "") -> tuple[int, dict[str, Any]]:
    """What the fleet's status says once the node does this and the first reason has these words, or in ten minutes."""
    deadline = time.monotonic() + 600
    while True:
        code, host = fleet(machine)
        doing = host["activity"]["state"] if host["activity"] else ""
        if (doing == state and reason in "".join(host["reasons"][:1])) or time.monotonic() > deadline:
            return code, host
        time.sleep(2)


@pytest.mark.soak
def test_a_program_that_cannot_start_is_named_with_qemus_words(machine: Machine, say: Progress) -> None:
    firmware = "bios-256k.bin"
    find = "podman exec gevulot-node find /usr/share -name"
    machine.ssh(f"{find} {firmware} -exec mv {{}} {{}}.away ';'")
    machine.ssh("systemd-run --quiet --collect podman exec gevulot-node /gevulot stand-in-program --slowness 5")
    with step(say, "waiting until a program without firmware was tried three times", takes="about a minute"):
        code, host = wait_for_status(machine, "stuck", "cannot start")
    assert (code, host["severity"], host["health"], host["activity"]["state"]) == (4, "wrong", 503, "stuck"), host
    assert re.search(rf"cannot start: .* tries within .*; QEMU says: .*{firmware}", host["reasons"][0]), host["reasons"]
    machine.ssh(f"{find} {firmware}.away -exec sh -c 'mv \"$0\" \"${{0%.away}}\"' {{}} ';'")
    # The transaction is gone with the node's memory; that it would run by now is another test's.
    machine.ssh("systemctl restart gevulot-node.service")
    wait_for_node(machine)
    code, host = wait_for_status(machine, "idle")
    assert (code, host["severity"], host["activity"]["state"]) == (0, "ok", "idle"), host


def test_a_node_that_was_stopped_is_wrong_by_name(machine: Machine) -> None:
    machine.ssh("systemctl stop gevulot-node.service")
    code, host = fleet(machine)
    assert (code, host["severity"]) == (4, "wrong")
    assert host["reasons"][0].startswith("gevulot-node.service is inactive")
    machine.ssh("systemctl start gevulot-node.service")
    wait_for_node(machine)


def test_a_stop_takes_a_moment_and_is_no_failure(machine: Machine) -> None:
    began = time.monotonic()
    machine.ssh("systemctl stop gevulot-node.service")
    assert time.monotonic() - began < 15
    state = machine.ssh("systemctl show -p ActiveState,Result gevulot-node.service").stdout.split()
    assert set(state) == {"ActiveState=inactive", "Result=success"}
    assert machine.ssh("systemctl is-system-running", check=False).stdout.strip() == "running"
    machine.ssh("systemctl start gevulot-node.service")
    wait_for_node(machine)


def has_its_key(machine: Machine) -> bool:
    """Whether the node that runs now read the key that is its own."""
    output = machine.ssh("podman logs gevulot-node 2>&1; echo own $(cat /etc/gevulot/node-key.public)").stdout
    return f"node public key {output.rpartition('own ')[2].strip()}" in output


@pytest.mark.soak
def test_each_of_two_starts_in_a_row_gets_the_key(machine: Machine) -> None:
    machine.ssh("systemctl restart gevulot-node.service && systemctl restart gevulot-node.service")
    wait_for_node(machine)
    assert has_its_key(machine)
    machine.ssh("test ! -e /run/gevulot-key")


@pytest.mark.soak
def test_a_start_that_is_stopped_before_the_key_was_read_leaves_nothing_and_the_next_one_works(
    machine: Machine,
) -> None:
    machine.ssh("systemctl stop gevulot-node.service; systemctl start --no-block gevulot-node.service")
    # The node may be quicker than this question.
    machine.ssh(
        "n=0; until [ -p /run/gevulot-key/node.key ] || systemctl is-active --quiet gevulot-node.service; "
        "do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done; systemctl stop gevulot-node.service"
    )
    machine.ssh("test ! -e /run/gevulot-key")
    machine.ssh("systemctl start gevulot-node.service")
    wait_for_node(machine)
    assert has_its_key(machine)


def test_a_container_that_was_killed_comes_back_with_its_key(machine: Machine) -> None:
    old = machine.ssh("podman inspect --format '{{.Id}}' gevulot-node").stdout.strip()
    machine.ssh("podman kill --signal KILL gevulot-node")
    machine.ssh(
        f"n=0; until now=$(podman inspect --format '{{{{.Id}}}}' gevulot-node 2>/dev/null) && [ \"$now\" != {old} ]; "
        "do n=$((n+1)); [ $n -lt 120 ] || exit 1; sleep 1; done"
    )
    wait_for_node(machine)
    assert has_its_key(machine)
    machine.ssh("test ! -e /run/gevulot-key")


def policy(machine: Machine) -> str:
    """The security options of the node's container."""
    return machine.ssh("podman container inspect --format '{{json .HostConfig.SecurityOpt}}' gevulot-node").stdout


def vsock_trial(machine: Machine, *options: str) -> dict[str, Any]:
    """What a container of the host says of a vsock socket, under the node's options or these."""
    words = " ".join(("/usr/local/libexec/gevulot/allow-vsock check", *options))
    trial_result: dict[str, Any] = json.loads(machine.ssh(words).stdout)
    return trial_result


def test_a_node_keeps_working_when_its_hosts_podman_starts_to_refuse_vsock(machine: Machine) -> None:
    assert "seccomp" not in policy(machine)
    machine.ssh("python3 - /etc/containers/seccomp.json", stdin=REFUSE_VSOCK)
    refused = vsock_trial(machine)
    assert (refused["opens"], refused["reason"]) == (False, "Operation not permitted"), "this shows nothing"
    machine.ssh("systemctl restart gevulot-node.service")
    wait_for_node(machine)
    assert "seccomp=/run/gevulot-vsock/seccomp.json" in policy(machine)
    assert vsock_trial(machine) == {"opens": True, "reason": "", "options": ["seccomp=/run/gevulot-vsock/seccomp.json"]}
    machine.ssh("rm /etc/containers/seccomp.json; systemctl restart gevulot-node.service")
    wait_for_node(machine)
    assert "seccomp" not in policy(machine)


def test_a_stopped_node_leaves_no_profile(machine: Machine) -> None:
    machine.ssh("systemctl stop gevulot-node.service; test ! -e /run/gevulot-vsock")
    machine.ssh("systemctl start gevulot-node.service")
    wait_for_node(machine)


def test_an_operators_profile_that_refuses_vsock_is_reported(machine: Machine) -> None:
    machine.ssh("python3 - /root/own.json", stdin=REFUSE_VSOCK)
    result = vsock_trial(machine, "--security-opt=seccomp=/root/own.json")
    assert result == {"opens": False, "reason": "Operation not permitted", "options": ["seccomp=/root/own.json"]}


@pytest.mark.soak
def test_the_table_is_wrong_under_an_operators_profile_that_refuses_vsock(machine: Machine, say: Progress) -> None:
    own = ("--data", "gevulot_seccomp_profile=/root/own.json")
    with step(say, "deploying with a profile that refuses vsock", takes="about four minutes"):
        run = pyinfra([machine], "-y", *own)
    assert run.code != 0
    assert re.search(r"FAIL the container can open a vsock socket +no: Operation not permitted, with", run.output)
    machine.ssh("test ! -e /usr/local/libexec/gevulot/allow-vsock")
    with step(say, "deploying without it", takes="about two minutes"):
        again = pyinfra([machine], "-y")
    assert again.code == 0, again.output[-3000:]


@pytest.mark.soak
def test_a_node_that_does_not_stay_up_says_why(machine: Machine, say: Progress) -> None:
    nobody = "127.0.0.1:1"
    with step(say, "deploying with a discovery address that nobody answers", takes="about two minutes"):
        run = pyinfra([machine], "-y", "--data", f'gevulot_p2p_discovery=["{nobody}"]')
    assert run.code != 0, "the node stays up without its peers, so this shows nothing"
    assert f"answers this host ({nobody}: connection refused)" in run.output
    why = (
        r'gevulot-node\.service is not up: no discovery peer answers \("ERROR gevulot: Failed to connect to any P2P '
        r'node\. Quitting\."\); started \d+ times in \d+ (s|min), every \d+ s'
    )
    assert re.search(f"{why}; correct gevulot_p2p_discovery", run.output), run.output[-3000:]
    assert "the journal of gevulot-node.service: " in run.output
    code, host = fleet(machine)
    assert (code, host["node"]["unit"]) == (4, "restarting")
    assert re.match(why, host["reasons"][0]), host["reasons"]


@pytest.fixture(scope="module")
def next_deploy(machine: Machine, say: Progress) -> Run:
    """A deploy over an earlier one, without the address that nobody answers and with another database password."""
    machine.ssh(AS_BEFORE)
    wait_for_node(machine)
    assert "//etc/gevulot-key/node.key" in exposure(machine).given, "the key was not exposed, so this shows nothing"
    data = ("gevulot_postgres_password=an/other p@ss%word", "gevulot_verify_virtual_machine=False")
    with step(say, "deploying over an earlier deploy", takes="about a minute and a half"):
        return pyinfra([machine], "-y", "--json", *(word for each in data for word in ("--data", each)))


@pytest.mark.soak
def test_a_node_comes_up_again_when_what_kept_it_down_is_gone(machine: Machine, next_deploy: Run) -> None:
    assert next_deploy.code == 0, next_deploy.output[-3000:]
    assert fleet(machine)[1]["node"]["unit"] == "active"


@pytest.mark.soak
def test_a_node_of_an_earlier_deploy_is_converted_and_its_operator_warned(machine: Machine, next_deploy: Run) -> None:
    assert next_deploy.code == 0, next_deploy.output[-3000:]
    assert next_deploy.output.count("the node's key was readable at port 9995") == 1
    assert exposure(machine).given == []
    machine.ssh("! grep -q /etc/gevulot-key /etc/containers/systemd/gevulot-node.container")


@pytest.mark.soak
def test_a_changed_password_reaches_the_server(next_deploy: Run) -> None:
    assert "Start Postgres | Reconcile the database's password" in changes_of(next_deploy.report)
    assert "reachable, release 16 (psycopg, through SSH)" in next_deploy.output
    assert "an/other" not in next_deploy.output


@pytest.mark.soak
def test_no_machine_is_started_where_that_is_switched_off(next_deploy: Run) -> None:
    assert "virtual machine from the node's image" not in next_deploy.output


@pytest.mark.soak
def test_a_boot_with_pcibind_off_skips_the_node_and_the_next_one_has_it_again(machine: Machine, say: Progress) -> None:
    before = treasure(machine)
    with step(say, "booting with pcibind=off", takes="about a minute"):
        machine.ssh("sed -i '/^\\tlinux/s/$/ pcibind=off/' /boot/grub/grub.cfg && sync")
        machine.reboot()
        assert machine.wait_running() == "running"
    for board in BOARDS:
        assert "vfio-pci" not in drivers(machine, board)
    show = "systemctl show -P {} gevulot-node.service"
    answers = [
        machine.ssh(show.format(name)).stdout.strip() for name in ("ActiveState", "ConditionResult", "NRestarts")
    ]
    assert answers == ["inactive", "no", "0"]
    code, host = fleet(machine)
    assert (code != 0, host["severity"]) == (True, "wrong")
    assert host["reasons"][0].startswith("the kernel runs with pcibind=off")
    refused = pyinfra([machine], "-y", "--json")
    assert refused.code != 0
    assert "this host was booted with pcibind=off" in refused.output
    with step(say, "booting without pcibind=off", takes="about a minute"):
        machine.ssh("sed -i 's/ pcibind=off$//' /boot/grub/grub.cfg && sync")
        machine.reboot()
        wait_for_node(machine)
    assert treasure(machine) == before
    for board in BOARDS:
        assert drivers(machine, board) == ["vfio-pci"] * 4


def test_everything_survives_a_power_cut_and_a_twin_added_in_front(machine: Machine, say: Progress, kept: Path) -> None:
    before = treasure(machine)
    displays = [address(machine, board) for board in BOARDS]
    with step(say, "cutting the power, adding a twin in front, booting", takes="about a minute"):
        machine.power_cut()
        machine.power_on("twin-in-front")
        wait_for_node(machine)
    assert treasure(machine) == before
    moved = [address(machine, board) for board in BOARDS]
    assert moved != displays, "the twin moved no bus, so this shows nothing"
    for board in BOARDS:
        assert drivers(machine, board) == ["vfio-pci"] * 4
    test_the_container_has_the_boards_groups_and_no_others(machine)
    listed = machine.ssh("podman exec gevulot-node printenv GEVULOT_GPU_DEVICES").stdout.strip()
    assert listed == ",".join(moved)
    (twin,) = [line for line in machine.ssh(DRIVERS).stdout.splitlines() if displays[0] in line]
    # The blacklist of the boards' display driver is for every board of the model, as long as the host needs no other.
    assert not twin.endswith("vfio-pci"), "the twin was taken from the host"
    assert machine.ssh(f"cat /sys/bus/pci/devices/{displays[0]}/driver_override").stdout.strip() == "(null)"
    _, status = fleet(machine, "--known", str(kept))
    assert (status["boards"]["bound"], len(status["drift"])) == (2, 1)
    # By the name that the firmware gives the slot, if it gives one.
    assert re.fullmatch(r"board 1234:1111 at (slot \S+|0000:00/03\.0/00) is new", status["drift"][0])
    assert machine.ssh("systemctl is-system-running").stdout.strip() == "running"
