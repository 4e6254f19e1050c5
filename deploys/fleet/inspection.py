"""A look at one host: everything in one remote command, nothing changed."""

from __future__ import annotations

from typing import Any

import gevent
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError

from deploys import manifest, scripts
from deploys.assessment import activity
from deploys.assessment.observations import Observations
from deploys.assessment.status import judge
from deploys.assessment.status_document import HostStatus, Severity, down
from deploys.inputs import execution
from deploys.preflight import key
from deploys.settings import HostSettings, Settings, SettingsError, read_host, read_without_secrets
from deploys.steps import access
from deploys.transport.connection import prepare
from facts.access import AccessList
from facts.activity import NodeActivity
from facts.batch import FactBatch, Part
from facts.container import Container
from facts.database import PostgresSchema
from facts.disk import DiskSpace
from facts.firewall import NodeFirewall
from facts.initramfs import InitramfsContents, StaleInitramfs
from facts.kernel import InterruptRemapping, KernelCommandLine, KernelModules
from facts.node import NodeParts
from facts.output import FirstLine
from facts.paths import ExistingPaths
from facts.pci import PciBinding, PciRecord, PciTopology, PciUsage
from facts.platform import Platform
from facts.podman import SecretNames
from facts.role import HostRole
from facts.runs import UnitRuns
from facts.unit import Units
from facts.verification import VerificationTime

# A host on which a program hangs must not keep the others from being shown.
_SECONDS = 240
_REBOOT_REQUIRED = "/run/reboot-required"


def parts(settings: HostSettings) -> tuple[Part, ...]:
    """What is asked of a host; the names are those of ``Observations``."""
    asked = [
        Part("user", FirstLine, {"program": "id -u"}),
        Part("platform", Platform, {"directory": "/", "offered": False}),
        Part("topology", PciTopology),
        Part("usage", PciUsage),
        Part("record", PciRecord),
        Part("binding", PciBinding, {"program": manifest.PCIBIND.path}),
        Part("lines", KernelCommandLine, {"drop_in": manifest.GRUB_DROP_IN.path}),
        Part("remapping", InterruptRemapping),
        Part("modules", KernelModules, {"modules": manifest.MODULES}),
        Part("stale_initramfs", StaleInitramfs, {"inputs": manifest.INITRAMFS_INPUTS}),
        Part("initramfs", InitramfsContents, {"files": manifest.INITRAMFS_FILES}),
        Part("reboot_required", ExistingPaths, {"paths": (_REBOOT_REQUIRED,)}),
        Part("units", Units, {"units": manifest.STATUS_UNITS}),
        Part("parts", NodeParts, {"paths": ("/",)}),
        Part("verified", VerificationTime, {"path": manifest.VERIFIED}),
        Part("deployed", HostRole, {"path": manifest.DEPLOYED}),
    ]
    if isinstance(settings, Settings):
        asked += _node_parts(settings)
    return tuple({part.name: part for part in asked}.values())


def _node_parts(settings: Settings) -> list[Part]:
    """What is asked of a node in place of parts of the same name, or beside them."""
    key_file = f"{settings.key_directory}/node.key"
    asked = [
        Part("platform", Platform, {"directory": settings.storage_directory, "offered": False}),
        Part("runs", UnitRuns, {"unit": manifest.NODE_UNIT, "needed": manifest.NODE_REQUIRES}),
        Part(
            "parts",
            NodeParts,
            {
                "paths": (settings.storage_directory, key_file),
                "account": manifest.NODE_ACCOUNT,
                "public_key": key.PUBLIC,
                "unit": manifest.NODE_UNIT,
            },
        ),
        Part(
            "container",
            Container,
            {"container": manifest.NODE_CONTAINER, "variables": (manifest.GPU_DEVICES, *settings.environment())},
        ),
        Part("firewall", NodeFirewall, {"table": manifest.NODE_TABLE}),
        Part("secrets", SecretNames),
        Part("activity", NodeActivity, activity.arguments(settings)),
        Part("key", FirstLine, {"program": scripts.shell("node_key.sh", "state", *key.arguments(settings))}),
        Part("space", DiskSpace, {"directory": settings.storage_directory}),
    ]
    if settings.own_postgres:
        asked.append(Part("schema", PostgresSchema, {"login": manifest.POSTGRES_LOGIN, "port": settings.postgres_port}))
        asked.append(Part("access", AccessList, access.arguments(settings)))
    return asked


def look(host: Host) -> HostStatus:
    """How a connected host stands. Whatever goes wrong becomes a row with a reason."""
    prepare(host)
    try:
        settings = read_host(host.name, host.data.dict())
        if refused := execution.find_problems((host,)):
            raise SettingsError("\n".join(refused))
    except SettingsError as error:
        return HostStatus(host.name, Severity.WRONG, _mistakes(host, error))
    mistakes: tuple[str, ...] = ()
    try:
        settings = read_without_secrets(host.name, host.data.dict())
    except SettingsError as error:
        # Of no concern to a host without a node, which only the host itself can tell.
        mistakes = _mistakes(host, error)
    try:
        answers = _ask(host, settings)
    except (PyinfraError, EOFError, OSError, gevent.Timeout) as error:
        return down(host.name, f"the connection ended before it answered: {error or type(error).__name__}", *mistakes)
    if not answers:
        return down(host.name, f"it gave no answer within {_SECONDS} s, or its shell refused", *mistakes)
    try:
        observed = Observations.of(answers)
        if mistakes and not observed.is_gpu_host:
            return HostStatus(host.name, Severity.WRONG, mistakes)
        return judge(host.name, settings, observed)
    except Exception as error:
        # One host's answer that nobody thought of must not hide the others' rows.
        return HostStatus(
            host.name, Severity.WRONG, (f"its answer was not understood: {type(error).__name__}: {error}",)
        )


def _mistakes(host: Host, error: SettingsError) -> tuple[str, ...]:
    return tuple(line.removeprefix(f"{host.name}: ") for line in str(error).splitlines())


def unreached(host: Host, reason: str) -> HostStatus:
    """A host that there was no connection to. What is wrong with its data is known all the same."""
    try:
        read_without_secrets(host.name, host.data.dict())
    except SettingsError as error:
        return down(host.name, reason, *_mistakes(host, error))
    return down(host.name, reason)


def _ask(host: Host, settings: HostSettings) -> dict[str, Any]:
    # pyinfra's own limit is for reading the answer; a host may also hang before and after it.
    with gevent.Timeout(_SECONDS + 30):
        answers: dict[str, Any] = host.get_fact(
            FactBatch, parts=parts(settings), _ignore_errors=True, _timeout=_SECONDS
        )
    return answers
