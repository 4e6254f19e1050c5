"""The pending reboot of a host: its reasons, and the steps that come after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra.context import ctx_state

from deploys.assessment.pending_reboot import pending
from deploys.assessment.verdict import Verdict
from deploys.manifest import GRUB_DROP_IN
from deploys.operations.planning import is_planning
from deploys.settings import HostSettings
from facts.batch import Part, ask
from facts.kernel import KernelCommandLine
from facts.pci import PciTopology


@dataclass(frozen=True, slots=True)
class BootTarget:
    """The wanted state after the reboot: kernel arguments, boards by their paths, and whether the host is a node."""

    arguments: tuple[str, ...]
    boards: tuple[str, ...]
    node: bool


def target_of(verdict: Verdict) -> BootTarget:
    return BootTarget(verdict.kernel_arguments, tuple(board.path for board in verdict.boards), verdict.of_node)


def find_reasons(target: BootTarget) -> list[str]:
    """Why the current host needs a reboot now, read from the host. Empty when it does not."""
    if not target.boards:
        return []
    state = ask(host, Part("lines", KernelCommandLine, {"drop_in": GRUB_DROP_IN.path}), Part("topology", PciTopology))
    return pending(state["lines"], target.arguments, state["topology"], target.boards, node=target.node)


class PendingReboot:
    """Whether one host waits for a reboot, on which everything after it depends."""

    def __init__(self, settings: HostSettings, verdict: Verdict) -> None:
        self._target = target_of(verdict)
        self._cached: dict[bool, list[str]] = {}
        # pyinfra's plan lists what has a condition as a conditional change.
        self._condition: Callable[[], bool] | None = None
        if settings.reboot == "never":
            self._condition = self._ready
        elif ctx_state.get().should_check_for_changes() and self.reasons():
            logger.info(
                f"{host.print_prefix}the host will reboot ({'; '.join(self.reasons())}). What comes after that is "
                "known only then: the plan lists it as a conditional change."
            )
            self._condition = self._after_the_reboot

    def reasons(self) -> list[str]:
        """Why a reboot is pending; read once while planning, and once while operations run, after the reboot."""
        running = ctx_state.get().is_executing
        if running not in self._cached:
            self._cached[running] = find_reasons(self._target)
        return self._cached[running]

    def steps_after(self) -> AbstractContextManager[None]:
        """The steps that run only once no reboot is pending: one condition for all of them.

        With ``gevulot_reboot="never"`` and a reboot pending none of them runs: they would change what runs.
        """
        return host.when(self._condition) if self._condition else nullcontext()

    def is_planned(self) -> bool:
        """Whether this is the plan of a run that reboots first, so that the following steps cannot be planned."""
        return is_planning() and bool(self.reasons())

    @staticmethod
    def _after_the_reboot() -> bool:
        return True

    def _ready(self) -> bool:
        return not self.reasons()
