"""Entry of `python3 -m pcibind` and of the `pcibind` command."""

from __future__ import annotations

import sys

RECORDED = ["apply", "--recorded"]
"""What the unit runs. Click takes longer to import than all else: a boot does without."""


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] not in (RECORDED, [*RECORDED, "--json"]):
        from pcibind.commands import cli

        cli.main()
        return
    from pcibind.commands.attempt import answer, attempt
    from pcibind.commands.boot import apply_recorded
    from pcibind.commands.host import Host

    report = attempt("apply", lambda: apply_recorded(Host()))
    answer(report, as_json="--json" in sys.argv)


if __name__ == "__main__":
    main()
