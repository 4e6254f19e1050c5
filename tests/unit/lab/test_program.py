"""The node's stand-in runs a program in a machine: its start, its calls, its end, and the node's health meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab.containers.node.stand_in import calls, cli, database, program, scheduler, services, settings
from tests.lab.containers.node.stand_in.scheduler import Scheduler, Transaction
from tests.lab.containers.node.stand_in.task import INPUT, Task, TaskError, functions

pytestmark = pytest.mark.commands

KEY = "04" + "1" * 128
LIMIT = 60.0
TRANSACTION = "ab" * 32

# One line of the file `tries` for each start of it, the last one for all further: how it behaves.
QEMU = r"""#!{python}
import json, os, re, socket, sys
from pathlib import Path
home = Path({home!r})
with (home / "pids").open("a") as pids:
    print(os.getpid(), file=pids)
tries = (home / "tries").read_text().splitlines()
number = len((home / "pids").read_text().split()) - 1
behaviour = tries[min(number, len(tries) - 1)]
print("starts and", behaviour, file=sys.stderr, flush=True)
if behaviour == "ends":
    sys.exit(1)
port = int(re.search(r"tcp:localhost:(\d+),server", " ".join(sys.argv))[1])
with socket.create_server(("127.0.0.1", port)) as listener:
    connection, _ = listener.accept()
stream = connection.makefile("rwb")
def say(value):
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()
if behaviour != "is silent":
    say({{"QMP": {{"version": {{}}}}}})
passed = [word.rpartition("id=")[2] for word in sys.argv if word.startswith("vfio-pci,")]
boards = [{{"bus": 0, "slot": 6 + n, "function": 0, "qdev_id": name}} for n, name in enumerate(passed)]
answers = {{"query-pci": [{{"bus": 0, "devices": boards}}], "query-kvm": {{"enabled": True}}}}
for line in stream:
    if behaviour == "answers":
        say({{"return": answers.get(json.loads(line)["execute"], {{}})}})
