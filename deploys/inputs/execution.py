"""Arguments of pyinfra, in host data and its configuration, with which commands cannot run on a host.

Every fact and operation is a program of a shell, run as root: the whole of it as one argument, with its own standard
input, output and exit code. Settings of pyinfra that take one of these away are refused before a host is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pyinfra.api import Config, HiddenValue, Host
from pyinfra.context import ctx_config

_SHELLS = re.compile(r"(/[\w./-]+/)?(sh|bash|dash)")
_ROOT = "log in as root, or as a user with _sudo: True"
_LEAVE_OUT = "leave it out"
# pyinfra's argument → what it breaks, and what to do.
_REFUSED = {
    "_use_sudo_login": ("a login shell reads the command a second time, which breaks it", _LEAVE_OUT),
    "_sudo_user": ("sudo is needed to become root, which it does without, and uploads would need setfacl", _LEAVE_OUT),
    "_su_user": ("su reads the command a second time and takes its standard input", _ROOT),
    "_use_su_login": ("su is not supported", _ROOT),
    "_su_shell": ("su is not supported", _ROOT),
    "_su_password": ("su is not supported", _ROOT),
    "_preserve_su_env": ("su is not supported", _ROOT),
    "_doas": ("doas is not supported", _ROOT),
    "_doas_user": ("doas is not supported", _ROOT),
    "_dzdo": ("dzdo is not supported", _ROOT),
    "_dzdo_user": ("dzdo is not supported", _ROOT),
    "_chdir": ("each command would fail on a host without this directory", _LEAVE_OUT),
    "_get_pty": ("a terminal mixes errors into answers and shows secrets", _LEAVE_OUT),
    "_stdin": ("commands have their own standard input", _LEAVE_OUT),
    "_success_exit_codes": ("commands that failed would count as done", _LEAVE_OUT),
    "_ignore_errors": ("steps after one that failed would run", _LEAVE_OUT),
    "_continue_on_error": ("steps after one that failed would run", _LEAVE_OUT),
    "_retry_until": ("commands have their own conditions", _LEAVE_OUT),
    "_if": ("steps have their own conditions", _LEAVE_OUT),
    "_run_once": ("all hosts but one would be left out", _LEAVE_OUT),
    "_timeout": (
        "it would interrupt the rolling reboot and long installations half-way",
        "leave it out; gevulot_start_timeout and gevulot_reboot_timeout are limits",
    ),
}
# pyinfra's argument → its name in pyinfra's configuration, which options of the command line set as well.
_CONFIGURED = {
    "_sudo": "SUDO",
    "_sudo_password": "SUDO_PASSWORD",
    "_env": "ENV",
    "_shell_executable": "SHELL",
    "_ignore_errors": "IGNORE_ERRORS",
    **{
        key: key.lstrip("_").upper()
        for key in _REFUSED
        if key.startswith(("_su", "_use_su", "_preserve_su", "_doas", "_dzdo"))
    },
}
_DEFAULTS = {"_success_exit_codes": [0]}
_EXPECTED_SHELL = "expected sh, bash or dash, alone or with its absolute path"
# Variables by which a shell reads a program differently, or finds other programs.
_SHELL_VARIABLES = ("BASH_ENV", "ENV", "IFS", "PATH", "POSIXLY_CORRECT", "SHELLOPTS")


def find_problems(hosts: Iterable[Host]) -> list[str]:
    """One line for each argument of pyinfra with which commands cannot work on one of the hosts. None is asked."""
    return [
        f"{host.name}: {line}"
        for host in hosts
        for line in judge(host.data.dict(), ctx_config.get() or host.state.config)
    ]


def judge(data: Mapping[str, Any], config: Config) -> list[str]:
    """The problems of one host's data, which overrides the configuration. Pure."""
    lines = []
    asked = {key: getattr(config, name, None) for key, name in _CONFIGURED.items()} | dict(data)
    for key, value in asked.items():
        problem = _problem(key, value, asked)
        if problem:
            name = _CONFIGURED.get(key, "")
            where = "" if key in data else f" (config.{name}, or its option on the command line)"
            # Passwords, and what a variable may hold of one.
            shown = "(hidden)" if "password" in key or key == "_env" else repr(value)
            lines.append(f"{key}{where} is {shown}: {problem}")
    return lines


def _problem(key: str, value: Any, asked: Mapping[str, Any]) -> str | None:
    if key == "_sudo":
        return None if value is None or isinstance(value, bool) else "expected True or False"
    if key == "_sudo_password" and value is not None:
        if not isinstance(value, str) or not value or "\n" in value:
            return "expected the password as one line of text"
        return None if asked.get("_sudo") else "it is used with _sudo: True only; set both, or none"
    if key == "_shell_executable":
        fits = isinstance(value, str) and _SHELLS.fullmatch(value)
        return None if fits else f"commands are written for a POSIX shell; {_EXPECTED_SHELL}: {_LEAVE_OUT}"
    if key == "_env" and value is not None:
        return _environment_problem(value)
    if key in _REFUSED and value and value != _DEFAULTS.get(key):
        reason, step = _REFUSED[key]
        return f"{reason}; {step}"
    return None


def _environment_problem(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return "expected a mapping of names to text, such as {'https_proxy': 'http://proxy.example.com:3128'}"
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            return f"{name!r} is no name of a variable; expected letters, digits and underscores"
        if not isinstance(text, str | HiddenValue):
            return f"the value of {name} is no text"
        if name in _SHELL_VARIABLES:
            return f"{name} changes how the shell reads commands or finds programs; {_LEAVE_OUT}"
    return None
