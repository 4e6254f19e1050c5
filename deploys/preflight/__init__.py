"""What a host must be capable of, judged before anything is changed. Pure: facts in, verdicts out.

Each module judges one thing of a ``HostState`` and adds to the findings. That the IOMMU, interrupt remapping or
/dev/kvm is off is not judged here: switching them on is the deploy's work, and they are read back after the reboot.
What can be seen of groups and drivers already is judged, as pcibind will judge it.
"""

from __future__ import annotations

from deploys.assessment import legacy_files, vfio_ids
from deploys.assessment.kernel_arguments import KERNEL_ARGUMENTS
from deploys.assessment.verdict import Findings, Verdict
from deploys.manifest import BLACKLIST, FILES
from deploys.preflight.barred import judge_barred
from deploys.preflight.boards import judge_boards, request
from deploys.preflight.claims import judge_claims
from deploys.preflight.database import judge_data
from deploys.preflight.drivers import judge_drivers
from deploys.preflight.kernel_line import ids_argument, judge_attempt, judge_boot, judge_kernels, judge_lines
from deploys.preflight.network import judge_discovery, judge_peers, lost_reach
from deploys.preflight.packages import judge_packages
from deploys.preflight.places import judge_places
from deploys.preflight.platform import NFTABLES_MODULES, judge_modules, judge_nftables, judge_platform, release_of
from deploys.preflight.services import judge_services
from deploys.preflight.state import HostState
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
    judge_barred(state.barred, state.modules, state.platform.virtualisation, bool(config.boards), found)
    judge_nftables(state.platform, state.modules, found)
    judge_packages(state, found)
    judge_peers(settings, found)
    judge_discovery(state.discovery, found)
    judge_data(state.data_release, settings, found)
    judge_services(state.services, settings, state.data_release, found)
    boards = judge_boards(state, settings, config, found)
    judge_claims(state.claims, boards, settings, found)
    files = state.files
    blacklist = judge_drivers(files.drivers, files.users, boards, found)
    judge_places(files.places, FILES, found)
    found.warnings += legacy_files.written_through(files.texts, files.past)
    taken_back = legacy_files.ours(files.texts, files.past)
    options = {file: each for file, each in files.options.items() if file not in (BLACKLIST.path, *taken_back)}
    functions = [function for board in boards for function in board.functions]
    models = tuple(sorted({function.model for function in functions})) if settings.vfio_ids else ()
    displays = [board for board in state.topology.boards() if board.display_functions]
    theirs = vfio_ids.own(state.lines, files.past, options, displays)
    arguments = (
        *KERNEL_ARGUMENTS.get(state.platform.iommu_table or "", ()),
        *ids_argument(models, state.modules, theirs),
    )
    judge_lines(state, arguments if config.boards else (), found)
    judge_boot(state, bool(config.boards), found)
    judge_kernels(state, bool(config.boards), found)
    if settings.reboot != "never":
        judge_attempt(state, arguments, tuple(board.path for board in boards), found)
    if warning := lost_reach(settings, state.listened):
        found.warnings.append(warning)
    return Verdict(
        refusals=(*found.refusals, *found.of_host),
        of_host=tuple(found.of_host),
        warnings=tuple(found.warnings),
        family=family,
        boards=boards,
        config=config,
        kernel_arguments=arguments,
        set_arguments=vfio_ids.set_until_now(state.lines, files.past, displays),
        past=files.past,
        models=models,
        modules=present,
        blacklist=blacklist,
        former=taken_back,
        storage=state.services.storage,
        failed_before=state.services.failed,
    )
