"""A check of a host's login, before any fact uses it."""

from __future__ import annotations

from typing import Any

from paramiko import SSHException
from pyinfra.api import Host
from pyinfra.api.arguments import pop_global_arguments

from deploys.preflight import login
from deploys.transport import remote

_SECONDS = 60


def check_login(host: Host) -> str | None:
    """Why no command can be run as root on the host, tried with one that changes nothing; ``None`` when it can.

    A fact that cannot be read would end the run with an error of pyinfra's, before the other hosts are judged.
    """
    arguments: dict[str, Any] = dict(pop_global_arguments(host.state, host, {})[0])
    try:
        success, output = remote.run(host, login.PROBE, timeout=_SECONDS)
    except EOFError:
        # pyinfra asks its user for sudo's password, and there is no terminal to ask at.
        success, output = False, ["sudo: a password is required"]
    except TimeoutError:
        success, output = False, [f"no answer within {_SECONDS} s"]
    except (OSError, SSHException) as error:
        success, output = False, [str(error)]
    user = host.data.get("ssh_user")
    return login.explain_refusal(success, output, arguments, str(user) if user else "the account")
