"""The table at the end of a run: the state that was read back, against the expected one."""

from __future__ import annotations

from pyinfra import host, logger
from pyinfra.api.command import PyinfraCommand

from deploys.assessment import checks
from deploys.assessment.checks import Check
from deploys.transport import remote


def show_table(checked: list[Check], summary: str) -> PyinfraCommand | None:
    """Print the table of the current host; return the command that fails the host when a check failed.

    ``summary`` follows the counts, as in "2 of 35 checks failed".
    """
    for line in checks.table(host.name, checked):
        logger.info(line)
    failures = [check for check in checked if check.ok is False]
    if not failures:
        return None
    first = failures[0]
    return remote.fail(
        f"{len(failures)} of {len(checked)} {summary}; first: {first.what} is {first.found}, expected {first.expected}."
    )
