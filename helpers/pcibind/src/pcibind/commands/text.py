"""The answer of a command, errors included: as JSON, or as text for people.

Boards as people see them are a tree from the root port through the switches to each function.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator

from pcibind.model.errors import ExitCode, PcibindError, describe_os_error
from pcibind.model.pci import Function, Topology, class_name
from pcibind.model.report import BoardReport, BoardState, Report
from pcibind.model.values import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

DEBUG = "PCIBIND_DEBUG"
"""Set in the environment, it makes an unexpected error print its traceback on standard error."""


def print_tracebacks() -> None:
    """Make an unexpected error of this run print its traceback."""
    os.environ[DEBUG] = "1"


def attempt(command: str, run: Callable[[], Report]) -> Report:
    """Run a command; turn every exception into a report with the exit code of its kind."""
    try:
        return run()
    except PcibindError as error:
        return Report(command, errors=(str(error),), error_code=error.exit_code)
    except Exception as error:
        text = str(error)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            text = f"{where}{describe_os_error(error)}"
        if os.environ.get(DEBUG):
            import traceback

            traceback.print_exc()
        if not isinstance(error, OSError | ValueError):
            text = f"unexpected {type(error).__name__}: {text}; set {DEBUG}=1 to see where"
        return Report(command, errors=(text,), error_code=ExitCode.UNEXPECTED)


def answer(report: Report, *, as_json: bool) -> NoReturn:
    """Print a report and exit with its code, also when the reader of the output has gone.

    Output that cannot be written is an unexpected error, where the report has none.
    """
    text = report.to_json() if as_json else describe(report)
    code = report.exit_code
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text, and a terminal need not know every letter.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"pcibind: standard output: {error.strerror}", file=sys.stderr)
            code = code or ExitCode.UNEXPECTED
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(int(code))


_NONE_CHOSEN = "no board is chosen; run `pcibind list` to see all boards"
_NOTHING_TO_RELEASE = "no board is on record, so there is nothing to restore"


class _Branch:
    """A line or two of text, and what hangs below it."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.below: dict[str, _Branch] = {}


def describe(report: Report) -> str:
    """A report for people: boards, their functions, and problems."""
    lines = [f"error: {error}" for error in report.errors]
    lines += [f"refused: {refusal}" for refusal in report.refusals]
    lines += (_table if report.command == "list" else render)(report.topology, report.boards)
    if not lines:
        lines = [_NOTHING_TO_RELEASE if report.command == "release" else _NONE_CHOSEN]
    lines += [f"note: {note}" for note in report.notes]
    return shorten("\n".join(lines), report.topology)


# Not in a file name, which people copy.
_IN_DOMAIN_0 = re.compile(r"(?<![\w/:])0000:(?=[0-9a-f]{2}:[01][0-9a-f]\.[0-7](?!\w))")


def shorten(text: str, topology: Topology) -> str:
    """The text with addresses as lspci prints them: without the domain where there is but one."""
    if any(function.address.domain for function in topology.functions):
        return text
    return _IN_DOMAIN_0.sub("", text)


def render(topology: Topology, reports: Iterable[BoardReport]) -> list[str]:
    """The lines of the tree, in the order of the addresses; boards that are not there come last."""
    root = _Branch()
    missing = []
    for report in sorted(reports, key=lambda report: report.board.address if report.board else ()):
        if report.board is None:
            missing += _headline(report)
            continue
        branch = root
        for bridge in topology.bridges_to(report.board.path):
            text = f"{bridge.address}  {bridge.model}  {class_name(bridge.class_code)}"
            branch = branch.below.setdefault(bridge.path, _Branch(text))
        # Two reports may be of one place: of what is recorded there, and of what is there now.
        place = f"{report.board.path} {len(branch.below)}"
        board = branch.below[place] = _Branch(*_headline(report))
        for function in report.board.functions:
            board.below[function.path] = _Branch(_function(report, function))
    lines = [line for branch in root.below.values() for line in _lines(branch)]
    return lines + missing


def _table(topology: Topology, reports: Iterable[BoardReport]) -> list[str]:
    """A line for each board. /proc does not show every user, so no board is called free."""
    rows = [("ADDRESS", "PATH", "WHAT", "GROUP", "DRIVER", "CHOSEN", "USED BY")]
    for report in reports:
        if board := report.board:
            shown = (board.display_functions or board.functions)[0]
            drivers = dict.fromkeys(function.driver or "none" for function in board.functions)
            unchosen = "unknown" if report.state is BoardState.UNKNOWN else "no"
            rows.append(
                (
                    shorten(str(board.address), topology),
                    board.path,
                    f"{board.model} {class_name(shown.class_code)}",
                    ",".join(map(str, board.groups)) or "none",
                    ",".join(drivers),
                    " ".join(filter(None, (report.name, report.detail))) or unchosen,
                    "; ".join(report.users) or "none seen",
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _lines(branch: _Branch) -> Iterator[str]:
    below = list(branch.below.values())
    yield branch.lines[0]
    # A board's further lines stand beside the way down to its functions.
    yield from (f"{'|' if below else ' '}  {line}" for line in branch.lines[1:])
    for each in below:
        last = each is below[-1]
        for number, line in enumerate(_lines(each)):
            yield f"{('`- ' if last else '|- ') if number == 0 else '   ' if last else '|  '}{line}"


def _headline(report: BoardReport) -> list[str]:
    label = report.name or report.path or str(report.selector)
    place = f" at {report.path}" if report.name and report.path else ""
    changed = "" if report.changed or report.state is not BoardState.BOUND else ", nothing to do"
    lines = [f"board {label}{place}: {report.verdict}, {report.state}{changed}"]
    lines += [report.detail] if report.detail else []
    return lines + [f"to do: {step}" for step in report.steps]


def _function(report: BoardReport, function: Function) -> str:
    group = "no group" if function.iommu_group is None else f"group {function.iommu_group}"
    wanted = report.wanted_driver(function)
    driver = f"driver {function.driver or 'none'}"
    if function.driver != wanted:
        driver += f", wanted {wanted or 'none'}"
    if function.locked:
        driver += ", stuck: an access to it is blocked in the kernel"
    kind = class_name(function.class_code)
    return f"{function.address}  {function.model}  {kind:<11}  {group}  {driver}"
