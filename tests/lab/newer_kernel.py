"""The newer kernel: packages that a distribution could publish tomorrow, fetched once, brought to a machine."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.lab import cache
from tests.lab.host import VirtualHost
from tests.lab.hostpackages import privileged, program
from tests.lab.image import APT_OPTIONS
from tests.lab.platform import Platform
from tests.lab.progress import Progress, silent, step
from tests.lab.ssh import ADDRESS

# mmdebstrap knows the mirror; no address of one stands here.
_FETCH: Final = """\
set -eu
cd "$1/etc/apt"
sed -n "s/^\\\\(deb .*\\\\) {suite} main.*/\\\\1 {source} main/p" sources.list >sources.list.d/new.list
chroot "$1" apt-get -q update
chroot "$1" apt-get -q --yes --download-only --target-release {source} install {package} linux-base
"""
_FOLDER: Final = "/var/tmp/newer-kernel"


class NewerKernelError(RuntimeError):
    """The packages could not be fetched; the text carries the end of the failed command's output."""


def ensure(platform: Platform, progress: Progress = silent) -> Path:
    """Return the directory of the kernel's packages, fetched when the cache has none. Raises NewerKernelError."""
    script = _FETCH.format(suite=platform.suite, source=platform.next_suite, package=platform.next_kernel)
    home = cache.directory() / "kernels" / cache.digest(platform.suite, script)
    if not cache.holds(home):
        with cache.locked(home):
            if not cache.holds(home):
                with step(progress, f"fetching {platform.next_kernel} of {platform.next_suite}", takes="a minute"):
                    _fetch(platform, script, home)
    return home


def install(machine: VirtualHost, packages: Path) -> str:
    """Let apt install the packages on a machine; return the kernel's release, which is now the newest there."""
    machine.ssh(f"rm -rf {_FOLDER} && mkdir {_FOLDER}")
    files = [str(each) for each in sorted(packages.glob("*.deb"))]
    copy = [program("scp"), "-q", *machine.ssh_arguments, *files, f"root@{ADDRESS}:{_FOLDER}"]
    subprocess.run(copy, check=True, stdin=subprocess.DEVNULL, timeout=600)
    known = machine.ssh("ls /lib/modules").stdout.split()
    machine.ssh(f"apt-get -q install --yes {_FOLDER}/*.deb && rm -rf {_FOLDER}", timeout=1200)
    (release,) = (each for each in machine.ssh("ls /lib/modules").stdout.split() if each not in known)
    return release


def _fetch(platform: Platform, script: str, home: Path) -> None:
    half = cache.unfinished(home)
    half.mkdir(parents=True)
    hook = half.with_suffix(".hook")
    hook.write_text(script)
    command = [program("mmdebstrap"), "--mode=root", "--variant=apt", "--architectures=amd64", "--format=null"]
    options = dict.fromkeys(
        option for suite in (platform.suite, platform.next_suite) for option in APT_OPTIONS.get(suite, ())
    )
    command += [*options, "--skip=cleanup/apt", f'--customize-hook=sh {hook} "$1"']
    command += [f"--customize-hook=copy-out /var/cache/apt/archives {half}", platform.suite, "/dev/null"]
    try:
        done = subprocess.run(
            privileged(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        packages = sorted((half / "archives").glob("linux-*.deb"))
        if done.returncode != 0 or not packages:
            tail = "\n".join(done.stdout.splitlines()[-25:])
            raise NewerKernelError(f"{platform.next_kernel} of {platform.next_suite} could not be fetched:\n{tail}")
        kept = half / "kept"
        kept.mkdir()
        for each in packages:
            shutil.copy(each, kept)
        kept.rename(home)
    finally:
        hook.unlink(missing_ok=True)
        cache.remove(half)
