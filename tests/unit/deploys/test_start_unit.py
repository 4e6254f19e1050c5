"""The program that starts a unit and waits for its answer, against a systemctl that plays a unit's states in turn."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from deploys import scripts, settings
from deploys.inputs.addresses import Endpoint
from deploys.manifest import NODE_UNIT
from deploys.operations import units

pytestmark = pytest.mark.commands

# Each line of `states` is what systemctl shows in one second: NRestarts, Job and ActiveState. The last one stays.
_SYSTEMCTL = r"""#!/bin/sh
cd "$STORE"
second=$(cat second 2>/dev/null || echo 1)
line=$(sed -n "${second}p" states); [ -n "$line" ] || line=$(tail -n 1 states)
case "$*" in
"show -P NRestarts "*) echo "$line" | cut -d' ' -f1 ;;
"show -P Job "*) echo "$line" | cut -d' ' -f2 | tr -d - ;;
"show -P ActiveState "*) echo "$line" | cut -d' ' -f3 ;;
*) echo "$*" >>done; [ ! -e refuses ] ;;
esac
"""
_SLEEP = r"""#!/bin/sh
second=$(cat "$STORE/second" 2>/dev/null || echo 1); echo "$((second + 1))" >"$STORE/second"
"""
# The seconds of /proc/uptime are those of the states.
_CUT = r"""#!/bin/sh
case "$*" in *uptime*) cat "$STORE/second" 2>/dev/null || echo 1 ;; *) exec /usr/bin/cut "$@" ;; esac
"""


def start(
    root: Path, verb: str, states: str, answer: str = "", seconds: int = 60, patience: int = 5
) -> tuple[int, str]:
    for name, text in (("systemctl", _SYSTEMCTL), ("sleep", _SLEEP), ("cut", _CUT)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    (root / "states").write_text("".join(f"{state.strip()}\n" for state in states.split(",")))
    done = subprocess.run(
        scripts.shell("start_unit.sh", verb, "x.service", str(seconds), str(patience), answer),
        shell=True, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{root}:{os.environ['PATH']}", "STORE": str(root)},
    )  # fmt: skip
    return done.returncode, done.stderr.strip()


def asked(root: Path) -> list[str]:
    path = root / "done"
    return path.read_text().splitlines() if path.exists() else []


def test_a_start_is_done_when_the_unit_is_active_and_its_job_is_done(tmp_path: Path) -> None:
    assert start(tmp_path, "start", "0 7 inactive, 0 7 activating, 0 7 active, 0 - active") == (0, "")
    assert asked(tmp_path) == ["start --no-block x.service"]
    assert (tmp_path / "second").read_text() == "4\n"


def test_a_restart_forgets_the_restarts_before_it(tmp_path: Path) -> None:
    assert start(tmp_path, "restart", "0 7 deactivating, 0 - active") == (0, "")
    assert asked(tmp_path) == ["reset-failed x.service", "restart --no-block x.service"]


def test_a_unit_that_is_only_waited_for_is_not_started(tmp_path: Path) -> None:
    assert start(tmp_path, "await", "5 7 inactive, 5 - active") == (0, "")
    assert asked(tmp_path) == []


def test_a_started_unit_is_waited_for_until_it_answers(tmp_path: Path) -> None:
    answer = '[ "$(cat "$STORE/second")" -gt 4 ]'
    assert start(tmp_path, "start", "0 - active", answer) == (0, "")
    assert (tmp_path / "second").read_text() == "5\n"


@pytest.mark.parametrize(
    ("states", "answer", "says"),
    [
        ("0 7 inactive, 0 - inactive", "", "x.service did not start"),
        ("0 7 activating, 0 - failed", "", "x.service did not start"),
        ("0 7 inactive", "", "x.service did not start within 60 s"),
        ("0 - active", "false", "x.service runs, but does not answer within 5 s"),
        # Up at each look, and restarted by systemd in between.
        ("0 - active, 1 - active, 2 - active", "false", "x.service does not stay up: systemd started it 3 times"),
        ("0 - activating, 1 - activating, 2 - activating", "", "systemd started it 3 times"),
        # With RestartMode=direct the job of the start outlives the failures.
        ("0 7 activating, 1 7 activating, 2 7 activating", "", "systemd started it 3 times"),
    ],
)
def test_a_start_that_fails_ends_and_says_how(tmp_path: Path, states: str, answer: str, says: str) -> None:
    code, output = start(tmp_path, "start", states, answer)
    assert code == 1
    assert says in output


def test_one_restart_by_systemd_is_waited_out(tmp_path: Path) -> None:
    answer = '[ "$(cat "$STORE/second")" -gt 3 ]'
    assert start(tmp_path, "start", "0 - active, 0 - activating, 1 - active", answer) == (0, "")


def test_a_unit_that_systemd_does_not_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "refuses").touch()
    assert start(tmp_path, "start", "0 - active")[0] == 1


def test_a_node_that_runs_must_answer_again_after_the_restart_of_what_it_requires() -> None:
    asked = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one"})
    unit = "gevulot-firewall.service"
    for runs, awaited in (((unit, NODE_UNIT), True), ((unit,), False)):
        command = units._Start("restart", unit, 300, asked, units.Readiness(), runs).get_raw_value()
        assert ("start_unit.sh await gevulot-node.service " in command) is awaited
        assert "start_unit.sh restart gevulot-firewall.service 300 " in command


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:8888", "127.0.0.1 8888"), ("[::1]:8888", "::1 8888"), ("0.0.0.0:9944", "0.0.0.0 9944")],
)
def test_an_answer_is_a_connection_to_where_the_program_listens(address: str, words: str) -> None:
    assert units.expect_listener(Endpoint.parse(address), 5).command.endswith(f" {words}")


def test_the_check_of_a_listener_passes_while_it_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = units.expect_listener(Endpoint.parse(f"127.0.0.1:{server.getsockname()[1]}"), 5).command
        assert subprocess.run(command, shell=True).returncode == 0
    assert subprocess.run(command, shell=True, stderr=subprocess.DEVNULL).returncode != 0


def test_a_node_that_executes_nothing_is_asked_where_it_listens_for_calls() -> None:
    keys = {"gevulot_psk_passphrase": "the own one", "gevulot_no_execution": True}
    assert units.expect_node(settings.read("gpu1", keys)).command.endswith(" 127.0.0.1 9944")
