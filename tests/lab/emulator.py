"""The emulator: one QEMU for every computer, extracted from Debian's packages into the cache and run from there.

What a guest does must not depend on the QEMU of the computer's own distribution: before 8.1 it panics guests of several
processors (QEMU commit deba78709a), and which devices can be saved in a snapshot also differs between releases.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab import cache
from tests.lab.hostpackages import privileged, program
from tests.lab.progress import Progress, silent, step

SYSTEM: Final = "qemu-system-x86_64"
IMAGE: Final = "qemu-img"

_SUITE: Final = "trixie"
_BACKPORTS: Final = f"{_SUITE}-backports"
_PACKAGES: Final = ("qemu-system-x86", "qemu-utils", "ovmf")

_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_LOADER: Final = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_MODULES: Final = f"{_LIBRARIES}/qemu"
_FIRMWARE: Final = ("usr/share/qemu", "usr/share/seabios", "usr/share/ovmf")
_KEPT: Final = (*(f"usr/bin/{name}" for name in (SYSTEM, IMAGE)), _LIBRARIES, *_FIRMWARE)

# mmdebstrap knows the mirror; no address of one stands here.
_ADD_BACKPORTS: Final = (
    f's=$1/etc/apt/sources.list; sed -n "s/^\\(deb .*\\) {_SUITE} main.*/\\1 {_BACKPORTS} main/p" $s >$s.d/new.list'
)


class EmulatorError(RuntimeError):
    """QEMU could not be extracted, or does not run; the text carries the end of the failed command's output."""


@dataclass(frozen=True)
class Emulator:
    """An extracted QEMU: the directory that holds its `usr`, and the first line of its `--version`."""

    home: Path
    version: str

    def command(self, name: str) -> list[str]:
        """Return the words that start one of its programs, `SYSTEM` or `IMAGE`, on any Linux of this architecture.

        Its own loader finds its own libraries. They are named in an argument and not in the environment, so that what
        QEMU starts gets the computer's.
        """
        words = [str(self.home / _LOADER), "--library-path", str(self.home / _LIBRARIES), "--argv0", name]
        words.append(str(self.home / "usr/bin" / name))
        if name == SYSTEM:
            words += [word for path in _FIRMWARE for word in ("-L", str(self.home / path))]
        return words

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment of its programs: by default they look for their modules at fixed paths."""
        return os.environ | {"QEMU_MODULE_DIR": str(self.home / _MODULES)}


def ensure(progress: Progress = silent) -> Emulator:
    """Return the emulator, extracted when the cache has none of this recipe.

    Raises EmulatorError when Debian's packages cannot be had or do not run here.
    """
    home = cache.directory() / "emulators" / cache.digest(_SUITE, _BACKPORTS, *_PACKAGES, *_KEPT, _ADD_BACKPORTS)
    if not cache.holds(home):
        with cache.locked(home):
            if not cache.holds(home):
                with step(progress, "extracting QEMU from Debian's packages", takes="about half a minute"):
                    _extract(home)
    return Emulator(home, (home / "version").read_text().strip())


def _extract(home: Path) -> None:
    half = cache.unfinished(home)
    half.mkdir()
    source = [program("mmdebstrap"), "--quiet", "--variant=extract", "--format=tar", "--skip=output/dev"]
    source += ["--architectures=amd64", f"--include={','.join(_PACKAGES)}", f"--setup-hook={_ADD_BACKPORTS}"]
    source += [f'--aptopt=APT::Default-Release "{_BACKPORTS}"', "--dpkgopt=path-exclude=/usr/share/doc/*"]
    source += [_SUITE, "-"]
    unpack = [program("tar"), "-x", "-C", str(half), "--no-same-owner", *(f"./{path}" for path in _KEPT)]
    with (half / "log").open("wb") as log:
        packing = subprocess.Popen(privileged(source), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert packing.stdout is not None
        try:
            unpacked = subprocess.run(unpack, stdin=packing.stdout, stdout=log, stderr=log)
        finally:
            # The writer must notice that its reader is gone.
            packing.stdout.close()
            packed = packing.wait()
    if packed != 0 or unpacked.returncode != 0:
        tail = "\n".join((half / "log").read_text(errors="replace").splitlines()[-25:])
        raise EmulatorError(f"QEMU could not be extracted from Debian's {_BACKPORTS}:\n{tail}")
    trial = Emulator(half, "")
    asked = subprocess.run([*trial.command(SYSTEM), "--version"], env=trial.environment, capture_output=True, text=True)
    if asked.returncode != 0:
        raise EmulatorError(f"the extracted QEMU does not run here: {asked.stderr.strip()}")
    (half / "version").write_text(asked.stdout.splitlines()[0] + "\n")
    half.rename(home)
