"""What a host must be capable of, judged before anything is changed. Pure: facts in, verdicts out.

Each module judges one thing of a ``HostState`` and adds to the findings. Live state (IOMMU groups, interrupt remapping,
/dev/kvm, bindings) is not judged here: switching it on is the deploy's work, and it is read back after the reboot.
"""

from __future__ import annotations

from deploys.preflight.boards import judge_boards, nvidia_stays, request
from deploys.preflight.claims import judge_claims
from deploys.preflight.database import judge_data
from deploys.preflight.kernel_line import KERNEL_ARGUMENTS, ids_argument, judge_lines
from deploys.preflight.network import judge_discovery, judge_peers, lost_reach
from deploys.preflight.platform import NFTABLES_MODULES, judge_modules, judge_nftables, judge_platform, release_of
from deploys.preflight.state import HostState
from deploys.preflight.verdict import Findings, Verdict
from deploys.settings import Settings

__all__ = [
    "KERNEL_ARGUMENTS",
    "NFTABLES_MODULES",
    "HostState",
    "Verdict",
    "judge",
    "lost_reach",
    "release_of",
    "request",
]


def judge(state: HostState, settings: Settings) -> Verdict:
    """Everything that can be known of a host before the first change."""
    found = Findings()
    config = request(state.topology, settings, state.record)
    family = judge_platform(state.platform, settings, bool(config.boards), found)
    present = judge_modules(state.modules, bool(config.boards), found)
    judge_nftables(state.platform, state.modules, found)
    judge_peers(settings, found)
    judge_discovery(state.discovery, found)
    judge_lines(state.lines, found)
    judge_data(state.data_release, settings, found)
    boards = judge_boards(state, settings, config, found)
    judge_claims(state.claims, boards, settings, found)
    stays = nvidia_stays(state.topology, boards)
    if stays:
        found.warnings.append("an NVIDIA board stays with the host, so its drivers are not blacklisted.")
    if warning := lost_reach(settings, state.listened):
        found.warnings.append(warning)
    functions = [function for board in boards for function in board.functions]
    models = tuple(sorted({function.model for function in functions})) if settings.vfio_ids else ()
    return Verdict(
        refusals=(*found.refusals, *found.of_host),
        of_host=tuple(found.of_host),
        warnings=tuple(found.warnings),
        family=family,
        boards=boards,
        config=config,
        kernel_arguments=(
            *KERNEL_ARGUMENTS.get(state.platform.iommu_table or "", ()),
            *ids_argument(models, state.modules),
        ),
        models=models,
        modules=present,
        nvidia_stays=stays,
    )
