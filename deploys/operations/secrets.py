"""Podman secrets. Whether one needs changing is decided on the node; no secret is an argument or is printed."""

from __future__ import annotations

from collections.abc import Generator

from pydantic import SecretStr
from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.api.command import PyinfraCommand

from deploys import scripts
from deploys.transport import remote


@operation()
def secret(
    secret_name: str,
    source: str,
    value: SecretStr | None = None,
) -> Generator[PyinfraCommand, None, None]:
    """Create, replace or remove a Podman secret.

    + secret_name: the secret's name
    + source: ``stdin`` (``value``), ``generated``, or ``none`` (no secret), as in ``scripts/secret.py``
    + value: the secret, for ``stdin``
    """
    text = None if value is None else value.get_secret_value()
    question = scripts.python("secret.py", "check", secret_name, source)
    success, output = remote.run(host, question, stdin=text)
    if success and output and output[-1] == "same":
        host.noop(f"the secret {secret_name} is up to date")
        return
    command = StringCommand(scripts.python("secret.py", "apply", secret_name, source))
    if text is not None:
        command.connector_arguments["_stdin"] = text
    yield command