"""


class World:
    """A node with a QEMU that is none, and what a machine would do there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        qemu = home / "qemu"
        qemu.write_text(QEMU.format(python=sys.executable, home=str(home)))
        qemu.chmod(0o755)
        self.settings = settings.read(
            {},
            {
                "GEVULOT_QEMU_PATH": str(qemu),
                "GEVULOT_DATA_DIRECTORY": str(home / "data"),
                "GEVULOT_LOG_DIRECTORY": str(home / "log"),
                "GEVULOT_GPU_DEVICES": "0000:01:00.0,0000:02:00.0",
                "GEVULOT_DB_URL": "postgres://u@h/d",
            },
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.first_cid = free.getsockname()[1] - 1024
        self.scheduler = Scheduler(self.settings, KEY, itertools.count(self.first_cid))

    def behave(self, *tries: str) -> None:
        (self.home / "tries").write_text("\n".join(tries))

    def pids(self) -> list[int]:
        with_pids = self.home / "pids"
        return [int(each) for each in with_pids.read_text().split()] if with_pids.exists() else []

    def called(self, cid: int, *lines: str) -> str:
        return self.scheduler.answer(cid, list(lines))

    def take(self) -> tuple[int, list[str]]:
        """The CID of the machine that runs, once one does, and its task's words."""
        taken: list[tuple[int, list[str]]] = []

        def ask() -> bool:
            # Not before its monitor answered: a machine that stays in its start makes no call.
            for cid in range(self.first_cid, self.first_cid + 64) if self.scheduler.healthy else ():
                kind, *words = self.called(cid, "task").split()
                if kind == "task":
                    taken.append((cid, words))
            return bool(taken)

        until(ask)
        return taken[0]

    def prove(self, words: list[str]) -> tuple[str, str]:
        """Do the task as the program does; gives the file's name and digest."""
        transaction, name, argument = words
        workspace = program.workspace(self.settings, transaction)
        proof = hashlib.sha256(argument.encode() + (workspace / name).read_bytes()).hexdigest()
        (workspace / "proof.dat").write_text(f"{proof}\n")
        return "proof.dat", hashlib.sha256(f"{proof}\n".encode()).hexdigest()

    def complete(self) -> None:
        cid, words = self.take()
        assert self.called(cid, "report", *REPORT) == "ok"
        assert self.called(cid, " ".join(["submit", words[0], *self.prove(words)])) == "ok"


REPORT = (
    "function 0000:00:02.0 0x8086 0x10d3 0x020000",
    "bar 2 0x000000000000c040 0x000000000000c05f 0x0000000000040101",
    "function 0000:00:06.0 0x1234 0x1111 0x038000",
    "bar 0 0x00000000fb000000 0x00000000fbffffff 0x0000000000042208",
    "bar 1 0x0000000000000000 0x0000000000000000 0x0000000000000000",
    "bar 2 0x0000000000000000 0x0000000000000fff 0x0000000020040200",
    "function 0000:00:07.0 0x1234 0x1111 0x038000",
)


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(database, "is_trusted", lambda url, key: (url, key) == ("postgres://u@h/d", KEY))
    made = World(tmp_path)
    made.behave("answers")
    made.scheduler.start()
    yield made
    # Else a thread of the test would start one after the other.
    made.scheduler.stall(1e9)
    for pid in made.pids():
        if gone(pid) is False:
            os.kill(pid, 9)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def finished(transaction: Transaction) -> dict[str, Any]:
    assert transaction.done.wait(LIMIT)
    assert transaction.report is not None, transaction.error
    return transaction.report


def test_a_program_s_report_has_what_the_kernel_of_its_machine_sees_of_the_passed_devices(world: World) -> None:
    transaction = world.scheduler.submit()
    world.complete()
    report = finished(transaction)
    assert report["accelerator"] == "kvm"
    assert (report["guest_cid"], report["starts"]) == (world.first_cid, 1)
    assert report["devices"] == ["0000:01:00.0", "0000:02:00.0"]
    first, second = report["functions"]
    assert (first["host"], first["address"], first["id"], first["class"]) == (
        "0000:01:00.0",
        "00:06.0",
        "1234:1111",
        "0380",
    )
    assert first["bars"] == [
        {"bar": 0, "type": "memory", "address": 0xFB000000, "size": 16 << 20},
        {"bar": 2, "type": "memory", "address": None, "size": 4096},
    ]
    assert (second["host"], second["address"]) == ("0000:02:00.0", "00:07.0")
    assert report["task"]["transaction"] == transaction.digest
    assert report["workspace"]["file"] == "proof.dat"
    assert all(gone(pid) for pid in world.pids())
    assert not program.workspace(world.settings, transaction.digest).exists()


def test_a_device_that_the_machine_does_not_see_is_not_reported(world: World) -> None:
    transaction = world.scheduler.submit()
    cid, words = world.take()
    world.called(cid, "report", *REPORT[:-1])
    world.called(cid, " ".join(["submit", words[0], *world.prove(words)]))
    assert [each["host"] for each in finished(transaction)["functions"]] == ["0000:01:00.0"]


def test_a_result_counts_only_when_the_nodes_own_key_is_on_its_list(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "is_trusted", lambda url, key: False)
    transaction = world.scheduler.submit()
    world.complete()
    assert transaction.done.wait(LIMIT)
    assert transaction.report is None
    assert isinstance(transaction.error, scheduler.RejectedError)
    assert str(transaction.error) == "failed to persist transaction"
    assert world.scheduler.programs == 0
    assert "Tx permission denied signer not authorized" in capsys.readouterr().out


def test_a_transaction_waits_until_qemu_starts_and_the_node_is_unhealthy_for_as_long(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "MONITOR_TRIES", 40)
    monkeypatch.setattr(program, "MONITOR_SECONDS", 1.0)
    world.behave("ends", "is silent")
    transaction = world.scheduler.submit()
    log = world.settings.log_directory / transaction.digest / "stderr.log"
    for behaviour in ("ends", "is silent"):
        until(lambda wanted=f"starts and {behaviour}\n": log.exists() and wanted in log.read_text())
        assert not world.scheduler.healthy
    until(lambda: transaction.starts > 2)
    assert not world.scheduler.healthy
    world.behave("answers")
    world.complete()
    report = finished(transaction)
    # A new guest CID, and with it a new port, for each try.
    assert report["starts"] == report["guest_cid"] - world.first_cid + 1 > 2
    assert log.read_text().count("starts and") > 2
    printed = capsys.readouterr().out
    assert "Failed to get QEMU started. Giving up." in printed
    assert "QEMU QMP connect timeout. Terminating VM." in printed


def test_the_node_is_healthy_while_a_program_runs_and_unhealthy_while_another_waits(world: World) -> None:
    until(lambda: world.scheduler.healthy)
    first = world.scheduler.submit()
    assert not world.scheduler.healthy
    world.take()
    until(lambda: world.scheduler.healthy)
    world.scheduler.submit()
    time.sleep(1)
    assert not world.scheduler.healthy
    assert not first.done.is_set()


@pytest.mark.parametrize("slowness", [1, 2])
def test_a_machine_that_makes_no_call_is_ended(world: World, monkeypatch: pytest.MonkeyPatch, slowness: int) -> None:
    monkeypatch.setattr(scheduler, "IDLE_SECONDS", 1.0)
    transaction = world.scheduler.submit(slowness)
    assert transaction.done.wait(LIMIT)
    assert f"made no call within {slowness} s" in str(transaction.error)
    assert "starts and answers" in str(transaction.error)
    assert all(gone(pid) for pid in world.pids())
    until(lambda: world.scheduler.healthy)


def test_a_machine_that_ends_by_itself_ends_its_transaction(world: World) -> None:
    transaction = world.scheduler.submit()
    world.take()
    os.kill(world.pids()[0], 9)
    assert transaction.done.wait(LIMIT)
    assert "ended by itself" in str(transaction.error)


def test_a_call_from_another_machine_is_refused(world: World) -> None:
    world.scheduler.submit()
    cid, words = world.take()
    for other in (2, cid + 1):
        assert world.called(other, "task") == "error unknown VM address"
        assert world.called(other, " ".join(["submit", words[0], *world.prove(words)])).startswith("error")


@pytest.mark.parametrize("lines", [(), ("",), ("take",), ("submit",), ("report", "function"), ("report", "bar 0")])
def test_a_call_that_does_not_fit_is_answered_by_an_error_and_changes_nothing(
    world: World, lines: tuple[str, ...]
) -> None:
    transaction = world.scheduler.submit()
    cid, words = world.take()
    assert world.called(cid, *lines).startswith("error ")
    assert world.called(cid, "task") == "error the task is taken already"
    world.called(cid, "report", *REPORT)
    world.called(cid, " ".join(["submit", words[0], *world.prove(words)]))
    assert len(finished(transaction)["functions"]) == 2


def test_a_result_without_a_report_is_refused(world: World) -> None:
    world.scheduler.submit()
    cid, words = world.take()
    assert world.called(cid, " ".join(["submit", words[0], *world.prove(words)])).startswith("error unexpected call")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("{other} proof.dat {digest}", "different Tx_hash"),
        ("{tx} proof.dat", "expected a transaction"),
        ("{tx} absent {digest}", "absent is not in the workspace"),
        ("{tx} input {digest}", "no file that a program may submit"),
        ("{tx} ../workspace/proof.dat {digest}", "no file that a program may submit"),
        ("{tx} proof.dat {other}", "another SHA-256"),
        ("{tx} false.dat {false}", "not the task's result"),
    ],
)
def test_only_the_task_s_own_result_is_accepted(tmp_path: Path, words: str, why: str) -> None:
    task = Task.make(TRANSACTION, tmp_path / "workspace")
    (task.workspace / "proof.dat").write_bytes(task.expected)
    (task.workspace / "false.dat").write_bytes(b"false")
    digest, false = (hashlib.sha256(content).hexdigest() for content in (task.expected, b"false"))
    assert task.accept([TRANSACTION, "proof.dat", digest]) == {"file": "proof.dat", "sha256": digest}
    with pytest.raises(TaskError, match=why):
        task.accept(words.format(tx=TRANSACTION, other="cd" * 32, digest=digest, false=false).split())


