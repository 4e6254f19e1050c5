"""Additional commands of an operation, and failures that are limited to one host."""

from __future__ import annotations

from typing import Any

from pyinfra import logger
from pyinfra.api import FunctionCommand, Host, State, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments


def run(host: Host, command: str, stdin: str | None = None, timeout: int | None = None) -> tuple[bool, list[str]]:
    """Run a command on the host as the current operation would (sudo and so on) and return success and its output.

    This is for questions whose answer or input must not pass through a fact: pyinfra prints a fact's arguments.
    ``stdin`` is sent with one newline at its end, which the command has to strip. Standard error is appended to the
    output when the command fails.
    """
    arguments: dict[str, Any] = dict(host.current_op_global_arguments or {})
    if not arguments:
        arguments = dict(pop_global_arguments(host.state, host, {})[0])
    connector = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
    if stdin is not None:
        connector["_stdin"] = stdin
    if timeout is not None:
        connector["_timeout"] = timeout
    success, output = host.run_shell_command(StringCommand(command), **connector)
    return success, output.stdout_lines + ([] if success else output.stderr_lines)


def fail(message: str) -> FunctionCommand:
    """A command that fails this host, and this host alone, with a message. An exception would end the whole run."""

    def failed(state: State, host: Host) -> bool:
        host.log_styled(message, fg="red", log_func=logger.error)
        return False

    return FunctionCommand(failed, (), {})
