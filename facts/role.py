"""What a deploy made of a host, as it recorded it there."""

from __future__ import annotations

from pyinfra.api import FactBase

from facts import state_directory


class HostRole(FactBase[str]):
    """``node``, ``gpu_host``, or empty where no deploy said: it was an earlier version's, or undone, or never there."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self) -> str:
        return f"cat {state_directory.CURRENT}/deploy 2>/dev/null || true"

    def process(self, output: list[str]) -> str:
        return output[0].strip()
