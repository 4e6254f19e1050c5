"""Whether our files can be written where they belong, and are there when a boot needs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from deploys.manifest import READ_FIRST
from deploys.preflight.verdict import Findings
from facts.place import Place


def judge_places(places: Mapping[str, Place], files: tuple[str, ...], found: Findings) -> None:
    """Refuse what stands in the way of a file; one sentence for each thing, however many files it concerns."""
    sentences: dict[str, None] = {}
    late: dict[str, None] = {}
    for path, place in places.items():
        is_file = path in files
        is_there = place.kind in ("directory", "link")
        if place.blocked:
            sentences[
                f"{place.blocked} is no directory, or a link that leads nowhere; expected a directory for {path}. Move "
                f"it away (mv {place.blocked} {place.blocked}.old), or mount what it leads to."
            ] = None
        elif is_file and place.kind in ("directory", "special"):
            what = "a directory" if place.kind == "directory" else "a device, socket or FIFO"
            sentences[
                f"{path} is {what}; expected a file of the deploy, or nothing. Move it away: mv {path} {path}.old"
            ] = None
        elif not is_file and (place.dangling or place.kind in ("file", "special")):
            what = f"a link to {place.target}, which does not exist" if place.dangling else "no directory"
            sentences[
                f"{path} is {what}; expected a directory of the node. Make or mount what it leads to, or move it away: "
                f"mv {path} {path}.old"
            ] = None
        elif not is_file and is_there:
            continue  # Its parent needs no change.
        elif place.readonly:
            sentences[
                f"the file system at {place.mount} is mounted read-only; expected that {path} can be written. Make it "
                f"writable: mount -o remount,rw {place.mount}, and correct its options in /etc/fstab."
            ] = None
        elif place.locked:
            sentences[
                f"{place.locked} cannot be changed, even by root; expected that the deploy can write {path}. Take the "
                f"attribute away that protects it (lsattr -d {place.locked} shows it): chattr -i {place.locked}"
            ] = None
        if is_file and place.names > 1:
            found.warnings.append(
                f"{path} has {place.names} names (hard links). When it changes, only this name does; the others keep "
                "the previous content, and an undo brings back a file of its own."
            )
        directory = next((each for each in READ_FIRST if path.startswith(f"{each}/")), None)
        if directory is not None and not _is_early(place.mount):
            late[
                f"{directory} lies on {place.mount}, which is mounted only after systemd has read its units and "
                "generated those of containers, so the node would not exist after a boot; expected it on the file "
                f"system of /etc. Move it there: umount {place.mount}, or replace the link {directory} by a directory."
            ] = None
    found.refusals += [*sentences, *late]


def _is_early(mount: str) -> bool:
    """Whether a file system is there when systemd starts: the root, or one that the initramfs mounts for /etc."""
    return mount in ("/", "/etc", "/usr")


def real_paths(places: Mapping[str, Place], directories: tuple[str, ...]) -> dict[str, str]:
    """Directory → where it really lies, for those that are reached through a link."""
    return {
        each: places[each].real
        for each in directories
        if each in places and places[each].real and PurePosixPath(places[each].real) != PurePosixPath(each)
    }
