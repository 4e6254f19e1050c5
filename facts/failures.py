"""Units that failed, but not because of a deploy."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class PreexistingFailures(FactBase[tuple[str, ...]]):
    """The units that have failed now, without those that failed in an earlier deploy.

    ``records`` are files with one unit a line: those that a deploy saw fail that had not failed before it.
    """

    @staticmethod
    def default() -> tuple[str, ...]:
        return ()

    def command(self, records: tuple[str, ...]) -> str:
        failed = "systemctl list-units --failed --plain --no-legend --no-pager | sed 's/ .*//; s/^/failed /'"
        return f"{failed}; sed 's/^/caused /' {' '.join(map(quote, records))} 2>/dev/null || true"

    def process(self, output: list[str]) -> tuple[str, ...]:
        caused = {line.removeprefix("caused ") for line in output if line.startswith("caused ")}
        failed = (line.removeprefix("failed ").strip() for line in output if line.startswith("failed "))
        return tuple(unit for unit in failed if unit and unit not in caused)
