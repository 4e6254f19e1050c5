"""The table at the end of a run: the state that was read back, against the expected one."""

from __future__ import annotations

from pyinfra import host, logger
from pyinfra.api.command import PyinfraCommand

from deploys.assessment import checks
from deploys.assessment.checks import Check
from deploys.transport import remote


def show_table(rows: list[Check]) -> PyinfraCommand | None:
    """Print the table of the current host; return the command that fails the host when a check failed."""
    for line in checks.table(host.name, rows):
        logger.info(line)
    failed = [row for row in rows if row.passed is False]
    if not failed:
        return None
    first = failed[0]
    return remote.fail(
        f"{len(failed)} of {len(rows)} checks failed; first: {first.name} is {first.actual}, expected {first.expected}."
    )
