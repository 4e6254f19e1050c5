"""Why a node does not stay up: the cause by its own last line, and a restart loop by its count and interval."""

from __future__ import annotations

from typing import Any

import pytest

from deploys import settings
from deploys.assessment.checks import Check
from deploys.assessment.diagnosis import Diagnosis, diagnose, explained
from deploys.manifest import NODE_UNIT as NODE
from facts.runs import Runs, UnitRuns
from tests.unit.deploys.recorded import QUIT, loop, shown, started, wrote

SETTINGS = settings.read(
    "gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_p2p_discovery": ["203.0.113.7:9999"]}
)
CRASHED = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "ExecMainStatus": "1"}
DONE = {"ActiveState": "inactive", "SubState": "dead"}


def read(*output: str) -> Runs:
    return UnitRuns().process([line for text in output for line in text.splitlines() or [""]])


def ended(*texts: str, **line: str) -> Diagnosis:
    """The diagnosis of a node that wrote this, ended, and waits for its next start."""
    trouble = diagnose(read("now 100.0", shown(**CRASHED), *(wrote(text, **line) for text in texts)), SETTINGS)
    assert trouble is not None
    return trouble


def test_a_loop_is_named_with_its_cause_count_and_interval() -> None:
    trouble = diagnose(UnitRuns().process(loop()), SETTINGS)
    assert trouble is not None
    assert trouble.looping
    assert trouble.problem == (
        'not up: no discovery peer answers ("ERROR gevulot: Failed to connect to any P2P node. Quitting."); '
        "started 7 times in 84 s, every 12 s"
    )
    assert trouble.step == "correct gevulot_p2p_discovery (203.0.113.7:9999) or unset it, and run deploys/node.py"


def test_a_node_that_runs_and_was_restarted_by_somebody_is_up() -> None:
    assert diagnose(read("now 100.0", shown()), SETTINGS) is None
    restarts = [line for second in (10, 20, 30) for line in started(second, by_itself=True)]
    again = read("now 50.0", shown(NRestarts="0"), *restarts, *started(45, by_itself=False), wrote(QUIT))
    assert diagnose(again, SETTINGS) is None


@pytest.mark.parametrize(("now", "up"), [(43, False), (80, False), (95, True), (10_000, True)])
def test_a_node_that_is_active_at_the_moment_is_in_a_loop_until_it_has_stayed_up_for_some_intervals(
    now: float, up: bool
) -> None:
    starts = [line for second in (10, 22, 34) for line in started(second, by_itself=second > 10)]
    # A run that has not ended gives no reason: what it wrote is not of the end.
    present = wrote("INFO gevulot: running", run="2")
    active = shown(NRestarts="2", InvocationID="2" * 32)
    trouble = diagnose(read(f"now {now}", active, *starts, wrote(QUIT), present), SETTINGS)
    assert (trouble is None) is up
    if trouble is not None:
        assert "no discovery peer answers" in trouble.problem
        assert "started 3 times" in trouble.problem


def test_a_node_that_ran_for_days_before_it_ended_once_has_recovered_after_minutes() -> None:
    days = 3 * 86_400
    starts = [*started(10, by_itself=False), *started(days, by_itself=True)]
    assert diagnose(read(f"now {days + 200}", shown(NRestarts="1"), *starts), SETTINGS) is not None
    assert diagnose(read(f"now {days + 301}", shown(NRestarts="1"), *starts), SETTINGS) is None


def test_one_end_is_no_loop_yet_and_says_its_state() -> None:
    trouble = ended(QUIT)
    assert not trouble.looping
    assert trouble.problem.endswith("; it is activating (auto-restart)")


def test_a_restart_that_has_not_started_yet_is_no_loop() -> None:
    waiting = shown(**CRASHED | {"SubState": "auto-restart-queued"}, NRestarts="1")
    events = [*started(10, by_itself=False), *started(32, by_itself=True)[:1]]
    trouble = diagnose(read("now 40.0", waiting, *events, wrote(QUIT)), SETTINGS)
    assert trouble is not None
    assert trouble.problem.endswith("; it is activating (auto-restart-queued)")


def test_a_loop_is_also_detected_without_the_journals_starts() -> None:
    trouble = diagnose(read("now 40.0", shown(**CRASHED, NRestarts="4")), SETTINGS)
    assert trouble is not None
    assert trouble.problem.endswith("; restarted 4 times by systemd")


@pytest.mark.parametrize(
    "routine",
    [
        "2026-11-26T02:00:01Z  INFO gevulot: node key read from /run/gevulot-key/node.key",
        "DEBUG gevulot: pool timed out once, waiting for the database",
    ],
)
def test_a_routine_line_is_no_cause_of_an_unknown_error(routine: str) -> None:
    trouble = ended(routine, "Error: the disk is full")
    assert trouble.problem == 'not up: "Error: the disk is full"; it is activating (auto-restart)'
    # Without any error it is the best that there is.
    assert "it is activating" in ended(routine).problem
    assert ended(routine).problem != ended("INFO gevulot: running").problem


