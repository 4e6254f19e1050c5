"""Entry of `python3 -m pcibind` and of the `pcibind` command."""

from __future__ import annotations

import sys

from pcibind.attempt import attempt
from pcibind.host import Host
from pcibind.report import Report


def main() -> None:
    """Run the command line and exit with its code."""
    words = sys.argv[1:]
    # Click takes longer to import than all the rest: a plain apply does without, as at every boot.
    if words in (["apply"], ["apply", "--recorded"]):
        report = attempt("apply", _apply_recorded if len(words) > 1 else _apply)
        print(report.to_text(), flush=True)
        sys.exit(int(report.exit_code))
    from pcibind import cli

    cli.main()


def _apply_recorded() -> Report:
    from pcibind.boot import apply_recorded

    return apply_recorded(Host())


def _apply() -> Report:
    from pcibind.apply import apply

    return apply(Host(udev=True))


if __name__ == "__main__":
    main()
