"""Whether the host's package manager can install."""

from __future__ import annotations

from pyinfra.api import FactBase


class InterruptedDpkg(FactBase[bool]):
    """Whether an installation was interrupted, so that apt refuses each other one: by what dpkg left to be merged."""

    @staticmethod
    def default() -> bool:
        return False

    def requires_command(self) -> str:
        return "dpkg"

    def command(self) -> str:
        # As apt itself looks: files whose names are digits.
        return "ls /var/lib/dpkg/updates 2>/dev/null | grep -E -m1 '^[0-9]+$' || true"

    def process(self, output: list[str]) -> bool:
        return any(line.strip() for line in output)
