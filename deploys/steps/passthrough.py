"""pcibind on the host: its files, its configuration and its record; after the reboot, the bound boards."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Generator
from typing import NamedTuple

from pyinfra import host
from pyinfra.api import FileUploadCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import systemd

from deploys import library, manifest
from deploys.assessment import legacy_files
from deploys.operations.files import Files
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, step, will_follow
from deploys.operations.restore import restore_command
from deploys.steps.preflight import GpuHost
from facts.baseline import Baseline
from facts.file import FileText, FileTexts
from facts.node import NodeParts
from facts.pci import PciBinding, PciRecord
from facts.tree import TreeDigest
from pcibind.change import boot_files
from pcibind.model.record import Record
from pcibind.model.request import Configuration
from pcibind.read import configuration

GROUP_DEVICE = re.compile(r"/dev/vfio/[0-9]+")


def _archive(tree: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in tree.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o755 if path == "early" else 0o644
            archive.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


@operation()
def library_installed() -> Generator[PyinfraCommand | str, None, None]:
    """Put pcibind's own code under /usr/local/lib, where the system's Python runs it."""
    tree = library.read_tree()
    if host.get_fact(TreeDigest, directory=library.DIRECTORY) == library.digest(tree):
        host.noop("pcibind is installed")
        return
    upload = host.get_temp_filename("pcibind.tar.gz")
    yield FileUploadCommand(_archive(tree), upload)
    there = library.DIRECTORY
    # Complete beside the old one and on the disk, then two renames: never a mixture of two releases.
    yield (
        f"rm -rf {there}.new && mkdir -m 755 {there}.new && tar -xzf {upload} -C {there}.new --no-same-owner && "
        f"python3 -m compileall -q {there}.new/pcibind && sync && rm -rf {there}.old && "
        f"{{ [ ! -e {there} ] || mv {there} {there}.old; }} && mv {there}.new {there} && "
        f"rm -rf {there}.old {upload}; if command -v restorecon >/dev/null; then restorecon -R {there}; fi"
    )


@operation()
def request_renamed(past: Baseline | None) -> Generator[PyinfraCommand | str, None, None]:
    """Give pcibind's configuration of earlier versions its name of today, by one rename.

    With both files there at a boot each board would be asked for twice, which pcibind refuses.

    + past: the host before its first deploy
    """
    old, new = legacy_files.REQUEST, manifest.PCIBIND_BOARDS.path
    texts: dict[str, FileText] = host.get_fact(FileTexts, paths=(old,))
    if old not in legacy_files.ours(texts, past):
        host.noop(f"{old} is not of a deploy")
        return
    command = f"mv -fT {old} {new}"
    yield f"{command} && {restore_command(old)}" if past is not None and old in past.archived else command


@operation()
def renaming_ended(past: Baseline | None) -> Generator[PyinfraCommand | str, None, None]:
    """Forget that the host was being moved on, now that every file of earlier versions is gone.

    + past: the host before its first deploy
    """
    if past is None or not (past.is_former or past.renaming):
        host.noop("no file has a name of an earlier version")
        return
    yield f"rm -f {manifest.RENAMING}"


@operation()
def boards_recorded(
    wanted: Configuration, boards: tuple[str, ...], reboot: PendingReboot
) -> Generator[PyinfraCommand | str, None, None]:
    """Let pcibind pass its guards and record the chosen boards with their identity.

    No driver is touched, but for a board that is no longer chosen: where no reboot is due, it is given back at once.

    + wanted: the configuration that the host was given
    + boards: bridge-relative paths of the boards that the preflight found
    + reboot: whether one is pending, which this run has to wait for
    """
    record = host.get_fact(PciRecord).record or Record()
    paths = {board.path for board in record.boards}
    same = {board.selector for board in record.boards} == {board.selector for board in wanted.boards}
    if paths == set(boards) and same and (not paths or record.require_boards == wanted.require_boards):
        host.noop("the boards are recorded")
        return
    if paths - set(boards) and not reboot.reasons():
        yield f"{manifest.PCIBIND.path} apply"
    else:
        yield f"{manifest.PCIBIND.path} apply --next-boot"


class Passthrough(NamedTuple):
    """The operations that write what an initramfs holds, and among them the one that records the boards."""

    files: list[OperationMeta]
    recorded: OperationMeta


@step("Prepare the passthrough")
def prepare_passthrough(gpu_host: GpuHost, reboot: PendingReboot) -> Passthrough:
    """Everything that the next boot needs to bind the boards by itself. Touches no driver."""
    files, wanted = Files(), gpu_host.verdict.config
    inputs = [library_installed(name="Install pcibind")]
    files.text(manifest.PCIBIND, library.WRAPPER)
    request_renamed(name="Rename the configuration of earlier versions", past=gpu_host.verdict.past)
    renaming_ended(name="End the move from the names of earlier versions", past=gpu_host.verdict.past)
    files.text(manifest.PCIBIND_BOARDS, configuration.render(*wanted.boards, require_boards=wanted.require_boards))
    inputs.append(files.text(manifest.EARLY_RULE, boot_files.rule()))
    if gpu_host.family.initramfs == "dracut":
        inputs.append(files.text(manifest.DRACUT_CONF, boot_files.dracut()))
    else:
        inputs.append(files.text(manifest.INITRAMFS_HOOK, boot_files.initramfs_hook()))
    texts = boot_files.units()
    for file in manifest.PCIBIND_UNITS:
        files.text(file, texts[file.path])
    systemd.service(
        name=f"Enable {boot_files.UNIT}", service=boot_files.UNIT, enabled=True, running=None, daemon_reload=False
    )
    recorded = boards_recorded(
        name="Record the chosen boards",
        wanted=wanted,
        boards=tuple(board.path for board in gpu_host.verdict.boards),
        reboot=reboot,
    )
    return Passthrough([*inputs, recorded], recorded)


@operation()
def boards_bound(
    reboot: PendingReboot, wanted: bool, inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Bind every function of the recorded boards to vfio-pci and prove it, unless that is so already.

    + reboot: whether one is pending, which this run has to wait for
    + wanted: whether any board is chosen
    + inputs: operations of this run that choose the boards
    """
    if reboot.is_planned() or will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    status = host.get_fact(PciBinding, program=manifest.PCIBIND.path)
    if status is None and not wanted:
        host.noop("no board is chosen")
    elif status is not None and status.bound:
        host.noop("every function of every chosen board is on vfio-pci")
    else:
        yield f"{manifest.PCIBIND.path} apply"


@operation()
def groups_given_to_kvm() -> Generator[PyinfraCommand | str, None, None]:
    """Apply the udev rule to VFIO devices that were there before it, as on a host that was set up by hand."""
    parts = host.get_fact(NodeParts, paths=("/",))
    groups = [each for each in parts.devices.values() if GROUP_DEVICE.fullmatch(each.path)] if parts else []
    if all(each.owner == "root:kvm" for each in groups):
        host.noop("the VFIO groups belong to kvm")
        return
    matches = "--subsystem-match=vfio --subsystem-match=vfio-dev"
    yield f"udevadm control --reload && udevadm trigger --action=change {matches} && udevadm settle"


@step("Bind the boards")
def bind_boards(gpu_host: GpuHost, reboot: PendingReboot, after: list[OperationMeta]) -> None:
    wanted = bool(gpu_host.verdict.config.boards)
    boards_bound(name="Bind the chosen boards", reboot=reboot, wanted=wanted, inputs=after)
    groups_given_to_kvm(name="Give the VFIO groups to kvm")
