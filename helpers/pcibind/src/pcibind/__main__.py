"""Entry of `python3 -m pcibind` and of the `pcibind` command."""

from __future__ import annotations

import sys

from pcibind.commands.attempt import attempt
from pcibind.commands.host import Host
from pcibind.model.report import Report


def main() -> None:
    """Run the command line and exit with its code."""
    words = [word for word in sys.argv[1:] if word != "--json"]
    plain = {
        "plan": _plan,
        "apply": _apply,
        "apply --recorded": _apply_recorded,
        "apply --arrived": _apply_arrived,
        "release --this-boot": _release_for_this_boot,
        "status": _status,
    }
    # Click takes longer to import than all the rest: the plain commands, and so a boot, do without.
    run = plain.get(" ".join(words))
    if run is None or sys.argv[1:].count("--json") > 1:
        from pcibind.commands import cli

        cli.main()
        return
    report = attempt(words[0], run)
    if "--json" in sys.argv:
        print(report.to_json(), flush=True)
    else:
        from pcibind.commands import text as tree

        print(tree.text(report), flush=True)
    sys.exit(int(report.exit_code))


def _plan() -> Report:
    from pcibind.commands.plan import show

    return show(Host(udev=True))


def _apply() -> Report:
    from pcibind.commands.apply import apply

    return apply(Host(udev=True))


def _apply_recorded() -> Report:
    from pcibind.commands.boot import apply_recorded

    return apply_recorded(Host())


def _apply_arrived() -> Report:
    from pcibind.commands.hotplug import apply_arrived

    return apply_arrived(Host())


def _release_for_this_boot() -> Report:
    from pcibind.commands.off import release_for_this_boot

    return release_for_this_boot(Host())


def _status() -> Report:
    from pcibind.commands.status import status

    return status(Host(udev=True))


if __name__ == "__main__":
    main()
