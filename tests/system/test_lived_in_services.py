"""Hosts on which somebody else's services are where the node's are to be: refused before a change, or lived with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab.history import HISTORIES
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import Run, changes_of, pyinfra

pytestmark = pytest.mark.worlds


def start(history: str, registry: Path, say: Progress) -> Machine:
    machine = Machine.start(
        "no-boards", preparation=HISTORIES[history].preparation, warm=False, registry=registry, progress=say
    )
    machine.wait_running()
    return machine


def plan(machine: Machine, *arguments: str) -> Run:
    return pyinfra([machine], "--dry", "--json", *arguments)


def refuses(machine: Machine, *words: str, arguments: tuple[str, ...] = ()) -> str:
    """The output of a dry run that refuses with these words, and after which nothing of a deploy is on the host."""
    run = plan(machine, *arguments)
    assert run.code != 0, run.output[-3000:]
    assert [word for word in words if word not in run.output] == [], run.output[-3000:]
    assert "Traceback" not in run.output
    machine.ssh("test ! -e /var/lib/gpu-host && test ! -e /etc/gevulot")
    return run.output


def is_accepted(machine: Machine, *arguments: str) -> str:
    run = plan(machine, *arguments)
    assert run.code == 0, run.output[-3000:]
    return run.output


def deploys(machine: Machine, say: Progress) -> Run:
    with step(say, "deploying", takes="about five minutes"):
        run = pyinfra([machine], "-y")
    assert run.code == 0, run.output[-5000:]
    return run


def changes_nothing(machine: Machine) -> None:
    run = pyinfra([machine], "-y", "--json")
    assert run.code == 0, run.output[-5000:]
    assert changes_of(run.report) == []


def test_ports_that_others_listen_on_are_refused_by_who_has_them_and_only_those(registry: Path, say: Progress) -> None:
    with start("port-5432-taken", registry, say) as machine:
        machine.ssh("timeout 120 sh -c 'until ss -Htln sport = 5432 | grep -q .; do sleep 1; done'")
        words = ("port 5432 of gevulot_postgres_port is taken by python3 (pid ", "other-database.service")
        refuses(machine, *words)
        is_accepted(machine, "--data", "gevulot_postgres_port=5433")
        # A socket that systemd opens for others, before their program runs; and one on IPv6 alone.
        machine.ssh(
            "systemctl disable --now other-database.service; "
            "printf '[Socket]\\nListenStream=0.0.0.0:9944\\nAccept=yes\\n' >/etc/systemd/system/proxy.socket; "
            "printf '[Service]\\nExecStart=-/bin/true\\n' >/etc/systemd/system/proxy@.service; "
            "systemctl daemon-reload; systemctl start proxy.socket"
        )
        refuses(machine, "port 9944 of gevulot_json_rpc_listen is taken by systemd (pid 1, proxy.socket)")
        machine.ssh(
            "systemctl stop proxy.socket; "
            "printf '[Socket]\\nListenStream=[::1]:9944\\nAccept=yes\\n' >/etc/systemd/system/proxy.socket; "
            "systemctl daemon-reload; systemctl start proxy.socket"
        )
        is_accepted(machine)
        # A program in another network namespace.
        machine.ssh(
            "ip netns add elsewhere; ip -n elsewhere link set lo up; systemd-run --quiet --unit=elsewhere "
            "ip netns exec elsewhere python3 -m http.server --bind 127.0.0.1 9999; sleep 5; "
            "ip netns exec elsewhere ss -Htln sport = 9999 | grep -q 9999"
        )
        is_accepted(machine)


def test_a_damaged_secret_store_is_refused_and_the_advice_heals_it(registry: Path, say: Progress) -> None:
    with start("secret-without-data", registry, say) as machine:
        output = refuses(machine, "lists gevulot-db-url, which cannot be read")
        machine.ssh(re.findall(r"move it away \((mv [^)]*)\)", output)[0])
        is_accepted(machine)
        machine.ssh(
            "mkdir -p /var/lib/containers/storage/secrets; echo { >/var/lib/containers/storage/secrets/secrets.json"
        )
        refuses(machine, "/var/lib/containers/storage/secrets cannot be listed")


def test_half_of_the_guide_is_refused_and_the_advice_keeps_its_database_and_its_key(
    registry: Path, say: Progress
) -> None:
    with start("half-of-the-guide", registry, say) as machine:
        key = machine.ssh("sha256sum </var/lib/gevulot/node.key").stdout
        machine.ssh("echo kept >/srv/postgres/mark")
        output = refuses(
            machine,
            "gevulot-postgres.service is made from /etc/containers/systemd/gevulot-postgres.container, which no deploy",
        )
        machine.ssh(re.findall(r"to let the deploy take over: (.*?); then run again", output)[0])
        assert machine.ssh("cat /var/lib/gevulot/postgres/mark").stdout == "kept\n"
        refuses(machine, "/var/lib/gevulot/postgres has files, but none is PG_VERSION")
        machine.ssh("rm /var/lib/gevulot/postgres/mark")
        assert "and becomes this node's" in is_accepted(machine)
        deploys(machine, say)
        assert machine.ssh("sha256sum </var/lib/gevulot/key/node.key").stdout == key
        assert machine.ssh("sha256sum </var/lib/gevulot/node.key").stdout == key
        changes_nothing(machine)


def test_a_storage_on_a_data_disk_by_a_link_works_beside_a_unit_that_had_failed(registry: Path, say: Progress) -> None:
    with start("storage-is-a-link", registry, say) as machine:
        machine.ssh(
            "printf '[Service]\\nExecStart=/bin/false\\n' >/etc/systemd/system/broken.service; "
            "systemctl daemon-reload; systemctl start broken.service || true; systemctl is-failed broken.service"
        )
        run = deploys(machine, say)
        assert "degraded, as before the run: broken.service" in run.output
        required = machine.ssh("systemctl show -P RequiresMountsFor gevulot-node.service").stdout
        assert "/srv/disk/gevulot" in required.split()
        assert machine.ssh("readlink /var/lib/gevulot").stdout.strip() == "/srv/disk/gevulot"
        changes_nothing(machine)
        # Its own listeners, units, containers, storage and key are no strangers by now; another key is.
        machine.ssh("mv /etc/gevulot/node-key.sha256 /root/; echo 0 >/etc/gevulot/node-key.sha256")
        lost = plan(machine)
        assert lost.code != 0
        assert "is not the key that /etc/gevulot/node-key.sha256 records" in lost.output
