"""The lock: one run changes something at a time, and nobody but root can hold up another."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from topologies import Unused
from tree import Machine

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.release import release
from pcibind.commands.system import System
from pcibind.model.errors import BusyError, ConfigError, ExitCode, PcibindError
from pcibind.model.report import Report

COMMANDS = [apply, apply_recorded, release]


@pytest.fixture
def chosen(machine: Machine) -> Machine:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    return machine


def host(machine: Machine, seconds: float = 0.0) -> System:
    return Unused(machine.paths, machine, node_seconds=0.05, lock_seconds=seconds)


@pytest.fixture
def held(chosen: Machine) -> Iterator[None]:
    """Another run has the lock."""
    with host(chosen).locked():
        status = os.stat(chosen.paths.lock)
        file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        chosen.file(
            "proc/locks",
            "1: POSIX  ADVISORY  WRITE 99 00:15:7 0 EOF\n"
            f"2: FLOCK  ADVISORY  WRITE 4711 {file} 0 EOF\n"
            f"2: -> FLOCK  ADVISORY  WRITE 98 {file} 0 EOF\n",
        )
        chosen.file("proc/4711/comm", "pcibind\n")
        yield


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("held")
def test_a_run_that_waits_names_the_holder_and_ends(
    chosen: Machine, command: Callable[[System], Report], capsys: pytest.CaptureFixture[str]
) -> None:
    before = chosen.drivers()
    started = time.monotonic()
    with pytest.raises(BusyError, match=r"process 4711 \(pcibind\) is still running after 0\.2 s") as error:
        command(host(chosen, 0.2))
    assert error.value.exit_code is ExitCode.BUSY
    assert time.monotonic() - started >= 0.2
    assert "waiting for process 4711 (pcibind)" in capsys.readouterr().err
    assert (chosen.drivers(), chosen.writes) == (before, [])


@pytest.mark.usefixtures("held")
def test_without_standard_error_no_word_about_the_wait_gets_into_the_report(
    chosen: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(BusyError):
        apply(host(chosen, 0.2))
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("held")
def test_a_holder_that_ended_and_left_a_child_is_named_too(chosen: Machine) -> None:
    (chosen.root / "proc/4711/comm").unlink()
    with pytest.raises(BusyError, match=r"process 4711 \(ended, but not its child\)"):
        apply(host(chosen))


@pytest.mark.usefixtures("held")
def test_a_holder_that_nothing_names_is_another_process(chosen: Machine) -> None:
    (chosen.root / "proc/locks").unlink()
    with pytest.raises(BusyError, match=r"^another process is still running"):
        apply(host(chosen))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_others_can_open_does_not_hold_it_up(chosen: Machine, command: Callable[[System], Report]) -> None:
    apply(host(chosen))
    run = Path(chosen.paths.run)
    others = [path for path in (run, *run.iterdir()) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert run in others
    descriptors = [os.open(path, os.O_RDONLY) for path in others]
    for descriptor in descriptors:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        command(host(chosen))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_only_root_can_open_it_whatever_the_mask(chosen: Machine, mask: int) -> None:
    before = os.umask(mask)
    try:
        apply(host(chosen))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(chosen.paths.lock).st_mode) == 0o600
    assert not stat.S_IMODE(os.stat(chosen.paths.run).st_mode) & 0o022


def test_it_is_free_again_after_a_run_that_failed(chosen: Machine) -> None:
    chosen.configure("what")
    with pytest.raises(ConfigError):
        apply(host(chosen))
    with host(chosen).locked():
        pass


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["run/pcibind/lock", "run/pcibind"])
def test_what_is_in_the_place_of_the_lock_is_named_and_nothing_is_touched(
    chosen: Machine, command: Callable[[System], Report], place: str
) -> None:
    path = chosen.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("elsewhere")
    before = chosen.drivers()
    with pytest.raises(PcibindError, match=rf"^nothing was touched: .*{path}: .*; remove what is in its way"):
        command(host(chosen))
    assert (chosen.drivers(), chosen.writes) == (before, [])
    assert not Path(chosen.paths.record).exists()
    assert not (path.parent / "elsewhere").exists()
