"""Whether our files can be written to their places, and are mounted when a boot needs them."""

from __future__ import annotations

from collections.abc import Mapping

from deploys.assessment.verdict import Findings
from deploys.manifest import READ_FIRST
from facts.place import Place


def judge_places(places: Mapping[str, Place], files: tuple[str, ...], findings: Findings) -> None:
    """Refuse obstacles to writing ``files``: one sentence each, however many files it affects.

    The other places are directories of the storage, which may be missing: only a protected parent is refused here.
    """
    # Obstacle → the sentence about it, with the first file that it affects.
    sentences: dict[str, str] = {}
    late: dict[str, None] = {}
    for path, place in places.items():
        is_file = path in files
        # storage.py judges where the storage lies, but cannot see protected directories.
        if not is_file and (place.kind or place.blocked or not place.locked):
            continue
        if place.blocked:
            sentences.setdefault(
                place.blocked,
                f"{place.blocked} is no directory, or a link that leads nowhere; expected a directory for {path}. Move "
                f"it away (mv {place.blocked} {place.blocked}.old), or mount what it leads to.",
            )
        elif place.kind in ("directory", "special"):
            what = "a directory" if place.kind == "directory" else "a device, socket or FIFO"
            sentences[path] = (
                f"{path} is {what}; expected a file of the deploy, or nothing. Move it away: mv {path} {path}.old"
            )
        elif place.readonly:
            sentences.setdefault(
                f"read-only {place.mount}",
                f"the file system at {place.mount} is mounted read-only; expected that {path} can be written. Make it "
                f"writable: mount -o remount,rw {place.mount}, and correct its options in /etc/fstab.",
            )
        elif place.locked:
            sentences.setdefault(
                place.locked,
                f"{place.locked} cannot be changed, even by root; expected that the deploy can write {path}. Remove "
                f"the attribute that protects it (lsattr -d {place.locked} shows it): chattr -i {place.locked}",
            )
        if is_file and place.names > 1:
            findings.warnings.append(
                f"{path} has {place.names} names (hard links). When it changes, only this name does; the others keep "
                "the previous content, and an undo restores a separate file."
            )
        directory = next((each for each in READ_FIRST if path.startswith(f"{each}/")), None)
        if directory is not None and not _is_early(place.mount):
            late[
                f"{directory} is on {place.mount}, which is mounted only after systemd has read its units and "
                "generated those of containers, so the node would not exist after a boot; expected it on the file "
                f"system of /etc. Move it there: umount {place.mount}, or replace the link {directory} by a directory."
            ] = None
    findings.refusals += [*sentences.values(), *late]


def _is_early(mount: str) -> bool:
    """Whether a file system is there when systemd starts: the root, or one that the initramfs mounts for /etc."""
    return mount in ("/", "/etc", "/usr")
