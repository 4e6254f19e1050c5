"""Running a command so that whatever goes wrong is in its report, and printing that."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from pcibind.model.errors import ExitCode, PcibindError
from pcibind.model.report import Report

DEBUG = "PCIBIND_DEBUG"
"""Set in the environment, it makes an unexpected error print its traceback on standard error."""


def attempt(command: str, run: Callable[[], Report]) -> Report:
    """Run a command; turn every exception into a report with the exit code of its kind."""
    try:
        return run()
    except PcibindError as error:
        return Report(command, errors=(str(error),), error_code=error.exit_code)
    except Exception as error:
        text = str(error)
        if os.environ.get(DEBUG):
            import traceback

            traceback.print_exc()
        if not isinstance(error, OSError | ValueError):
            text = f"unexpected {type(error).__name__}: {text}; set {DEBUG}=1 to see where"
        return Report(command, errors=(text,), error_code=ExitCode.UNEXPECTED)


def answer(report: Report, *, as_json: bool) -> NoReturn:
    """Print a report and exit with its code, also when nobody reads the output any longer."""
    if as_json:
        text = report.to_json()
    else:
        from pcibind.commands.text import describe

        text = describe(report)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(int(report.exit_code))
