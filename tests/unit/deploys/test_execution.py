"""Arguments of pyinfra with which commands cannot work are refused by their names; the others are left alone."""

from __future__ import annotations

from typing import Any

import pytest
from pyinfra.api import Config, HiddenValue
from pyinfra.api.arguments import all_argument_meta

from deploys.inputs.execution import judge

_TYPICAL: dict[str, Any] = {
    "_success_exit_codes": [0, 1],
    "_if": lambda: False,
    "_retry_until": lambda _: True,
    "_timeout": 600,
    "_stdin": "yes",
    "_chdir": "/tmp",
    "_shell_executable": "/usr/bin/fish",
    "_sudo_user": "postgres",
    "_su_user": "root",
    "_su_shell": "bash",
    "_su_password": "secret",
    "_doas_user": "root",
    "_dzdo_user": "root",
}
# What an operator may need, and what commands bear.
_BORNE: dict[str, Any] = {
    "_sudo": True,
    "_preserve_sudo_env": True,
    "_env": {"https_proxy": "http://proxy.example.com:3128", "TOKEN": HiddenValue("t")},
    "_shell_executable": "/bin/bash",
    "_retries": 3,
    "_retry_delay": 10,
    "_temp_dir": "/var/tmp",
    "_parallel": 5,
    "_serial": True,
}


def test_every_argument_of_pyinfra_is_either_borne_or_refused() -> None:
    # "name" cannot stand in host data, as pyinfra gives each operation's.
    known = {key for key in all_argument_meta if key.startswith("_")}
    refused = {key for key in known if judge({key: _TYPICAL.get(key, True)}, Config())}
    # Of these two it depends on the value.
    assert known - refused == set(_BORNE) - {"_env", "_shell_executable"}


@pytest.mark.parametrize("key", _BORNE)
def test_an_argument_that_commands_bear_is_left_alone(key: str) -> None:
    assert judge({key: _BORNE[key]}, Config()) == []


@pytest.mark.parametrize("key", sorted(set(all_argument_meta) - {"name", "_shell_executable"}))
def test_an_argument_that_asks_for_nothing_is_left_alone(key: str) -> None:
    assert judge({key: [0] if key == "_success_exit_codes" else None}, Config()) == []


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "/bin/sh", "/usr/bin/bash"])
def test_a_posix_shell_is_allowed(shell: str) -> None:
    assert judge({"_shell_executable": shell}, Config()) == []


@pytest.mark.parametrize("shell", ["fish", "/usr/bin/zsh", "csh", "python3", "bash -l", "sh;", "", None, 7, "bin/sh"])
def test_another_shell_is_refused(shell: object) -> None:
    assert judge({"_shell_executable": shell}, Config()) == [
        f"_shell_executable is {shell!r}: commands are written for a POSIX shell; expected sh, bash or dash, alone or "
        "with its absolute path: leave it out"
    ]


@pytest.mark.parametrize("value", ["yes", "False", 1, 0])
def test_sudo_is_true_or_false(value: object) -> None:
    assert judge({"_sudo": value}, Config()) == [f"_sudo is {value!r}: expected True or False"]


@pytest.mark.parametrize("password", ["", 1234, b"secret", lambda: "secret", "two\nlines"])
def test_a_sudo_password_is_one_line_of_text_and_is_not_shown(password: object) -> None:
    expected = "_sudo_password is (hidden): expected the password as one line of text"
    assert judge({"_sudo": True, "_sudo_password": password}, Config()) == [expected]


def test_a_sudo_password_without_sudo_is_refused() -> None:
    assert judge({"_sudo_password": "secret"}, Config()) == [
        "_sudo_password is (hidden): it is used with _sudo: True only; set both, or none"
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ("PATH=/opt", "expected a mapping"),
        ({"a b": "c"}, "is no name of a variable"),
        ({7: "c"}, "is no name of a variable"),
        ({"LIMIT": 5}, "the value of LIMIT is no text"),
        ({"IFS": ","}, "IFS changes how the shell reads commands"),
        ({"PATH": "/opt/bin"}, "PATH changes how the shell reads commands"),
    ],
)
def test_variables_that_break_commands_are_refused_without_their_values(variables: object, expected: str) -> None:
    (line,) = judge({"_env": variables}, Config())
    assert line.startswith("_env is (hidden): ")
    assert expected in line


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("USE_SUDO_LOGIN", "_use_sudo_login", True),
        ("SU_USER", "_su_user", "root"),
        ("SUDO_USER", "_sudo_user", "postgres"),
        ("DOAS", "_doas", True),
        ("DZDO", "_dzdo", True),
        ("SHELL", "_shell_executable", "fish"),
        ("IGNORE_ERRORS", "_ignore_errors", True),
    ],
)
def test_the_same_is_refused_from_the_configuration_and_the_command_line(name: str, key: str, value: object) -> None:
    (line,) = judge({}, Config(**{name: value}))
    assert line.startswith(f"{key} (config.{name}, or its option on the command line) is {value!r}: ")


def test_host_data_comes_before_the_configuration() -> None:
    assert judge({"_use_sudo_login": False}, Config(USE_SUDO_LOGIN=True)) == []


def test_keys_that_are_not_pyinfras_arguments_are_left_alone() -> None:
    assert judge({"ssh_user": "operator", "_note": "rack 7", "gevulot_boards": []}, Config()) == []
