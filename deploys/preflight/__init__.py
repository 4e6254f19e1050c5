"""The requirements of a host, judged before anything is changed. Pure: facts in, verdicts out.

Each module judges one part of a ``HostState`` and adds to the findings. Whether the IOMMU, interrupt remapping and
/dev/kvm are on is not judged here: the deploy switches them on, and reads them back after the reboot. IOMMU groups and
drivers are judged as far as they are visible, as pcibind will judge them.
"""

from __future__ import annotations

from dataclasses import replace

from deploys.assessment import legacy_files, vfio_ids
from deploys.assessment.boards import request_boards
from deploys.assessment.kernel_arguments import KERNEL_ARGUMENTS
from deploys.assessment.verdict import Findings, Verdict
from deploys.manifest import BLACKLIST, FILES, HOST_FILES, HOST_MODULES, NODE_MODULES
from deploys.preflight.barred import judge_barred
from deploys.preflight.boards import judge_boards, judge_functions
from deploys.preflight.claims import judge_claims
from deploys.preflight.database import judge_data
from deploys.preflight.drivers import judge_drivers
from deploys.preflight.kernel_line import ids_argument, judge_attempt, judge_boot, judge_kernels, judge_lines
from deploys.preflight.network import judge_discovery, judge_peers, warn_of_lost_reach
from deploys.preflight.packages import judge_packages
from deploys.preflight.places import judge_places
from deploys.preflight.platform import (
    NFTABLES_MODULES,
    judge_modules,
    judge_nftables,
    judge_node_platform,
    judge_platform,
    parse_release,
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
    "parse_release",
]


def judge_host(state: HostState, settings: HostSettings) -> Verdict:
    """Judge a host that hands boards over."""
    findings = Findings()
    return _verdict(_judge_host(state, settings, findings, node=False), findings)


def judge(state: HostState, settings: Settings) -> Verdict:
    """Judge a node: its host, as ``judge_host`` does, and the node's own requirements."""
    findings = Findings()
    verdict = _judge_host(state, settings, findings, node=True)
    boards = verdict.boards
    judge_node_platform(state.platform, settings, verdict.family, findings)
    modules = judge_modules(state.modules, NODE_MODULES, bool(verdict.config.boards), findings)
    judge_nftables(state.platform, state.modules, findings)
    judge_functions(boards, settings, findings)
    judge_peers(settings, findings)
    judge_discovery(state.discovery, findings)
    judge_data(state.data_release, settings, findings)
    judge_services(state.services, settings, state.data_release, findings)
    if warning := warn_of_lost_reach(settings, state.listened):
        findings.warnings.append(warning)
    return _verdict(replace(verdict, node_modules=modules, storage=state.services.storage), findings)


def _verdict(verdict: Verdict, findings: Findings) -> Verdict:
    return replace(
        verdict,
        refusals=(*findings.refusals, *findings.of_host),
        of_host=tuple(findings.of_host),
        warnings=tuple(findings.warnings),
    )


def _judge_host(state: HostState, settings: HostSettings, findings: Findings, *, node: bool) -> Verdict:
    """The host's part, for a ``node`` or without one, and add to ``findings``."""
    config = request_boards(state.topology, settings, state.record)
    family = judge_platform(state.platform, bool(config.boards), findings)
    present = judge_modules(state.modules, HOST_MODULES, bool(config.boards), findings)
    virtualisation = state.platform.virtualisation
    judge_barred(state.barred, state.modules, virtualisation, bool(config.boards), findings, node=node)
    judge_packages(state, findings)
    boards = judge_boards(state, settings, config, findings, node=node)
    judge_claims(state.claims, boards, settings, findings)
    files = state.files
    blacklist = judge_drivers(files.drivers, files.users, boards, findings)
    judge_places(files.places, FILES if node else HOST_FILES, findings)
    findings.warnings += legacy_files.written_through(files.texts, files.past)
    former = legacy_files.ours(files.texts, files.past)
    judge_requests(files.requests, former, config, findings)
    options = {file: each for file, each in files.options.items() if file not in (BLACKLIST.path, *former)}
    functions = [function for board in boards for function in board.functions]
    models = tuple(sorted({function.model for function in functions})) if settings.vfio_ids else ()
    displays = [board for board in state.topology.boards() if board.display_functions]
    theirs = vfio_ids.own(state.lines, files.past, options, displays)
    arguments = (
        *KERNEL_ARGUMENTS.get(state.platform.iommu_table or "", ()),
        *ids_argument(models, state.modules, theirs),
    )
    judge_lines(state, arguments if config.boards else (), findings, node=node)
    judge_boot(state, bool(config.boards), findings)
    judge_kernels(state, bool(config.boards), findings)
    if settings.reboot != "never":
        judge_attempt(state, arguments, tuple(board.path for board in boards), findings, node=node)
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
        former=former,
        failed_before=state.failed_before,
    )
