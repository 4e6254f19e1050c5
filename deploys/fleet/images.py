"""Hosts of one inventory that run different images under one reference, as after pulls of a tag at different times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from deploys.assessment.status_document import HostStatus, Severity

# Characters of a digest and names of hosts that are shown.
_DIGEST = 19
_NAMES = 3


def with_other_images(hosts: Iterable[HostStatus]) -> list[HostStatus]:
    """The hosts, each with which others run another image under the reference of its own."""
    hosts = list(hosts)
    users: dict[str, dict[str, list[str]]] = {}
    for host in hosts:
        if host.image is not None and host.image.digest:
            users.setdefault(host.image.reference, {}).setdefault(host.image.digest, []).append(host.name)
    return [_with_reason(host, users) for host in hosts]


def _with_reason(host: HostStatus, users: dict[str, dict[str, list[str]]]) -> HostStatus:
    others = dict(users.get(host.image.reference, {})) if host.image else {}
    if host.image is None or others.pop(host.image.digest, None) is None or not others:
        return host
    images = "; ".join(f"{digest[:_DIGEST]} on {_listed(names)}" for digest, names in sorted(others.items()))
    reason = (
        f"the node runs {host.image.digest[:_DIGEST]} under {host.image.reference}, other hosts another image: "
        f"{images}; pull it on all of them and run deploys/node.py, or set gevulot_node_image to one digest"
    )
    severity = Severity.ATTENTION if host.severity is Severity.OK else host.severity
    return replace(host, reasons=(*host.reasons, reason), severity=severity)


def _listed(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMES])
    return f"{shown} and {len(names) - _NAMES} others" if len(names) > _NAMES else shown