def test_no_two_tasks_are_the_same(tmp_path: Path) -> None:
    one, other = (Task.make(TRANSACTION, tmp_path / name) for name in ("one", "other"))
    assert one.order() != other.order()
    assert one.expected != other.expected
    assert (one.workspace / INPUT).read_bytes() != (other.workspace / INPUT).read_bytes()


def test_ports_are_reported_as_such() -> None:
    (function,) = functions(list(REPORT[:2])).values()
    assert function["bars"] == [{"bar": 2, "type": "io", "address": 0xC040, "size": 32}]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"task\n\n", b"1 7 ['task']\n"),
        (b"report\na\nb\n\nmore", b"3 7 ['report', 'a', 'b']\n"),
        (b"task\n", b"1 7 ['task']\n"),
    ],
)
def test_a_request_goes_up_to_its_empty_line_or_the_end_of_what_is_sent(sent: bytes, answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    server = threading.Thread(
        target=calls.serve, args=(theirs, 7, lambda cid, lines: f"{len(lines)} {cid} {lines}"), daemon=True
    )
    server.start()
    with ours, ours.makefile("rb") as stream:
        ours.sendall(sent)
        if not sent.endswith(b"\n\n"):
            ours.shutdown(socket.SHUT_WR)
        assert stream.read() == answer
    server.join(LIMIT)


def test_a_call_without_an_end_is_dropped() -> None:
    ours, theirs = socket.socketpair()
    answered: list[int] = []
    server = threading.Thread(
        target=calls.serve, args=(theirs, 7, lambda cid, lines: str(answered.append(cid))), daemon=True
    )
    server.start()
    with ours:
        ours.settimeout(LIMIT)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ours.sendall((b"x" * 65535 + b"\n") * 1000)
    server.join(LIMIT)
    assert answered == []


def status(server: tuple[str, int], path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{server[0]}:{server[1]}{path}", timeout=LIMIT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def listeners(world: World) -> Iterator[dict[str, tuple[str, int]]]:
    with ExitStack() as held:
        addresses = {}
        for handler in (services.Health, services.Rpc):
            server = held.enter_context(services.Server(("127.0.0.1", 0), handler))
            server.state = services.State(world.settings, world.scheduler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            held.callback(server.shutdown)
            addresses[handler.__name__] = ("127.0.0.1", server.server_address[1])
        yield addresses


def call(server: tuple[str, int], method: str, **numbers: float) -> dict[str, Any]:
    data = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": numbers}).encode()
    with urllib.request.urlopen(f"http://{server[0]}:{server[1]}/", data, timeout=LIMIT) as answer:
        reply: dict[str, Any] = json.loads(answer.read())
        return reply


def test_a_scheduler_that_stands_makes_the_node_unhealthy_within_two_seconds(
    listeners: dict[str, tuple[str, int]],
) -> None:
    until(lambda: status(listeners["Health"], "/healthz") == 200)
    assert call(listeners["Rpc"], "stand_in_stall", seconds=LIMIT)["result"] == {}
    time.sleep(2)
    assert status(listeners["Health"], "/healthz") == 503
    assert status(listeners["Health"], "/ready") == 204
    call(listeners["Rpc"], "stand_in_stall", seconds=0)
    until(lambda: status(listeners["Health"], "/healthz") == 200)


def test_a_caller_waits_for_the_report_of_its_program(listeners: dict[str, tuple[str, int]], world: World) -> None:
    answers: list[dict[str, Any]] = []
    caller = threading.Thread(
        target=lambda: answers.append(call(listeners["Rpc"], "stand_in_run_program", limit=LIMIT)), daemon=True
    )
    caller.start()
    world.complete()
    caller.join(LIMIT)
    assert [each["address"] for each in answers[0]["result"]["functions"]] == ["00:06.0", "00:07.0"]


def test_a_caller_that_waits_no_longer_leaves_its_transaction_waiting(
    listeners: dict[str, tuple[str, int]], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MONITOR_TRIES", 4)
    world.behave("ends")
    answer = call(listeners["Rpc"], "stand_in_run_program", limit=0.5)
    assert "not finished after" in answer["error"]["message"]
    assert status(listeners["Health"], "/healthz") == 503


def test_a_node_that_executes_nothing_has_no_listener_for_its_health() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        health = free.getsockname()[1]
    chosen = settings.read(
        {},
        {
            "GEVULOT_NODE_NO_EXECUTION": "true",
            "GEVULOT_P2P_LISTEN_ADDR": "127.0.0.1:0",
            "GEVULOT_HTTP_PORT": "0",
            "GEVULOT_JSON_RPC_LISTEN_ADDR": "127.0.0.1:0",
            "GEVULOT_HEALTHCHECK_LISTEN_ADDR": f"127.0.0.1:{health}",
        },
    )
    with ExitStack() as held:
        cli.start(chosen, KEY, held)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", health), timeout=LIMIT)


def test_qemu_gets_the_real_node_s_arguments_and_each_device_as_listed() -> None:
    chosen = settings.read({}, {"GEVULOT_GPU_DEVICES": "0000:01:00.0,"})
    arguments = program.command_line(chosen, TRANSACTION, 5)
    assert [each for each in arguments if each.startswith("vfio-pci,")] == [
        "vfio-pci,rombar=0,host=0000:01:00.0,id=program-device-0",
        "vfio-pci,rombar=0,host=,id=program-device-1",
    ]
    assert "vhost-vsock-pci,guest-cid=5" in arguments
    assert "tcp:localhost:1029,server" in arguments
    assert f"file={program.IMAGE},format=raw,if=none,id=hd0,readonly=on" in arguments
    share = f"path=/var/lib/gevulot/vmfiles/{TRANSACTION}/workspace,mount_tag=0"
    assert any(share in each for each in arguments)
    # It has QEMU's default network card, whose ROM the image must have.
    assert not {"-net", "-nic", "-nodefaults"} & set(arguments)


def test_a_passed_function_behind_a_bridge_has_an_address_too() -> None:
    behind = {"bus": 1, "slot": 0, "function": 1, "qdev_id": "program-device-1"}
    devices = [
        {"bus": 0, "slot": 1, "function": 0, "qdev_id": "scsi0"},
        {"bus": 0, "slot": 2, "function": 0, "pci_bridge": {"bus": {}, "devices": [behind]}},
        {"bus": 0, "slot": 6, "function": 0, "qdev_id": "program-device-0"},
    ]
    assert program.passed_through([{"bus": 0, "devices": devices}], ("a", "b")) == {"a": "00:06.0", "b": "01:00.1"}


def test_the_monitor_passes_over_events_and_raises_what_qemu_refuses() -> None:
    answers = [
        {"QMP": {"version": {}}},
        {"return": {}},
        {"event": "RESUME"},
        {"return": [1]},
        {"error": {"class": "CommandNotFound", "desc": "no such command"}},
    ]
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in answers))
        monitor = program.Monitor(ours)
        assert monitor.execute("query-pci") == [1]
        with pytest.raises(program.ProgramError, match="no such command"):
            monitor.execute("query-kvm")
        monitor.close()
