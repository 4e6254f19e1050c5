"""Units that failed without a deploy's doing."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase

from facts import state_directory

# One unit a line: those that a deploy saw fail that had not failed before it, until a deploy sees them recovered.
CAUSED = f"{state_directory.CURRENT}/failed-units"


class PreexistingFailures(FactBase[tuple[str, ...]]):
    """The units that have failed now, without those that failed in an earlier deploy."""

    @staticmethod
    def default() -> tuple[str, ...]:
        return ()

    def command(self, caused: str = CAUSED) -> str:
        failed = "systemctl list-units --failed --plain --no-legend --no-pager | sed 's/ .*//; s/^/failed /'"
        return (
            f"{failed}; sed 's/^/caused /' {quote(caused)} {quote(state_directory.former(caused))} 2>/dev/null || true"
        )

    def process(self, output: list[str]) -> tuple[str, ...]:
        caused = {line.removeprefix("caused ") for line in output if line.startswith("caused ")}
        failed = (line.removeprefix("failed ").strip() for line in output if line.startswith("failed "))
        return tuple(unit for unit in failed if unit and unit not in caused)
