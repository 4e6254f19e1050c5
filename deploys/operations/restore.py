"""Files and directories restored to their state before the first deploy."""

from __future__ import annotations

from collections.abc import Generator
from shlex import quote

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys.manifest import ARCHIVE, former_path
from deploys.operations.planning import DECIDED_AT_RUN_TIME, will_follow
from facts.baseline import ArchivedFile, Baseline
from facts.paths import EmptyDirectories, ExistingPaths


def is_same(archive: str, path: str) -> bool:
    """Whether a file of the current host is as the archive has it."""
    former = former_path(archive)
    return bool(host.get_fact(ArchivedFile, archive=archive, former=former, path=path) == "same")


@operation()
def restore_file(path: str, archive: str = ARCHIVE) -> Generator[PyinfraCommand | str, None, None]:
    """Restore a file to its state before the first deploy: content, owner, mode.

    + path: the file, which the archive has
    + archive: the files of the host before its first deploy
    """
    if is_same(archive, path):
        host.noop(f"{path} is as it was before the first deploy")
        return
    yield restore_command(path, archive)


def restore_command(path: str, archive: str = ARCHIVE) -> str:
    """The command that restores a file from the archive."""
    return (
        f"tar -C / -xpf {archive} {quote(path.lstrip('/'))} && "
        f"{{ ! command -v restorecon >/dev/null || restorecon {quote(path)}; }}"
    )


def restore_or_remove(past: Baseline, path: str) -> OperationMeta:
    """Restore a file of the deploy to its previous state, or remove it if there was none."""
    if path in past.archived:
        return restore_file(name=f"Restore {path}", path=path, archive=past.archive)
    return remove_file(name=f"Remove {path}", path=path)


@operation()
def remove_file(path: str) -> Generator[PyinfraCommand | str, None, None]:
    """Remove a file of the deploy, or a link in its place; the target of the link stays.

    + path: the file
    """
    if not host.get_fact(ExistingPaths, paths=(path,)):
        host.noop(f"{path} does not exist")
        return
    yield f"rm -f {quote(path)}"


@operation()
def restore_former_files(
    past: Baseline | None, paths: tuple[str, ...], archive: str = ARCHIVE
) -> Generator[PyinfraCommand | str, None, None]:
    """Restore files that earlier versions wrote to their state before the first deploy, or remove them.

    + past: the host before its first deploy
    + paths: those of the files that are still ours
    + archive: the files of the host before its first deploy
    """
    commands = []
    for path in paths:
        if past is None or path not in past.archived:
            commands.append(f"rm -f {quote(path)}")
        elif not is_same(archive, path):
            commands.append(restore_command(path, archive))
    if not commands:
        host.noop("no file of an earlier version is left")
        return
    yield from commands


def is_as_before(past: Baseline, path: str) -> bool:
    """Whether a file of the current host is as it was before the first deploy."""
    return path in past.archived and is_same(past.archive, path)


@operation()
def remove_empty_directories(
    directories: tuple[str, ...], inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Remove empty directories.

    + directories: paths, the innermost first
    + inputs: operations of this run that take files out of them
    """
    if will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    empty = host.get_fact(EmptyDirectories, directories=directories)
    if not empty:
        host.noop("none of the directories is empty")
        return
    # A directory may be empty only after those inside of it are removed.
    words = " ".join(quote(directory) for directory in directories)
    yield f'for each in {words}; do [ ! -d "$each" ] || rmdir --ignore-fail-on-non-empty "$each"; done'
