"""The role of a host, as its deploy recorded it."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class HostRole(FactBase[str]):
    """``node``, ``gpu_host``, or empty: deployed by an earlier version, undone, or never deployed."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self, path: str) -> str:
        return f"cat {quote(path)} 2>/dev/null || true"

    def process(self, output: list[str]) -> str:
        return output[0].strip()
