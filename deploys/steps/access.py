"""Whose transactions the node accepts: its own results', and its operators'."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Generator
from dataclasses import dataclass, replace
from hashlib import sha256
from shlex import quote
from typing import Any

import psycopg
from pyinfra import host, logger
from pyinfra.api import Host, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys import manifest
from deploys.manifest import ACCESS_RECORD
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, is_planning, step, will_follow
from deploys.preflight import key
from deploys.settings import Settings
from deploys.steps import gevulot, postgres
from deploys.transport import remote, tunnel
from facts.access import ACCESS_QUERY, AccessKeys, AccessList, PublishedAccess


@dataclass(frozen=True, slots=True)
class Change:
    """What makes the list what it should be. ``recorded`` are the keys of deploys once that is done."""

    add: tuple[str, ...]
    deny: tuple[str, ...]
    recorded: frozenset[str]


def change(access: AccessKeys, wanted: frozenset[str]) -> Change:
    """The difference between the list and ``wanted``. A list that was not read is taken to be as recorded.

    A key that was on the list before a deploy was asked for it is not ours to take out later.
    """
    listed = access.recorded if access.listed is None else access.listed
    add = wanted - listed
    removed = access.recorded - wanted
    return Change(tuple(sorted(add)), tuple(sorted(removed & listed)), (access.recorded | add) - removed)


def record_of(settings: Settings) -> str:
    """The file that records the keys of deploys in this database; what is on another's list says nothing of it."""
    url = settings.external_database
    if url is None:
        return ACCESS_RECORD
    database = f"{url.hostname}:{url.port}{url.path}"
    return f"{ACCESS_RECORD}-{sha256(database.encode()).hexdigest()[:12]}"


def arguments(settings: Settings) -> dict[str, Any]:
    """The arguments of the fact ``AccessList``."""
    port = settings.postgres_port if settings.own_postgres else None
    return {**key.access_files(record_of(settings)), "port": port}


def read(host: Host, settings: Settings) -> AccessKeys:
    """The list as the database has it: an external one is asked with psycopg, where SSH forwards."""
    access = host.get_fact(AccessList, **arguments(settings))
    if settings.postgres_url is None:
        return access
    address, port = gevulot.database_address(settings)
    try:
        rows = tunnel.read_rows(host, address, port, settings.postgres_url.get_secret_value(), ACCESS_QUERY)
    except (tunnel.ForwardingRefused, psycopg.Error):
        return access
    return replace(access, listed=frozenset(each for (each,) in rows))


def published(host: Host, settings: Settings, access: AccessKeys) -> str:
    """Whether the list at ``gevulot_acl_whitelist_url`` has a key that the node did not take yet, in words."""
    if settings.acl_whitelist_url is None or access.own_is_listed:
        return ""
    if access.own is None:
        return "the node's public key is not known"
    published = host.get_fact(PublishedAccess, url=settings.acl_whitelist_url, key=access.own)
    return {
        "has": "the list at gevulot_acl_whitelist_url has it",
        "lacks": "the list at gevulot_acl_whitelist_url lacks it: ask its publisher to add it",
    }.get(published, "the list at gevulot_acl_whitelist_url could not be fetched from the host")


def commands(current: AccessKeys, wanted: Change, settings: Settings) -> Generator[str, None, None]:
    """The commands that make the list what it should be, with the record of it."""
    record = record_of(settings)
    # A key is recorded before it is added and forgotten after it is denied: a run that is killed loses none.
    during = current.recorded | wanted.recorded
    if during != current.recorded:
        yield record_keys(record, during)
    for verb, keys in (("whitelist", wanted.add), ("deny", wanted.deny)):
        for each in keys:
            words = ("podman", "run", "--rm", "--replace", "--name=gevulot-access", "--network=host")
            options = (*words, "--log-driver=none", *postgres.client_options(settings))
            yield shlex.join((*options, settings.node_image, "peer", each, verb))
    if wanted.recorded != during:
        yield record_keys(record, wanted.recorded)


def record_keys(record: str, keys: frozenset[str]) -> str:
    """The command that writes the record, for root only."""
    if not keys:
        return f"rm -f {record}"
    lines = " ".join(quote(each) for each in sorted(keys))
    return (
        f"umask 077; mkdir -p {posixpath.dirname(record)} && printf '%s\\n' {lines} >{record}.new && "
        f"sync {record}.new && mv {record}.new {record}"
    )


@operation()
def granted(
    settings: Settings, reboot: PendingReboot, inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Put the node's own key and its operators' on the list, and take off what an earlier deploy put there.

    + settings: the host's settings
    + reboot: whether one is pending, which this run has to wait for
    + inputs: operations of this run that change the key, the database or the node
    """
    if reboot.is_planned() or will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    current = read(host, settings)
    if settings.acl_whitelist_url is not None:
        # The node removes every key that the published list does not have.
        if not current.own_is_listed and not is_planning():
            logger.warning(
                f"{host.print_prefix}the node may reject its own results: {published(host, settings, current)}"
            )
        host.noop("the node's list is the one at gevulot_acl_whitelist_url")
        return
    if current.own is None or (current.listed is None and settings.own_postgres):
        if is_planning():
            yield DECIDED_AT_RUN_TIME
        else:
            what = "the node's public key" if current.own is None else "the table acl_whitelist"
            yield remote.fail(
                f"{what} could not be read, so the node may reject its own results. See `journalctl -u "
                f"{manifest.MIGRATION_UNIT} -u {manifest.POSTGRES_UNIT}` on the host, then run the deploy again."
            )
        return
    wanted = change(current, frozenset((current.own, *settings.acl_whitelist)))
    if not wanted.add and not wanted.deny and wanted.recorded == current.recorded:
        host.noop("the list is up to date")
        return
    yield from commands(current, wanted, settings)


@step("Grant access")
def grant_access(settings: Settings, reboot: PendingReboot, after: list[OperationMeta]) -> None:
    granted(
        name="Bring the node's access list up to date",
        settings=settings,
        reboot=reboot,
        inputs=after,
    )
