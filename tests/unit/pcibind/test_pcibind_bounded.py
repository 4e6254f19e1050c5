"""Accesses that hang: given up on, one by one. A FIFO that nobody writes to hangs as a stuck device does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcibind.model.errors import StuckError
from pcibind.read.kernel import AT_ONCE, Access, BoundedKernel, Worker, keep_open, read, read_all, write

if TYPE_CHECKING:
    from pcibind.read.kernel import Task

pytestmark = pytest.mark.commands


@pytest.fixture
def kernel() -> Iterator[BoundedKernel]:
    kernel = BoundedKernel()
    yield kernel
    kernel.close()


@pytest.fixture
def hanging(tmp_path: Path) -> str:
    path = tmp_path / "hanging"
    os.mkfifo(path)
    return str(path)


def one(asked: Access) -> Task[str]:
    return (yield asked)


def given_up(asked: Access) -> Task[StuckError]:
    try:
        yield asked
    except StuckError as error:
        return error
    raise AssertionError("it came back")


def test_an_access_answers_or_fails_as_it_would_here(kernel: BoundedKernel, tmp_path: Path) -> None:
    file = tmp_path / "attribute"
    file.write_text("  vfio-pci\n")
    (tmp_path / "empty").touch()
    missing = str(tmp_path / "missing")
    assert kernel.carry_out([one(read(str(file)))]) == ["vfio-pci"]
    assert kernel.carry_out([one(read_all([str(file), missing]))]) == ["vfio-pci\n"]
    with pytest.raises(FileNotFoundError, match="No such file") as caught:
        kernel.carry_out([one(read(missing))])
    assert caught.value.filename == missing
    kernel.carry_out([one(write(str(tmp_path / "empty"), "0000:01:00.0"))])
    assert (tmp_path / "empty").read_text() == "0000:01:00.0"


def test_an_override_that_cannot_be_read_is_not_taken_for_none(kernel: BoundedKernel, tmp_path: Path) -> None:
    (tmp_path / "driver_override").mkdir()
    with pytest.raises(OSError, match="directory"):
        kernel.carry_out([one(read_all([str(tmp_path / "driver_override")]))])


def test_requests_and_answers_may_be_long(kernel: BoundedKernel, tmp_path: Path) -> None:
    file = tmp_path / "attribute"
    file.write_text("x" * 4000)
    (answer,) = kernel.carry_out([one(read_all([str(file)] * 1000))])
    assert answer == "\n".join(["x" * 4000] * 1000)


def test_an_access_that_does_not_come_back_is_given_up_on(kernel: BoundedKernel, hanging: str) -> None:
    (error,) = kernel.carry_out([given_up(read(hanging, 0.1))])
    assert str(error) == f"reading {hanging} did not come back within 0.1 s"
    assert error.process


def test_one_that_hangs_holds_up_no_other(kernel: BoundedKernel, hanging: str, tmp_path: Path) -> None:
    file = tmp_path / "attribute"
    file.write_text("there")
    ended = []

    def timed(asked: Access) -> Task[None]:
        try:
            yield asked
            yield asked
        except StuckError:
            pass
        ended.append((asked.targets[0], time.monotonic() - started))

    started = time.monotonic()
    kernel.carry_out([timed(read(hanging, 2.0)), *(timed(read(str(file))) for _ in range(3))])
    assert [name for name, _ in ended] == [str(file)] * 3 + [hanging]
    assert ended[2][1] < ended[3][1] - 1.0


def test_results_come_in_the_order_of_the_tasks(kernel: BoundedKernel, tmp_path: Path) -> None:
    files = []
    for number in range(5):
        files.append(tmp_path / str(number))
        files[-1].write_text(str(number))
    assert kernel.carry_out([one(read(str(file))) for file in files]) == list("01234")


def test_what_may_be_left_behind_holds_nothing_of_its_parent(hanging: str, tmp_path: Path) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    other = Worker()
    worker = Worker()
    worker.ask(read(hanging, 1))
    folder = Path(f"/proc/{worker.process}/fd")
    time.sleep(0.5)
    targets = sorted(os.readlink(each) for each in folder.iterdir())
    worker.abandon()
    other.dismiss()
    os.close(lock)
    assert targets[:3] == ["/dev/null"] * 3
    assert len([target for target in targets if target.startswith("pipe:")]) == len(targets[3:]) == 2


def test_a_child_that_is_killed_is_an_error_and_not_the_end(
    kernel: BoundedKernel, hanging: str, tmp_path: Path
) -> None:
    file = tmp_path / "attribute"
    file.write_text("there")

    def killed() -> Task[str]:
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            os.kill(int(children[-1]), 9)
            yield read(hanging, 20)
        except OSError as error:
            return str(error)
        return "it answered"

    kernel.carry_out([one(read(str(file)))])
    (text,) = kernel.carry_out([killed()])
    assert "ended without an answer" in text
    assert kernel.carry_out([one(read(str(file)))]) == ["there"]


def have_open(path: Path) -> list[int]:
    """Which processes that this one started have a file open."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    processes = []
    for child in children:
        with contextlib.suppress(OSError):
            links = [os.readlink(each) for each in Path(f"/proc/{child}/fd").iterdir()]
            processes += [int(child)] * links.count(str(path))
    return processes


