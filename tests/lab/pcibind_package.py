"""pcibind's Debian package: built and checked in a root of Debian's own, once for each state of the source."""

from __future__ import annotations

import io
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.lab import cache
from tests.lab.hostpackages import privileged, program
from tests.lab.image import APT_OPTIONS
from tests.lab.platform import DEBIAN_13, Platform
from tests.lab.progress import Progress, silent, step

SOURCE: Final = Path(__file__).parents[2] / "helpers/pcibind"
_KEPT: Final = ("debian", "docs", "share", "src", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml")
_TOOLS: Final = ("debhelper", "dh-python", "lintian", "python3")
_BUILD: Final = """\
set -eu
tar -C "$1" --touch -xf {source}
chroot "$1" sh -ec 'cd /build/pcibind && dpkg-buildpackage --build=binary --no-sign --no-check-builddeps'
chroot "$1" sh -ec 'cd /build && lintian --allow-root --tag-display-limit 0 --fail-on warning,error *.changes'
mkdir {half}/kept && cp "$1"/build/*.deb {half}/kept/
"""


class PackageError(RuntimeError):
    """The package could not be built, or lintian found fault; the text carries the end of the output."""


def ensure(platform: Platform = DEBIAN_13, progress: Progress = silent) -> Path:
    """Return the package's file, built and checked when the cache has none of this source. Raises PackageError."""
    source = _archive()
    key = cache.digest(platform.suite, _BUILD, *_TOOLS, sha256(source).hexdigest())
    home = cache.directory() / "packages" / key
    if not cache.holds(home):
        with cache.locked(home):
            if not cache.holds(home):
                with step(progress, "building pcibind's Debian package", takes="two minutes"):
                    _build(platform, source, home)
    (package,) = home.glob("*.deb")
    return package


def _archive() -> bytes:
    """The source as a tar archive, the same bytes for the same source."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in _KEPT:
            inside = [SOURCE / name, *sorted((SOURCE / name).rglob("*"))]
            for path in inside:
                if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path):
                    entry = tarfile.TarInfo(f"build/pcibind/{path.relative_to(SOURCE)}")
                    entry.size, entry.mode = path.stat().st_size, 0o755 if path.stat().st_mode & 0o100 else 0o644
                    archive.addfile(entry, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def _build(platform: Platform, source: bytes, home: Path) -> None:
    half = cache.unfinished(home)
    half.mkdir(parents=True)
    try:
        (half / "source.tar").write_bytes(source)
        hook = half / "hook"
        hook.write_text(_BUILD.format(source=half / "source.tar", half=half))
        command = [program("mmdebstrap"), "--mode=root", "--variant=apt", "--architectures=amd64", "--format=null"]
        command += [*APT_OPTIONS.get(platform.suite, ()), f"--include={','.join(_TOOLS)}"]
        command += [f'--customize-hook=sh {hook} "$1"', platform.suite, "/dev/null"]
        done = subprocess.run(
            privileged(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-40:])
            raise PackageError(f"pcibind's package could not be built on {platform.suite}:\n{tail}")
        (half / "kept").rename(home)
    finally:
        cache.remove(half)
