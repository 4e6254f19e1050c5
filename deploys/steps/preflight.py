"""The start of every run: host data is checked, then the host's capability. Nothing is changed here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import gevent
from pyinfra import host, logger
from pyinfra.api import State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_state

from deploys import preflight
from deploys.assessment import legacy_files
from deploys.assessment.platforms import Family
from deploys.inventory import settings_of_run
from deploys.manifest import (
    FAILED_UNITS,
    FILES,
    GRUB_DROP_IN,
    HOST_FILES,
    HOST_MODULES,
    MODULES,
    NODE_ENVIRONMENT,
    STATE_DIRECTORIES,
    VFIO_IDS_TEXTS,
    former_path,
)
from deploys.preflight import HostState, Verdict, key, services, storage
from deploys.preflight.drivers import WORDS
from deploys.preflight.state import FilesState
from deploys.settings import HostSettings, Settings, SettingsError, read, read_host
from deploys.steps import vsock
from deploys.steps.packages import HOST_PACKAGES, PACKAGES
from deploys.transport import heartbeat, login
from deploys.transport.connection import prepare
from facts.aliases import DisplayDrivers
from facts.attempt import RebootAttempts
from facts.barred_modules import BarredModules
from facts.baseline import BaselineRecord
from facts.batch import Part, ask
from facts.claims import RivalClaims
from facts.database import PostgresDataRelease
from facts.discovery import DiscoveryPeers
from facts.driver_users import DriverUsers
from facts.failures import PreexistingFailures
from facts.file import FileTexts
from facts.installed_kernels import InstalledKernels
from facts.kernel import KernelCommandLine, KernelModules
from facts.output import FirstLine
from facts.packages import HeldPackages
from facts.paths import ExistingPaths
from facts.pci import PciRecord, PciTopology, PciUsage
from facts.place import Places
from facts.platform import Platform
from facts.requests import BoardRequests
from facts.vfio_options import VfioOptions

_Kind = TypeVar("_Kind", bound=HostSettings)


class Refused(PyinfraError):
    """Why a run stops before any host was changed."""


@dataclass(frozen=True, slots=True)
class GpuHost:
    """One host of this run: what its operator asked for, and what the preflight found."""

    settings: HostSettings
    verdict: Verdict
    family: Family


@dataclass(frozen=True, slots=True)
class Node(GpuHost):
    """A host that is to be a node."""

    settings: Settings


_checked: WeakKeyDictionary[State, dict[str, Any]] = WeakKeyDictionary()


def settings_of_this_run(reader: Callable[[str, Mapping[str, Any]], _Kind]) -> dict[str, _Kind]:
    """The settings of every host that ``--limit`` leaves in, checked once a run; ``reader`` as in ``settings_of_run``.

    Raises ``Refused``, which ends the run for all hosts.
    """
    state = ctx_state.get()
    if state not in _checked:
        try:
            _checked[state] = settings_of_run(state, reader)
        except SettingsError as error:
            raise Refused(f"host data cannot be used, and no host was changed:\n{error}") from None
    return _checked[state]


@dataclass(slots=True)
class _Judgements:
    """How many hosts of this run were judged, why some were refused, and when the last one was judged."""

    count: int = 0
    refusals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Hosts whose every refusal concerns them alone.
    alone: set[str] = field(default_factory=set)
    latest: float = 0.0


_judgements: WeakKeyDictionary[State, _Judgements] = WeakKeyDictionary()
# Seconds without a judgement after which a refused host no longer waits for the others'.
_PATIENCE = 20.0


def check_host() -> GpuHost:
    """Check the data of every host of the run, then judge this host, without a question of a node's.

    Raises ``Refused``, which ends the run for all hosts. It waits for the other hosts' judgements first, so that an
    operator of many hosts hears of all refusals at once. A host that is refused for its own hardware only fails by
    itself, and the others go on.
    """
    settings = settings_of_this_run(read_host)[host.name]
    return GpuHost(settings, *_accepted(lambda: _judge_host(settings)))


def check_node() -> Node:
    """As ``check_host``, of a host that is to be a node."""
    settings = settings_of_this_run(read)[host.name]
    verdict, family = _accepted(lambda: _judge_node(settings))
    return Node(storage.resolve_links(settings, verdict.storage), verdict, family)


def _accepted(judge: Callable[[], Verdict]) -> tuple[Verdict, Family]:
    """The verdict on a host that nothing speaks against, and how it is managed. Raises ``Refused`` for another."""
    prepare(host)
    heartbeat.get_heartbeat(host.state)
    judged = _judgements.setdefault(ctx_state.get(), _Judgements())
    try:
        problem = login.check_login(host)
        verdict = Verdict((problem,), ()) if problem else judge()
    finally:
        judged.count += 1
        judged.latest = time.monotonic()
    for warning in verdict.warnings:
        logger.warning(f"{host.print_prefix}{warning}")
    if verdict.family is not None and not verdict.refusals:
        return verdict, verdict.family
    judged.refusals[host.name] = verdict.refusals
    if verdict.of_host and set(verdict.refusals) == set(verdict.of_host):
        judged.alone.add(host.name)
    # Hosts are judged side by side, but a pool that is full of refused hosts would never come to the others.
    while judged.count < len(ctx_state.get().active_hosts) and time.monotonic() - judged.latest < _PATIENCE:
        gevent.sleep(0.1)
    if judged.alone >= judged.refusals.keys() and judged.count > len(judged.refusals):
        _leave_out(verdict)
    lines = [f"{name}: {refusal}" for name, refusals in sorted(judged.refusals.items()) for refusal in refusals]
    others = " ".join(f"--exclude {name}" for name in sorted(judged.refusals))
    raise Refused("\n".join(["the preflight refused, and no host was changed:", *lines, f"To go on without: {others}"]))


def refused_alone() -> frozenset[str]:
    """The hosts of this run that the preflight left out for their own hardware: nothing was changed on them."""
    judged = _judgements.get(ctx_state.get())
    return frozenset(judged.alone) if judged else frozenset()


def _leave_out(verdict: Verdict) -> NoReturn:
    """Fail the current host, so that pyinfra ends with an error, and let the others go on."""
    for refusal in verdict.refusals:
        logger.error(f"{host.print_prefix}refused: {refusal}")
    logger.error(f"{host.print_prefix}this host is left as it is; the others go on.")
    state = ctx_state.get()
    this = state.inventory.get_host(host.name)
    # Not by `fail_hosts`, which asks a person whether to go on, in a dry run too.
    state.failed_hosts.add(this)
    state.active_hosts.discard(this)
    # Ends the deploy file for this host; pyinfra takes every other exception for the whole run's.
    raise gevent.GreenletExit


def _host_parts(settings: HostSettings) -> tuple[Part, ...]:
    """What is asked of every host; a node asks some of it with more in mind."""
    return (
        Part("platform", Platform, {"directory": "/", "offered": False}),
        Part("usage", PciUsage),
        Part("modules", KernelModules, {"modules": HOST_MODULES}),
        Part("topology", PciTopology),
        Part("record", PciRecord),
        Part("claims", RivalClaims, {"own": VFIO_IDS_TEXTS}),
        Part("barred", BarredModules),
        Part("lines", KernelCommandLine, {"drop_in": GRUB_DROP_IN.path}),
        Part("held_packages", HeldPackages, {"packages": HOST_PACKAGES["apt"]}),
        Part("kernels", InstalledKernels, {"modules": MODULES}),
        Part("attempts", RebootAttempts, {"directories": STATE_DIRECTORIES}),
        Part("failed_before", PreexistingFailures, {"records": (FAILED_UNITS, former_path(FAILED_UNITS))}),
        # About files, and about the drivers and the programs that they are for.
        Part("before", BaselineRecord, {"directories": STATE_DIRECTORIES}),
        Part("texts", FileTexts, {"paths": legacy_files.ASKED}),
        Part("places", Places, {"paths": HOST_FILES}),
        Part("requests", BoardRequests),
        Part("drivers", DisplayDrivers),
        Part("users", DriverUsers, {"words": WORDS}),
        *((Part("options", VfioOptions),) if settings.vfio_ids else ()),
    )


def _node_parts(settings: Settings) -> tuple[Part, ...]:
    """What is asked of a node's host in place of parts of the same name, or beside them."""
    profile = vsock.profile_paths(settings)
    listened = f"sed -n 's/^GEVULOT_P2P_LISTEN_ADDR=//p' {NODE_ENVIRONMENT.path} 2>/dev/null || true"
    return (
        Part("platform", Platform, {"directory": settings.storage_directory}),
        Part("modules", KernelModules, {"modules": (*MODULES, *preflight.NFTABLES_MODULES)}),
        Part("held_packages", HeldPackages, {"packages": PACKAGES["apt"]}),
        Part("places", Places, {"paths": (*FILES, *settings.directories)}),
        Part("data", PostgresDataRelease, {"directory": settings.postgres_directory}),
        *services.list_facts(settings),
        Part("key_was_readable", FirstLine, {"program": key.READABLE_KEY_COMMAND}),
        Part("listened", FirstLine, {"program": listened}),
        *([Part("discovery", DiscoveryPeers, {"addresses": peers})] if (peers := settings.p2p_discovery) else []),
        *((Part("profile", ExistingPaths, {"paths": profile}),) if profile else ()),
    )


