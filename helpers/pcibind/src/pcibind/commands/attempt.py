"""Running a command so that whatever goes wrong ends in its report."""

from __future__ import annotations

from collections.abc import Callable

from pcibind.model.errors import ExitCode, PcibindError
from pcibind.model.report import Report


def attempt(command: str, run: Callable[[], Report]) -> Report:
    """Run a command; turn what went wrong into its report, with the exit code of its kind."""
    try:
        return run()
    except PcibindError as error:
        return Report(command, errors=(str(error),), error_code=error.exit_code)
    except (OSError, ValueError) as error:
        return Report(command, errors=(str(error),), error_code=ExitCode.UNEXPECTED)
