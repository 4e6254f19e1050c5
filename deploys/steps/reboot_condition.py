"""What the reboot decides: why one is pending, and the condition of every step that comes after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyinfra import host, logger
from pyinfra.context import ctx_state

from deploys.assessment.pending_reboot import pending
from deploys.operations.planning import is_planning
from deploys.steps.preflight import Node
from facts.batch import Part, ask
from facts.kernel import KernelCommandLine
from facts.pci import PciTopology


@dataclass(frozen=True, slots=True)
class Wish:
    """What a host must be after its reboot: kernel arguments, boards by their paths, and seconds it may take."""

    arguments: tuple[str, ...]
    boards: tuple[str, ...]
    timeout: int


def wish_of(node: Node) -> Wish:
    boards = tuple(board.path for board in node.verdict.boards)
    return Wish(node.verdict.kernel_arguments, boards, node.settings.reboot_timeout)


def reasons(arguments: tuple[str, ...], boards: tuple[str, ...]) -> list[str]:
    """Why the current host needs a reboot now, read from the host. Empty when it does not."""
    if not boards:
        return []
    found = ask(host, Part("lines", KernelCommandLine), Part("topology", PciTopology))
    return pending(found["lines"], arguments, found["topology"], boards)


class Later:
    """What of one host is decided only after its reboot."""

    def __init__(self, node: Node) -> None:
        self._wish = wish_of(node)
        self._cached: dict[bool, list[str]] = {}
        # pyinfra's ``_if`` of the steps after the reboot: its plan lists what has one as a conditional change.
        self.gate: Callable[[], bool] | None = None
        if node.settings.reboot == "never":
            self.gate = self._ready
        elif ctx_state.get().should_check_for_changes() and self.reasons():
            logger.info(
                f"{host.print_prefix}the host will reboot ({'; '.join(self.reasons())}). What comes after that is "
                "known only then: the plan lists it as a conditional change."
            )
            self.gate = self._after_the_reboot

    def reasons(self) -> list[str]:
        """Why a reboot is pending; read once while planning, and once while operations run, after the reboot."""
        running = ctx_state.get().is_executing
        if running not in self._cached:
            self._cached[running] = reasons(self._wish.arguments, self._wish.boards)
        return self._cached[running]

    def undecided(self) -> bool:
        """Whether this is the plan of a run that reboots first, so that what comes after cannot be known yet."""
        return is_planning() and bool(self.reasons())

    @staticmethod
    def _after_the_reboot() -> bool:
        return True

    def _ready(self) -> bool:
        return not self.reasons()