def test_a_node_that_still_starts_is_not_reported_as_ended() -> None:
    trouble = diagnose(read("now 100.0", shown(ActiveState="activating", SubState="start-pre")), SETTINGS)
    assert trouble is not None
    assert trouble.problem == "not up: it wrote nothing yet; it is activating (start-pre)"


def test_a_node_that_somebody_stopped_is_only_stopped() -> None:
    trouble = diagnose(read("now 100.0", shown(**DONE), wrote(QUIT)), SETTINGS)
    assert trouble == Diagnosis("inactive (dead)", "start it: systemctl start gevulot-node.service")


@pytest.mark.parametrize(
    ("texts", "cause", "step"),
    [
        ((QUIT,), "no discovery peer answers", "gevulot_p2p_discovery"),
        (("Error: Connection refused (os error 111)",), "does not answer", "gevulot_p2p_discovery"),
        (
            (
                "thread 'main' panicked at crates/node/src/scheduler/mod.rs:128:68:",
                'vsock bind: Os { code: 1, kind: PermissionDenied, message: "Operation not permitted" }',
                "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
            ),
            "the container's seccomp profile refuses vsock",
            "gevulot_seccomp_profile",
        ),
        (
            (
                "thread 'main' panicked at crates/node/src/scheduler/mod.rs:128:68:",
                'vsock bind: Os { code: 19, kind: Uncategorized, message: "No such device" }',
            ),
            "the kernel has no vsock",
            "modprobe -a vsock vhost_vsock",
        ),
        (
            ("thread 'main' panicked at a.rs:1:1:", 'vsock bind: Os { code: 98, kind: AddrInUse, message: "…" }'),
            "its vsock port 8080 is taken",
            "gevulot_vsock_listen_port",
        ),
        (
            ("Error: stat /dev/vsock: no such file or directory",),
            "/dev/vsock is missing",
            "modprobe -a vsock vhost_vsock",
        ),
        (("Error: stat /dev/vfio/12: no such file or directory",), "/dev/vfio/12 is missing", "pcibind status"),
        (
            ("Error: crun: error gathering device information while adding custom device \"/dev/kvm\": no such file",),
            "/dev/kvm is missing",
            "virtualisation in the firmware",
        ),
        (
            ("error: node key not found.", "please create node-key with:", "/gevulot generate node-key"),
            "it does not get its key",
            "journalctl -u gevulot-key",
        ),
        (("Error: No such file or directory (os error 2)",), "probably its key", "/var/lib/gevulot/key/node.key"),
        (
            ("Error: pool timed out while waiting for an open connection",),
            "the database does not answer",
            "gevulot-postgres",
        ),
        (
            (
                'Error: error returned from database: password authentication failed for user "gevulot"',
                "Caused by:",
                'password authentication failed for user "gevulot"',
            ),
            "the database refuses the login",
            "gevulot_postgres_url",
        ),
        (('Error: relation "transaction" does not exist',), "not migrated", "journalctl -u gevulot-migrate"),
        (('Error: database "gevulot" does not exist',), "no such database", "gevulot_postgres_url"),
        (
            ("Error: initializing source docker://quay.io/x/y:1: pinging container registry quay.io: no such host",),
            "its image cannot be pulled",
            "gevulot_node_image",
        ),
        (
            ("Error: JSON-RPC at 127.0.0.1:9944: Address already in use",),
            "port 9944 is taken",
            "gevulot_*_listen",
        ),
        (("Error: something that nobody thought of",), '"Error: something', "journalctl -u gevulot-node"),
    ],
)  # fmt: skip
def test_the_cause_is_what_the_node_wrote_last_with_the_next_step(
    texts: tuple[str, ...], cause: str, step: str
) -> None:
    trouble = ended("INFO gevulot: node public key 04ab", *texts)
    assert cause in trouble.problem
    assert step in trouble.step
    assert "\n" not in trouble.problem


def test_a_port_that_the_line_does_not_name_is_found_by_its_listener_while_the_node_is_down() -> None:
    line = 'Error: Os { code: 98, kind: AddrInUse, message: "Address already in use" }'
    listener = 'listen LISTEN 0 511 127.0.0.1:9944 0.0.0.0:* users:(("nginx",pid=7,fd=6))'
    trouble = diagnose(read("now 100.0", shown(**CRASHED), wrote(line), listener), SETTINGS)
    assert trouble is not None
    assert "port 9944 (nginx) is taken" in trouble.problem
    assert "one of its ports 8888, 9944, 9995, 9999 is taken" in ended(line).problem


