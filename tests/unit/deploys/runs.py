"""Runs of pyinfra's command line on fake hosts that answer as recorded ones do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploys.recorded import Sent, sent

ROOT = Path(__file__).parents[3]


@dataclass
class Run:
    """One run of pyinfra, waited for when something is asked of it, and what it sent to the hosts."""

    process: subprocess.Popen[bytes]
    directory: Path

    @cached_property
    def exit_code(self) -> int:
        return self.process.wait(timeout=120)

    @cached_property
    def output(self) -> str:
        """What was printed, each run of blanks as one: pyinfra pads the names of hosts."""
        return re.sub(" +", " ", self._printed("stdout") + self._printed("stderr"))

    @cached_property
    def sent(self) -> list[Sent]:
        assert self.exit_code is not None
        return sent(self.directory / "sent.jsonl")

    def plan(self) -> list[dict[str, Any]]:
        plan: list[dict[str, Any]] = json.loads(self._printed("stdout"))["plan"]
        return plan

    def _printed(self, name: str) -> str:
        assert self.exit_code is not None
        return (self.directory / name).read_text()

    def commands(self, host: str) -> list[str]:
        """What was sent to a host to change it."""
        return [each.text for each in self.sent if each.host == f"@fake/{host}" and each.kind != "question"]

    def operations(self, host: str) -> list[str]:
        """The operations that sent something to change the host, in order."""
        sent = [each for each in self.sent if each.host == f"@fake/{host}" and each.kind != "question"]
        return list(dict.fromkeys(name for each in sent for name in (each.operation or "").split(", ") if name))

    def planned(self, host: str) -> set[str]:
        """The operations that a plan shows as changes, or as changes under a condition, of a host."""
        kinds = ("hosts_with_change", "hosts_with_conditional_change")
        changes = [each for each in self.plan() if any(f"@fake/{host}" in each[kind] for kind in kinds)]
        return {name for each in changes for name in each["names"]}


def start(directory: Path, *arguments: str) -> Run:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "helpers/pcibind/src")))}
    environment.pop("GEVULOT_PSK_PASSPHRASE", None)
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "pyinfra", *arguments],
            cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    return Run(process, directory)


def start_all(
    factory: pytest.TempPathFactory,
    wanted: Mapping[str, tuple[str, tuple[str, ...]]],
    script: str,
    hosts_from: str = "recorded as r",
) -> Iterator[dict[str, Run]]:
    """Start all runs of a script side by side, since most of their time is waiting; end them at last.

    ``wanted`` has for each run the hosts of its inventory, as source text, and pyinfra's arguments; ``hosts_from`` is
    the module of these tests that the text needs.
    """
    started = {}
    for name, (hosts, arguments) in wanted.items():
        directory = factory.mktemp("run")
        inventory = directory / "inventory.py"
        inventory.write_text(
            f"from tests.unit.deploys import recorded, {hosts_from}\n\n"
            f"recorded.watch({str(directory / 'sent.jsonl')!r})\nnodes = [{hosts}]\n"
        )
        started[name] = start(directory, str(inventory), str(ROOT / script), *arguments)
    yield started
    for run in started.values():
        run.process.kill()
        run.process.wait()


def assert_tools(run: Run, host: str, expected: tuple[str, ...], unexpected: tuple[str, ...]) -> None:
    """Check which programs changed a host."""
    commands = "\n".join(run.commands(host))
    assert [word for word in expected if word not in commands] == []
    assert [word for word in unexpected if word in commands] == []
