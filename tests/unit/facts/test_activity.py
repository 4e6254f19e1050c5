"""What the node does, read from a tree of processes, control groups and logs, and from an HTTP server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploys.manifest import VERIFICATION_MACHINE as VERIFICATION
from facts import activity_reader as reader
from facts.activity import Activity, Failure, Machine, parse

NODE = "10"
NOBODY = "127.0.0.1:1"
TRANSACTION = "ab" * 32
ROM = 'qemu-system-x86_64: failed to find romfile "efi-e1000e.rom"'
INFO = "qemu-system-x86_64: -qmp tcp:localhost:1028,server: info: QEMU waiting for connection on: tcp"
UPTIME = 1000


class NodeFiles:
    """A host's /proc and /sys below a directory, and the node's logs. The container's group has a group below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "log"
        self.logs.mkdir()
        self.group = root / "sys/fs/cgroup/system.slice/gevulot-node.service/libpod-payload-0"
        (self.group / "below").mkdir(parents=True)
        for place in (self.group, self.group / "below"):
            (place / "cgroup.procs").write_text("")
        (root / "proc").mkdir()
        (root / "proc/uptime").write_text(f"{UPTIME}.00 1.00\n")
        self.process(NODE, "/usr/bin/catatonit", seconds=500)
        (root / f"proc/{NODE}/cgroup").write_text(f"0::/{self.group.relative_to(root / 'sys/fs/cgroup')}\n")

    def process(self, pid: str, program: str, *words: str, seconds: int, errors: Path | None = None) -> None:
        place = self.root / "proc" / pid
        (place / "fd").mkdir(parents=True)
        (place / "exe").symlink_to(program)
        (place / "cmdline").write_text("".join(f"{word}\0" for word in (program, *words)))
        began = (UPTIME - seconds) * os.sysconf("SC_CLK_TCK")
        (place / "stat").write_text(f"{pid} (a ) b) S {'0 ' * 18}{began} 0\n")
        if errors is not None:
            (place / "fd/2").symlink_to(errors)
        with (self.group / "below/cgroup.procs").open("a") as file:
            file.write(f"{pid}\n")

    def machine(self, pid: str, *words: str, seconds: int, errors: Path | None = None) -> None:
        self.process(pid, "/usr/bin/qemu-system-x86_64", *words, seconds=seconds, errors=errors)

    def log(self, *lines: str | bytes, transaction: str | bytes = TRANSACTION, ago: float = 0) -> Path:
        directory = self.logs / os.fsdecode(transaction)
        directory.mkdir()
        log = directory / "stderr.log"
        log.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
        os.utime(log, (time.time() - ago,) * 2)
        return log

    def look(self, listen: str = NOBODY, pid: str | None = NODE) -> Activity:
        """As the operator's side gets it: through JSON."""
        activity = reader.activity(listen, pid, str(self.logs), VERIFICATION, str(self.root), wait=0)
        return parse([json.dumps(activity)])

    @property
    def failure(self) -> Failure:
        (activity,) = self.look().failures
        return activity


@pytest.fixture
def host(tmp_path: Path) -> NodeFiles:
    return NodeFiles(tmp_path)


