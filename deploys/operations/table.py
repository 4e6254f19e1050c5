"""The table that a run ends with: what was read back of a host, against what was expected."""

from __future__ import annotations

from pyinfra import host, logger
from pyinfra.api.command import PyinfraCommand

from deploys.assessment import checks
from deploys.assessment.checks import Check
from deploys.transport import remote


def show(found: list[Check], failed: str) -> PyinfraCommand | None:
    """Print the table of the current host; return the command that fails the host when anything is wrong.

    ``failed`` follows the count of what is wrong: "checks failed".
    """
    for line in checks.table(host.name, found):
        logger.info(line)
    wrong = [check for check in found if check.ok is False]
    if not wrong:
        return None
    first = wrong[0]
    return remote.fail(
        f"{len(wrong)} of {len(found)} {failed}; first: {first.what} is {first.found}, expected {first.expected}."
    )