def test_what_a_task_keeps_open_is_open_until_it_ends(kernel: BoundedKernel, tmp_path: Path) -> None:
    nodes = [tmp_path / "12", tmp_path / "13"]
    for node in nodes:
        node.touch()
    opened = []

    def task() -> Task[None]:
        for node in nodes:
            yield keep_open(str(node))
        with pytest.raises(FileNotFoundError):
            yield keep_open(str(tmp_path / "14"))
        yield write(str(tmp_path / "12"), "x")
        opened.extend(len(have_open(node)) for node in nodes)

    kernel.carry_out([task()])
    assert opened == [1, 1]
    assert [have_open(node) for node in nodes] == [[], []]


@pytest.mark.parametrize("how", ["it raises", "another access hangs", "another task raises", "interrupted"])
def test_it_is_closed_however_the_task_ends(kernel: BoundedKernel, hanging: str, tmp_path: Path, how: str) -> None:
    node = tmp_path / "12"
    node.touch()

    def task() -> Task[None]:
        yield keep_open(str(node))
        assert have_open(node)
        if how == "it raises":
            raise ValueError
        if how == "interrupted":
            raise KeyboardInterrupt
        try:
            yield read(hanging, 0.5)
        except StuckError:
            # Still open: what hangs is another process, and the task may go on.
            assert have_open(node)

    def other() -> Task[None]:
        yield read(str(node))
        raise ValueError

    if how == "another access hangs":
        kernel.carry_out([task()])
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            kernel.carry_out([task(), other()] if how == "another task raises" else [task()])
    assert have_open(node) == []


def test_it_is_closed_when_the_program_is_killed(tmp_path: Path) -> None:
    node = tmp_path / "12"
    node.touch()
    parent = os.fork()
    if parent == 0:

        def task() -> Task[None]:
            yield keep_open(str(node))
            (tmp_path / "open").touch()
            time.sleep(60)

        BoundedKernel().carry_out([task()])
        os._exit(1)
    while not (tmp_path / "open").exists():
        time.sleep(0.01)
    child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    end = time.monotonic() + 30
    while Path(f"/proc/{child}/fd").exists() and any(Path(f"/proc/{child}/fd").iterdir()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_however_many_tasks_there_are_few_run_at_the_same_time(kernel: BoundedKernel, tmp_path: Path) -> None:
    count = 4 * AT_ONCE
    most = 0
    under_way = 0

    def task(number: int) -> Task[int]:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        path = tmp_path / str(number)
        path.touch()
        yield keep_open(str(path))
        yield write(str(path), "x")
        under_way -= 1
        return number

    assert kernel.carry_out([task(number) for number in range(count)]) == list(range(count))
    assert most == AT_ONCE
