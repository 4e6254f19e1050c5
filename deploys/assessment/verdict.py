"""What the preflight comes to: refusals, warnings, and what the steps work with."""

from __future__ import annotations

from dataclasses import dataclass, field

from deploys.assessment.platforms import Family
from facts.baseline import Baseline
from facts.storage import Storage
from pcibind.model.pci import Board
from pcibind.model.request import Configuration


@dataclass(slots=True)
class Findings:
    """What the rules have against a host, and what its operator should know; each rule adds its own.

    ``refusals`` stop the run for all hosts; ``refuse_host`` is for what concerns one host's hardware, which the other
    hosts need not wait for.
    """

    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    of_host: list[str] = field(default_factory=list)

    def refuse_host(self, reason: str) -> None:
        """Refuse this host, and no other."""
        self.of_host.append(reason)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome: what forbids the deploy, what an operator should know, and what the steps work with.

    Those of ``refusals`` that are in ``of_host`` too forbid it on this host only.
    """

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    of_host: tuple[str, ...] = ()
    # Whether it was asked for a node, and not for its host alone.
    of_node: bool = True
    family: Family | None = None
    boards: tuple[Board, ...] = ()
    config: Configuration = field(default_factory=lambda: Configuration(()))
    kernel_arguments: tuple[str, ...] = ()
    # Those that deploys set until now, and the host before the first of them.
    set_arguments: tuple[str, ...] = ()
    past: Baseline | None = None
    # Models of every function of the chosen boards, where gevulot_vfio_ids asks for them.
    models: tuple[str, ...] = ()
    # Modules to load at each boot: those of the host, and those of its node.
    modules: tuple[str, ...] = ()
    node_modules: tuple[str, ...] = ()
    storage: Storage | None = None
    # Units of others that had failed before the run.
    failed_before: tuple[str, ...] = ()
    # Modules that are kept off, and those files of an earlier version that are still ours.
    blacklist: tuple[str, ...] = ()
    former: tuple[str, ...] = ()

    @property
    def all_modules(self) -> tuple[str, ...]:
        """All that are to run: those of the host, and of its node where it is to be one."""
        return (*self.modules, *self.node_modules)
