"""The virtual machine that a deploy starts in the node's container: what may come of it, and that nothing is left."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from deploys.assessment import checks, virtual_machine
from facts.virtual_machine import SECONDS, VirtualMachine, parse
from pcibind.remote import topology_text
from tests.unit.deploys.recorded import BOUND, gpu, topology

pytestmark = pytest.mark.commands

STARTED = (
    "out memlock unlimited",
    *(f"out device {device} opened" for device in ("/dev/kvm", "/dev/vsock", "/dev/vhost-vsock")),
    *(f"out device {device} exists" for device in ("/dev/vfio/12", "/dev/vfio/vfio")),
    'out {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}',
    'out {"return": {}, "id": "qmp_capabilities"}',
    'out {"return": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "id": "query-version"}',
    'out {"return": {"enabled": true, "present": true}, "id": "query-kvm"}',
    'out {"return": {"status": "running", "singlestep": false, "running": true}, "id": "query-status"}',
    'out {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": false}}',
    'out {"return": {}, "id": "quit"}',
    "end 0",
)
"""What Debian 12's QEMU answers in a node's container, where KVM and the devices of one board's group can be used."""
BOARDS = topology_text.parse(topology(*gpu(1, 1, drivers=BOUND, group=12))).boards()
WITHOUT_KVM = [
    "err Could not access KVM kernel module: Permission denied",
    "err qemu-system-x86_64: failed to initialize kvm: Permission denied",
    "err qemu-system-x86_64: falling back to tcg",
]
MISSING_ROM = 'qemu-system-x86_64: failed to find romfile "efi-e1000e.rom"'
INSIDE = STARTED[:6]


def failed(output: list[str]) -> list[str]:
    """The failed rows, as the table shows them."""
    return [f"{row.name}: {row.actual}" for row in virtual_machine.checks(parse(output), BOARDS) if not row.passed]


def without(word: str) -> list[str]:
    return [line for line in STARTED if word not in line]


def test_a_machine_with_kvm_is_shown_with_its_version() -> None:
    rows = virtual_machine.checks(parse(list(STARTED)), BOARDS)
    assert [(row.name, row.actual, row.passed) for row in rows] == [
        ("virtual machine from the node's image", "kvm, QEMU 7.2.22", True),
        ("memory that the container may lock", "unlimited", True),
        (
            "devices in the container",
            "/dev/kvm, /dev/vsock, /dev/vhost-vsock, /dev/vfio/vfio, /dev/vfio/12",
            True,
        ),
    ]


def test_a_node_without_boards_needs_no_vfio_device() -> None:
    rows = virtual_machine.checks(parse(without("/dev/vfio")), ())
    assert [row.passed for row in rows] == [True] * 3


@pytest.mark.parametrize(
    ("output", "row"),
    [
        pytest.param(
            [line.replace('"enabled": true', '"enabled": false') for line in STARTED[:-1]] + WITHOUT_KVM + ["end 0"],
            "virtual machine from the node's image: tcg, QEMU 7.2.22: "
            "qemu-system-x86_64: failed to initialize kvm: Permission denied",
            id="emulation",
        ),
        pytest.param(
            [*STARTED[:7], f"err {MISSING_ROM}", "end 1"],
            f"virtual machine from the node's image: QEMU ended with exit code 1: {MISSING_ROM}",
            id="a ROM that is missing",
        ),
        pytest.param(
            [*INSIDE, "err timeout: failed to run command ‘/opt/qemu’: No such file or directory", "end 127"],
            "virtual machine from the node's image: QEMU ended with exit code 127: "
            "timeout: failed to run command ‘/opt/qemu’: No such file or directory",
            id="a QEMU that is missing",
        ),
        pytest.param(
            [*INSIDE, "end 139"],
            "virtual machine from the node's image: QEMU ended with exit code 139, without a message",
            id="a QEMU that crashes",
        ),
        pytest.param(
            [*INSIDE, "end 0"],
            "virtual machine from the node's image: QEMU ended with exit code 0, without a message",
            id="a QEMU that prints nothing",
        ),
        pytest.param(
            [*INSIDE, "err waiting for a lock", "end timeout"],
            f"virtual machine from the node's image: no answer within {SECONDS} s: waiting for a lock",
            id="a QEMU that hangs",
        ),
        pytest.param(
            [line.replace('"running": true', '"running": false').replace('"running"', '"internal-error"', 1)
             if "query-status" in line else line for line in STARTED],
            "virtual machine from the node's image: QEMU says internal-error, not running",
            id="a machine that KVM cannot run",
        ),
        pytest.param(
            ["err Error: can only create exec sessions on running containers: container state improper", "end 255"],
            "virtual machine from the node's image: podman exec ended with exit code 255: "
            "Error: can only create exec sessions on running containers: container state improper",
            id="a container that is being restarted",
        ),
        pytest.param(
            ["err Error: crun: executable file `sh` not found in $PATH", "end 127"],
            "virtual machine from the node's image: podman exec ended with exit code 127: "
            "Error: crun: executable file `sh` not found in $PATH",
            id="an image without a shell",
        ),
        pytest.param(
            ['out {"return": [1], "id": "query-version"}', "out [1]", "out " + "[" * 900, "out {", "?", ""],
            "virtual machine from the node's image: podman exec ended with exit code unknown: {",
            id="answers of another shape",
        ),
        pytest.param(
            [line.replace("unlimited", "8192") for line in STARTED],
            "memory that the container may lock: 8192 bytes",
            id="a limit of locked memory",
        ),
        pytest.param(
            [line.replace("vhost-vsock opened", "vhost-vsock Operation not permitted") for line in STARTED],
            "devices in the container: /dev/vhost-vsock: Operation not permitted",
            id="a device that cannot be opened",
        ),
        pytest.param(without("/dev/vfio/12"), "devices in the container: /dev/vfio/12: missing", id="a missing group"),
    ],
)  # fmt: skip
def test_what_keeps_a_program_from_running_is_a_failed_row_with_its_reason(output: list[str], row: str) -> None:
    assert failed(output) == [row]


