"""Files of pcibind's own that hold what pcibind never wrote: bytes that are no text, and half of a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from topologies import unused
from tree import Machine

from pcibind.commands.apply import apply
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show
from pcibind.commands.release import release
from pcibind.commands.status import status
from pcibind.commands.system import System
from pcibind.model.errors import ExitCode, RecordError, describe_os_error
from pcibind.model.report import Report

LEFT = "0000:00/01.0/00"
NO_TEXT = b"\xff\xfe\n"


@pytest.fixture
def applied(machine: Machine) -> Machine:
    machine.configure(f'[[board]]\npath = "{LEFT}"\n')
    assert apply(unused(machine)).exit_code is ExitCode.OK
    machine.writes.clear()
    return machine


def test_an_early_list_that_is_no_text_is_named_and_written_anew(applied: Machine) -> None:
    file = Path(applied.paths.early_list)
    before = file.read_bytes()
    file.write_bytes(NO_TEXT)
    report = status(applied.host)
    assert report.exit_code is ExitCode.TAKEN
    assert any(str(file) in error and "pcibind apply" in error for error in report.errors), report.errors
    assert apply(unused(applied)).exit_code is ExitCode.OK
    assert file.read_bytes() == before


def test_an_early_list_that_is_no_text_does_not_keep_a_board(applied: Machine) -> None:
    Path(applied.paths.early_list).write_bytes(NO_TEXT)
    assert release(unused(applied)).exit_code is ExitCode.OK
    assert not Path(applied.paths.early_list).exists()


def test_an_empty_line_of_the_early_list_names_no_board(applied: Machine) -> None:
    with open(applied.paths.early_list, "a", encoding="utf-8") as file:
        file.write("\n")
    assert status(applied.host).errors == ()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (status, ExitCode.NOT_BOUND, "bound, but not handed over"),
        (show, ExitCode.PENDING, "bound, but the hand-over is to be written anew"),
    ],
)
def test_a_hand_over_that_is_no_text_is_none(
    applied: Machine, command: Callable[[System], Report], code: ExitCode, says: str
) -> None:
    Path(applied.paths.run, "devices.env").write_bytes(NO_TEXT)
    report = command(unused(applied))
    assert report.exit_code is code
    assert any(says in text for text in (*report.errors, *report.notes))


@pytest.mark.parametrize("command", [show, apply, apply_recorded, release, status])
@pytest.mark.parametrize("held", [NO_TEXT, b'{"version": 1, "boards": ['])
def test_a_record_that_is_cut_off_or_no_text_is_named_with_the_way_out(
    applied: Machine, command: Callable[[System], Report], held: bytes
) -> None:
    Path(applied.paths.record).write_bytes(held)
    with pytest.raises(RecordError, match=rf"^{applied.paths.record}: .*mv .*\.broken`, `pcibind release`"):
        command(unused(applied))
    assert applied.writes == []
    assert Path(applied.paths.record).read_bytes() == held


@pytest.mark.parametrize("command", [show, apply, status])
def test_half_a_line_among_the_notes_of_this_boot_hides_no_other(
    applied: Machine, command: Callable[[System], Report]
) -> None:
    Path(applied.paths.record).unlink()
    applied.configure('require_boards = "all"\n')
    with open(applied.paths.taken, "a", encoding="utf-8") as file:
        file.write("0000:01:0")
    assert command(applied.host).exit_code is ExitCode.TAKEN


@pytest.mark.parametrize(("user", "advice"), [(65534, "Permission denied; run as root"), (0, "Permission denied")])
def test_what_another_user_may_not_read_is_named_with_the_way_to_read_it(
    monkeypatch: pytest.MonkeyPatch, user: int, advice: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert describe_os_error(PermissionError(13, "Permission denied", "/etc/pcibind/early.list")) == advice
