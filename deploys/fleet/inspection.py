"""A look at one host: everything in one remote command, nothing changed."""

from __future__ import annotations

from typing import Any

import gevent
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError

from deploys import scripts
from deploys.assessment import activity
from deploys.fleet.assessment import judge
from deploys.fleet.observations import Seen
from deploys.fleet.state import HostState, Severity, down
from deploys.inputs import execution
from deploys.preflight import key
from deploys.settings import Settings, SettingsError, read_without_secrets
from deploys.steps import access
from deploys.transport.connection import prepare
from facts.access import AccessList
from facts.activity import NodeActivity
from facts.batch import Part, Together
from facts.container import GPU_DEVICES, Container
from facts.database import PostgresSchema
from facts.disk import DiskSpace
from facts.firewall import NodeFirewall
from facts.initramfs import InitramfsContents, StaleInitramfs
from facts.kernel import InterruptRemapping, KernelCommandLine, KernelModules
from facts.node import NodeParts
from facts.output import Said
from facts.paths import Existing
from facts.pci import PciBinding, PciRecord, PciTopology, PciUsage
from facts.platform import Platform
from facts.podman import SecretNames
from facts.runs import NodeRuns
from facts.unit import Units
from facts.verification import Verified

# A host on which a program hangs must not keep the others from being shown.
_SECONDS = 240
_REBOOT_REQUIRED = "/run/reboot-required"


def parts(settings: Settings) -> tuple[Part, ...]:
    """What is asked of a host; the names are those of ``Seen``."""
    key_file = f"{settings.key_directory}/node.key"
    asked = [
        Part("user", Said, {"program": "id -u"}),
        Part("platform", Platform, {"directory": settings.storage_directory, "offered": False}),
        Part("topology", PciTopology),
        Part("usage", PciUsage),
        Part("record", PciRecord),
        Part("binding", PciBinding),
        Part("lines", KernelCommandLine),
        Part("remapping", InterruptRemapping),
        Part("modules", KernelModules),
        Part("stale_initramfs", StaleInitramfs),
        Part("initramfs", InitramfsContents),
        Part("reboot_required", Existing, {"paths": (_REBOOT_REQUIRED,)}),
        Part("units", Units),
        Part("runs", NodeRuns),
        Part("parts", NodeParts, {"paths": (settings.storage_directory, key_file)}),
        Part("container", Container, {"variables": (GPU_DEVICES, *settings.environment())}),
        Part("firewall", NodeFirewall),
        Part("secrets", SecretNames),
        Part("activity", NodeActivity, activity.arguments(settings)),
        Part("key", Said, {"program": scripts.shell("node_key.sh", "state", *key.arguments(settings))}),
        Part("space", DiskSpace, {"directory": settings.storage_directory}),
        Part("verified", Verified),
    ]
    if settings.own_postgres:
        asked.append(Part("schema", PostgresSchema, {"port": settings.postgres_port}))
        asked.append(Part("access", AccessList, access.arguments(settings)))
    return tuple(asked)


def look(host: Host) -> HostState:
    """How a connected host stands. Whatever goes wrong becomes a row with a reason."""
    prepare(host)
    try:
        settings = read_without_secrets(host.name, host.data.dict())
        if refused := execution.problems((host,)):
            raise SettingsError("\n".join(refused))
    except SettingsError as error:
        reasons = tuple(line.removeprefix(f"{host.name}: ") for line in str(error).splitlines())
        return HostState(host.name, Severity.WRONG, reasons)
    try:
        found = _ask(host, settings)
    except (PyinfraError, EOFError, OSError, gevent.Timeout) as error:
        return down(host.name, f"the connection ended before it answered: {error or type(error).__name__}")
    if not found:
        return down(host.name, f"it gave no answer within {_SECONDS} s, or its shell refused")
    try:
        return judge(host.name, settings, Seen.of(found))
    except Exception as error:
        # One host's answer that nobody thought of must not hide the others' rows.
        return HostState(
            host.name, Severity.WRONG, (f"its answer was not understood: {type(error).__name__}: {error}",)
        )


def unreached(host: Host, reason: str) -> HostState:
    """A host that there was no connection to. What is wrong with its data is known all the same."""
    try:
        read_without_secrets(host.name, host.data.dict())
    except SettingsError as error:
        mistakes = tuple(line.removeprefix(f"{host.name}: ") for line in str(error).splitlines())
        return HostState(host.name, Severity.DOWN, (reason, *mistakes))
    return down(host.name, reason)


def _ask(host: Host, settings: Settings) -> dict[str, Any]:
    # pyinfra's own limit is for reading the answer; a host may also hang before and after it.
    with gevent.Timeout(_SECONDS + 30):
        found: dict[str, Any] = host.get_fact(Together, parts=parts(settings), _ignore_errors=True, _timeout=_SECONDS)
    return found
