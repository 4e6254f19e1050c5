"""A host that others had degraded before is reported, and what a deploy broke is not forgotten by the next one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys.assessment import failures
from facts.failures import PreexistingFailures

OTHERS = ("fail2ban.service", "gevulot-backup.mount")


def test_a_system_that_runs_is_right() -> None:
    assert failures.check("running", [], ()).passed is True


def test_a_unit_of_others_that_had_failed_before_is_shown_and_not_judged() -> None:
    check = failures.check("degraded", ["fail2ban.service"], ["fail2ban.service", "recovered.service"])
    assert (check.passed, check.actual) == (None, "degraded, as before the run: fail2ban.service")


@pytest.mark.parametrize(
    ("state", "failed", "before"),
    [
        ("degraded", ["new.service"], []),
        ("degraded", ["fail2ban.service", "new.service"], ["fail2ban.service"]),
        ("degraded", ["gevulot-node.service"], ["gevulot-node.service"]),
        ("degraded", ["pcibind.service"], ["pcibind.service"]),
        ("degraded", [], []),
        ("starting, waiting for x", [], []),
        ("maintenance", ["fail2ban.service"], ["fail2ban.service"]),
    ],
)
def test_anything_else_fails(state: str, failed: list[str], before: list[str]) -> None:
    assert failures.check(state, failed, before).passed is False


def before(root: Path, *failed: str) -> tuple[str, ...]:
    (root / "systemctl").write_text(f"#!/bin/sh\nprintf '%s loaded failed failed A unit\\n' {' '.join(failed)}\n")
    if not failed:
        (root / "systemctl").write_text("#!/bin/sh\n")
    (root / "systemctl").chmod(0o755)
    command = PreexistingFailures().command((str(root / "failed-units"),))
    environment = os.environ | {"PATH": f"{root}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return PreexistingFailures().process(done.stdout.splitlines())


def remember(root: Path, *failed: str) -> None:
    command = failures.remember(failed).replace(os.path.dirname(failures.FAILED_UNITS), str(root))
    subprocess.run(["sh", "-c", command], check=True)


def test_what_failed_in_an_earlier_deploy_is_not_called_older_than_deploys(tmp_path: Path) -> None:
    assert before(tmp_path) == ()
    assert before(tmp_path, *OTHERS) == OTHERS
    remember(tmp_path, "nvidia-persistenced.service")
    assert before(tmp_path, "fail2ban.service", "nvidia-persistenced.service") == ("fail2ban.service",)
    remember(tmp_path)
    assert before(tmp_path, "fail2ban.service", "later.service") == ("fail2ban.service", "later.service")
