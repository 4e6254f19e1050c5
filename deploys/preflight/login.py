"""Whether the login runs commands as root and passes their text unchanged. All facts depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from facts.untrusted import printable

# What a command must survive: several lines, both quotes, a dollar sign, a backslash and a star. Between single quotes
# fish, which runs our commands, reads a backslash before a quote as no other shell: none of them has that.
_TEXT = "'\"' $HOME \\n *"
PROBE = f"printf '%s\\n' login-begins\nid -u\nprintf '%s\\n' {quote(_TEXT)} login-ends"
ANSWER = ("login-begins", "0", _TEXT, "login-ends")
# pyinfra's keys by which a host's data says how commands are run, with the values that change nothing.
# deploys.inputs.execution refuses the others before a host is asked.
_KEYS: Mapping[str, tuple[Any, ...]] = {
    "_shell_executable": (None, "", "sh"),
    "_sudo": (None, False),
    "_sudo_user": (None, "", "root"),
}


def explain_refusal(success: bool, output: list[str], arguments: Mapping[str, Any], user: str) -> str | None:
    """Why the host cannot be deployed after this answer to the probe; ``None`` for a usable login."""
    keys = ", ".join(f"{key}={arguments[key]!r}" for key, usual in _KEYS.items() if arguments.get(key) not in usual)
    lines = [line.rstrip("\r") for line in output if line.strip()]
    if tuple(lines) == ANSWER and success:
        return None
    first = lines.index(ANSWER[0]) if ANSWER[0] in lines else None
    last = repr(printable(lines[-1], 200)) if lines else "nothing"
    if first is None and ANSWER[-1] not in lines:
        return _without_shell(last, keys, user)
    first = first or 0
    answer = lines[first : first + len(ANSWER)]
    if len(answer) == len(ANSWER) and answer[0] == ANSWER[0] and answer[2:] == list(ANSWER[2:]) and answer[1] != "0":
        number = printable(answer[1], 20)
        return (
            f"commands run as {user if not keys else 'the account'} number {number} instead of root"
            f"{f' ({keys})' if keys else ''}; expected root. Set '_sudo': True beside ssh_user, or ssh_user to 'root'."
        )
    if tuple(answer) == ANSWER:
        noise = [line for line in (*lines[:first], *lines[first + len(ANSWER) :])]
        return (
            f"the login prints text of its own around each command ({printable(noise[0], 100)!r}); expected none. Let "
            "the account's start files, such as ~/.bashrc, print only in interactive shells."
        )
    return (
        f"the login changes the text of commands{f' ({keys})' if keys else ''}; expected it as it was sent. Remove the "
        "keys that say how commands are run, or log in with an account whose shell is /bin/bash."
    )


def _without_shell(last: str, keys: str, user: str) -> str:
    if "password is required" in last or "interactive authentication is required" in last:
        return (
            f"sudo asks for a password ({last}); expected none, or '_sudo_password' in the host's data. Set it, or "
            "allow the account to use sudo without one (NOPASSWD in /etc/sudoers)."
        )
    if any(word in last for word in ("sudo:", "sudoers")) or last[1:].startswith("sh: "):
        return (
            f"commands cannot be run as root{f' ({keys})' if keys else ''}: {last}; expected that they can. Correct "
            "that on the host, or log in as root (ssh_user)."
        )
    return (
        f"the login of {user} does not run commands{f' ({keys})' if keys else ''}: it printed {last}; expected a "
        "shell. Log in with an account whose shell is /bin/bash or /bin/sh, without a forced command."
    )
