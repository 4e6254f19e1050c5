"""A machine that breaks is one failure with its reason, however many tests needed it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import host
from tests.lab.breakdown import Breakdown

pytest_plugins = ["pytester"]

FAKE = """
import pytest

pytestmark = pytest.mark.lab

from tests.lab import host
from tests.lab.breakdown import Breakdown

class Fake:
    name = "lab-1"
    broken = False
    def check(self):
        if self.broken:
            raise Breakdown("lab-1", "its kernel panicked: Fatal exception", "\\n  console.log ends:\\n  last line")
    def check_reachable(self, *, timeout):
        self.check()

@pytest.fixture(scope="module")
def machine():
    fake = Fake()
    host.LIVING["lab-1"] = fake
    yield fake
    del host.LIVING["lab-1"]
"""

IN_A_TEST = """
def test_before(machine): pass
def test_it_breaks(machine):
    machine.broken = True
    assert 1 == 2, "a failed expectation"
def test_after(machine): pass
def test_later(machine): assert 1 == 3
"""

RESTORED = """
@pytest.fixture
def fresh(machine):
    machine.broken = False
    return machine

def test_breaks_it_on_purpose(fresh):
    fresh.broken = True

def test_has_it_restored(fresh): pass

def test_breaks_it_by_chance(fresh):
    fresh.broken = True
    assert 1 == 2

def test_has_it_restored_again(fresh): pass
"""

FROM_ANOTHER = """
def test_wraps_it():
    try:
        raise Breakdown("lab-3", "QEMU ended")
    except Breakdown as error:
        raise ValueError("cannot go on") from error

def test_collects_it():
    raise ExceptionGroup("several", [ValueError("one"), Breakdown("lab-4", "QEMU ended")])

def test_cannot_ask(machine):
    machine.check_reachable = lambda timeout: 1 / 0
    assert 1 == 2
"""

BETWEEN_TESTS = """
def test_before(machine): machine.broken = True
def test_after(machine): pass
def test_later(machine): pass
"""

IN_THE_SETUP = """
@pytest.fixture(scope="module")
def dead():
    raise Breakdown("lab-2", "QEMU ended")

@pytest.mark.parametrize("number", range(5))
def test_needs_it(dead, number): pass
"""

HEALTHY = """
def test_fails(machine): assert 1 == 2
def test_passes(machine): pass
@pytest.fixture(scope="module")
def wrong(): raise ValueError("no such thing")
def test_first(wrong): pass
def test_second(wrong): pass
"""


@pytest.fixture(autouse=True)
def plugin(pytester: pytest.Pytester) -> Iterator[None]:
    pytester.makeconftest('pytest_plugins = ["tests.plugins.breakdown"]')
    before = dict(host.LIVING)
    yield
    host.LIVING.clear()
    host.LIVING.update(before)


def run(pytester: pytest.Pytester, text: str) -> pytest.RunResult:
    pytester.makepyfile(FAKE + text)
    return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist", "-rs")


def test_a_breakdown_in_a_test_is_its_failure_and_the_others_are_skipped(pytester: pytest.Pytester) -> None:
    done = run(pytester, IN_A_TEST)
    done.assert_outcomes(passed=1, failed=1, skipped=2)
    done.stdout.fnmatch_lines(
        [
            "lab-1 is broken: its kernel panicked: Fatal exception",
            "  last line",
            "*test_it_breaks failed with:",
            "*AssertionError: a failed expectation",
            "SKIPPED*lab-1 broke in *test_it_breaks: its kernel panicked: Fatal exception",
        ]
    )


def test_a_machine_that_a_fixture_restores_is_whole_again(pytester: pytest.Pytester) -> None:
    run(pytester, RESTORED).assert_outcomes(passed=3, failed=1)


def test_a_breakdown_is_found_in_what_an_error_comes_from_and_asking_never_ends_the_run(
    pytester: pytest.Pytester,
) -> None:
    done = run(pytester, FROM_ANOTHER)
    done.assert_outcomes(failed=3)
    done.stdout.fnmatch_lines(
        ["lab-3 is broken: QEMU ended", "*ValueError: cannot go on*", "lab-4 is broken: QEMU ended"]
    )
    done.stdout.fnmatch_lines(["*assert 1 == 2*"])


def test_a_breakdown_between_tests_is_one_error(pytester: pytest.Pytester) -> None:
    run(pytester, BETWEEN_TESTS).assert_outcomes(passed=1, failed=1, skipped=1)


def test_a_machine_that_never_came_up_is_one_error(pytester: pytest.Pytester) -> None:
    done = run(pytester, IN_THE_SETUP)
    done.assert_outcomes(errors=1, skipped=4)
    done.stdout.fnmatch_lines(["lab-2 is broken: QEMU ended"])


def test_other_failures_stay_what_they_are_and_a_set_up_fails_once(pytester: pytest.Pytester) -> None:
    done = run(pytester, HEALTHY)
    done.assert_outcomes(passed=1, failed=1, errors=1, skipped=1)
    done.stdout.fnmatch_lines(["*assert 1 == 2*", "SKIPPED*shared set-up failed in *test_first: *"])
    assert Breakdown.__name__ not in done.stdout.str()
