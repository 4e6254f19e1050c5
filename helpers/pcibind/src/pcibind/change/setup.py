"""`pcibind setup`: install the boot files (udev rule and script, initramfs hook, units).

A distribution's package provides these files at its own paths; there `pcibind setup` removes the
copies in /etc that it once wrote, since those would override the package's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable

from pcibind.change import boot_files
from pcibind.model.values import NamedTuple
from pcibind.read import files
from pcibind.read.files import Paths


class BootFile(NamedTuple):
    """A file with its path on a host, its text, and its permission bits."""

    path: str
    text: str
    mode: int


_HOOKS = {
    "mkinitramfs": BootFile(boot_files.INITRAMFS_HOOK_PATH, boot_files.initramfs_hook(), 0o755),
    "dracut": BootFile(boot_files.DRACUT_PATH, boot_files.dracut(), 0o644),
}
"""The hook for each program that makes images."""
_PROGRAMS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NO_GENERATOR = (
    "warning: neither initramfs-tools nor dracut makes this host's initramfs: without the early "
    "override in it, drivers there take the boards first"
)
_REBUILD = {
    boot_files.INITRAMFS_HOOK_PATH: "update-initramfs -u -k all",
    boot_files.DRACUT_PATH: "dracut --regenerate-all --force",
}

_WANTS = f"/etc/systemd/system/{boot_files.WANTED_BY}.wants/{boot_files.UNIT}"
"""The link by which `systemctl enable` starts the unit at each boot."""

PACKAGE_LIBRARY = "/usr/lib/pcibind"
_PACKAGED = {
    "/usr/local/lib/pcibind": PACKAGE_LIBRARY,
    "/etc/udev/rules.d": "/usr/lib/udev/rules.d",
    "/etc/initramfs-tools": "/usr/share/initramfs-tools",
    "/etc/dracut.conf.d": "/usr/lib/dracut/dracut.conf.d",
    "/etc/systemd/system": "/usr/lib/systemd/system",
}
"""Where a package has what is elsewhere on a host that was set up by hand."""


def list_boot_files(hooks: Iterable[BootFile], command: str = boot_files.COMMAND) -> list[BootFile]:
    """The files, with these hooks; the units run pcibind by `command`."""
    return [
        BootFile(boot_files.RULE_PATH, boot_files.rule(), 0o644),
        BootFile(boot_files.SCRIPT_PATH, boot_files.script(), 0o755),
        *hooks,
        *(BootFile(path, text, 0o644) for path, text in boot_files.units(command).items()),
    ]


def package_files() -> list[BootFile]:
    """The files as a package has them, with the hooks for every generator of an initramfs."""
    return [
        BootFile(_packaged(each.path), _packaged(each.text), each.mode)
        for each in list_boot_files(_HOOKS.values())
    ]


def install(paths: Paths, library: str | None = None) -> list[str]:
    """Write the files; return what was done and what to run next. Raises OSError.

    `library` is the directory that this pcibind runs from: that of a package has them already.
    """
    if (library or _library()) == PACKAGE_LIBRARY:
        return _remove_superseded(paths)
    wanted = list_boot_files(_hooks(paths), this_command())
    lines = [
        f"wrote {each.path}"
        for each in wanted
        if files.write_atomically(paths.root + each.path, each.text, each.mode)
    ]
    return [
        *(lines or ["all boot files are up to date"]),
        *([] if _generator(paths) else [_NO_GENERATOR]),
        *_next(wanted, f"systemctl enable {boot_files.UNIT}"),
    ]


def remove(paths: Paths, library: str | None = None) -> list[str]:
    """Remove the files; return what was done and what to run next. Raises OSError."""
    if (library or _library()) == PACKAGE_LIBRARY:
        return _remove_superseded(paths)
    there = list_boot_files(_HOOKS.values())
    gone = [each for each in dict.fromkeys(there) if files.remove(paths.root + each.path)]
    lines = [f"removed {each.path}" for each in gone]
    # A link to nothing would be there for every later unit of that name.
    if files.remove(paths.root + _WANTS):
        lines.append(f"removed {_WANTS}")
    return (
        [*lines, *_next(gone, "systemctl daemon-reload")]
        if lines
        else ["no boot file is installed"]
    )


def this_command() -> str:
    """How to run the pcibind that is running now, from where it lies, without site hooks."""
    where = f"sys.path.insert(0, '{_library()}')"
    code = f"import sys; {where}; from pcibind.__main__ import main; main()"
    return f'{sys.executable} -I -S -c "{code}"'


def digest(text: str) -> str:
    """SHA-256 of a boot file, in hexadecimal; how a unit runs pcibind is left out."""
    lines = [line for line in text.splitlines(True) if not line.startswith("ExecStart=")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _remove_superseded(paths: Paths) -> list[str]:
    """Remove what `setup` of any version wrote; name what was changed since, which stays."""
    local = f"{paths.root}{boot_files.SCRIPT_PATH}".replace("/early", "/__main__.py")
    if os.path.exists(local):
        return [f"{local} is another pcibind, and its boot files in /etc override the package's"]
    there = list_boot_files(_HOOKS.values())
    ours = {*boot_files.former(), *(digest(each.text) for each in there)}
    gone, lines = [], []
    for each in there:
        text = files.read(paths.root + each.path)
        if text is None:
            continue
        if digest(text) in ours:
            files.remove(paths.root + each.path)
            gone.append(each)
            lines.append(f"removed {each.path}: the package provides it")
        else:
            lines.append(f"{each.path} was edited: it is kept, and overrides the package's")
    if boot_files.UNIT_PATH in {each.path for each in gone} and os.path.islink(paths.root + _WANTS):
        files.remove(paths.root + _WANTS)
    other = f"{paths.root}/usr/local/sbin/pcibind"
    if os.path.lexists(other):
        lines.append(f"{other} is another pcibind, and comes before the package's in PATH")
    if not gone:
        return lines or ["the package provides all boot files"]
    return [*lines, *_next(gone, f"systemctl enable {boot_files.UNIT}")]


def _library() -> str:
    """The directory that holds the package `pcibind` which is running."""
    return os.path.abspath(f"{__file__}/../../..")


def _hooks(paths: Paths) -> list[BootFile]:
    """The hook for the generator of an initramfs that this host has."""
    generator = _generator(paths)
    return [_HOOKS[generator]] if generator else []


def _packaged(text: str) -> str:
    for local, packaged in _PACKAGED.items():
        text = text.replace(local, packaged)
    return text


def _generator(paths: Paths) -> str | None:
    """The program that makes the initramfs images; None when it is neither of the two.

    Debian's dracut has an update-initramfs of its own, and either package may be there only in
    part: what update-initramfs runs decides, where there is one, since kernels' packages run it.
    """
    for directory in _PROGRAMS:
        with contextlib.suppress(OSError):
            if text := files.read(f"{paths.root}{directory}/update-initramfs"):
                return next((program for program in _HOOKS if program in text), None)
    there = any(os.path.exists(f"{paths.root}{directory}/dracut") for directory in _PROGRAMS)
    return "dracut" if there else None


def _next(changed: list[BootFile], systemctl: str) -> list[str]:
    commands = [_REBUILD[each.path] for each in changed if each.path in _REBUILD]
    return [f"next: {' && '.join([*commands, systemctl])}"]
