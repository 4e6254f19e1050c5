"""What a boot needs, put on this host: udev rule and script, initramfs hook, and the unit."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from pcibind.change import early, unit
from pcibind.read import files
from pcibind.read.paths import Paths


class BootFile(NamedTuple):
    """A file with its path on a host, its text, and its permission bits."""

    path: str
    text: str
    mode: int


_HOOKS = {
    "/etc/initramfs-tools": BootFile(early.INITRAMFS_HOOK_PATH, early.initramfs_hook(), 0o755),
    "/etc/dracut.conf.d": BootFile(early.DRACUT_PATH, early.dracut(), 0o644),
}
_REBUILD = {
    early.INITRAMFS_HOOK_PATH: "update-initramfs -u -k all",
    early.DRACUT_PATH: "dracut --regenerate-all --force",
}


def boot_files(paths: Paths) -> list[BootFile]:
    """The files for this host: hooks for those generators of an initramfs that it has."""
    hooks = [hook for directory, hook in _HOOKS.items() if os.path.isdir(paths.root + directory)]
    return [
        BootFile(early.RULE_PATH, early.rule(), 0o644),
        BootFile(early.SCRIPT_PATH, early.script(), 0o755),
        *hooks,
        BootFile(unit.PATH, unit.render(this_command()), 0o644),
    ]


def install(paths: Paths) -> list[str]:
    """Write the files; return what was done and what to run next. Raises OSError."""
    wanted = boot_files(paths)
    said = [
        f"wrote {each.path}"
        for each in wanted
        if files.write_atomically(paths.root + each.path, each.text, each.mode)
    ]
    return [
        *(said or ["all boot files are there"]),
        *_next(wanted, f"systemctl enable {unit.NAME}"),
    ]


def remove(paths: Paths) -> list[str]:
    """Remove the files; return what was done and what to run next. Raises OSError."""
    there = [*boot_files(paths), *_HOOKS.values()]
    gone = [each for each in dict.fromkeys(there) if files.remove(paths.root + each.path)]
    said = [f"removed {each.path}" for each in gone]
    return [*said, *_next(gone, "systemctl daemon-reload")] if said else ["no boot file is there"]


def this_command() -> str:
    """How to run the pcibind that is running now, without what else is installed beside it."""
    library = os.path.abspath(f"{__file__}/../../..")
    code = f"import sys; sys.path.insert(0, '{library}'); from pcibind.__main__ import main; main()"
    return f'{sys.executable} -I -S -c "{code}"'


def _next(changed: list[BootFile], systemctl: str) -> list[str]:
    commands = [_REBUILD[each.path] for each in changed if each.path in _REBUILD]
    return [f"next: {' && '.join([*commands, systemctl])}"]
