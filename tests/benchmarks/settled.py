"""A settled node: a machine of the lab that is deployed, on which a further run changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deploys import manifest
from deploys.manifest import POSTGRES_LOGIN
from deploys.settings import Settings, read
from facts.database import PostgresSchema
from tests.benchmarks import settle
from tests.benchmarks.fetch import fetch
from tests.benchmarks.postgres import Answers
from tests.lab import hostpackages, inventory, registry
from tests.lab.machine import Machine
from tests.lab.progress import Progress, step
from tests.lab.run import changes_of, pyinfra


@dataclass(frozen=True, slots=True)
class Settled:
    """What playing a settled node takes, beside its answers.

    `data` is its host data, without how it is reached and without its secret; `playbook` is the equivalent of the
    deploy; `database` is what its Postgres answers.
    """

    data: dict[str, Any]
    settings: Settings
    playbook: str
    database: Answers


@contextmanager
def settled(name: str | None, say: Progress) -> Iterator[Machine]:
    """A machine of the lab that a deploy has settled: a new one, or the one of this name, which stays.

    Raises RuntimeError when a deploy fails, or changes something the last time.
    """
    if name is not None:
        machine = Machine.attach(name)
        _settle(machine, say)
        yield machine
        return
    hostpackages.ensure(say)
    with Machine.start("two-boards", registry=registry.ensure(say), progress=say) as machine:
        with step(say, "deploying, reboot included", takes="about five minutes"):
            first = pyinfra([machine], "-y")
        if first.code != 0:
            raise RuntimeError(f"the deploy ended with {first.code}:\n{first.output[-3000:]}")
        _settle(machine, say)
        yield machine


def _settle(machine: Machine, say: Progress) -> None:
    with step(say, "deploying once more, which must change nothing", takes="about a minute"):
        again = pyinfra([machine], "-y", "--json")
    if again.code != 0:
        raise RuntimeError(f"deploying again ended with {again.code}:\n{again.output[-3000:]}")
    if changed := changes_of(again.report):
        raise RuntimeError(f"{machine.name} is not settled; deploying again changed: {'; '.join(changed)}")


def read_back(machine: Machine, directory: Path) -> Settled:
    """Read from a settled machine what playing it takes; the files that the deploy owns come into a new directory."""
    data = inventory.data(machine)
    fetch(machine, "/", (path.lstrip("/") for path in settle.FILES), directory)
    settings = read(machine.name, data)
    digest = machine.ssh(settle.TREE_DIGEST).stdout.strip()
    url = machine.ssh(f"podman secret inspect --showsecret --format '{{{{.SecretData}}}}' {manifest.URL_SECRET}")
    rows = machine.ssh(PostgresSchema().command(POSTGRES_LOGIN, port=settings.postgres_port)).stdout.splitlines()
    return Settled(
        {key: value for key, value in data.items() if not key.startswith("ssh_") and not callable(value)},
        settings,
        settle.playbook(settings, directory, digest),
        Answers(
            unquote(urlsplit(url.stdout.strip()).password or ""),
            [(kind, value) for kind, _, value in (row.partition(" ") for row in rows)],
        ),
    )
