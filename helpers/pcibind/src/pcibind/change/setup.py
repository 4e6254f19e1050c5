"""What a boot needs, put on this host: udev rule and script, initramfs hook, and the unit."""

from __future__ import annotations

import contextlib
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
    "mkinitramfs": BootFile(early.INITRAMFS_HOOK_PATH, early.initramfs_hook(), 0o755),
    "dracut": BootFile(early.DRACUT_PATH, early.dracut(), 0o644),
}
"""The hook for each program that makes images."""
_PROGRAMS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NO_GENERATOR = (
    "warning: neither initramfs-tools nor dracut makes this host's initramfs: without the early "
    "override in it, drivers there take the boards first"
)
_REBUILD = {
    early.INITRAMFS_HOOK_PATH: "update-initramfs -u -k all",
    early.DRACUT_PATH: "dracut --regenerate-all --force",
}


def boot_files(paths: Paths) -> list[BootFile]:
    """The files for this host: hooks for those generators of an initramfs that it has."""
    generator = _generator(paths)
    hooks = [_HOOKS[generator]] if generator else []
    return [
        BootFile(early.RULE_PATH, early.rule(), 0o644),
        BootFile(early.SCRIPT_PATH, early.script(), 0o755),
        *hooks,
        *(BootFile(path, text, 0o644) for path, text in unit.files(this_command()).items()),
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
        *([] if _generator(paths) else [_NO_GENERATOR]),
        *_next(wanted, f"systemctl enable {unit.NAME}"),
    ]


def remove(paths: Paths) -> list[str]:
    """Remove the files; return what was done and what to run next. Raises OSError."""
    there = [*boot_files(paths), *_HOOKS.values()]
    gone = [each for each in dict.fromkeys(there) if files.remove(paths.root + each.path)]
    said = [f"removed {each.path}" for each in gone]
    link = f"/etc/systemd/system/{unit.WANTED_BY}.wants/{unit.NAME}"
    # A link to nothing would be there for every later unit of that name.
    if files.remove(paths.root + link):
        said.append(f"removed {link}")
    return [*said, *_next(gone, "systemctl daemon-reload")] if said else ["no boot file is there"]


def this_command() -> str:
    """How to run the pcibind that is running now, without what else is installed beside it."""
    library = os.path.abspath(f"{__file__}/../../..")
    code = f"import sys; sys.path.insert(0, '{library}'); from pcibind.__main__ import main; main()"
    return f'{sys.executable} -I -S -c "{code}"'


def _generator(paths: Paths) -> str | None:
    """The program that makes the initramfs images; None when it is neither of the two.

    Debian's dracut has an update-initramfs of its own, and either package may be there only in
    part: what update-initramfs runs decides, where there is one, since kernels' packages run it.
    """
    for directory in _PROGRAMS:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if text := files.read(f"{paths.root}{directory}/update-initramfs"):
                return next((program for program in _HOOKS if program in text), None)
    there = any(os.path.exists(f"{paths.root}{directory}/dracut") for directory in _PROGRAMS)
    return "dracut" if there else None


def _next(changed: list[BootFile], systemctl: str) -> list[str]:
    commands = [_REBUILD[each.path] for each in changed if each.path in _REBUILD]
    return [f"next: {' && '.join([*commands, systemctl])}"]
