"""Idle, busy or stuck."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploys.assessment.activity import ActivityState, arguments, check, judge
from deploys.duration import in_words
from deploys.settings import Settings
from facts.activity import Activity, Failure, Machine

OLD = Machine(3600, 4, 2)
YOUNG = Machine(2, 5, 2)
CHECK = Machine(60, 6, 2, check=True)
FAILURE = Failure("ab" * 32, 14, 180, 4, 'qemu-system-x86_64: failed to find romfile "efi-e1000e.rom"')
STUCK = Activity(503, 5, 900, (), (FAILURE,))


UNREAD = "the container's processes were not read"


@pytest.mark.parametrize(
    ("activity", "state", "text"),
    [
        (Activity(200), ActivityState.IDLE, "idle (200)"),
        (Activity(204), ActivityState.IDLE, "idle (204)"),
        (Activity(200, machines=(OLD,)), ActivityState.BUSY, "busy, 1 program (200)"),
        (Activity(200, machines=(YOUNG, OLD)), ActivityState.BUSY, "busy, 2 programs (200)"),
        (Activity(200, machines=(CHECK,)), ActivityState.IDLE, "idle (200)"),
        (Activity(200, failures=(FAILURE,)), ActivityState.IDLE, "idle (200)"),
        (Activity(503, machines=(OLD,)), ActivityState.BUSY, "busy, 1 program (503)"),
        (Activity(503, 5, machines=(YOUNG,)), ActivityState.STARTING, "starting a program (503)"),
        (Activity(503, 5, failures=(replace(FAILURE, tries=2),)), ActivityState.STARTING, "starting a program (503)"),
        (Activity(503), ActivityState.STARTING, "starting a program (503)"),
        (Activity(200, machines=None), ActivityState.UNKNOWN, f"unknown (200): {UNREAD}"),
        (Activity(503, 5, machines=None), ActivityState.UNKNOWN, f"unknown (503): {UNREAD}"),
        (None, ActivityState.UNKNOWN, "unknown: not read"),
    ],
)
def test_what_is_right_or_not_known_has_no_reason(activity: Activity | None, state: ActivityState, text: str) -> None:
    doing = judge(activity, executes=True)
    assert (doing.state, doing.text, doing.reasons, doing.has_failed) == (state, text, (), False)
    assert check(doing).passed is (None if state is ActivityState.UNKNOWN else True)


@pytest.mark.parametrize(
    ("activity", "state", "reason"),
    [
        (Activity(None, age=900), ActivityState.UNKNOWN, "the health check says nothing"),
        (Activity(None, machines=None), ActivityState.UNKNOWN, "the health check says nothing"),
        (Activity(500), ActivityState.UNKNOWN, "the health check says 500, expected 200, 204 or 503"),
        (Activity(503, 5), ActivityState.STUCK, "503 twice in 5 s, and no program runs or was tried within 60 s"),
        (Activity(503, 5, machines=(CHECK,)), ActivityState.STUCK, "the node's scheduler gives no sign"),
        (STUCK, ActivityState.STUCK, "cannot start"),
        (replace(STUCK, machines=(YOUNG,)), ActivityState.STUCK, "cannot start"),
        # Another program runs.
        (replace(STUCK, machines=(OLD,)), ActivityState.STUCK, "cannot start"),
    ],
)
def test_what_has_failed_has_its_reason_and_fails_the_verification(
    activity: Activity, state: ActivityState, reason: str
) -> None:
    doing = judge(activity, executes=True)
    assert (doing.state, doing.has_failed) == (state, True)
    assert reason in doing.reasons[0]
    row = check(doing)
    assert (row.passed, row.expected) == (False, "idle or busy")
    assert reason in row.actual


def test_a_node_that_has_just_started_is_not_wrong_yet_but_not_verified() -> None:
    doing = judge(Activity(None, age=12), executes=True)
    assert (doing.state, doing.has_failed) == (ActivityState.STARTING, False)
    assert "no answer yet, 12 s after" in doing.reasons[0]
    assert check(doing).passed is False


@pytest.mark.parametrize("activity", [None, Activity(None), Activity(None, age=900, machines=())])
def test_a_node_without_execution_has_no_health_check_and_is_right(activity: Activity | None) -> None:
    doing = judge(activity, executes=False)
    assert (doing.state, doing.reasons) == (ActivityState.NO_EXECUTION, ())
    assert check(doing).passed


@pytest.mark.parametrize("change", [{"last": 61.0}, {"machine": 30.0}])
def test_a_failure_that_is_over_is_no_finding(change: dict[str, float]) -> None:
    over = Failure(**{field: getattr(FAILURE, field) for field in FAILURE.__slots__} | change)
    assert "cannot start" not in "".join(judge(replace(STUCK, failures=(over,)), executes=True).reasons)


def test_a_program_that_cannot_start_is_named_with_its_tries_and_qemus_words() -> None:
    short = replace(FAILURE, transaction="cd", tries=300, more=True, first=7200)
    first, second = judge(replace(STUCK, failures=(FAILURE, short)), executes=True).reasons
    assert first.startswith(
        "the program of transaction abababababab… cannot start: 14 tries within 3 min, the last 4 s ago; "
        'QEMU says: qemu-system-x86_64: failed to find romfile "efi-e1000e.rom"; '
    )
    assert "transaction cd cannot start: more than 300 tries within 2 h" in second


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("qemu: -device vfio-pci,host=0000:01:00.0: vfio 0000:01:00.0: group 12 is not viable", "pcibind status"),
        ("qemu: vfio_dma_map(0x1, 0x0, 0xc0000, 0x2) = -12 (Cannot allocate memory)", "Ulimit=memlock=-1:-1"),
        ("qemu: VFIO_MAP_DMA failed: Bad address", "Ulimit=memlock=-1:-1"),
        ("qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", "too little free memory"),
        ('qemu: failed to find romfile "efi-e1000e.rom"', "ipxe-qemu"),
        ("Could not access KVM kernel module: No such file or directory", "/dev/kvm"),
        ("qemu: failed to initialize kvm: Permission denied", "/dev/kvm"),
        ("qemu: an unknown error", "*/stderr.log in gevulot_storage_directory"),
    ],
)
def test_known_words_of_qemu_have_a_next_step(line: str, step: str) -> None:
    (reason,) = judge(replace(STUCK, failures=(replace(FAILURE, line=line),)), executes=True).reasons
    assert step in reason.partition(f"{line}; ")[2]


def test_the_logs_are_looked_for_where_the_container_writes_them() -> None:
    settings = Settings.model_validate(
        {"psk_passphrase": "a passphrase of this network only", "storage_directory": "/data/gevulot"}
    )
    asked = arguments(settings)
    assert (asked["listen"], asked["logs"]) == ("127.0.0.1:8888", "/data/gevulot/data/log")


def test_times_have_one_unit() -> None:
    assert [in_words(seconds) for seconds in (0.4, 84, 120, 7200, 200_000)] == ["0 s", "84 s", "2 min", "2 h", "2 d"]
