"""The facts' own commands, run by a POSIX shell on the machine that tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from deploys import scripts
from deploys.manifest import GRUB_DROP_IN, INITRAMFS_FILES, INITRAMFS_INPUTS, MODULES, POSTGRES_LOGIN
from facts.access import AccessList, PublishedAccess
from facts.activity import NodeActivity
from facts.aliases import DisplayDrivers
from facts.attempt import RebootAttempts
from facts.baseline import ArchivedFile, BaselineRecord
from facts.container import Container, DatabasePasswords
from facts.database import PostgresDataRelease, PostgresOpenToLoopback, PostgresSchema
from facts.discovery import DiscoveryPeers
from facts.disk import DiskSpace
from facts.driver_users import DriverUsers
from facts.existing import ExistingNodeParts
from facts.failures import PreexistingFailures
from facts.file import FileTexts, PlainFiles
from facts.firewall import NodeFirewall
from facts.initramfs import InitramfsContents, StaleInitramfs
from facts.kernel import InterruptRemapping, KernelCommandLine, KernelModules
from facts.listeners import Listeners
from facts.node import NodeParts
from facts.pci import PciBinding, PciRecord, PciTopology, PciUsage
from facts.place import Places
from facts.platform import Platform
from facts.podman import ImageIds, SecretNames
from facts.role import HostRole
from facts.runs import UnitRuns
from facts.secret_store import SecretStore
from facts.storage import StorageState
from facts.tree import TreeDigest
from facts.unit import ChangedSince, FailedUnits, SystemState, Units
from facts.verification import VerificationTime
from facts.vfio_options import VfioOptions
from pcibind.remote import topology_text
from tests.unit.deploys import recorded

SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]
COMMANDS = {
    "Platform": Platform().command(directory="/var/lib/it's here"),
    "KernelModules": KernelModules().command(modules=MODULES),
    "KernelCommandLine": KernelCommandLine().command(drop_in="/etc/default/grub.d/it's here.cfg"),
    "InterruptRemapping": InterruptRemapping().command(),
    "StaleInitramfs": StaleInitramfs().command(inputs=INITRAMFS_INPUTS),
    "InitramfsContents": InitramfsContents().command(files=INITRAMFS_FILES),
    "DisplayDrivers": DisplayDrivers().command(),
    "DriverUsers": DriverUsers().command(words=("nvidia", "it's")),
    "VfioOptions": VfioOptions().command(),
    "Places": Places().command(paths=("/etc/it's here",)),
    "FileTexts": FileTexts().command(paths=("/etc/it's here",)),
    "PlainFiles": PlainFiles().command(paths=("/etc/it's here", "/b")),
    "TreeDigest": TreeDigest().command(directory="/usr/local/lib/it's here"),
    "NodeParts": NodeParts().command(paths=("/var/lib/it's here",)),
    "Units": Units().command(units=("gevulot-node.service",)),
    "UnitRuns": UnitRuns().command(unit="gevulot-node.service", needed=("it's.service",)),
    "DiscoveryPeers": DiscoveryPeers().command(addresses=("it's.not.here:1",)),
    "ChangedSince": ChangedSince().command(unit="gevulot-node.service", files=("/a b",), secrets=("c",)),
    "SystemState": SystemState().command(),
    "FailedUnits": FailedUnits().command(),
    "PreexistingFailures": PreexistingFailures().command(records=("/var/lib/it's here",)),
    "Listeners": Listeners().command(ports=(1, 9999), units=("it's.service",)),
    "StorageState": StorageState().command(directory="/var/lib/it's here", parts=("/a b",), quadlet="/c d"),
    "SecretStore": SecretStore().command(names=("a", "b")),
    "ExistingNodeParts": ExistingNodeParts().command(
        units=(("a.service", "/it's here", "x"),), word="it's", directories=("/a b", "/c d")
    ),
    "BaselineRecord": BaselineRecord().command(directories=("/a b", "/c d"), traces=("/var/lib/it's here",)),
    "ArchivedFile": ArchivedFile().command(archive="/var/lib/it's here/before.tar", former="/c d", path="/etc/a b"),
    "RebootAttempts": RebootAttempts().command(directories=("/a b", "/it's here")),
    "HostRole": HostRole().command(path="/var/lib/it's here"),
    "Container": Container().command(container="gevulot-node", variables=("A", "B_C")),
    "DatabasePasswords": DatabasePasswords().command(container="gevulot-node"),
    "AccessList": AccessList().command("/a b", "/it's", "/record", "/former", POSTGRES_LOGIN, 5432),
    "PublishedAccess": PublishedAccess().command(url="https://it's/a list", key="04"),
    "NodeFirewall": NodeFirewall().command(table="gevulot"),
    "NodeActivity": NodeActivity().command(
        listen="127.0.0.1:8888", logs="/var/lib/it's here/log", container="it's", verification="it's"
    ),
    "PostgresSchema": PostgresSchema().command(POSTGRES_LOGIN, port=5432),
    "PostgresOpenToLoopback": PostgresOpenToLoopback().command(POSTGRES_LOGIN, port=5432),
    "PostgresDataRelease": PostgresDataRelease().command(directory="/var/lib/gevulot/postgres"),
    "ImageIds": ImageIds().command(images=("quay.io/x/y:1",)),
    "SecretNames": SecretNames().command(),
    "DiskSpace": DiskSpace().command(directory="/var/lib/it's not here/yet"),
    "VerificationTime": VerificationTime().command(path="/run/it's here"),
    "PciTopology": PciTopology().command(),
    "PciUsage": PciUsage().command(),
    "PciRecord": PciRecord().command(),
    "PciBinding": PciBinding().command(program="/usr/local/sbin/it's here"),
}


def sh(command: str, **environment: str) -> list[str]:
    """Run a command as pyinfra does, and expect it to succeed and to complain of nothing."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=os.environ | environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"GEVULOT_DB_URL": "postgres://gevulot@localhost:5432/gevulot?host=/run/postgresql"}, []),
        ({"GEVULOT_DB_URL": "postgres://gevulot@%2Frun%2Fpostgresql/gevulot"}, []),
        ({"GEVULOT_DB_URL": "postgres://gevulot:hunter2@127.0.0.1:5432/gevulot"}, ["GEVULOT_DB_URL"]),
        ({"URL": "postgresql://a:hunter2@h/d", "PGPASSWORD": "hunter2"}, ["PGPASSWORD", "URL"]),
    ],
)
def test_database_passwords_of_a_container_are_named_and_never_shown(
    tmp_path: Path, environment: dict[str, str], named: list[str]
) -> None:
    with subprocess.Popen(["sleep", "60"], env=environment | {"PATH": os.environ["PATH"]}) as process:
        (tmp_path / "podman").write_text(f"#!/bin/sh\necho {process.pid}\n")
        (tmp_path / "podman").chmod(0o755)
        lines = sh(DatabasePasswords().command(container="gevulot-node"), PATH=f"{tmp_path}:{os.environ['PATH']}")
        process.kill()
    assert "hunter2" not in "".join(lines)
    assert sorted(DatabasePasswords().process(lines)) == named


