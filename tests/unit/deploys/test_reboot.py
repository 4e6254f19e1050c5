"""The rolling reboot in batches, through pyinfra on fake hosts that answer as recorded ones do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.deploys import servers
from tests.unit.deploys.recorded import sent

pytestmark = pytest.mark.commands
ROLL = servers.ROOT / "tests/system/roll.py"


def run_roll(directory: Path, *hosts: str) -> subprocess.CompletedProcess[str]:
    watch = f"from tests.unit.deploys import recorded as r\n\nr.watch({str(directory / 'sent.jsonl')!r})\n"
    run = servers.pyinfra(directory, f"{watch}nodes = [{', '.join(hosts)}]\n", str(ROLL), "-y")
    assert "Traceback" not in run.stderr, run.stderr
    return run


def roll(directory: Path, *hosts: str) -> tuple[list[str], list[str], int]:
    """What a run says of each reboot, in its order, the hosts that were rebooted, and its exit code."""
    run = run_roll(directory, *hosts)
    events = "Rebooting|rebooted, and passed its checks|the reboot failed|not rebooted"
    reports = re.findall(rf"\[@fake/(\w+)\] *({events})", run.stderr)
    log = directory / "sent.jsonl"
    rebooted = [each.host.removeprefix("@fake/") for each in sent(log) if "systemctl reboot" in each.text]
    return [": ".join(each) for each in reports], rebooted, run.returncode


def host(name: str, batch: int, **recorded: object) -> str:
    keys = "".join(f", {key}={value!r}" for key, value in recorded.items())
    return f"('@fake/{name}', r.data(r.Recorded(r.DEBIAN{keys}), reboot_batch={batch}))"


def test_the_first_host_reboots_alone_and_then_as_many_at_once_as_allowed(tmp_path: Path) -> None:
    reports, rebooted, code = roll(tmp_path, *(host(name, 2) for name in ("one", "two", "three", "four")))
    assert reports[:4] == [
        "one: Rebooting",
        "one: rebooted, and passed its checks",
        "two: Rebooting",
        "three: Rebooting",
    ]
    assert sorted(reports[4:6]) == [
        "three: rebooted, and passed its checks",
        "two: rebooted, and passed its checks",
    ]
    assert reports[6:] == ["four: Rebooting", "four: rebooted, and passed its checks"]
    assert (sorted(rebooted), code) == (["four", "one", "three", "two"], 0)


def test_a_failure_in_a_batch_stops_all_further_batches(tmp_path: Path) -> None:
    reports, rebooted, code = roll(
        tmp_path,
        host("one", 2),
        host("two", 2, failed_after="gpu-power.service"),
        *(host(name, 2) for name in ("three", "four", "five")),
    )
    assert sorted(rebooted) == ["one", "three", "two"]
    assert "two: the reboot failed" in reports
    assert "three: rebooted, and passed its checks" in reports
    assert reports[-2:] == ["four: not rebooted", "five: not rebooted"]
    assert code != 0


def test_a_failure_of_the_first_host_reboots_no_other(tmp_path: Path) -> None:
    _, rebooted, code = roll(
        tmp_path, host("one", 50, failed_after="gpu-power.service"), *(host(name, 50) for name in ("two", "three"))
    )
    assert rebooted == ["one"]
    assert code != 0


def test_a_host_that_allows_no_batch_reboots_alone(tmp_path: Path) -> None:
    reports, _, code = roll(tmp_path, host("one", 9), host("two", 9), host("three", 1), host("four", 9))
    expected = [
        f"{name}: {event}"
        for name in ("one", "two", "three", "four")
        for event in ("Rebooting", "rebooted, and passed its checks")
    ]
    assert (reports, code) == (expected, 0)


def test_a_missing_argument_is_named_before_the_unit_that_fails_for_it(
    tmp_path: Path,
) -> None:
    run = run_roll(tmp_path, host("one", 1, failed_after="pcibind.service", boots_as_configured=False))
    assert run.returncode != 0
    assert (
        "the reboot failed: the kernel does not run with intel_iommu=on iommu=pt; "
        "units failed: pcibind.service. No later host" in run.stderr
    ), run.stderr[-2000:]
