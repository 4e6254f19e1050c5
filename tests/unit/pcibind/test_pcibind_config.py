"""The configuration: what is understood, and how errors are reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcibind.model.errors import ConfigError
from pcibind.read import configuration
from pcibind.read.configuration import OVERRIDABLE_GUARDS, BoardRequest, Selector


def test_several_files_are_one_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[board]]\naddress = "0000:01:00.0"\nname = "left"\n')
    (tmp_path / "b.toml").write_text('require_boards = "any"\n[[board]]\nmodel = "10DE:2684"\n')
    (tmp_path / "early.list").write_text("not TOML")
    read = configuration.read(tmp_path)
    assert read.require_boards == "any"
    assert [str(board.selector) for board in read.boards] == [
        "address 0000:01:00.0",
        "model 10de:2684",
    ]
    assert read.boards[0].name == "left"


def test_text_that_was_read_elsewhere_may_start_with_a_byte_order_mark() -> None:
    (board,) = configuration.parse([("x.toml", '\ufeff[[board]]\nmodel = "10de:2684"\n')]).boards
    assert str(board.selector) == "model 10de:2684"


def test_what_an_editor_leaves_beside_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "boards.toml").write_text('require_boards = "any"\n')
    # Emacs locks a file by a link to nowhere.
    (tmp_path / ".#boards.toml").symlink_to("root@host.1:2")
    (tmp_path / ".boards.toml").write_text("half of it")
    (tmp_path / "boards.toml~").write_text("not TOML")
    assert configuration.read(tmp_path).require_boards == "any"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[board]\n", "x.toml:1:8: "),
        ("colour = 1\n", "x.toml:1: colour: unknown key"),
        ('\n[[board]]\ncolour = 1\npath = "0000:00/01"\n', "x.toml:3: colour: unknown key"),
        ("[[board]]\n", "x.toml:1: .*exactly one of address, path, model"),
        ('[[board]]\npath = "0000:00/01"\nmodel = "1:2"\n', "x.toml:1: .*address and|exactly one"),
        ('[[board]]\nmodel = "10de"\n', "x.toml:2: model: .*as in 10de:2684"),
        ("[[board]]\naddress = 1\n", "x.toml:2: address: 1 is no text in quotes"),
        ('[[board]]\npath = "0000:00/01"\nallow = ["vfio-open"]\n', "x.toml:3: allow: 'vfio-open'"),
        ('require_boards = "some"\n', 'x.toml:1: require_boards: .*"all" or "any"'),
        ("board = 1\n", "x.toml:1: .*expected"),
    ],
)
def test_an_error_names_file_line_and_expectation(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration.parse([("x.toml", text)])


def test_the_same_board_or_name_twice_is_refused_across_files() -> None:
    one = '[[board]]\naddress = "0000:01:00.0"\nname = "a"\n'
    with pytest.raises(ConfigError, match=r"y.toml:1: address .* also chosen at x.toml:1"):
        configuration.parse([("x.toml", one), ("y.toml", one)])
    with pytest.raises(ConfigError, match="the name 'a' is also given"):
        configuration.parse([("x.toml", one), ("y.toml", one.replace("01", "02"))])
    with pytest.raises(ConfigError, match=r"'any', but 'all' in x\.toml"):
        configuration.parse([("x.toml", 'require_boards="all"'), ("y.toml", 'require_boards="any"')])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mark_and_line_ends_of_another_system_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    lines = ["# Gr\u00fc\u00dfe", "[[board]]", 'path = "0000:00/01"', 'name = "left"', ""]
    (tmp_path / "x.toml").write_bytes(end.join(lines).encode(encoding))
    (board,) = configuration.read(str(tmp_path)).boards
    assert (board.name, board.source) == ("left", f"{tmp_path}/x.toml:2")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_refused_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.toml").write_bytes('[[board]]\npath = "0000:00/01"\n'.encode(encoding))
    message = "x.toml: found UTF-16 or binary data, expected text in UTF-8; save the file as UTF-8"
    with pytest.raises(ConfigError, match=message):
        configuration.read(str(tmp_path))


def test_a_byte_that_is_no_utf_8_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"# Gr\xfc\xdfe\n")
    with pytest.raises(ConfigError, match="found byte 0xfc at offset 4, expected text in UTF-8; save the file"):
        configuration.read(str(tmp_path))


def test_no_file_is_an_error_but_a_file_without_boards_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.toml file"):
        configuration.read(tmp_path)
    with pytest.raises(ConfigError, match=r"missing: no \*\.toml file"):
        configuration.read(tmp_path / "missing")
    (tmp_path / "none.toml").write_text("")
    assert configuration.read(tmp_path).boards == ()


selectors = st.one_of(
    st.from_regex(r"[0-9a-f]{4}:[0-9a-f]{4}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", fullmatch=True),
    st.from_regex(r"[0-9a-f]{4}:[0-9a-f]{2}(/[01][0-9a-f]\.[0-7]){0,3}/[01][0-9a-f]", fullmatch=True),
).map(Selector.parse)


@given(st.lists(selectors, unique=True, max_size=4), st.frozensets(st.sampled_from(OVERRIDABLE_GUARDS)))
def test_what_is_rendered_is_read_back(some: list[Selector], allow: frozenset[str]) -> None:
    requests = [BoardRequest(s, f"board-{n}", allow) for n, s in enumerate(some)]
    read = configuration.parse([("x", configuration.render(*requests, require_boards="any"))])
    assert [(b.selector, b.name, b.allow) for b in read.boards] == [(b.selector, b.name, b.allow) for b in requests]
    assert read.require_boards == "any"


def test_what_names_no_board_is_refused() -> None:
    with pytest.raises(ValueError, match="names no board"):
        Selector.parse("the second one")


@pytest.mark.parametrize("target", [None, "/dev/zero", "/dev/null"], ids=["a pipe", "no end", "nothing"])
def test_what_is_no_file_is_named_and_not_read(tmp_path: Path, target: str | None) -> None:
    path = tmp_path / "boards.toml"
    if target:
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"boards\.toml: cannot be read: expected a file"):
        configuration.read(tmp_path)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('[[board]]\nmodel = "10de:2684"\n')
    (tmp_path / "boards.toml").symlink_to("elsewhere")
    assert len(configuration.read(tmp_path).boards) == 1


@pytest.mark.parametrize("text", [f"x = {'9' * 5000}", f"x = {'[' * 5000}{']' * 5000}"], ids=["digits", "brackets"])
def test_what_is_too_much_for_python_is_an_error_of_the_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.toml: "):
        configuration.parse([("a.toml", text)])
