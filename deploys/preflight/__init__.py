"""What a host must be capable of, judged before anything is changed. Pure: facts in, verdicts out.

Each module judges one thing of a ``HostState`` and adds to the findings. That the IOMMU, interrupt remapping or
/dev/kvm is off is not judged here: switching them on is the deploy's work, and they are read back after the reboot.
What can be seen of groups and drivers already is judged, as pcibind will judge it.
"""

from __future__ import annotations

from dataclasses import replace

from deploys.assessment import legacy_files, vfio_ids
from deploys.assessment.boards import request
from deploys.assessment.kernel_arguments import KERNEL_ARGUMENTS
from deploys.assessment.verdict import Findings, Verdict
from deploys.manifest import BLACKLIST, FILES, HOST_FILES, HOST_MODULES, NODE_MODULES
from deploys.preflight.barred import judge_barred
from deploys.preflight.boards import judge_boards, judge_functions
from deploys.preflight.claims import judge_claims
from deploys.preflight.database import judge_data
from deploys.preflight.drivers import judge_drivers
from deploys.preflight.kernel_line import ids_argument, judge_attempt, judge_boot, judge_kernels, judge_lines
from deploys.preflight.network import judge_discovery, judge_peers, lost_reach
from deploys.preflight.packages import judge_packages
from deploys.preflight.places import judge_places
from deploys.preflight.platform import (
    NFTABLES_MODULES,
    judge_modules,
    judge_nftables,
    judge_node_platform,
    judge_platform,
    release_of,
)
from deploys.preflight.requests import judge_requests
from deploys.preflight.services import judge_services
from deploys.preflight.state import HostState
from deploys.settings import HostSettings, Settings

__all__ = [
    "NFTABLES_MODULES",
    "HostState",
    "Verdict",
    "judge",
    "judge_host",
    "lost_reach",
    "release_of",
]


def judge_host(state: HostState, settings: HostSettings) -> Verdict:
    """Everything that can be known, before the first change, of a host that hands boards over."""
    found = Findings()
    return _verdict(_judge_host(state, settings, found, node=False), found)


def judge(state: HostState, settings: Settings) -> Verdict:
    """Everything that can be known of a node before the first change: of its host, as ``judge_host``, and its own."""
    found = Findings()
    verdict = _judge_host(state, settings, found, node=True)
    boards = verdict.boards
    judge_node_platform(state.platform, settings, verdict.family, found)
    modules = judge_modules(state.modules, NODE_MODULES, bool(verdict.config.boards), found)
    judge_nftables(state.platform, state.modules, found)
    judge_functions(boards, settings, found)
    judge_peers(settings, found)
    judge_discovery(state.discovery, found)
    judge_data(state.data_release, settings, found)
    judge_services(state.services, settings, state.data_release, found)
    if warning := lost_reach(settings, state.listened):
        found.warnings.append(warning)
    return _verdict(replace(verdict, node_modules=modules, storage=state.services.storage), found)


def _verdict(verdict: Verdict, found: Findings) -> Verdict:
    return replace(
        verdict,
        refusals=(*found.refusals, *found.of_host),
        of_host=tuple(found.of_host),
        warnings=tuple(found.warnings),
    )


def _judge_host(state: HostState, settings: HostSettings, found: Findings, *, node: bool) -> Verdict:
    """The host's part, for a ``node`` or without one; what speaks against it is in ``found``."""
    config = request(state.topology, settings, state.record)
    family = judge_platform(state.platform, bool(config.boards), found)
    present = judge_modules(state.modules, HOST_MODULES, bool(config.boards), found)
    virtualisation = state.platform.virtualisation
    judge_barred(state.barred, state.modules, virtualisation, bool(config.boards), found, node=node)
    judge_packages(state, found)
    boards = judge_boards(state, settings, config, found, node=node)
    judge_claims(state.claims, boards, settings, found)
    files = state.files
    blacklist = judge_drivers(files.drivers, files.users, boards, found)
    judge_places(files.places, FILES if node else HOST_FILES, found)
    found.warnings += legacy_files.written_through(files.texts, files.past)
    taken_back = legacy_files.ours(files.texts, files.past)
    judge_requests(files.requests, taken_back, config, found)
    options = {file: each for file, each in files.options.items() if file not in (BLACKLIST.path, *taken_back)}
    functions = [function for board in boards for function in board.functions]
    models = tuple(sorted({function.model for function in functions})) if settings.vfio_ids else ()
    displays = [board for board in state.topology.boards() if board.display_functions]
    theirs = vfio_ids.own(state.lines, files.past, options, displays)
    arguments = (
        *KERNEL_ARGUMENTS.get(state.platform.iommu_table or "", ()),
        *ids_argument(models, state.modules, theirs),
    )
    judge_lines(state, arguments if config.boards else (), found, node=node)
    judge_boot(state, bool(config.boards), found)
    judge_kernels(state, bool(config.boards), found)
    if settings.reboot != "never":
        judge_attempt(state, arguments, tuple(board.path for board in boards), found, node=node)
    return Verdict(
        refusals=(),
        warnings=(),
        of_node=node,
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
        failed_before=state.failed_before,
    )
