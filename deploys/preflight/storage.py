"""Whether the node can use the storage directory: its path, its file system, and nothing of others in it."""

from __future__ import annotations

from deploys.assessment.verdict import Findings
from deploys.inputs.values import own_directory
from deploys.manifest import NODE_ACCOUNT, POSTGRES_UNIT
from deploys.settings import Settings
from facts.listeners import unit_of
from facts.storage import Storage
from facts.untrusted import printable

# What a deploy makes in it, what the guide puts there, and what a new ext4 has.
_KNOWN = frozenset(("data", "key", "postgres", "node.key", "lost+found"))
# Shared parent directories: that a package owns one says nothing about the directories in it.
_GENERAL = frozenset("/ /var /var/lib /var/opt /var/local /var/cache /var/log /srv /opt /mnt /media".split())  # noqa: SIM905
_LOST = {"tmpfs", "ramfs"}
# They keep neither owners nor modes, or nothing can be written.
_UNFIT = frozenset(
    """
    vfat msdos exfat ntfs ntfs3 fuseblk iso9660 udf squashfs erofs hfsplus cifs smb3 vboxsf fuse.sshfs fuse.rclone
    fuse.s3fs fuse.gcsfuse fuse.vmhgfs-fuse
    """.split()  # noqa: SIM905
)


def list_directories(settings: Settings) -> tuple[str, ...]:
    """What a deploy makes in the storage directory, the database's directory first."""
    return settings.postgres_directory, settings.key_directory, settings.data_directory


def resolve_links(settings: Settings, storage: Storage | None) -> Settings:
    """The settings with the storage directory's path as systemd, which follows no links, needs it for its mount."""
    if storage is None or not storage.real or storage.real == settings.storage_directory:
        return settings
    return settings.model_copy(update={"storage_directory": storage.real})


def judge_storage(storage: Storage | None, settings: Settings, key_state: str, findings: Findings) -> None:
    """``settings`` as the operator wrote them, ``key_state`` as node_key.sh has it."""
    if storage is None:
        return
    asked = settings.storage_directory
    name = f"gevulot_storage_directory is {asked}"
    if problem := _path_problem(storage, asked):
        findings.refusals.append(f"{name}, {problem}")
        return
    where = asked if storage.real == asked else f"{asked} ({storage.real})"
    if problem := _volume_problem(storage, where):
        findings.refusals.append(f"gevulot_storage_directory: {problem}")
    if storage.by_hand:
        findings.refusals.append(
            f"gevulot_storage_directory: {where} is on {storage.mount}, which was mounted by hand; expected a volume "
            "that a boot mounts, or the node would start beside its data. Add that mount to /etc/fstab, run "
            "`systemctl daemon-reload`, then run again."
        )
    # The fingerprint beside the node's configuration, or the unit of the deployed node, says that it is ours.
    if not storage.used and key_state not in ("ok", "mode") and (problem := _others_problem(storage)):
        findings.refusals.append(
            f"{name}, {problem}; expected a directory of its own, since its owner and mode are changed. Choose another "
            "path, such as /var/lib/gevulot, or a new directory in it."
        )
    for path, kind in storage.parts.items():
        if kind not in ("directory", "missing"):
            what = {"file": "no directory", "dangling": "a link to nothing"}.get(kind, "a link")
            findings.refusals.append(
                f"{path} is {what}; expected a directory, or nothing. Move it away; to have it on another volume, "
                "mount that volume there, or set gevulot_storage_directory."
            )
    if settings.own_postgres:
        _judge_database(storage, settings.postgres_directory, findings)


def _path_problem(storage: Storage, asked: str) -> str | None:
    """The problem with the path itself, if any."""
    for path, kind in storage.parents.items():
        link = "a link to nothing" if kind == "dangling" else "no directory" if kind == "file" else None
        if link is not None:
            this = "which" if path == asked else f"but {path}"
            return (
                f"{this} is {link}; expected a directory. Mount the volume or make the directory that it points to, or "
                "choose another path."
            )
    if storage.real == asked:
        return None
    try:
        own_directory(storage.real)
    except ValueError as error:
        return f"a link to {printable(storage.real, 200)}: {error}. Choose another path."
    return None


def _volume_problem(storage: Storage, where: str) -> str | None:
    on = f"{where} is on {storage.mount or 'a volume'} ({storage.file_system})"
    if "ro" in storage.options:
        return (
            f"{on}, which is mounted read-only; expected one that can be written. Mount it with rw (see `journalctl "
            "-k` for errors of the file system), or choose another path."
        )
    if storage.file_system in _LOST:
        return (
            f"{on}, which a reboot empties; expected a disk, since the node's key is kept there. Choose another path."
        )
    if storage.file_system in _UNFIT:
        return f"{on}, which keeps no owners and modes; expected ext4, xfs or another of Linux. Choose another path."
    return None


def _others_problem(storage: Storage) -> str | None:
    """The other owner of the directory, if it has one."""
    homes = [user for user in storage.homes if user != NODE_ACCOUNT]
    if homes:
        return f"the home of {', '.join(printable(each, 40) for each in homes[:3])}"
    if storage.package is not None and storage.package[0] not in _GENERAL:
        path, package = storage.package
        this = "which" if path == storage.real else f"in {path}, which"
        return f"{this} belongs to the package {package}"
    others = [each for each in storage.entries if each not in _KNOWN]
    # A directory that was made by the guide: the node itself puts its files beside its key.
    if others and "node.key" not in storage.entries:
        shown = ", ".join(printable(each, 40) for each in sorted(others)[:3])
        return f"which is not empty ({shown}{', …' if len(others) > 3 else ''}), and no deploy made it"
    return None


def _judge_database(storage: Storage, directory: str, findings: Findings) -> None:
    if storage.foreign:
        findings.refusals.append(
            f"{directory} has files, but none is PG_VERSION, so it holds no database; expected one of Postgres, or an "
            "empty directory. Move the files away."
        )
    users = [each for each in storage.users if unit_of(each[1]) != POSTGRES_UNIT]
    if users:
        process, group, program = users[0]
        unit = printable(unit_of(group), 80)
        by = f"{printable(program, 40)} (pid {process}{f', {unit}' if unit else ''})"
        findings.refusals.append(
            f"{directory} is in use by {by}; expected the node's own Postgres alone, since two servers destroy the "
            "data. Stop that server, and keep it from starting again."
        )