def test_the_environment_of_a_container_that_does_not_run_is_not_read(tmp_path: Path) -> None:
    for answer in ("exit 125", "echo 0"):
        (tmp_path / "podman").write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / "podman").chmod(0o755)
        assert sh(DatabasePasswords().command(container="gevulot-node"), PATH=f"{tmp_path}:{os.environ['PATH']}") == []


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_read_by_a_posix_shell(name: str, shell: str) -> None:
    done = subprocess.run([shell, "-n"], input=COMMANDS[name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_platform_of_this_machine_is_read(tmp_path: Path) -> None:
    host = Platform().process(sh(Platform().command(directory=f"{tmp_path}/not/there/yet")))
    assert host.kernel == os.uname().release
    assert host.cores == len(os.sched_getaffinity(0))
    assert host.memory_kib > 0
    statistics = os.statvfs(tmp_path)
    assert host.disk_kib == statistics.f_blocks * statistics.f_frsize // 1024


def test_a_module_that_no_kernel_has_is_missing() -> None:
    modules = KernelModules().process(sh(KernelModules().command(modules=("no-such-module", "vsock"))))
    assert list(modules) == ["no_such_module", "vsock"]
    assert (modules["no_such_module"].exists, modules["no_such_module"].loaded) == (False, False)


def test_the_live_command_line_of_this_machine_is_read() -> None:
    lines = KernelCommandLine().process(sh(KernelCommandLine().command(drop_in=GRUB_DROP_IN.path)))
    assert lines.live == tuple(Path("/proc/cmdline").read_text().split())


def test_interrupt_remapping_is_answered_with_yes_or_no() -> None:
    assert sh(InterruptRemapping().command()) in (["yes"], ["no"])


def test_the_initramfs_question_succeeds_whatever_boot_holds() -> None:
    for line in StaleInitramfs().process(sh(StaleInitramfs().command(inputs=INITRAMFS_INPUTS))):
        assert line.startswith("/boot/")


def test_the_initramfs_contents_are_asked_for_whatever_boot_holds() -> None:
    contents = InitramfsContents().process(sh(InitramfsContents().command(files=INITRAMFS_FILES)))
    assert all(image.startswith("/boot/") for image in (*contents.images, *contents.unlisted, *contents.damaged))


def test_files_modes_owners_and_contents_are_read_in_one_command(tmp_path: Path) -> None:
    paths = (str(tmp_path / "it's here"), str(tmp_path / "there"))
    for path, mode in zip(paths, (0o640, 0o4755), strict=True):
        Path(path).write_text(f"{path}\n")
        Path(path).chmod(mode)
    files = PlainFiles().process(sh(PlainFiles().command(paths=(paths[0], str(tmp_path), paths[1]))))
    assert [(path, state.mode) for path, state in files.items()] == [(paths[0], "640"), (paths[1], "4755")]
    for path, state in files.items():
        assert state.digest == hashlib.sha256(f"{path}\n".encode()).hexdigest()
        assert state.owner.count(":") == 1


def test_neither_a_link_nor_a_directory_nor_nothing_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    for name in ("link", "none", "."):
        assert sh(PlainFiles().command(paths=(str(tmp_path / name),))) == []


def test_a_tree_is_digested_over_its_sorted_files(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("two")
    (tmp_path / "a dir").mkdir()
    (tmp_path / "a dir/it's").write_text("one")
    (tmp_path / "c.pyc").write_text("compiled")
    lines = sorted(
        f"{hashlib.sha256(text).hexdigest()}  ./{path}\n" for text, path in ((b"two", "b"), (b"one", "a dir/it's"))
    )
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert TreeDigest().process(sh(TreeDigest().command(directory=str(tmp_path)))) == expected


def test_a_tree_that_is_not_there_has_no_digest(tmp_path: Path) -> None:
    assert sh(TreeDigest().command(directory=str(tmp_path / "none"))) == []


def test_the_parts_of_this_machine_are_read(tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    parts = NodeParts().process(sh(NodeParts().command(paths=(str(tmp_path), str(key), str(tmp_path / "none")))))
    assert (parts.paths[str(key)].mode, parts.paths[str(key)].size) == ("600", 32)
    assert set(parts.paths) == {str(tmp_path), str(key)}
    assert os.path.ismount(parts.mount)


def test_a_path_with_a_blank_fails_its_host_only(tmp_path: Path) -> None:
    directory = tmp_path / "with blank"
    directory.mkdir()
    with pytest.raises(FactProcessError):
        NodeParts().process(sh(NodeParts().command(paths=(str(directory),))))


_SYSTEMCTL = """#!/bin/sh
case "$*" in
*"show --timestamp=us+utc -p ActiveEnterTimestamp --value"*) echo "$SINCE" ;;
*"show -p InvocationID --value x.service"*) echo "$INVOCATION" ;;
*) exit 1 ;;
esac
"""


def changed(tmp_path: Path, since: str, *files: str, start: str = "") -> list[str]:
    """Ask which files changed, of a systemctl that says when the unit started and a Podman that knows no secret."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name, text in (
        ("systemctl", _SYSTEMCTL),
        ("podman", "#!/bin/sh\n[ $5 = fresh ] && echo 2000000000000000000\n"),
    ):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    note = f"{tmp_path}/run/inputs/x.service"
    command = ChangedSince().command(unit="x.service", files=files, secrets=("fresh", "gone"), note=note)
    return ChangedSince().process(
        sh(command, SINCE=since, INVOCATION=start, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    )


def test_files_and_secrets_that_changed_after_the_start_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    changed_at = datetime.fromtimestamp(file.stat().st_ctime, UTC)
    before, after = (
        f"{changed_at + timedelta(seconds=seconds):%a %Y-%m-%d %H:%M:%S.%f} UTC" for seconds in (-0.5, 0.5)
    )
    assert changed(tmp_path, before, str(file), "/no/such") == [str(file), "secret fresh"]
    assert changed(tmp_path, after, str(file)) == ["secret fresh"]


def test_a_file_with_the_content_that_a_unit_started_with_did_not_change(tmp_path: Path) -> None:
    same, other = tmp_path / "a file", tmp_path / "other"
    same.write_text("a")
    other.write_text("b")
    files = (str(same), str(other))
    since = f"{datetime.fromtimestamp(same.stat().st_ctime, UTC) - timedelta(days=1):%a %Y-%m-%d %H:%M:%S.%f} UTC"
    assert changed(tmp_path, since, *files, start="01ab")[:-1] == list(files), "nothing was noted"
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    note = scripts.shell("note_inputs.sh", f"{tmp_path}/run/inputs/x.service", "x.service", *files, "/no/such")
    assert sh(note, INVOCATION="01ab", PATH=path) == []
    assert (tmp_path / "run/inputs/x.service").stat().st_mode & 0o777 == 0o600
    os.utime(same)
    other.write_text("c")
    assert changed(tmp_path, since, *files, start="01ab")[:-1] == [str(other)]
    other.write_text("b")
    assert changed(tmp_path, since, *files, start="01ab")[:-1] == []
    assert changed(tmp_path, since, *files, start="02cd")[:-1] == list(files), "a later start"


def system_state(tmp_path: Path, body: str) -> str:
    """What the system's state is where systemctl waits when it is asked to."""
    (tmp_path / "systemctl").write_text(
        f"#!/bin/sh\ncase $1 in\nis-system-running) {body} ;;\n"
        "list-jobs) echo ' 71 x.service  start running' ;;\nesac\n"
    )
    (tmp_path / "systemctl").chmod(0o755)
    command = SystemState().command(seconds=1)
    return SystemState().process(sh(command, PATH=f"{tmp_path}:{os.environ['PATH']}"))


def test_a_boot_that_does_not_end_is_reported_in_time_with_the_job_that_it_waits_for(tmp_path: Path) -> None:
    started = time.monotonic()
    assert system_state(tmp_path, "sleep 60") == "starting, waiting for 71 x.service start running"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("printed", "code"), [("running", 0), ("degraded", 1), ("maintenance", 1)])
def test_a_boot_that_ended_is_described_by_its_state_alone(tmp_path: Path, printed: str, code: int) -> None:
    assert system_state(tmp_path, f"echo {printed}; exit {code}") == printed


_GRUBBY = """#!/bin/sh
cat <<'END'
index=0
kernel="/boot/vmlinuz-6.12.0"
args="ro rhgb quiet iommu=pt"
root="UUID=0a1b"
initrd="/boot/initramfs-6.12.0.img"
title="Fedora Linux"
index=1
non linux entry
END
"""


def test_every_entry_of_grubby_counts_though_it_prints_the_root_apart(tmp_path: Path) -> None:
    (tmp_path / "grubby").write_text(_GRUBBY)
    (tmp_path / "grubby").chmod(0o755)
    printed = sh(KernelCommandLine().command(drop_in=GRUB_DROP_IN.path), PATH=f"{tmp_path}:{os.environ['PATH']}")
    lines = ["live root=UUID=0a1b ro", *(line for line in printed if not line.startswith("live"))]
    assert KernelCommandLine().process(lines).configured == (("ro", "rhgb", "quiet", "iommu=pt"),)


def test_a_unit_that_never_started_has_no_changes(tmp_path: Path) -> None:
    assert changed(tmp_path, "", str(tmp_path)) == []


def test_the_recorded_topology_is_what_the_command_prints(tmp_path: Path) -> None:
    functions = (*recorded.gpu(1, 1, group=12), recorded.NIC)
    devices = tmp_path / "bus/pci/devices"
    devices.mkdir(parents=True)
    for each in functions:
        place = tmp_path / "devices" / each.place
        place.mkdir(parents=True, exist_ok=True)
        for name, value in recorded.attributes(each).items():
            (place / name).write_text(f"{value}\n")
        if each.driver:
            (place / "driver").symlink_to(f"../../../../bus/pci/drivers/{each.driver}")
        if each.group is not None:
            (place / "iommu_group").symlink_to(f"../../../../kernel/iommu_groups/{each.group}")
        (devices / each.address).symlink_to(f"../../../devices/{each.place}")
    modules = tmp_path / "modules/6.12.0"
    modules.mkdir(parents=True)
    (modules / "modules.alias").write_text("")
    proc = tmp_path / "proc/sys/kernel"
    proc.mkdir(parents=True)
    (proc / "osrelease").write_text("6.12.0\n")
    printed = sh(
        PciTopology().command(),
        PCIBIND_SYS=str(tmp_path),
        PCIBIND_PROC=str(tmp_path / "proc"),
        PCIBIND_MODULES=str(tmp_path / "modules"),
    )
    assert sorted(printed) == sorted(recorded.topology(*functions))
    assert topology_text.parse(printed) == topology_text.parse(recorded.topology(*functions))


def test_the_use_of_this_machine_s_devices_can_be_asked() -> None:
    PciUsage().process(sh(PciUsage().command()))


def test_no_data_has_no_release(tmp_path: Path) -> None:
    assert sh(PostgresDataRelease().command(directory=str(tmp_path))) == []
    (tmp_path / "PG_VERSION").write_text("16\n")
    assert PostgresDataRelease().process(sh(PostgresDataRelease().command(directory=str(tmp_path)))) == "16"
