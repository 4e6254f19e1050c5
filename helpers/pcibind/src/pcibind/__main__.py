"""Entry of `python3 -m pcibind` and of the `pcibind` command."""

from __future__ import annotations

import sys

from pcibind.model.values import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcibind.commands.system import System
    from pcibind.model.report import Report


def main() -> None:
    """Run the command line and exit with its code."""
    # --debug may stand anywhere, --json after the command.
    words = [word for word in sys.argv[1:] if word != "--debug"]
    count = len(words)
    while words and words[-1] == "--json":
        words.pop()
    command = _find_command(" ".join(words))
    if command is None:
        from pcibind.commands import cli

        cli.main()
        return
    from pcibind.commands.system import System
    from pcibind.commands.text import answer, attempt, print_tracebacks

    if "--debug" in sys.argv:
        print_tracebacks()
    try:
        answer(attempt(words[0], lambda: command(System())), as_json=len(words) < count)
    except KeyboardInterrupt:
        # As click has it.
        sys.exit(130)


def _find_command(line: str) -> Callable[[System], Report] | None:
    """What a line runs that has nothing to parse; None for any other line.

    Importing click takes longer than all else, so these go without: the lines of the units, and
    those that people and deploys use most.
    """
    match line:
        case "apply --recorded":
            from pcibind.commands.boot import apply_recorded

            return apply_recorded
        case "apply --arrived":
            from pcibind.commands.hotplug import apply_arrived

            return apply_arrived
        case "release --this-boot":
            from pcibind.commands.release import release_for_this_boot

            return release_for_this_boot
        case "apply":
            from pcibind.commands.apply import apply

            return apply
        case "plan":
            from pcibind.commands.plan import show

            return show
        case "status":
            from pcibind.commands.status import status

            return status
        case "list":
            from pcibind.commands.selection import show as list_boards

            return list_boards
    return None


if __name__ == "__main__":
    main()
