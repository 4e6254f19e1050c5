"""The hosts of one run of pyinfra, gathered until the last one has been looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from pyinfra.api import Host, State
from pyinfra.api.exceptions import PyinfraError

from deploys.assessment.status_document import HostStatus
from deploys.fleet import output
from deploys.fleet.inspection import look, unreached
from deploys.inventory import problems_of_run
from deploys.settings import SettingsError

NOT_REACHED = "not reached, or failed earlier in this run: pyinfra says why"


class StatusError(PyinfraError):
    """Why there is no answer."""


@dataclass(slots=True)
class _Run:
    hosts: dict[str, HostStatus] = field(default_factory=dict)


_runs: WeakKeyDictionary[State, _Run] = WeakKeyDictionary()


def report(host: Host) -> None:
    """Look at a host; after the last one of the run, print the answer for all, those that failed among them.

    pyinfra runs a deploy file for every host that it could connect to, side by side. Raises StatusError for options
    that cannot be used.
    """
    state = host.state
    asked = _options(host)
    run = _runs.setdefault(state, _Run())
    run.hosts[host.name] = look(host)
    if any(each.name not in run.hosts for each in state.active_hosts):
        return
    wanted = [each for each in state.inventory if state.is_host_in_limit(each)]
    hosts = [run.hosts.get(each.name) or unreached(each, NOT_REACHED) for each in wanted]
    now = datetime.now(UTC)
    try:
        output.write(output.with_drift(hosts, asked), asked, now)
    except (SettingsError, OSError) as error:
        raise StatusError(str(error)) from None


def _options(host: Host) -> output.Options:
    if wrong := problems_of_run(host.state):
        raise StatusError("\n".join(wrong))
    try:
        return output.options(host.data.dict())
    except SettingsError as error:
        raise StatusError(str(error)) from None
