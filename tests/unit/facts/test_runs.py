"""How often a unit started, and what it wrote, out of what systemd and the journal print."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from deploys.manifest import NODE_REQUIRES
from deploys.manifest import NODE_UNIT as NODE
from facts.runs import JournalLine, Runs, UnitRuns
from tests.unit.deploys.recorded import loop, shown, started, wrote


def read(*output: str) -> Runs:
    return UnitRuns().process([line for text in output for line in text.splitlines() or [""]])


def test_the_restarts_since_the_last_start_by_somebody_are_counted() -> None:
    node = UnitRuns().process(loop()).units[NODE]
    assert (node.restarts, len(node.starts)) == (6, 7)
    assert node.starts[0] == 1000
    assert node.active == "activating"


def test_what_was_before_a_start_by_somebody_does_not_count() -> None:
    before = [line for second in (10, 20, 30) for line in started(second, by_itself=True)]
    # systemd's counter goes on when somebody starts a unit that waits for its restart.
    node = read("now 50.0", shown(NRestarts="3"), *before, *started(40, by_itself=False)).units[NODE]
    assert (node.restarts, node.starts) == (0, (40.0,))


def test_a_counter_that_was_reset_cuts_the_journals_restarts() -> None:
    restarts = [line for second in (10, 20, 30) for line in started(second, by_itself=True)]
    node = read("now 50.0", shown(NRestarts="1"), *restarts).units[NODE]
    assert (node.restarts, node.starts) == (1, (20.0, 30.0))


def test_a_restart_that_waits_for_another_unit_counts_and_has_no_start_yet() -> None:
    waiting = started(22, by_itself=True)[:1]
    node = read("now 50.0", shown(NRestarts="1"), *started(10, by_itself=False), *waiting).units[NODE]
    assert (node.restarts, node.starts) == (1, (10.0,))


def test_without_a_journal_systemds_counter_stands() -> None:
    node = read("now 50.0", shown(NRestarts="4")).units[NODE]
    assert (node.restarts, node.starts) == (4, ())


def test_the_starts_of_other_units_do_not_count() -> None:
    other = started(30, by_itself=True, unit="gevulot-postgres.service")
    assert read("now 50.0", shown(NRestarts="1"), *other).units[NODE].starts == ()


def test_units_are_distinguished_and_the_required_ones_known() -> None:
    runs = read("now 50.0", shown(), "", shown("pcibind.service", ActiveState="failed", BindsTo=""))
    assert {name: unit.active for name, unit in runs.units.items()} == {NODE: "active", "pcibind.service": "failed"}
    assert "gevulot-firewall.service" in runs.units[NODE].requires


def test_lines_have_no_escapes_and_podmans_own_talk_is_left_out() -> None:
    lines = (
        *(wrote("\x1b[32m INFO\x1b[0m running"), wrote("0a" * 32), wrote("gevulot-node")),
        wrote("2026 container died 0a", PODMAN_EVENT="died"),
        wrote("conmon <nwarn>: Failed to open", SYSLOG_IDENTIFIER="conmon"),
        # What is longer than 4096 bytes.
        '{"MESSAGE": null, "_SYSTEMD_UNIT": "gevulot-node.service"}',
        '{"MESSAGE": "Failed with result", "_PID": "1", "UNIT": "gevulot-node.service", "INVOCATION_ID": "ab"}',
    )
    assert read("now 1", shown(), *lines).lines == (
        JournalLine(NODE, "1" * 32, "container", "INFO running"),
        JournalLine(NODE, "ab", "systemd", "Failed with result"),
    )


def test_who_listens_is_known_by_port() -> None:
    runs = read(
        *("now 1", shown(), 'listen LISTEN 0 511 127.0.0.1:9944 0.0.0.0:* users:(("nginx",pid=7,fd=6))'),
        "listen LISTEN 0 128 [::]:22 [::]:*",
    )
    assert runs.listeners == {9944: "nginx", 22: ""}


def test_a_program_that_listens_steers_no_terminal_by_its_name() -> None:
    runs = read("now 1", shown(), 'listen LISTEN 0 9 127.0.0.1:9999 0.0.0.0:* users:(("\x1b[2Jx\x07",pid=7,fd=6))')
    assert runs.listeners == {9999: "x"}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param('{"MESSAGE": ["a", "b"], "_SYSTEMD_UNIT": "gevulot-node.service"}', id="two messages"),
        pytest.param('{"__MONOTONIC_TIMESTAMP": "5", "UNIT": "gevulot-node.service"}', id="no message"),
        pytest.param('{"MESSAGE": "cut sho', id="an answer that was cut short"),
    ],
)
def test_an_entry_of_the_journal_that_is_no_line_takes_no_other_with_it(entry: str) -> None:
    runs = read("now 1", shown(), *started(10, by_itself=False), entry, wrote("kept"))
    assert ([line.text for line in runs.lines], runs.units[NODE].starts) == (["kept"], (10.0,))


def test_something_else_than_an_answer_is_an_error() -> None:
    with pytest.raises(FactProcessError, match="runs"):
        UnitRuns().process(["LoadState=loaded"])


@pytest.mark.parametrize(
    ("changes", "reads"),
    [({}, 0), ({"NRestarts": "10"}, 3), ({"ActiveState": "activating", "SubState": "auto-restart"}, 3)],
)
def test_the_journal_is_read_only_where_the_node_is_not_simply_up(
    tmp_path: Path, changes: dict[str, str], reads: int
) -> None:
    (tmp_path / "answer").write_text(f"{shown(**changes)}\n\n{shown('pcibind.service', ActiveState='inactive')}\n")
    programs = {"systemctl": f"cat {tmp_path}/answer", "journalctl": f'echo "$@" >>{tmp_path}/asked', "ss": "true"}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", UnitRuns().command(NODE, NODE_REQUIRES)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(UnitRuns().process(done.stdout.splitlines()).units) == {NODE, "pcibind.service"}
    asked = (tmp_path / "asked").read_text().splitlines() if reads else []
    assert len(asked) == reads
    if reads:
        # Any local user may write the fields without an underscore.
        assert asked[0].endswith(f" UNIT={NODE} _PID=1")
        assert asked[1].endswith(f" _SYSTEMD_UNIT={NODE} + UNIT={NODE} _PID=1 + CONTAINER_NAME=gevulot-node _UID=0")
        assert asked[2].endswith(" _SYSTEMD_UNIT=gevulot-key.service + UNIT=gevulot-key.service _PID=1")
