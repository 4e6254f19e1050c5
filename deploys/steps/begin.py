"""The start of every run: host data is checked, then the host's capability. Nothing is changed here."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from pyinfra import host, logger
from pyinfra.api import State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import OperationMeta
from pyinfra.context import ctx_state

from deploys import preflight
from deploys.preflight import Family, Verdict
from deploys.settings import Settings, SettingsError, read_all
from facts.database import PostgresDataRelease
from facts.kernel import KernelCommandLine, KernelModules
from facts.pci import PciRecord, PciTopology, PciUsage
from facts.platform import Platform


class Refused(PyinfraError):
    """Why a run stops before any host was changed."""


@dataclass(frozen=True, slots=True)
class Node:
    """One host of this run: what its operator asked for, and what the preflight found."""

    settings: Settings
    verdict: Verdict
    family: Family
    # Operations of this run by what they feed: a plan in which one of these changes something has to name what follows.
    initramfs_inputs: list[OperationMeta] = field(default_factory=list)
    unit_inputs: list[OperationMeta] = field(default_factory=list)
    postgres_inputs: list[OperationMeta] = field(default_factory=list)
    node_inputs: list[OperationMeta] = field(default_factory=list)


_read: WeakKeyDictionary[State, dict[str, Settings]] = WeakKeyDictionary()


def _settings_of_this_run() -> dict[str, Settings]:
    """The settings of every host that ``--limit`` leaves in, checked once a run."""
    state = ctx_state.get()
    if state not in _read:
        hosts = [each for each in state.inventory if state.is_host_in_limit(each)]
        try:
            _read[state] = read_all((each.name, each.data.dict()) for each in hosts)
        except SettingsError as error:
            raise Refused(f"host data cannot be used, and no host was changed:\n{error}") from None
    return _read[state]


def begin() -> Node:
    """Check the data of **every** host of the inventory, then this host. Raises ``Refused``, which ends the run."""
    settings = _settings_of_this_run()[host.name]
    platform = host.get_fact(Platform, directory=settings.storage_directory)
    if platform is None:
        raise Refused(f"{host.name}: the platform could not be read; no host was changed. See the error above.")
    record = host.get_fact(PciRecord)
    verdict = preflight.judge(
        platform,
        host.get_fact(KernelModules, modules=preflight.MODULES),
        host.get_fact(PciTopology),
        host.get_fact(PciUsage),
        settings,
        record,
        host.get_fact(PostgresDataRelease, directory=settings.postgres_directory),
        host.get_fact(KernelCommandLine),
    )
    for warning in verdict.warnings:
        logger.warning(f"{host.print_prefix}{warning}")
    if verdict.refusals or verdict.family is None:
        lines = "\n".join(f"{host.name}: {refusal}" for refusal in verdict.refusals)
        raise Refused(
            f"the preflight refused, and no host was changed:\n{lines}\n"
            "Other hosts of this run were perhaps not judged; with --exclude this one is left out."
        )
    return Node(settings, verdict, verdict.family)