Answering = Callable[..., str]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Starts a health check that gives these statuses, one after the other, and the last one from then on."""
    servers = []

    def start(*statuses: int) -> str:
        left = list(statuses)

        class Health(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(404 if self.path != "/healthz" else left.pop(0) if len(left) > 1 else left[0])
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Health)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_log_with_a_time_to_come_is_no_recent_failure(host: NodeFiles) -> None:
    host.log(ROM, ROM, ROM, ago=-3600)
    host.log(ROM, ROM, transaction="cd" * 32, ago=-2)
    assert [each.transaction for each in host.look().failures] == ["cd" * 32]


def test_a_control_group_that_ends_meanwhile_hides_no_other(host: NodeFiles) -> None:
    host.machine("11", seconds=60)
    # As one whose processes the kernel does not list any more.
    (host.group / "gone").mkdir()
    machines = host.look().machines
    assert machines is not None
    assert [each.seconds for each in machines] == [60]


def test_a_health_check_that_nobody_answers_has_no_status(host: NodeFiles) -> None:
    assert host.look() == Activity(None, age=500, machines=())


def test_a_proxy_of_the_environment_is_not_asked_for_the_health(
    host: NodeFiles, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{NOBODY}")
    assert host.look(answering(204)).health == 204


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([b"H"] * 200, id="one byte at a time"),
        pytest.param([b"SSH-2.0-OpenSSH\r\n"], id="no HTTP"),
        pytest.param([b"x" * 5_000_000], id="no end"),
        pytest.param([b"HTTP/1.1 200 OK"[:9]], id="cut short"),
    ],
)
def test_a_stranger_at_the_health_checks_port_gives_no_status_and_costs_little_time(
    host: NodeFiles, answer: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "HEALTH_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    for piece in answer:
                        connection.sendall(piece)
                        time.sleep(0.05 if len(answer) > 1 else 0)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        assert host.look(f"127.0.0.1:{server.getsockname()[1]}").health is None
        assert time.monotonic() - began < 3
        thread.join(10)


def test_a_status_of_503_without_a_machine_is_looked_at_twice(host: NodeFiles, answering: Answering) -> None:
    assert host.look(answering(503, 200)).health == 200
    assert host.look(answering(503)).health == 503
    assert host.look(answering(200, 503)).health == 200


def test_a_status_of_503_beside_a_machine_that_has_started_is_looked_at_once(
    host: NodeFiles, answering: Answering
) -> None:
    host.machine("11", seconds=60)
    assert host.look(answering(503, 200)).health == 503


def test_machines_have_their_age_guest_cid_and_boards(host: NodeFiles) -> None:
    host.machine(
        "11", "-drive", "file=/a/secret", "-device", "vhost-vsock-pci,guest-cid=3735928559",
        "-device", "vfio-pci,rombar=0,host=0000:01:00.0", "-device", "vfio-pci,rombar=0,host=0000:02:00.0",
        "-append", "vfio-pci,guest-cid=9", seconds=90,
    )  # fmt: skip
    host.process("12", "/gevulot", "-device", "vhost-vsock-pci,guest-cid=4", seconds=90)
    assert host.look().machines == (Machine(90, 3735928559, 2),)


def test_no_argument_of_a_machine_is_printed_but_numbers(host: NodeFiles) -> None:
    host.machine("11", "-drive", "file=/a/secret", "-device", "vhost-vsock-pci,guest-cid=secret", seconds=1)
    assert "secret" not in json.dumps(reader.activity(NOBODY, NODE, str(host.logs), VERIFICATION, str(host.root)))


def test_a_machine_of_the_verification_is_known_by_its_name(host: NodeFiles) -> None:
    host.machine("11", "-name", f"{VERIFICATION}-1", seconds=1)
    assert host.look().machines == (Machine(1, None, 0, check=True),)


def test_a_process_of_this_kernel_is_read_as_one_of_the_tree(host: NodeFiles) -> None:
    log = host.log(ROM)
    program = shutil.copy(Path("/bin/sh").resolve(), host.root / "qemu-system-x86_64")
    words = [program, "-c", "read line", "-device", "vhost-vsock-pci,guest-cid=4", "-device", "vfio-pci,host=0"]
    with log.open("ab") as errors, subprocess.Popen(words, stdin=subprocess.PIPE, stderr=errors) as process:
        (host.root / "proc/uptime").unlink()
        (host.root / "proc/uptime").symlink_to("/proc/uptime")
        (host.root / "proc" / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        (host.group / "cgroup.procs").write_text(f"{process.pid}\n")
        activity = host.look()
        process.kill()
    assert activity.machines is not None
    (machine,) = activity.machines
    assert (machine.guest_cid, machine.boards, machine.seconds < 60) == (4, 1, True)
    assert activity.failures[0].machine == machine.seconds


def test_a_process_that_ends_while_it_is_looked_at_is_none(host: NodeFiles) -> None:
    host.machine("11", seconds=1)
    shutil.rmtree(host.root / "proc/11")
    assert host.look().machines == ()


@pytest.mark.parametrize("group", ["0::/\n", "1:name=systemd:/a\n", "0::/gone\n", ""])
def test_processes_outside_of_a_group_of_the_containers_own_are_unknown(host: NodeFiles, group: str) -> None:
    (host.root / f"proc/{NODE}/cgroup").write_text(group)
    assert host.look().machines is None


def test_without_a_container_only_the_health_is_known(host: NodeFiles, answering: Answering) -> None:
    assert host.look(answering(200), pid=None) == Activity(200, machines=None)
    assert host.look(pid="99").machines is None


def test_a_failure_has_its_tries_and_the_error_without_hints_and_warnings(host: NodeFiles) -> None:
    group = "qemu-system-x86_64: -device vfio-pci,host=0000:01:00.0: vfio 0000:01:00.0: group 12 is not viable"
    hint = "Please ensure all devices within the iommu_group are bound to their vfio bus driver."
    warning = "qemu-system-x86_64: warning: TCG doesn't support requested feature"
    host.log("qemu-system-x86_64: another", *(INFO, warning, group, hint) * 3, INFO)
    assert (host.failure.tries, host.failure.line) == (3, group)
    assert host.failure.last < 60


def test_tries_with_other_guest_cids_are_tries_of_one_kind(host: NodeFiles) -> None:
    host.log(*(f"qemu: guest-cid={cid}: Address already in use" for cid in (8, 9, 10)))
    assert host.failure.tries == 3


def test_a_failure_of_long_ago_is_none(host: NodeFiles) -> None:
    host.log(ROM, ago=reader.RECENT + 5)
    host.log(transaction="empty")
    assert host.look().failures == ()


def test_a_machine_that_writes_to_the_log_is_known_by_the_file(host: NodeFiles) -> None:
    host.machine("11", seconds=30, errors=host.log(ROM))
    assert host.failure.machine == 30


def test_of_a_long_log_only_the_end_is_read(host: NodeFiles) -> None:
    host.log(*[ROM] * 3000)
    assert host.failure.more
    assert host.failure.tries == reader.TAIL // (len(ROM) + 1)


def test_a_line_that_is_longer_than_what_is_read_is_cut(host: NodeFiles) -> None:
    host.log("x" * 200_000)
    assert (host.failure.tries, len(host.failure.line)) == (1, 200)


def test_only_some_of_the_logs_are_read_the_newest_first(host: NodeFiles) -> None:
    for number in range(20):
        host.log(ROM, transaction=f"{number}", ago=number)
    assert [each.transaction for each in host.look().failures] == ["0", "1", "2", "3", "4"]


def test_links_and_files_of_other_kinds_are_not_read(host: NodeFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "stderr.log").write_text("secret\n")
    (host.logs / "link").symlink_to(secret)
    (host.logs / "file").write_text("secret\n")
    for name in ("linked", "fifo", "directory"):
        (host.logs / name).mkdir()
    (host.logs / "linked/stderr.log").symlink_to(secret / "stderr.log")
    os.mkfifo(host.logs / "fifo/stderr.log")
    (host.logs / "directory/stderr.log").mkdir()
    assert host.look().failures == ()


def test_a_link_in_place_of_all_logs_is_not_followed(host: NodeFiles, tmp_path: Path) -> None:
    host.log("secret")
    host.logs.rename(tmp_path / "elsewhere")
    host.logs.symlink_to(tmp_path / "elsewhere")
    assert host.look().failures == ()


def test_hostile_names_and_lines_are_plain_text_of_one_line(host: NodeFiles) -> None:
    host.log(b"qemu: \x1b[31mred\x1b[0m\x07 \xff\xc3\xa4\r\x9b2J" + b"x" * 2_000, transaction=b"a\n\x1b]0;t\x07\xffb")
    assert host.failure.transaction == "a �b"
    assert host.failure.line.startswith("qemu: red �ä")
    assert host.failure.line.isprintable()
    assert len(host.failure.line) == 200