def test_warnings_before_the_answers_change_nothing() -> None:
    noise = ["out warning: host doesn't support requested feature", 'err time="2026" level=warning msg="kvm"']
    assert parse([*STARTED[:6], *noise, *STARTED[6:]]) == parse(list(STARTED))


def test_a_host_that_answers_nothing_is_a_failed_row() -> None:
    (row,) = virtual_machine.checks(VirtualMachine.default(), BOARDS)
    assert row.passed is False
    assert checks.table("gpu1", [row])[1].startswith("  FAIL virtual machine from the node's image  it was not started")


# Runs in place of the container what it is asked to run there.
_PODMAN = '#!/bin/sh\nprintf "%s\\n" "$*" >>"$0.argv"\nshift 3\nexec "$@"\n'
_QEMU = r"""#!/bin/sh
while read -r line; do
  case $line in
  *query-version*) echo '{"return": {"qemu": {"micro": 0, "minor": 1, "major": 9}}, "id": "query-version"}' ;;
  *query-kvm*) echo '{"return": {"enabled": true, "present": true}, "id": "query-kvm"}' ;;
  *query-status*) echo '{"return": {"status": "running", "running": true}, "id": "query-status"}' ;;
  *quit*) exit ;;
  esac
done
echo "its input ended first" >&2; exit 1
"""
# A program of its own, without children.
_HANGING = "#!/bin/sh\nprintf 'caf\\351 \\033[31mwaits\\n' >&2\nwhile :; do read -r line || :; done\n"


def start(directory: Path, qemu: str, seconds: int) -> subprocess.Popen[str]:
    """The fact's command with another limit, and with a QEMU of this text in place of the container's."""
    for name, text in (("podman", _PODMAN), ("qemu", qemu)):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    command = VirtualMachine().command("gevulot-node", str(directory / "qemu"), "verification", "/var/lib/gevulot")
    command = command.removesuffix(str(SECONDS)) + str(seconds)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}
    return subprocess.Popen(f"exec {command}", shell=True, env=environment, stdout=subprocess.PIPE, text=True)


def left(directory: Path) -> list[str]:
    """The processes that have a program of this directory among their arguments."""
    remains = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(directory / "qemu") in words and "-c" not in words:
            remains.append(" ".join(words))
    return remains


def test_every_question_is_asked_while_the_input_is_open(tmp_path: Path) -> None:
    output, _ = start(tmp_path, _QEMU, 20).communicate(timeout=30)
    trial = parse(output.splitlines())
    assert (trial.accelerator, trial.version, trial.reason) == ("kvm", "9.1.0", "")
    assert trial.memlock
    assert {"/dev/kvm", "/dev/vsock", "/dev/vhost-vsock"} <= trial.devices.keys()


def test_the_machine_gets_neither_board_nor_port_nor_guest_cid(tmp_path: Path) -> None:
    start(tmp_path, _QEMU, 20).communicate(timeout=30)
    asked = (tmp_path / "podman.argv").read_text()
    assert asked.startswith("exec -i gevulot-node sh -c")
    assert "-machine q35,accel=kvm:tcg" in asked
    assert not any(word in asked for word in ("vfio-pci", "guest-cid", "tcp:", "-nodefaults", "-nic", "-net "))


def test_a_machine_that_hangs_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    output, _ = start(tmp_path, _HANGING, 1).communicate(timeout=30)
    assert output.splitlines()[-2:] == ["err caf\ufffd  [31mwaits", "end timeout"]
    assert left(tmp_path) == []


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_program_that_prints_for_ever_costs_little_memory(tmp_path: Path, stream: str) -> None:
    talking = f"#!/bin/sh\nhead -c 300000000 /dev/zero | tr '\\0' x >&{stream}\necho first last >&2\nexit 3\n"
    starter = start(tmp_path, talking, 60)
    resource.prlimit(starter.pid, resource.RLIMIT_AS, (250 << 20, 250 << 20))
    output, _ = starter.communicate(timeout=120)
    assert output.splitlines()[-1] == "end 3"
    assert len(output) < 5_000


def test_a_starter_that_is_ended_takes_the_machine_with_it(tmp_path: Path) -> None:
    starter = start(tmp_path, _HANGING, 60)
    deadline = time.monotonic() + 20
    while not left(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(tmp_path), "nothing was started, so this shows nothing"
    starter.terminate()
    starter.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while left(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(tmp_path) == []