def _ask(*parts: Part) -> dict[str, Any]:
    """The answers; of parts with one name the last is asked."""
    return ask(host, *{part.name: part for part in parts}.values())


def _judge_host(settings: HostSettings) -> Verdict:
    answers = _ask(*_host_parts(settings))
    if answers["platform"] is None:
        return _UNREAD
    return _with_damage(preflight.judge_host(_state(answers), settings), answers)


def _judge_node(settings: Settings) -> Verdict:
    answers = _ask(*_host_parts(settings), *_node_parts(settings))
    if answers["platform"] is None:
        return _UNREAD
    state = replace(
        _state(answers),
        data_release=answers["data"],
        discovery=answers.get("discovery", {}),
        listened=answers["listened"],
        services=services.Services.from_answers(answers),
    )
    verdict = _with_damage(preflight.judge(state, settings), answers)
    missing = vsock.missing_profile(settings, answers.get("profile", []))
    verdict = replace(verdict, refusals=(*verdict.refusals, *missing))
    warning = key.warn_of_readable_key(settings) if answers["key_was_readable"] else None
    return replace(verdict, warnings=(*verdict.warnings, *([warning] if warning else [])))


_UNREAD = Verdict(("the platform could not be read; see the error above.",), ())


def _with_damage(verdict: Verdict, answers: Mapping[str, Any]) -> Verdict:
    """The verdict, with the refusal of a host whose record nobody can read."""
    if not answers["before"] or not answers["before"].damaged:
        return verdict
    return replace(verdict, refusals=(*verdict.refusals, legacy_files.damaged(answers["before"])))


def _state(answers: Mapping[str, Any]) -> HostState:
    """The host's part of what was read."""
    return HostState(
        platform=answers["platform"],
        modules=answers["modules"],
        topology=answers["topology"],
        usage=answers["usage"].evidence if answers["usage"] else None,
        record=answers["record"].record,
        lines=answers["lines"],
        held_packages=answers["held_packages"],
        kernels=answers["kernels"],
        attempts=answers["attempts"],
        files=FilesState(
            past=answers["before"].past if answers["before"] else None,
            texts=answers["texts"],
            places=answers["places"],
            drivers=answers["drivers"],
            users=answers["users"],
            options=answers.get("options", {}),
            requests=answers["requests"],
        ),
        claims=tuple(answers["claims"]),
        barred=answers["barred"],
        failed_before=answers["failed_before"],
    )
