"""Seeing all boards, and choosing among them from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from topologies import unused
from tree import AUDIO, DISPLAY, Machine

from pcibind.commands.apply import apply
from pcibind.commands.release import release
from pcibind.commands.selection import HEADER, add, remove, show
from pcibind.commands.text import describe
from pcibind.model.errors import ConfigError, ExitCode
from pcibind.model.report import BoardState
from pcibind.read import configuration

LEFT, RIGHT, NIC = "0000:00/01.0/00", "0000:00/02.0/00", "0000:00/03"
HAND_WRITTEN = '# Mine.\n[[board]]\nname = "right"\naddress = "02:00.0"\n'


def added(machine: Machine) -> str:
    return Path(machine.paths.configuration, "added.toml").read_text()


def chosen(machine: Machine) -> list[str]:
    return [str(request.selector) for request in configuration.read(machine.paths.configuration).boards]


def test_list_shows_every_board_and_its_known_users(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN)
    machine.open("/dev/nvidia0")
    report = show(machine.host)
    assert report.exit_code is ExitCode.OK
    lines = [line for line in describe(report).splitlines() if not line.startswith("note: ")]
    assert lines[0].split() == ["ADDRESS", "PATH", "WHAT", "GROUP", "DRIVER", "CHOSEN", "USED", "BY"]
    nic, disk, left, right = lines[1:]
    assert left.startswith(f"01:00.0  {LEFT}  10de:2684 VGA display")
    assert left.endswith("none seen")
    assert "nouveau,snd_hda_intel,xhci_hcd  no  " in left
    assert f"right {machine.paths.configuration}/boards.toml:2" in right
    assert "eth0 carries the default route" in nic
    assert "mounted at /" in disk
    assert not any("free" in line for line in lines)


def test_list_answers_in_json_with_whole_addresses(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN)
    boards = json.loads(show(machine.host).to_json())["boards"]
    assert [(b["address"], b["state"]) for b in boards[2:]] == [
        ("0000:01:00.0", "not-chosen"),
        ("0000:02:00.0", "chosen"),
    ]
    assert boards[0]["users"]
    assert boards[2]["users"] == []


def test_list_names_the_holder_of_a_group_and_opens_no_node(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN)
    apply(unused(machine))
    machine.open("/dev/vfio/13")
    machine.asked.clear()
    (right,) = [board for board in show(machine.host).boards if board.path == RIGHT]
    assert ["qemu-system-x86" in user for user in right.users] == [True]
    assert not [access for access in machine.asked if access.kind == "open"]


def test_list_shows_the_boards_beside_a_wrong_configuration(machine: Machine) -> None:
    machine.configure("colour = 1\n")
    report = show(machine.host)
    assert (report.exit_code, len(report.boards)) == (ExitCode.CONFIGURATION, 4)


def test_a_board_on_record_that_is_configured_no_more_is_listed_as_chosen(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN)
    apply(unused(machine))
    machine.configure("")
    (right,) = [board for board in show(machine.host).boards if board.path == RIGHT]
    assert (right.state, right.name, right.detail) == (BoardState.CHOSEN, "right", "on record")


@pytest.mark.parametrize("word", ["01:00.0", "0000:01:00.0", "01:00.2", LEFT])
def test_an_added_board_is_written_by_its_path_beside_the_other_files(machine: Machine, word: str) -> None:
    machine.configure(HAND_WRITTEN)
    before = machine.drivers()
    report = add(machine.host, [word], name="left")
    assert report.exit_code is ExitCode.OK
    shown = describe(report)
    assert "board left at 0000:00/01.0/00: present, chosen" in shown
    assert "01:00.1  10de:22ba  audio        group 12" in shown
    assert "run `pcibind plan`, then `pcibind apply`" in shown
    assert machine.drivers() == before
    assert (machine.root / "etc/pcibind/boards.toml").read_text() == HAND_WRITTEN
    assert added(machine) == f'{HEADER}\n[[board]]\nname = "left"\npath = "{LEFT}"\n'
    assert chosen(machine) == [f"path {LEFT}", "address 0000:02:00.0"]


def test_boards_are_added_where_nothing_was_configured_and_can_be_applied(machine: Machine) -> None:
    assert add(machine.host, ["01:00.0", "02:00.0"]).exit_code is ExitCode.OK
    assert chosen(machine) == [f"path {LEFT}", f"path {RIGHT}"]
    assert apply(unused(machine)).exit_code is ExitCode.OK


def test_the_class_guard_asks_and_says_how_to_allow(machine: Machine) -> None:
    report = add(machine.host, ["00:03.0"])
    assert report.exit_code is ExitCode.REFUSED
    assert [refusal.guard for refusal in report.refusals] == ["class"]
    assert "--allow GUARD" in describe(report)
    assert not Path(machine.paths.configuration, "added.toml").exists()
    assert add(machine.host, ["00:03.0"], allow=["class"]).exit_code is ExitCode.OK
    assert chosen(machine) == [f"path {NIC}"]


def test_boards_of_one_group_are_added_together_or_not(machine: Machine) -> None:
    machine.function("pci0000:00/0000:00:05.0", **AUDIO, driver="snd_hda_intel", group=12)
    assert add(machine.host, ["01:00.0"]).exit_code is ExitCode.REFUSED
    assert add(machine.host, ["01:00.0", "00:05.0"]).exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        (["02:00.0"], None, r"chosen already, at .*boards.toml:2"),
        (["00:1f.7"], None, "see `pcibind list`"),
        (["09:00.0"], None, "found none"),
        (["left"], None, "names no board"),
        (["01:00.0"], "right", "the name 'right' is also given"),
        (["01:00.0"], "a b", "expected letters"),
        (["01:00.0", "02:00.0"], "two", "--name is for one board"),
    ],
)
def test_a_board_that_cannot_be_added_is_reported_and_nothing_is_written(
    machine: Machine, words: list[str], name: str | None, message: str
) -> None:
    machine.configure(HAND_WRITTEN)
    with pytest.raises(ConfigError, match=message):
        add(machine.host, words, name=name)
    assert not Path(machine.paths.configuration, "added.toml").exists()


@pytest.mark.parametrize("word", ["left", "01:00.0", "0000:01:00.1", LEFT])
def test_a_removed_board_leaves_the_file_and_a_plain_apply_gives_it_back(machine: Machine, word: str) -> None:
    before = machine.drivers()
    add(machine.host, ["01:00.0"], name="left")
    apply(unused(machine))
    report = remove(machine.host, [word])
    assert (report.exit_code, [board.path for board in report.boards]) == (ExitCode.OK, [LEFT])
    # A file without a board says that none is wanted.
    assert added(machine) == HEADER
    assert apply(unused(machine)).exit_code is ExitCode.OK
    assert machine.drivers() == before


def test_a_board_that_is_not_there_any_longer_can_be_removed(machine: Machine) -> None:
    add(machine.host, ["01:00.0"])
    for number in range(3):
        machine.unplug(f"0000:01:00.{number}")
    assert remove(machine.host, [LEFT]).exit_code is ExitCode.OK
    assert added(machine) == HEADER


def test_a_board_that_another_file_chooses_is_removed_there(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN)
    add(machine.host, ["01:00.0"])
    with pytest.raises(ConfigError, match=r"address 0000:02:00\.0 at .*boards\.toml:2; remove it there"):
        remove(machine.host, ["01:00.0", "right"])
    assert chosen(machine) == [f"path {LEFT}", "address 0000:02:00.0"]
    with pytest.raises(ConfigError, match="no chosen board is 'nobody'"):
        remove(machine.host, ["nobody"])


def test_a_file_of_that_name_by_somebody_else_is_left_alone(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN, "added.toml")
    for change in (add, remove):
        with pytest.raises(ConfigError, match="was not written by `pcibind add`"):
            change(machine.host, ["02:00.0"])
    assert added(machine) == HAND_WRITTEN


@pytest.mark.parametrize("configured", [True, False])
def test_another_board_in_the_place_of_one_on_record_is_not_listed_as_chosen(
    machine: Machine, configured: bool
) -> None:
    machine.configure(f'[[board]]\nname = "left"\npath = "{LEFT}"\n')
    assert apply(unused(machine)).exit_code is ExitCode.OK
    machine.unplug("0000:00:01.0")
    machine.function("pci0000:00/0000:00:01.0/0000:01:00.0", **(DISPLAY | {"device": 0x2684 + 1}), group=12)
    if not configured:
        machine.configure("")
    board = next(each for each in show(machine.host).boards if each.path == LEFT)
    assert (board.state, board.name, board.recorded) == (BoardState.NOT_CHOSEN, None, None)


def test_boards_that_were_written_into_the_file_in_another_form_stay_in_it(machine: Machine) -> None:
    machine.configure(f'{HEADER}board = [{{path = "{RIGHT}"}}]\n', "added.toml")
    assert add(machine.host, ["01:00.0"]).exit_code is ExitCode.OK
    assert chosen(machine) == [f"path {RIGHT}", f"path {LEFT}"]
    remove(machine.host, ["02:00.0"])
    assert chosen(machine) == [f"path {LEFT}"]


def test_a_short_address_names_a_board_in_a_file_and_for_release(machine: Machine) -> None:
    before = machine.drivers()
    machine.configure(HAND_WRITTEN)
    apply(unused(machine))
    assert release(unused(machine), ["02:00.0"]).exit_code is ExitCode.OK
    assert machine.drivers() == before


@pytest.mark.parametrize(("word", "there"), [("10de:2684", f"{LEFT} (.*), {RIGHT} (.*)"), ("00:1f.7", "none")])
def test_a_word_that_does_not_name_one_board_is_refused_with_what_it_names(
    machine: Machine, word: str, there: str
) -> None:
    with pytest.raises(ConfigError, match=f"expected one board, found {there}; see `pcibind list`"):
        add(unused(machine), [word])
    assert not (machine.root / "etc/pcibind/added.toml").exists()


@pytest.mark.parametrize("word", ["00:01.0", "0000:00/01"])
def test_a_bridge_is_refused_with_the_boards_behind_it(machine: Machine, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"is a bridge \(8086:4c01\), .* the boards behind it: {LEFT}$"):
        add(unused(machine), [word])
    assert not (machine.root / "etc/pcibind/added.toml").exists()


def test_list_calls_a_bound_board_right(machine: Machine) -> None:
    machine.configure(HAND_WRITTEN)
    apply(unused(machine))
    right = json.loads(show(machine.host).to_json())["boards"][3]
    assert {(f["wanted_driver"], f["verdict"]) for f in right["functions"]} == {("vfio-pci", "right")}


@pytest.mark.parametrize("broken", ["etc/pcibind/boards.toml", "var/lib/pcibind/record.json"])
def test_where_the_choice_cannot_be_read_every_board_is_listed_and_none_is_called_not_chosen(
    machine: Machine, broken: str
) -> None:
    machine.configure(HAND_WRITTEN)
    apply(unused(machine))
    machine.file(broken, "[[nonsense")
    report = show(machine.host)
    assert report.exit_code is ExitCode.CONFIGURATION
    assert len(report.boards) == 4
    assert {board.state for board in report.boards} == {BoardState.CHOSEN, BoardState.UNKNOWN}


def test_an_endpoint_in_a_slot_with_a_bridge_is_added_by_its_path(machine: Machine) -> None:
    isa = {"vendor": 0x8086, "device": 0x7A04, "subsystem": (0, 0), "class_code": 0x060100}
    machine.function("pci0000:00/0000:00:1f.0", **isa, driver=None, group=40)
    machine.function("pci0000:00/0000:00:1f.3", **AUDIO, driver="snd_hda_intel", group=40)
    assert add(unused(machine), ["0000:00/1f"]).exit_code is ExitCode.OK
    with pytest.raises(ConfigError, match="is a bridge"):
        add(unused(machine), ["0000:00:1f.0"])