def test_an_unknown_cause_is_the_error_line_itself_and_a_long_one_is_cut() -> None:
    trouble = ended("Error: " + "x" * 3000, "Location:", "crates/node/src/main.rs:1:2")
    assert '"Error: xxx' in trouble.problem
    assert len(trouble.problem) < 300


@pytest.mark.parametrize(
    "lifted",
    [
        "the node gets --security-opt=seccomp=/run/gevulot-vsock/seccomp.json, because a container may not open a "
        "vsock socket (Operation not permitted): /run/gevulot-vsock/seccomp.json is /etc/x.json with this lifted",
        "the node starts without options: whether a container may open a vsock socket is not known: podman run: "
        "Error: permission denied",
    ],
)
def test_a_refusal_of_vsock_that_was_lifted_before_the_start_is_not_the_cause(lifted: str) -> None:
    before = wrote(lifted, CONTAINER_NAME="", SYSLOG_IDENTIFIER="allow-vsock")
    unknown = wrote("Error: something that nobody thought of")
    trouble = diagnose(read("now 100.0", shown(**CRASHED), before, unknown), SETTINGS)
    assert trouble is not None
    assert 'not up: "Error: something that nobody thought of"' in trouble.problem
    assert trouble.lines == ("Error: something that nobody thought of",)


def test_a_node_that_wrote_nothing_shows_its_exit_code() -> None:
    trouble = diagnose(read("now 100.0", shown(**CRASHED)), SETTINGS)
    assert trouble is not None
    assert "it ended with exit code 1 (exit-code) and wrote nothing" in trouble.problem


def test_an_earlier_run_that_ended_for_another_reason_is_not_quoted() -> None:
    earlier = wrote("Error: pool timed out while waiting for an open connection", run="0")
    trouble = diagnose(read("now 100.0", shown(**CRASHED), earlier, wrote(QUIT)), SETTINGS)
    assert trouble is not None
    assert "no discovery peer answers" in trouble.problem


