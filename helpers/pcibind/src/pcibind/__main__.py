"""Entry of `python3 -m pcibind` and of the `pcibind` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["apply", "--recorded"]:
        _boot()
    # Slower to import than all the rest: not on the way of a boot.
    from pcibind import cli

    cli.main()


def _boot() -> None:
    from pcibind.attempt import attempt
    from pcibind.boot import apply_recorded
    from pcibind.host import Host

    report = attempt("apply", lambda: apply_recorded(Host()))
    print(report.to_text(), flush=True)
    sys.exit(int(report.exit_code))


if __name__ == "__main__":
    main()
