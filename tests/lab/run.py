"""pyinfra, run against machines of the lab as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab import watch
from tests.lab.machine import Machine

ROOT = Path(__file__).parents[2]
PYINFRA = str(Path(sys.executable).with_name("pyinfra"))
NODE = "deploys/node.py"

_LIMIT_SECONDS: Final = 1800


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run. ``output`` is what a person saw; ``report`` is pyinfra's own, of a run with ``--json``."""

    code: int
    output: str
    report: dict[str, Any] | None

    @property
    def planned(self) -> list[str]:
        """Names of the operations that the plan says will change something, or may."""
        return plan_of(self.report)

    @property
    def changed(self) -> list[str]:
        """Names of the operations that changed something."""
        return changes_of(self.report)


def plan_of(report: dict[str, Any] | None) -> list[str]:
    """The operations of a report's plan that are to change something on any host, or may."""
    assert report is not None, "this run had no --json"
    kinds = ("hosts_with_change", "hosts_with_conditional_change")
    return [each["name"] for each in report["plan"] if any(each[kind] for kind in kinds)]


def changes_of(report: dict[str, Any] | None) -> list[str]:
    """The operations of a report that did change something on any host."""
    assert report is not None, "this run had no --json"
    return [each["name"] for each in report["results"]["operations"] if each["success"]]


def words(machines: list[Machine], *arguments: str, deploy: str = NODE) -> list[str]:
    """The command that runs ``deploy`` on these machines alone."""
    limit = [word for machine in machines for word in ("--limit", machine.name)]
    return [PYINFRA, *limit, *arguments, "inventories/lab.py", deploy]


def environment(machines: Sequence[Machine] = ()) -> dict[str, str]:
    """pyinfra without its spinner, which is of no use in a file; its inventory has these machines alone, if any."""
    names = {"GEVULOT_LAB_MACHINES": ",".join(machine.name for machine in machines)} if machines else {}
    return os.environ | {"PYINFRA_PROGRESS": "off"} | names


def command(machines: Sequence[Machine], words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of this repository that needs these machines, and wait for its end.

    Raises Breakdown as soon as one of them is known to be broken, and TimeoutExpired after half an hour.
    """

    def check() -> None:
        for machine in machines:
            machine.check()

    return watch.run(words, check, timeout=_LIMIT_SECONDS, cwd=ROOT, environment=environment(machines))


def pyinfra(machines: list[Machine], *arguments: str, deploy: str = NODE) -> Run:
    """Run ``deploy`` on these machines, and wait for its end. ``--json`` among the arguments gives the report."""
    done = command(machines, words(machines, *arguments, deploy=deploy))
    report = None
    if "--json" in arguments and done.stdout.strip().startswith("{"):
        report = json.loads(done.stdout)
    return Run(done.returncode, done.stderr + done.stdout, report)
