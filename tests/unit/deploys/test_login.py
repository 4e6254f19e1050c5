"""Logins that cannot be used are distinguished before anything else is asked, each with what to change."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import Any

import pytest

from deploys.preflight.login import ANSWER, PROBE, explain_refusal

GOOD = list(ANSWER)


def judged(output: list[str], *, success: bool = True, **arguments: Any) -> str | None:
    return explain_refusal(success, output, arguments, "alice")


def by(*words: str) -> list[str]:
    """What the probe prints when an account's shell runs the command that pyinfra sends."""
    done = subprocess.run([*words, f"sh -c {shlex.quote(PROBE)}"], capture_output=True, text=True)
    return done.stdout.splitlines() + (done.stderr.splitlines() if done.returncode else [])


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "rbash", "fish", "mksh", "zsh"])
def test_any_shell_that_runs_the_command_as_it_was_sent_is_accepted(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")
    answer = ["0" if line.isdigit() else line for line in by(shell, "-c")]
    assert judged(answer) is None


def test_an_account_that_is_not_root_is_refused_with_both_ways_out() -> None:
    text = judged([GOOD[0], "1000", *GOOD[2:]])
    assert text is not None
    assert "commands run as alice number 1000 instead of root; expected root." in text
    assert "Set '_sudo': True beside ssh_user, or ssh_user to 'root'." in text


def test_sudo_to_another_account_than_root_is_named() -> None:
    text = judged([GOOD[0], "1000", *GOOD[2:]], _sudo=True, _sudo_user="deploy")
    assert text is not None
    assert "(_sudo=True, _sudo_user='deploy')" in text


@pytest.mark.parametrize("line", ["sudo: a password is required", "sudo-rs: interactive authentication is required"])
def test_a_sudo_that_asks_for_a_password_is_refused_with_the_key_for_it(line: str) -> None:
    text = judged([line], success=False, _sudo=True)
    assert text is not None
    assert "sudo asks for a password" in text
    assert "'_sudo_password'" in text


@pytest.mark.parametrize(
    "line",
    ["sh: 1: sudo: not found", "bash: line 1: sudo: command not found", "alice is not in the sudoers file.",
     "sudo: sorry, you must have a tty to run sudo", "su: Authentication failure",
     "sh: 1: cd: can't cd to /nonexistent"],
)  # fmt: skip
def test_what_keeps_commands_from_root_is_quoted(line: str) -> None:
    text = judged([line], success=False, _sudo=True)
    assert text is not None
    assert repr(line) in text
    assert "_sudo=True" in text


@pytest.mark.parametrize(
    "output",
    [["This account is currently not available."], [], ["fatal: unrecognized command 'sh -c'"],
     ["no answer within 60 s"], ["Welcome", "to the menu"]],
)  # fmt: skip
@pytest.mark.parametrize("success", [True, False])
def test_a_login_without_a_shell_is_refused_with_what_it_printed(output: list[str], success: bool) -> None:
    text = judged(output, success=success)
    assert text is not None
    assert f"the login of alice does not run commands: it printed {repr(output[-1]) if output else 'nothing'}" in text


@pytest.mark.parametrize("output", [["Welcome!", *GOOD], [*GOOD, "Bye."]])
def test_a_login_that_prints_text_of_its_own_is_refused(output: list[str]) -> None:
    text = judged(output)
    assert text is not None
    assert "prints text of its own around each command" in text
    assert ".bashrc" in text


def test_a_terminals_line_ends_are_no_text_of_its_own() -> None:
    assert judged([f"{line}\r" for line in GOOD]) is None


def test_a_login_that_removes_line_ends_as_sudo_with_a_login_shell_does_is_refused() -> None:
    # `sudo -i` puts a backslash before each letter that is special, so a line end becomes a line that goes on.
    escaped = "".join(each if each.isalnum() or each in "_-$" else f"\\{each}" for each in PROBE)
    done = subprocess.run(["sh", "-c", f"sh -c {escaped}"], capture_output=True, text=True)
    assert judged(done.stdout.splitlines() + done.stderr.splitlines(), success=done.returncode == 0) is not None


def test_what_the_host_prints_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in (judged(["\x1b[31mno\x1b]0;title\x07"], success=False) or "\x1b")
