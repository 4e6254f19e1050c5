"""Whether the host's package manager can install."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase

# As apt itself looks for what dpkg has to finish: files whose names are digits. A dpkg that runs has such files too; it
# holds its lock, and is waited for.
_SCRIPT = r"""
ls /var/lib/dpkg/updates 2>/dev/null | grep -q -E '^[0-9]+$' || exit 0
for lock in /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend; do
  inode=$(stat -c %i "$lock" 2>/dev/null) && grep -q " POSIX .* WRITE .*:$inode 0 EOF" /proc/locks && exit 0
done
for package in "$@"; do
  case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in "install ok installed") ;; *) echo "$package" ;; esac
done
"""


class HeldPackages(FactBase[list[str]]):
    """The packages that are not installed, and cannot be before dpkg has finished an interrupted installation."""

    @staticmethod
    def default() -> list[str]:
        return []

    def requires_command(self, packages: tuple[str, ...]) -> str:
        return "dpkg-query"

    def command(self, packages: tuple[str, ...]) -> str:
        return f"sh -c {quote(_SCRIPT)} held {' '.join(map(quote, packages))}"

    def process(self, output: list[str]) -> list[str]:
        return [line.strip() for line in output if line.strip()]
