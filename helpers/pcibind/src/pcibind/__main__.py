"""Entry of `python3 -m pcibind` and of the `pcibind` command."""

from __future__ import annotations

import sys

from pcibind.model.values import TYPE_CHECKING

if TYPE_CHECKING:
    from pcibind.model.report import Report


def main() -> None:
    """Run the command line and exit with its code."""
    # Importing click takes longer than all else, so what a unit runs is recognised without it.
    unit_commands = {
        "apply --recorded": _apply_recorded,
        "apply --arrived": _apply_arrived,
        "release --this-boot": _release_for_this_boot,
    }
    options = {"--json", "--debug"} & set(sys.argv[1:])
    words = [word for word in sys.argv[1:] if word not in options]
    run = unit_commands.get(" ".join(words))
    if run is None:
        from pcibind.commands import cli

        cli.main()
        return
    from pcibind.commands.text import answer, attempt, print_tracebacks

    if "--debug" in options:
        print_tracebacks()
    answer(attempt(words[0], run), as_json="--json" in options)


def _apply_recorded() -> Report:
    from pcibind.commands.boot import apply_recorded
    from pcibind.commands.system import System

    return apply_recorded(System())


def _apply_arrived() -> Report:
    from pcibind.commands.hotplug import apply_arrived
    from pcibind.commands.system import System

    return apply_arrived(System())


def _release_for_this_boot() -> Report:
    from pcibind.commands.release import release_for_this_boot
    from pcibind.commands.system import System

    return release_for_this_boot(System())


if __name__ == "__main__":
    main()
