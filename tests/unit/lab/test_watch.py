"""A program that needs a machine ends when the machine breaks."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.lab import watch
from tests.lab.breakdown import Breakdown

pytestmark = pytest.mark.commands


def test_what_a_program_printed_and_ended_with_is_returned() -> None:
    done = watch.run(["sh", "-c", "cat; echo wrong >&2; exit 3"], watch.unwatched, timeout=10, stdin="text")
    assert (done.returncode, done.stdout, done.stderr) == (3, "text", "wrong\n")


def test_a_long_input_is_read_by_a_program_that_takes_its_time() -> None:
    done = watch.run(["sh", "-c", "sleep 2; wc -c"], watch.unwatched, timeout=20, stdin="x" * 1_000_000)
    assert done.stdout.strip() == "1000000"


def test_a_program_and_its_children_end_at_once_when_the_machine_breaks() -> None:
    def broken() -> None:
        raise Breakdown("lab-1", "QEMU ended")

    start = time.monotonic()
    with pytest.raises(Breakdown):
        watch.run(["sh", "-c", "sleep 60 & sleep 60"], broken, timeout=None)
    assert time.monotonic() - start < 30


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        watch.run(["sleep", "60"], watch.unwatched, timeout=1)
