"""What a deploy made of a host, as it recorded it there."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class HostRole(FactBase[str]):
    """``node``, ``gpu_host``, or empty where no deploy said: it was an earlier version's, or undone, or never there."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self, path: str) -> str:
        return f"cat {quote(path)} 2>/dev/null || true"

    def process(self, output: list[str]) -> str:
        return output[0].strip()
