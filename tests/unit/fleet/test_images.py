"""Hosts that run different images under one reference."""

from __future__ import annotations

from deploys.assessment.status_document import HostStatus, Image, Severity, down
from deploys.fleet.images import with_other_images

LATEST = "quay.io/gevulot/node:latest"


def host(name: str, digest: str, reference: str = LATEST, severity: Severity = Severity.OK) -> HostStatus:
    return HostStatus(name, severity, image=Image(reference, f"sha256:{digest * 32}"))


def test_hosts_that_run_the_same_image_are_left_as_they_are() -> None:
    hosts = [host("a", "0a"), host("b", "0a"), host("c", "0b", "quay.io/gevulot/node:1"), down("d", "gone")]
    assert with_other_images(hosts) == hosts


def test_each_host_says_which_others_run_another_image_under_its_reference() -> None:
    hosts = [host("a", "0a"), host("b", "0b", severity=Severity.WRONG), host("c", "0b"), host("d", "0c", "other:1")]
    a, b, c, d = with_other_images(iter(hosts))
    assert a.reasons[0].startswith(
        f"the node runs sha256:0a0a0a0a0a0a under {LATEST}, other hosts another image: sha256:0b0b0b0b0b0b on b, c;"
    )
    assert [each.severity for each in (a, b, c, d)] == [
        Severity.ATTENTION,
        Severity.WRONG,
        Severity.ATTENTION,
        Severity.OK,
    ]
    assert d.reasons == ()


def test_of_many_hosts_a_few_are_named() -> None:
    (first, *_) = with_other_images([host("x", "0a"), *(host(f"h{number}", "0b") for number in range(9))])
    assert "on h0, h1, h2 and 6 others" in first.reasons[0]