@pytest.mark.parametrize(
    ("unit", "changed", "text", "problem"),
    [
        (
            "gevulot-key.service",
            {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"},
            "/var/lib/gevulot/key/node.key has 31 bytes, expected a key of 32.",
            "gevulot-key.service failed: it does not get its key (\"/var/lib/gevulot/key/node.key has 31 bytes",
        ),
        (
            "gevulot-migrate.service",
            {"ActiveState": "activating", "SubState": "start", "StateChangeTimestampMonotonic": "1000000"},
            "Error: pool timed out while waiting for an open connection",
            "gevulot-migrate.service is activating (start): the database does not answer",
        ),
        (
            "gevulot-postgres.service",
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"},
            'FATAL: could not create lock file: No space left on device',
            "gevulot-postgres.service failed: \"FATAL: could not create lock file: No space left on device\"",
        ),
        (
            "pcibind.service",
            {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"},
            "board 0000:01:00.0 is missing",
            "pcibind.service failed: \"board 0000:01:00.0 is missing\"",
        ),
        (
            "gevulot-firewall.service",
            {"ActiveState": "inactive", "SubState": "dead"},
            "",
            "gevulot-firewall.service is inactive (dead): ",
        ),
    ],
)  # fmt: skip
def test_a_unit_that_the_node_requires_is_named_when_it_is_the_reason(
    unit: str, changed: dict[str, str], text: str, problem: str
) -> None:
    lines = [wrote(text, unit=unit, CONTAINER_NAME=unit.removesuffix(".service"))] if text else []
    runs = read("now 100.0", shown(**DONE), "", shown(unit, Requires="", BindsTo="", **changed), *lines)
    trouble = diagnose(runs, SETTINGS)
    assert trouble is not None
    assert trouble.problem.startswith(f"not up: {problem}")
    assert (trouble.unit, trouble.lines) == (unit, (text,) if text else ())


@pytest.mark.parametrize(
    ("unit", "changed"),
    [
        # It runs for a moment at each start of the node.
        ("gevulot-migrate.service", {"ActiveState": "activating", "StateChangeTimestampMonotonic": "95000000"}),
        ("gevulot-migrate.service", DONE),
        ("gevulot-key.service", DONE),
        ("pcibind.service", {"LoadState": "not-found", **DONE}),
    ],
)
def test_a_unit_that_is_as_it_should_be_is_not_blamed(unit: str, changed: dict[str, str]) -> None:
    runs = read("now 100.0", shown(**CRASHED), "", shown(unit, **changed), wrote(QUIT))
    trouble = diagnose(runs, SETTINGS)
    assert trouble is not None
    assert "no discovery peer answers" in trouble.problem


def test_a_unit_that_the_node_does_not_require_is_not_blamed() -> None:
    other = shown("gevulot-firewall.service", ActiveState="failed", Result="exit-code")
    runs = read("now 100.0", shown(**CRASHED, BindsTo=""), "", other, wrote(QUIT))
    trouble = diagnose(runs, SETTINGS)
    assert trouble is not None
    assert "gevulot-firewall" not in trouble.problem


def test_a_node_that_waits_for_a_mount_that_failed_is_not_called_stopped() -> None:
    message = "Dependency failed for gevulot-node.service - Gevulot node."
    line = wrote(message, _PID="1", UNIT=NODE, INVOCATION_ID="")
    trouble = diagnose(read("now 100.0", shown(**DONE), wrote(QUIT), line), SETTINGS)
    assert trouble is not None
    assert trouble.problem.startswith(f'not up: a unit that it requires failed ("{message}")')


def test_what_could_not_be_read_or_is_not_deployed_is_not_judged() -> None:
    assert diagnose(Runs(), SETTINGS) is None
    assert diagnose(read("now 1", shown(LoadState="not-found", **DONE)), SETTINGS) is None


def test_the_cause_is_the_first_row_and_what_follows_from_it_is_not_judged() -> None:
    rows = [
        Check("kernel modules", "not loaded: vsock", False, "loaded"),
        Check(NODE, "active (running)", True, "active"),
        Check("container gevulot-node", "not running", False, "running"),
        Check("health check", "no answer", False, "200 or 204"),
    ]
    table = explained(rows, diagnose(UnitRuns().process(loop()), SETTINGS))
    assert [(each.name, each.passed) for each in table] == [
        (NODE, False),
        ("kernel modules", False),
        ("container gevulot-node", None),
        ("health check", None),
    ]
    assert table[0].expected.startswith("active; correct gevulot_p2p_discovery")
    assert explained(rows, None) == rows


def test_another_unit_is_explained_by_itself() -> None:
    unit = "gevulot-postgres.service"
    failed: dict[str, Any] = CRASHED | {"Requires": "", "BindsTo": ""}
    runs = read("now 100.0", shown(unit, **failed), wrote("FATAL: data directory has wrong ownership", unit=unit))
    trouble = diagnose(runs, SETTINGS, unit)
    assert trouble is not None
    assert '"FATAL: data directory has wrong ownership"' in trouble.problem


@pytest.mark.parametrize(
    ("texts", "cause", "step"),
    [
        (
            ('Error: password authentication failed for user "gevulot"',),
            "the database refuses the login",
            "correct gevulot_postgres_url",
        ),
        (("Error: permission denied for schema public",), "the database's role may not do this", "schema public"),
        (
            ("Error: migration 20231009111859 was previously applied but is missing in the resolved migrations",),
            "its image is older than the database",
            "set gevulot_node_image",
        ),
        (("Error: migration 20231009111859 is partially applied; fix it first",), "does not fit the image", "journal"),
        (("error: unrecognized subcommand 'migrate'",), "it is no image of a node", "correct gevulot_node_image"),
        (
            ("Error: crun: executable file `migrate` not found in $PATH: No such file or directory",),
            "it is no image of a node",
            "correct gevulot_node_image",
        ),
        (
            ("Error: no answer from the database at 203.0.113.9:5432 within 300 s: timed out",),
            "the database does not answer",
            "gevulot_postgres_url",
        ),
        (("Error: the disk of the server is full",), '"Error: the disk of the server is full"', "gevulot-migrate"),
    ],
)
def test_a_migration_that_failed_is_the_reason_with_its_own_journal(
    texts: tuple[str, ...], cause: str, step: str
) -> None:
    migrate = "gevulot-migrate.service"
    texts = (
        "waiting for the database at 203.0.113.9:5432: [Errno 111] Connection refused",
        *texts,
        "the migration failed with exit code 1, and trying again at once would not help",
    )
    lines = [wrote(text, unit=migrate, CONTAINER_NAME="") for text in texts]
    waits = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}
    runs = read("now 100.0", shown(**DONE), "", shown(migrate, Requires="", BindsTo="", **waits), *lines)
    trouble = diagnose(runs, SETTINGS)
    assert trouble is not None
    assert trouble.problem.startswith("not up: gevulot-migrate.service failed: ")
    assert cause in trouble.problem
    assert step in trouble.step
    assert trouble.unit == migrate
    assert texts[1] in trouble.lines


def test_a_migration_that_waits_says_for_what() -> None:
    migrate = "gevulot-migrate.service"
    line = wrote("waiting for the database at 203.0.113.9:5432: timed out", unit=migrate, CONTAINER_NAME="")
    waits = {"ActiveState": "activating", "SubState": "start", "StateChangeTimestampMonotonic": "1000000"}
    runs = read("now 100.0", shown(**DONE), "", shown(migrate, Requires="", BindsTo="", **waits), line)
    trouble = diagnose(runs, SETTINGS)
    assert trouble is not None
    assert 'the database does not answer ("waiting for the database at 203.0.113.9:5432: timed out")' in trouble.problem
